"""From the state of a user to the probabilities of the codes of the next item, level by level.

docs/methods.md section 2. With u the state of the user, C code embeddings, E trie-node embeddings, W output codes:

    s_l = u + sum_{j <= l} (C_j[c_j] + E_j[v_j]),   d_l = norm(residual networks(s_l))
    logit of child v of node n of level l = <d_l, W_l[code(v)]> + <d_l + u, E_l[v]>

followed by a softmax over the children of n ("trie") or over all codes of the level ("vocabulary", where a code that is
no child has the first term alone). Must not know histories, losses or search.
"""
# B batch, P targets, L levels, K codes, D width, W beams, M most children of a node

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from genrec.models.node_embeddings import NodeEmbeddings, child_pairs, normal_table
from genrec.models.settings import HierarchicalSettings
from genrec.models.transformer import NORM_EPS, Dropout, ResidualFeedForward
from genrec.semantic_ids.trie import SemanticIdTrie


class DecoderState(NamedTuple):
    """Beams of a search: u, shared by all beams of a request, and what the codes of each have added to it."""

    user: Float[Tensor, "B D"]
    path: Float[Tensor, "B W D"]


class CodeDecoder(nn.Module):
    """The probabilities of the codes, for all targets of a batch at once, and step by step for beams.

    The decoder is a residual network on the running sum s_l, where a transformer block would do over the
    codes: as good in a trial (Office, one seed: validation R@10 .1001 against .1005), cheaper, causal by construction,
    and all that a beam has to carry is one vector.

    Args:
        trie: the catalogue; given again to each method, so that it may be an input of an exported graph.
        settings: size and kind.
    """

    def __init__(self, trie: SemanticIdTrie, settings: HierarchicalSettings) -> None:
        super().__init__()
        width, sizes = settings.width, trie.codebook_sizes
        self.is_trie, self.temperature = settings.normalisation == "trie", settings.temperature
        self.code_embeddings = nn.ParameterList(normal_table(size, width) for size in sizes[:-1])
        self.output_codes = nn.ParameterList(normal_table(size, width) for size in sizes)
        self.node_embeddings = NodeEmbeddings(trie, width, is_used=settings.node_embeddings)
        self.layers = nn.ModuleList(
            ResidualFeedForward(
                width, settings.depth_hidden, activation=settings.activation, dropout=settings.dropout_depth
            )
            for _ in range(settings.depth_layers)
        )
        self.norm = nn.RMSNorm(width, eps=NORM_EPS)
        self.node_dropout = Dropout(settings.dropout_nodes)

    def log_probs_of_items(
        self, trie: SemanticIdTrie, users: Float[Tensor, "P D"], items: Int64[Tensor, " P"]
    ) -> Float[Tensor, "P L"]:
        """Teacher forcing: log-probability of each code of each item, given the codes before it.

        Under "trie", only choices among several children are computed; the rest is 0 and has no gradient.
        """
        nodes = trie.path_nodes(items)
        parents = F.pad(nodes[:, :-1], (1, 0))  # the root is node 0
        rows = [self._rows_to_score(trie, level, parents[:, level]) for level in range(trie.num_levels)]
        sums = [users]
        for level in range(trie.num_levels - 1):
            codes = trie.child_codes[level][nodes[:, level]]
            sums.append(sums[-1] + self._token(level, codes, nodes[:, level]))
        inputs = [part.index_select(0, row) for part, row in zip(sums, rows, strict=True)]
        decoded = self._decode(torch.cat(inputs)).split([len(row) for row in rows])
        columns = []
        for level, row in enumerate(rows):
            # Levels without a row go through it too, so that every parameter has a gradient on every rank.
            of_level = (decoded[level], users[row], parents[row, level], nodes[row, level])
            log_probs = users.new_zeros(len(items), dtype=torch.float32)
            columns.append(log_probs.index_put((row,), self._log_prob(trie, level, *of_level)))
        return torch.stack(columns, dim=1)

    def start(self, trie: SemanticIdTrie, users: Float[Tensor, "B D"]) -> tuple[Float[Tensor, "B 1 M"], DecoderState]:
        """Log-probabilities of the children of the root, and the state of its one beam."""
        log_probs = self._root_log_probs(trie, self._decode(users), users)
        return log_probs.unsqueeze(1), DecoderState(users, torch.zeros_like(users).unsqueeze(1))

    def step(
        self,
        trie: SemanticIdTrie,
        level: int,
        state: DecoderState,
        parents: Int64[Tensor, "B W"],
        codes: Int64[Tensor, "B W"],
        nodes: Int64[Tensor, "B W"],
    ) -> tuple[Float[Tensor, "B W M"], DecoderState]:
        """Log-probabilities of the children of each beam's node, -inf as padding; see `Scorer`."""
        path = state.path.gather(1, parents.unsqueeze(-1).expand(-1, -1, state.path.shape[-1]))
        path = path + self._token(level - 1, codes, nodes.clamp(min=0))
        state = DecoderState(state.user, path)
        children = trie.children(level, nodes)
        if self.is_trie and trie.max_branching[level] == 1:
            return torch.where(children.is_valid, 0.0, -torch.inf).to(path.dtype), state
        user, slots = state.user.unsqueeze(1), children.codes.clamp(min=0)
        decoded = self._decode(user + path)
        logits = F.linear(decoded, self.output_codes[level]).float()  # [B, W, K]
        terms = torch.zeros_like(slots, dtype=logits.dtype)
        if level in self.node_embeddings.levels:
            scores = self.node_embeddings.score_children(level, decoded + user, children.nodes)
            terms = scores.float().masked_fill(~children.is_valid, 0.0)
        if self.is_trie:
            logits = logits.gather(-1, slots) + terms
            log_probs = self._log_softmax(logits.masked_fill(~children.is_valid, -torch.inf))
        else:
            log_probs = self._log_softmax(logits.scatter_add(-1, slots, terms)).gather(-1, slots)
        return log_probs.masked_fill(~children.is_valid, -torch.inf), state

    def _token(self, level: int, codes: Int[Tensor, "*B"], nodes: Int64[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """What choosing a node of depth level + 1 adds to the state."""
        token = F.embedding(codes, self.code_embeddings[level])
        if level in self.node_embeddings.levels:
            token = token + self.node_dropout(self.node_embeddings.look_up(level, nodes))
        return token

    def _decode(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def _rows_to_score(self, trie: SemanticIdTrie, level: int, parents: Int64[Tensor, " P"]) -> Int64[Tensor, " _"]:
        if self.is_trie:
            return (trie.child_ranges(level, parents)[1] > 1).nonzero().squeeze(1)
        return torch.arange(len(parents), device=parents.device)

    def _log_softmax(self, logits: Float[Tensor, "*B M"]) -> Float[Tensor, "*B M"]:
        return (logits / self.temperature).log_softmax(dim=-1)

    def _root_log_probs(
        self, trie: SemanticIdTrie, decoded: Float[Tensor, "P D"], users: Float[Tensor, "P D"]
    ) -> Float[Tensor, "P M"]:
        """Over the children of the root, that is all codes in use, by plain matrix products."""
        codes, output = trie.child_codes[0].long(), self.output_codes[0]
        logits = F.linear(decoded, output[codes] if self.is_trie else output).float()
        if 0 in self.node_embeddings.levels:
            terms = self.node_embeddings.score_all(0, self.node_dropout(decoded + users)).float()
            logits = logits + terms if self.is_trie else logits.index_add(1, codes, terms)
        log_probs = self._log_softmax(logits)
        return log_probs if self.is_trie else log_probs[:, codes]

    def _log_prob(
        self,
        trie: SemanticIdTrie,
        level: int,
        decoded: Float[Tensor, "P D"],
        users: Float[Tensor, "P D"],
        parents: Int64[Tensor, " P"],
        nodes: Int64[Tensor, " P"],
    ) -> Float[Tensor, " P"]:
        """Log-probability of one child of each node."""
        if level == 0:
            return self._root_log_probs(trie, decoded, users).gather(1, nodes.unsqueeze(1)).squeeze(1)
        logits = F.linear(decoded, self.output_codes[level]).float()  # [P, K]
        pairs = child_pairs(*trie.child_ranges(level, parents))
        at_code = (pairs.rows, trie.child_codes[level][pairs.children].long())
        terms = logits.new_zeros(())
        if level in self.node_embeddings.levels:
            terms = self.node_embeddings.score_pairs(level, self.node_dropout(decoded + users), pairs).float()
        if self.is_trie:
            padded = logits.new_full((len(nodes), trie.max_branching[level]), -torch.inf)
            logits = padded.index_put((pairs.rows, pairs.slots), logits[at_code] + terms)
            targets = nodes - trie.child_offsets[level][parents]
        else:
            logits = logits.index_put(at_code, terms, accumulate=True)
            targets = trie.child_codes[level][nodes].long()
        return self._log_softmax(logits).gather(1, targets.unsqueeze(1)).squeeze(1)
