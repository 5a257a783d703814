"""The encoder-decoder recommender: TIGER (Rajput et al. 2023), a T5 over code tokens.

The encoder reads L tokens an item of the history; the decoder starts from one vector, reads the codes chosen so far and
predicts the next (`code_scores`, with the hidden state d as query of E too):

    encoder input of code c of level l = C_l[c] (+ I[item]),   decoder input = start, then C'_l[c] + E_l[v]

Each level has its own tables, so that no token says which level it is of. With a *full* encoder every target has a read
history of its own, as TIGER and APAO train it. With a *causal* one (ours) a window is read once, and the target after
item t reads the tokens of items up to t, so that every position of a window is a target in the same pass.

Deviations from TIGER: no user token; no end token, since every item has L codes; the tables of encoder, decoder and
output are not tied. Vectors of nodes and items are ours. An empty history is one token with a vector of its own. Must
not know configuration, losses, search or training.
"""
# B batch, T items, S = T L tokens, P targets, C candidates, L levels, D width, N items of the catalogue, W beams,
# M most children of a node

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from genrec.models.code_scores import CodeScores, Prefixes
from genrec.models.node_embeddings import NodeEmbeddings, adapt_state, mark_rows
from genrec.models.prefix_tree import PrefixTree, build_prefix_tree
from genrec.models.recommender import (
    ItemScores,
    ParameterGroup,
    check_levels,
    gather_items,
    group_parameters,
    read_settings,
    score_each_target,
)
from genrec.models.rows import last_items, lay_out, target_rows
from genrec.models.settings import EncoderDecoderSettings
from genrec.models.t5 import Decoder, Encoder, Memory, OwnTokens, Rows, T5Size
from genrec.models.transformer import Dropout
from genrec.semantic_ids.trie import SemanticIdTrie

# Positions of a full encoder are read in groups of like length: a further group costs a pass, but saves padding.
SMALLEST_GROUP = 64


class Group(NamedTuple):
    """Positions whose histories were read together.

    Attributes:
        positions: which of the P they are.
        memories: of the encoded histories, a layer each.
        rows: which of these each position reads.
        limits: tokens of it that the position may read.
    """

    positions: Int64[Tensor, " p"]
    memories: list[Memory]
    rows: Int64[Tensor, " p"]
    limits: Int64[Tensor, " p"]


class Requests(NamedTuple):
    """Histories to search after, shared by all beams of a request.

    Attributes:
        memories: a layer each.
        limits: tokens of each.
    """

    memories: list[Memory]
    limits: Int64[Tensor, " B"]


class Beams(NamedTuple):
    """Beams of a search.

    Attributes:
        requests: what they share.
        own: keys and values of all prefixes that were read so far, a layer each.
        ancestors: which of them each beam continues, and itself; anything where it was not read.
    """

    requests: Requests
    own: list[OwnTokens]
    ancestors: Int64[Tensor, "B W A"]


class EncoderDecoderRecommender(nn.Module):
    """A `Recommender`; see the module for the equations.

    I of an item that training does not show in histories, and E of a node on no target's path, are 0.

    Args:
        trie: the catalogue; moves with the module.
        settings: size and kind.
    """

    name = "encoder_decoder"
    item_is_trained: Tensor

    def __init__(self, trie: SemanticIdTrie, settings: EncoderDecoderSettings) -> None:
        super().__init__()
        self.trie, self.settings = trie, settings
        width, sizes = settings.width, trie.codebook_sizes
        self.history_codes = nn.ParameterList(torch.randn(size, width) for size in sizes)
        self.own_codes = nn.ParameterList(torch.randn(size, width) for size in sizes[:-1])
        self.output_codes = nn.ParameterList(torch.randn(size, width) * width**-0.5 for size in sizes)
        self.start_vector, self.empty_history = (nn.Parameter(torch.randn(width)) for _ in range(2))
        self.node_embeddings = NodeEmbeddings(trie, width, is_used=settings.node_embeddings)
        has_items = settings.item_embeddings
        self.item_embeddings = nn.Parameter(torch.zeros(trie.num_items, width)) if has_items else None
        self.register_buffer("item_is_trained", torch.zeros(trie.num_items, dtype=torch.bool))
        self.encoder = Encoder(_size(settings, settings.encoder_layers), is_causal=settings.encoder == "causal")
        self.decoder = Decoder(_size(settings, settings.decoder_layers))
        self.scores = CodeScores(
            self.output_codes,
            self.node_embeddings,
            is_trie=settings.normalisation == "trie",
            temperature=settings.temperature,
            node_dropout=Dropout(0.0),
        )

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], trie: SemanticIdTrie) -> EncoderDecoderRecommender:
        """An untrained model of the size that `facts` describe, for any catalogue of the same levels.

        Raises:
            ConfigError: unknown key or value.
            LineageError: a trie of other levels.
        """
        settings = read_settings(EncoderDecoderSettings, facts)
        check_levels(facts, trie)
        return cls(trie, settings)

    @property
    def facts(self) -> dict[str, Any]:
        """Kind, levels and settings, as plain JSON values."""
        return {"name": self.name, "codebook_sizes": list(self.trie.codebook_sizes), **asdict(self.settings)}

    @property
    def normalisation(self) -> str:
        """ "trie" or "vocabulary"."""
        return self.settings.normalisation

    @property
    def code_tables(self) -> list[nn.Parameter]:
        """Of the encoder, the decoder and the output."""
        return [*self.history_codes, *self.own_codes, *self.output_codes]

    def mark_trained(self, history_items: Bool[Tensor, " N"], target_items: Bool[Tensor, " N"]) -> None:
        """Lets vectors of items and nodes count, which would be without effect otherwise; see `Recommender`."""
        mark_rows(self.item_embeddings, self.item_is_trained, history_items)
        items = target_items.to(self.trie.device).nonzero().squeeze(1)
        self.node_embeddings.mark_trained(self.trie.path_nodes(items))

    def parameter_groups(
        self, *, weight_decay: float, node_weight_decay: float = 0.0, item_weight_decay: float = 0.0
    ) -> list[ParameterGroup]:
        """All parameters, each once; see `group_parameters`."""
        items = [] if self.item_embeddings is None else [self.item_embeddings]
        decays = (weight_decay, node_weight_decay, item_weight_decay)
        return group_parameters(self, nodes=self.node_embeddings.parameters(), items=items, decays=decays)

    def load_adapted(self, state: Mapping[str, Tensor], places: Int64[Tensor, " _"]) -> None:
        """Loads the weights of the same model over another version of the catalogue; see `Recommender`."""
        nodes, items = ("node_embeddings", self.node_embeddings), ("item_embeddings", "item_is_trained")
        self.load_state_dict(adapt_state(state, places, self.trie, nodes=nodes, items=items))

    def score_targets(
        self, histories: Int64[Tensor, "B T"], targets: Int64[Tensor, "B T"], *, with_means: bool = False
    ) -> ItemScores:
        """Log-probability of each code of each target; see `Recommender`. T is at most `history_length`."""
        return score_each_target(self, histories, targets, with_means=with_means)

    def read_positions(self, histories: Int64[Tensor, "B T"], targets: Int64[Tensor, "B T"]) -> list[Group]:
        """Reads each window once (causal encoder), or the history of each target once (full); see `Recommender`."""
        assert histories.shape[1] <= self.settings.history_length, "histories longer than history_length"
        assert not self.training or bool(self.item_is_trained.any()), "mark_trained comes before training"
        rows, counts = target_rows(histories, targets >= 0)
        everyone = torch.arange(len(rows), device=rows.device)
        if self.encoder.is_causal or not len(rows):  # without targets too: every parameter has a gradient on every rank
            requests = self._read(histories)
            return [Group(everyone, requests.memories, rows, self._limits(counts))]
        groups = []
        order = counts.argsort(stable=True)
        for positions in order.split(max(SMALLEST_GROUP, -(-len(order) // 4))):
            longest = max(1, int(counts[positions].max()))
            shown = histories[rows[positions], :longest]
            is_shown = torch.arange(longest, device=rows.device) < counts[positions].unsqueeze(1)
            requests = self._read(torch.where(is_shown, shown, -1))
            own = everyone[: len(positions)]
            groups.append(Group(positions, requests.memories, own, self._limits(counts[positions])))
        return groups

    def score_items(self, context: list[Group], items: Int64[Tensor, "P C"], *, with_means: bool = False) -> ItemScores:
        """Log-probability of each code of C items after each position, in one pass; see `Recommender`."""
        scores = [self._score_group(group, items[group.positions], with_means=with_means) for group in context]
        back = torch.cat([group.positions for group in context]).argsort()
        log_probs = torch.cat([score.log_probs for score in scores])[back]
        means = [score.means for score in scores if score.means is not None]
        return ItemScores(log_probs, torch.cat(means)[back] if with_means else None)

    def encode(self, histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> Requests:
        """Reads the last `history_length` items of each history, once."""
        histories, _ = last_items(histories, lengths, self.settings.history_length)
        if histories.shape[1] == 0:
            histories = histories.new_full((len(histories), 1), -1)
        return self._read(histories)

    def request_states(self, context: Requests) -> Float[Tensor, "B D"]:
        """d of each request before its first code."""
        return self._begin(context)[0]

    def start(self, context: Requests) -> tuple[Float[Tensor, "B 1 M"], Beams]:
        """Log-probabilities of the children of the root."""
        read, own = self._begin(context)
        everyone = torch.arange(len(read), device=read.device)
        decoded, root = read.unsqueeze(1), torch.zeros_like(everyone).unsqueeze(1)
        log_probs = self.scores.of_children(self.trie, 0, Prefixes(decoded, decoded, root))
        return log_probs, Beams(context, own, everyone.view(-1, 1, 1))

    def step(
        self,
        level: int,
        state: Beams,
        parents: Int64[Tensor, "B W"],
        codes: Int64[Tensor, "B W"],
        nodes: Int64[Tensor, "B W"],
    ) -> tuple[Float[Tensor, "B W M"], Beams]:
        """Log-probabilities of the children of each beam's node; see `Recommender`.

        Only beams that have something to choose, now or later, go through the decoder.
        """
        requests, own, ancestors = state
        first, end = self.trie.item_ranges(level, nodes)
        is_read = (end - first > 1) if self.scores.is_trie else nodes >= 0
        where = is_read.nonzero(as_tuple=True)
        request, slot, _ = lay_out(where[0], len(nodes))
        new = len(own[0].keys) + torch.arange(len(request), device=nodes.device)
        lines = torch.cat([ancestors[request, parents[where]], new.unsqueeze(1)], dim=1)
        rows = Rows(lines, torch.full_like(new, level), request, slot, requests.limits[request])
        token = self.token_of(level - 1, codes[where], nodes[where])
        read, own = self.decoder(token, rows, requests.memories, own)
        decoded = read.new_zeros(*nodes.shape, read.shape[-1]).index_put_(where, read)
        log_probs = self.scores.of_children(self.trie, level, Prefixes(decoded, decoded, nodes))
        ancestors = lines.new_zeros(*nodes.shape, level + 1).index_put_(where, lines)
        return log_probs, Beams(requests, own, ancestors)

    def _begin(self, context: Requests) -> tuple[Float[Tensor, "B D"], list[OwnTokens]]:
        """d at the start vector of each request."""
        everyone = torch.arange(len(context.limits), device=context.limits.device)
        root = torch.zeros_like(everyone)
        rows = Rows(everyone.unsqueeze(1), root, everyone, root, context.limits)
        return self.decoder(self.start_vector.expand(len(everyone), -1), rows, context.memories)

    def tokens_of(self, histories: Int64[Tensor, "M T"]) -> tuple[Float[Tensor, "M S D"], Bool[Tensor, "M S"]]:
        """What the encoder reads of rows of items, padded at the end, and which of it is no padding.

        A row without any item is one token.
        """
        items = histories.clamp(min=0)
        path = self.trie.path_nodes(items)
        codes = [table[path[..., level]] for level, table in enumerate(self.trie.child_codes)]
        tokens = torch.stack([F.embedding(c, t) for c, t in zip(codes, self.history_codes, strict=True)], dim=2)
        if self.item_embeddings is not None:
            vectors = F.embedding(items, self.item_embeddings) * self.item_is_trained[items].unsqueeze(-1)
            tokens = tokens + vectors.unsqueeze(2)
        tokens = tokens.flatten(1, 2)
        is_token = (histories >= 0).repeat_interleave(self.trie.num_levels, dim=1)
        is_empty = torch.zeros_like(is_token)
        is_empty[:, 0] = ~is_token[:, 0]
        return torch.where(is_empty.unsqueeze(-1), self.empty_history, tokens), is_token | is_empty

    def token_of(self, level: int, codes: Tensor, nodes: Int64[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """What the decoder reads for a chosen node of depth level + 1."""
        token = F.embedding(codes, self.own_codes[level])
        if level in self.node_embeddings.levels:
            token = token + self.node_embeddings.look_up(level, nodes)
        return token

    def _read(self, histories: Int64[Tensor, "M T"]) -> Requests:
        """Encodes rows of items."""
        tokens, is_token = self.tokens_of(histories)
        return Requests(self.decoder.remember(self.encoder(tokens, is_token), is_token), is_token.sum(dim=1))

    def _limits(self, counts: Int64[Tensor, " p"]) -> Int64[Tensor, " p"]:
        """Tokens of so many items."""
        return (counts * self.trie.num_levels).clamp(min=1)

    def _score_group(self, group: Group, items: Int64[Tensor, "p C"], *, with_means: bool) -> ItemScores:
        tree = build_prefix_tree(self.trie, items)
        read = self.scores.rows_to_read(self.trie, tree)
        read[0] = torch.arange(len(items), device=items.device)  # the roots always, so that every weight has a gradient
        hidden, _ = self.decoder(self._inputs(tree, read), self._lay_out(group, tree, read), group.memories)
        levels = [
            self.scores.of_tree(self.trie, level, tree, rows, decoded, decoded, with_means=with_means)
            for level, (rows, decoded) in enumerate(zip(read, hidden.split([len(rows) for rows in read]), strict=True))
        ]
        return gather_items(tree, levels)

    def _inputs(self, tree: PrefixTree, read: list[Int64[Tensor, " R"]]) -> Float[Tensor, "n D"]:
        """The last token of each prefix that is read, depth by depth."""
        inputs = [self.start_vector.expand(len(read[0]), -1)]
        for level, rows in enumerate(read[1:]):
            nodes = tree.nodes[level + 1][rows]
            inputs.append(self.token_of(level, self.trie.child_codes[level][nodes], nodes))
        return torch.cat(inputs)

    def _lay_out(self, group: Group, tree: PrefixTree, read: list[Int64[Tensor, " R"]]) -> Rows:
        """Where these prefixes stand."""
        ancestors, depths, first, above = [], [], 0, None
        for depth, rows in enumerate(read):
            own = torch.arange(first, first + len(rows), device=rows.device)
            lines = own.unsqueeze(1).repeat(1, len(read))
            place = torch.full_like(tree.nodes[depth], -1).index_copy(0, rows, own - first)
            if above is not None:
                lines[:, :depth] = ancestors[-1][above[tree.parents[depth][rows]], :depth]
            ancestors.append(lines)
            depths.append(torch.full_like(own, depth))
            first, above = first + len(rows), place
        owners = torch.cat([tree.owners[depth][rows] for depth, rows in enumerate(read)])
        memory = group.rows[owners]
        order = memory.argsort(stable=True)
        counts = memory.bincount(minlength=len(group.memories[0].keys))
        slots = torch.empty_like(memory)
        slots[order] = torch.arange(len(memory), device=memory.device) - (counts.cumsum(0) - counts)[memory[order]]
        return Rows(torch.cat(ancestors), torch.cat(depths), memory, slots, group.limits[owners])

    def _apply(self, fn: Any, recurse: bool = True) -> EncoderDecoderRecommender:
        """Takes the trie along wherever the parameters go."""
        super()._apply(fn, recurse)
        self.trie = self.trie.to(self.start_vector.device)
        return self


def _size(settings: EncoderDecoderSettings, num_layers: int) -> T5Size:
    return T5Size(
        width=settings.width,
        num_heads=settings.num_heads,
        head_width=settings.head_width,
        hidden=settings.hidden,
        num_layers=num_layers,
        activation=settings.activation,
        attention=settings.attention,
        num_buckets=settings.num_buckets,
        max_distance=settings.max_distance,
        dropout=settings.dropout,
    )
