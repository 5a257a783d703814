"""From the state of a user to the probabilities of the codes of the next item, level by level.

docs/methods.md section 2. With u the state of the user, C code embeddings, E trie-node embeddings, W output codes:

    s_l = u + sum_{j <= l} (C_j[c_j] + E_j[v_j]),   d_l = norm(residual networks(s_l))
    logit of child v of node n of level l = <d_l, W_l[code(v)]> + <d_l + u, E_l[v]> [+ the term of a transition memory]

followed by a softmax over the children of n ("trie") or over all codes of the level ("vocabulary", where a code that is
no child has the first term alone). With a joint depth J > 1 (ours, trie only), the first J codes are decided by one
softmax over all prefixes v of that length, and the probabilities of shorter prefixes are sums over it:

    logit of v = <d_0, sum_{l < J} W_l[c_l(v)]> + <d_0 + u, E_{J-1}[v]> [+ the term of a transition memory]

It costs a product with every such prefix, and lets what is known of an item speak at the root, where a vector of its
whole subtree has to speak for it otherwise. Must not know histories, losses or search.
"""
# B batch, P targets, L levels, K codes, D width, W beams, M most children of a node

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from genrec.errors import ConfigError
from genrec.models.node_embeddings import NodeEmbeddings, child_pairs, normal_table
from genrec.models.settings import HierarchicalSettings
from genrec.models.transformer import NORM_EPS, Dropout, ResidualFeedForward
from genrec.models.transition_memory import TransitionMemory, masses_of_depth, masses_of_nodes
from genrec.semantic_ids.trie import SemanticIdTrie

LARGEST_SOFTMAX = 1_000_000


class Users(NamedTuple):
    """Histories that have been read.

    Attributes:
        state: u.
        sums: of the scores of the transition memory, [P, N + 1] in trie order; None without a memory.
    """

    state: Float[Tensor, "P D"]
    sums: Float[Tensor, "P M"] | None


class DecoderState(NamedTuple):
    """Beams of a search.

    Attributes:
        users: what has been read, shared by all beams of a request.
        path: what the codes of each beam add to u.
        joint: log-probabilities of all prefixes of 1 to J codes.
    """

    users: Users
    path: Float[Tensor, "B W D"]
    joint: tuple[Float[Tensor, "B _"], ...]


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
        if settings.joint_depth > len(sizes):
            raise ConfigError(
                "the joint depth is larger than the number of codes of an item",
                where="key 'model.joint_depth'",
                expected=f"at most {len(sizes)}",
                found=settings.joint_depth,
                fix=f"model.joint_depth={len(sizes)}",
            )
        if settings.joint_depth > 1 and (found := trie.num_nodes(settings.joint_depth)) > LARGEST_SOFTMAX:
            raise ConfigError(
                "too many prefixes for one softmax",
                where="key 'model.joint_depth'",
                expected=f"at most {LARGEST_SOFTMAX:,}",
                found=f"{found:,} of {settings.joint_depth} codes",
                fix=f"model.joint_depth={settings.joint_depth - 1}",
            )
        self.joint_depth = settings.joint_depth
        self.is_trie, self.temperature = settings.normalisation == "trie", settings.temperature
        inner = sizes[:-1] if self.joint_depth < len(sizes) else ()
        self.code_embeddings = nn.ParameterList(normal_table(size, width) for size in inner)
        self.output_codes = nn.ParameterList(normal_table(size, width) for size in sizes)
        self.node_embeddings = NodeEmbeddings(
            trie, width, is_used=settings.node_embeddings, first_level=self.joint_depth - 1
        )
        self.layers = nn.ModuleList(
            ResidualFeedForward(
                width, settings.depth_hidden, activation=settings.activation, dropout=settings.dropout_depth
            )
            for _ in range(settings.depth_layers)
        )
        self.norm = nn.RMSNorm(width, eps=NORM_EPS)
        self.node_dropout = Dropout(settings.dropout_nodes)

    def log_probs_of_items(
        self, trie: SemanticIdTrie, users: Users, items: Int64[Tensor, " P"], memory: TransitionMemory | None
    ) -> Float[Tensor, "P L"]:
        """Teacher forcing: log-probability of each code of each item, given the codes before it.

        Under "trie", only choices among several children are computed; the rest is 0 and has no gradient.
        """
        nodes = trie.path_nodes(items)
        parents = F.pad(nodes[:, :-1], (1, 0))  # the root is node 0
        everyone = torch.arange(len(items), device=items.device)
        later = range(self.joint_depth, trie.num_levels)
        rows = [everyone, *(self._rows_to_score(trie, level, parents[:, level]) for level in later)]
        states, state = [users.state], users.state
        for level in range(later.stop - 1 if later else 0):
            state = state + self._token(level, trie.child_codes[level][nodes[:, level]], nodes[:, level])
            states += [state] if level + 1 in later else []
        inputs = [state.index_select(0, row) for state, row in zip(states, rows, strict=True)]
        decoded = self._decode(torch.cat(inputs)).split([len(row) for row in rows])
        columns = self._joint_log_probs_of_paths(trie, decoded[0], users, nodes, memory)
        for level, row, inner in zip(later, rows[1:], decoded[1:], strict=True):
            # Levels without a row go through it too, so that every parameter has a gradient on every rank.
            some = Users(users.state[row], None if users.sums is None else users.sums[row])
            of_level = (inner, some, parents[row, level], nodes[row, level])
            log_probs = users.state.new_zeros(len(items), dtype=torch.float32)
            columns.append(log_probs.index_put((row,), self._log_prob(trie, level, *of_level, memory)))
        return torch.stack(columns, dim=1)

    def start(
        self, trie: SemanticIdTrie, users: Users, memory: TransitionMemory | None
    ) -> tuple[Float[Tensor, "B 1 M"], DecoderState]:
        """Log-probabilities of the children of the root, and the state of its one beam."""
        log_probs = self._root_log_probs(trie, self._decode(users.state), users, memory)
        joint = [log_probs]
        for depth in reversed(range(1, self.joint_depth)):
            joint.insert(0, _sum_children(trie, depth, joint[0]))
        state = DecoderState(users, torch.zeros_like(users.state).unsqueeze(1), tuple(joint))
        return joint[0].unsqueeze(1), state

    def step(
        self,
        trie: SemanticIdTrie,
        level: int,
        state: DecoderState,
        parents: Int64[Tensor, "B W"],
        codes: Int64[Tensor, "B W"],
        nodes: Int64[Tensor, "B W"],
        memory: TransitionMemory | None,
    ) -> tuple[Float[Tensor, "B W M"], DecoderState]:
        """Log-probabilities of the children of each beam's node, -inf as padding; see `Scorer`."""
        if self.joint_depth < trie.num_levels:
            path = state.path.gather(1, parents.unsqueeze(-1).expand(-1, -1, state.path.shape[-1]))
            state = state._replace(path=path + self._token(level - 1, codes, nodes.clamp(min=0)))
        path, children = state.path, trie.children(level, nodes)
        if level < self.joint_depth:
            above = state.joint[level - 1].gather(1, nodes.clamp(min=0)).unsqueeze(-1)
            below = state.joint[level].gather(1, children.nodes.clamp(min=0).flatten(1)).view_as(children.nodes)
            return (below - above).masked_fill(~children.is_valid, -torch.inf), state
        if self.is_trie and trie.max_branching[level] == 1:
            return torch.where(children.is_valid, 0.0, -torch.inf).to(path.dtype), state
        user, slots = state.users.state.unsqueeze(1), children.codes.clamp(min=0)
        decoded = self._decode(user + path)
        logits = F.linear(decoded, self.output_codes[level]).float()  # [B, W, K]
        terms = torch.zeros_like(slots, dtype=logits.dtype)
        if level in self.node_embeddings.levels:
            scores = self.node_embeddings.score_children(level, decoded + user, children.nodes)
            terms = scores.float().masked_fill(~children.is_valid, 0.0)
        if memory is not None and state.users.sums is not None:
            rows = torch.arange(len(slots), device=slots.device).view(-1, 1, 1).expand_as(slots)
            masses = masses_of_nodes(trie, level + 1, state.users.sums, rows, children.nodes)
            terms = terms + memory.terms(level, masses).masked_fill(~children.is_valid, 0.0)
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

    def _joint_log_probs_of_paths(
        self,
        trie: SemanticIdTrie,
        decoded: Float[Tensor, "P D"],
        users: Users,
        nodes: Int64[Tensor, "P L"],
        memory: TransitionMemory | None,
    ) -> list[Float[Tensor, " P"]]:
        """Log-probabilities of the first J codes of some items, each given those before it."""
        log_probs = self._root_log_probs(trie, decoded, users, memory)
        depth = self.joint_depth
        whole = log_probs.gather(1, nodes[:, depth - 1 : depth]).squeeze(1)
        of_prefixes = [_log_sum_below(trie, log_probs, nodes[:, level], level + 1, depth) for level in range(depth - 1)]
        above = [torch.zeros_like(whole), *of_prefixes]
        return [below - before for below, before in zip([*of_prefixes, whole], above, strict=True)]

    def _root_log_probs(
        self, trie: SemanticIdTrie, decoded: Float[Tensor, "P D"], users: Users, memory: TransitionMemory | None
    ) -> Float[Tensor, "P n"]:
        """Of all prefixes of J codes, by plain matrix products."""
        depth = self.joint_depth
        codes = trie.prefix_codes(depth).long()  # [n, J]
        terms = []
        if depth - 1 in self.node_embeddings.levels:
            queries = self.node_dropout(decoded + users.state)
            terms.append(self.node_embeddings.score_all(depth - 1, queries).float())
        if memory is not None and users.sums is not None:
            terms.append(memory.terms(depth - 1, masses_of_depth(trie, depth, users.sums)))
        if self.is_trie:
            vectors = [F.embedding(codes[:, level], table) for level, table in enumerate(self.output_codes[:depth])]
            logits = F.linear(decoded, functools.reduce(torch.add, vectors)).float()
            return self._log_softmax(functools.reduce(torch.add, terms, logits))
        logits = F.linear(decoded, self.output_codes[0]).float()
        for term in terms:
            logits = logits.index_add(1, codes[:, 0], term)
        return self._log_softmax(logits)[:, codes[:, 0]]

    def _log_prob(
        self,
        trie: SemanticIdTrie,
        level: int,
        decoded: Float[Tensor, "P D"],
        users: Users,
        parents: Int64[Tensor, " P"],
        nodes: Int64[Tensor, " P"],
        memory: TransitionMemory | None,
    ) -> Float[Tensor, " P"]:
        """Log-probability of one child of each node, past the first J codes."""
        logits = F.linear(decoded, self.output_codes[level]).float()  # [P, K]
        pairs = child_pairs(*trie.child_ranges(level, parents))
        at_code = (pairs.rows, trie.child_codes[level][pairs.children].long())
        terms = logits.new_zeros(())
        if level in self.node_embeddings.levels:
            terms = self.node_embeddings.score_pairs(level, self.node_dropout(decoded + users.state), pairs).float()
        if memory is not None and users.sums is not None:
            masses = masses_of_nodes(trie, level + 1, users.sums, pairs.rows, pairs.children)
            terms = terms + memory.terms(level, masses)
        if self.is_trie:
            padded = logits.new_full((len(nodes), trie.max_branching[level]), -torch.inf)
            logits = padded.index_put((pairs.rows, pairs.slots), logits[at_code] + terms)
            targets = nodes - trie.child_offsets[level][parents]
        else:
            logits = logits.index_put(at_code, terms, accumulate=True)
            targets = trie.child_codes[level][nodes].long()
        return self._log_softmax(logits).gather(1, targets.unsqueeze(1)).squeeze(1)


def _sum_children(trie: SemanticIdTrie, depth: int, log_probs: Float[Tensor, "B n"]) -> Float[Tensor, "B m"]:
    """Log-probability of every node of a depth from those of its children."""
    parents = trie.parents[depth].expand(len(log_probs), -1)
    empty = log_probs.new_full((len(log_probs), trie.num_nodes(depth)), -torch.inf)
    most = empty.scatter_reduce(1, parents, log_probs, "amax").clamp(min=torch.finfo(log_probs.dtype).min)
    shares = torch.zeros_like(empty).scatter_add(1, parents, (log_probs - most.gather(1, parents)).exp())
    return most + shares.log()


def _log_sum_below(
    trie: SemanticIdTrie, log_probs: Float[Tensor, "P n"], nodes: Int64[Tensor, " P"], depth: int, lower: int
) -> Float[Tensor, " P"]:
    """Log-probability of one node of a depth in each row, from those of all nodes of a lower depth."""
    first, end = nodes, nodes + 1
    for level in range(depth, lower):
        first, end = trie.child_offsets[level][first], trie.child_offsets[level][end]
    below = child_pairs(first, end - first)
    widest = int((end - first).max()) if len(nodes) else 1
    padded = log_probs.new_full((len(nodes), widest), -torch.inf)
    padded = padded.index_put((below.rows, below.slots), log_probs[below.rows, below.children])
    return padded.logsumexp(dim=1)
