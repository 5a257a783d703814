"""The flat recommender: a Llama-style decoder over the code tokens of the history, one after the other.

A start vector, then L tokens an item (`flat_tokens`); every code of every next item is predicted from the state before
it:

    d = norm(Llama(x_0 .. x_p)),  logits of the next code from d alone, as in `code_scores`, with d as query of E too

It is the backbone "Llama" of APAO (arXiv 2603.02730), which has code embeddings alone; vectors of nodes and items are
ours.

Positions. The start vector stands at 0 and code l of item t (both from 0) at 1 + t L + l, counted from the first item
that is read, not from the user's first: the codes of the item after n read ones are predicted at n L .. n L + L - 1. A
training window of at most T = `history_length` inputs trains n = 1 .. T: from 1 in the first window of a history, from
T - S + 1 in the further ones of a history longer than T (S: stride of the windows). A search reads the last T items and
predicts at n = min(items, T): never at a place that training does not have, but for the empty history (n = 0), which
no window trains. Rows are padded on the right, so causality alone keeps padding out.

Must not know configuration, losses, search or training.
"""
# B batch, T items, S = 1 + T L positions, P targets, C candidates, L levels, D width, N items of the catalogue,
# W beams, M most children of a node, R prefixes of one length, Q most of them in a row of the batch

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from genrec.models.code_scores import CodeScores, Prefixes
from genrec.models.flat_tokens import FlatTokens, continued, score_continuations
from genrec.models.llama import KeysValues, Llama, share_heads
from genrec.models.node_embeddings import NodeEmbeddings, normal_table
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
from genrec.models.settings import DecoderOnlySettings
from genrec.models.transformer import Dropout
from genrec.semantic_ids.trie import SemanticIdTrie


class Histories(NamedTuple):
    """Histories that have been read, shared by all beams of a request and all candidates of a row.

    Attributes:
        layers: keys and values of every layer.
        rows: the row each state is of.
        places: its position: that of the last token read before the next item.
        states: d there.
    """

    layers: tuple[KeysValues, ...]
    rows: Int64[Tensor, " P"]
    places: Int64[Tensor, " P"]
    states: Float[Tensor, "P D"]


class Beams(NamedTuple):
    """Beams of a search.

    Attributes:
        histories: what has been read; one state a request.
        lines: keys and values of each beam's own tokens, in every layer; None before there is one.
    """

    histories: Histories
    lines: Float[Tensor, "layers B W _ 2 Hkv E"] | None


class Branch(NamedTuple):
    """Prefixes of one depth of the candidates, laid out row by row of the batch.

    Attributes:
        slots: where each stands in its row; -1 if it was not read.
        lines: keys and values of its tokens, in every layer.
    """

    slots: Int64[Tensor, " R"]
    lines: Float[Tensor, "layers B Q _ 2 Hkv E"]


class DecoderOnlyRecommender(nn.Module):
    """A `Recommender`; see the module for the equations and for the positions.

    I of an item that training does not show in histories, and E of a node on no target's path, are 0.

    Args:
        trie: the catalogue; moves with the module.
        settings: size and kind.
    """

    name = "decoder_only"

    def __init__(self, trie: SemanticIdTrie, settings: DecoderOnlySettings) -> None:
        super().__init__()
        self.trie, self.settings = trie, settings
        width, sizes = settings.width, trie.codebook_sizes
        self.start_vector = normal_table(width)
        self.tokens = FlatTokens(
            trie,
            width,
            has_nodes=settings.node_embeddings,
            has_items=settings.item_embeddings,
            dropout=settings.dropout,
        )
        self.stack = Llama(
            width,
            num_layers=settings.num_layers,
            heads=share_heads(width, settings.num_heads, num_kv_heads=settings.num_kv_heads),
            hidden=settings.hidden,
            max_length=(settings.history_length + 1) * trie.num_levels,
            attention=settings.attention,
            dropout=settings.dropout,
        )
        self.output_codes = nn.ParameterList(normal_table(size, width) for size in sizes)
        self.scores = CodeScores(
            self.output_codes,
            self.tokens.nodes,
            is_trie=settings.normalisation == "trie",
            temperature=settings.temperature,
            node_dropout=Dropout(0.0),
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1 / (3 * module.in_features**0.5))

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], trie: SemanticIdTrie) -> DecoderOnlyRecommender:
        """An untrained model of the size that `facts` describe, for any catalogue of the same levels.

        Raises:
            ConfigError: unknown key or value.
            LineageError: a trie of other levels.
        """
        settings = read_settings(DecoderOnlySettings, facts)
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
    def node_embeddings(self) -> NodeEmbeddings:
        """Those of the tokens, which the outputs share."""
        return self.tokens.nodes

    @property
    def code_tables(self) -> list[nn.Parameter]:
        """Of the inputs and of the outputs."""
        return [*self.tokens.codes, *self.output_codes]

    def mark_trained(self, history_items: Bool[Tensor, " N"], target_items: Bool[Tensor, " N"]) -> None:
        """Lets vectors of items and nodes count, which would be without effect otherwise; see `Recommender`."""
        self.tokens.mark_trained(self.trie, history_items, target_items)

    def parameter_groups(
        self, *, weight_decay: float, node_weight_decay: float = 0.0, item_weight_decay: float = 0.0
    ) -> list[ParameterGroup]:
        """All parameters, each once; see `group_parameters`."""
        items = [] if self.tokens.items is None else [self.tokens.items]
        decays = (weight_decay, node_weight_decay, item_weight_decay)
        return group_parameters(self, nodes=self.node_embeddings.parameters(), items=items, decays=decays)

    def load_adapted(self, state: Mapping[str, Tensor], places: Int64[Tensor, " _"]) -> None:
        """Loads the weights of the same model over another version of the catalogue; see `Recommender`."""
        self.load_state_dict(self.tokens.adapted_state(state, places, self.trie, prefix="tokens."))

    def score_targets(
        self, histories: Int64[Tensor, "B T"], targets: Int64[Tensor, "B T"], *, with_means: bool = False
    ) -> ItemScores:
        """Log-probability of each code of each target; see `Recommender`. T is at most `history_length`.

        Where every target is what the history goes on with, as in windows of training, one pass over the tokens of the
        history and of the last target predicts them all. Other targets are read as candidates, in a second pass.
        """
        assert not self.training or bool(self.tokens.item_is_trained.any()), "mark_trained comes before training"
        row = continued(histories, targets)
        if row is None:
            return score_each_target(self, histories, targets, with_means=with_means)
        states, _ = self.stack.read(self._inputs(row)[:, :-1])  # nothing follows the last code
        rows, places = self._places(histories, targets >= 0)
        levels = torch.arange(self.trie.num_levels, device=rows.device)
        states = states[rows.unsqueeze(1), places.unsqueeze(1) + levels]
        return score_continuations(self.scores, self.trie, states, targets, with_means=with_means)

    def read_positions(self, histories: Int64[Tensor, "B T"], targets: Int64[Tensor, "B T"]) -> Histories:
        """The state of each user wherever there is a target, and what candidates there need to see of the history."""
        states, layers = self.stack.read(self._inputs(histories))
        rows, places = self._places(histories, targets >= 0)
        return Histories(layers, rows, places, states[rows, places])

    def score_items(self, context: Histories, items: Int64[Tensor, "P C"], *, with_means: bool = False) -> ItemScores:
        """Log-probability of each code of C items after each position; see `Recommender`.

        The candidates of a row of the batch are one tree over its history, of which each sees what stands before its
        position; equal prefixes of a position are one token. Prefixes below which nothing is to choose are not read.
        """
        tree, levels, branch = build_prefix_tree(self.trie, items), [], None
        for level, rows in enumerate(self.scores.rows_to_read(self.trie, tree)):
            if level:
                states, branch = self._grow(context, tree, level, rows, branch)
            else:
                states = context.states[rows]
            levels.append(self.scores.of_tree(self.trie, level, tree, rows, states, states, with_means=with_means))
        return gather_items(tree, levels)

    def encode(self, histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> Histories:
        """Reads the last `history_length` items of each history, once."""
        histories, lengths = last_items(histories, lengths, self.settings.history_length)
        states, layers = self.stack.read(self._inputs(histories))
        rows, places = torch.arange(lengths.shape[0], device=lengths.device), lengths * self.trie.num_levels
        return Histories(layers, rows, places, states[rows, places])

    def request_states(self, context: Histories) -> Float[Tensor, "B D"]:
        """d of each request at the end of its history."""
        return context.states

    def start(self, context: Histories) -> tuple[Float[Tensor, "B 1 M"], Beams]:
        """Log-probabilities of the children of the root."""
        decoded = context.states.unsqueeze(1)
        root = torch.zeros(decoded.shape[:2], dtype=torch.int64, device=decoded.device)
        log_probs = self.scores.of_children(self.trie, 0, Prefixes(decoded, decoded, root))
        return log_probs, Beams(context, None)

    def step(
        self,
        level: int,
        state: Beams,
        parents: Int64[Tensor, "B W"],
        codes: Int64[Tensor, "B W"],
        nodes: Int64[Tensor, "B W"],
    ) -> tuple[Float[Tensor, "B W M"], Beams]:
        """Log-probabilities of the children of each beam's node; see `Recommender`."""
        histories, lines = state
        if lines is not None:
            lines = lines[:, histories.rows.unsqueeze(1), parents]
        tokens = self.tokens.of_nodes(self.trie, level, nodes.clamp(min=0))
        last = histories.places.unsqueeze(1)
        is_seen = torch.arange(histories.layers[0].keys.shape[2], device=nodes.device) <= last
        places = (last + level).expand_as(nodes)
        decoded, lines = self.stack.extend(tokens, places, histories.layers, is_seen.unsqueeze(1), lines)
        log_probs = self.scores.of_children(self.trie, level, Prefixes(decoded, decoded, nodes))
        return log_probs, Beams(histories, lines)

    def _grow(
        self, context: Histories, tree: PrefixTree, depth: int, rows: Int64[Tensor, " R"], above: Branch | None
    ) -> tuple[Float[Tensor, "R D"], Branch]:
        """States of some prefixes of a depth of the tree, from the lines of those above."""
        owners = tree.owners[depth][rows]
        grid = lay_out(context.rows[owners], len(context.layers[0].keys))
        tokens = grid.place(self.tokens.of_nodes(self.trie, depth, tree.nodes[depth][rows]))
        lines = None
        if above is not None:
            parents = grid.place(above.slots[tree.parents[depth][rows]])
            lines = above.lines[:, torch.arange(len(parents), device=parents.device).unsqueeze(1), parents]
        last = grid.place(context.places[owners])
        is_seen = torch.arange(context.layers[0].keys.shape[2], device=last.device) <= last.unsqueeze(-1)
        states, lines = self.stack.extend(tokens, last + depth, context.layers, is_seen, lines)
        slots = torch.full_like(tree.nodes[depth], -1).index_copy(0, rows, grid.slots)
        return grid.take(states), Branch(slots, lines)

    def _places(
        self, histories: Int64[Tensor, "B T"], is_target: Bool[Tensor, "B T"]
    ) -> tuple[Int64[Tensor, " P"], Int64[Tensor, " P"]]:
        """The row of each target, and the position of the last token before it."""
        rows, counts = target_rows(histories, is_target)
        return rows, counts * self.trie.num_levels

    def _inputs(self, items: Int64[Tensor, "B T"]) -> Float[Tensor, "B S D"]:
        """The start vector and the tokens of items; anything where an item is -1, which nothing before it sees."""
        first = self.start_vector.expand(items.shape[0], 1, -1)
        return torch.cat([self.tokens.dropout(first), self.tokens.of_items(self.trie, items)], dim=1)

    def _apply(self, fn: Any, recurse: bool = True) -> DecoderOnlyRecommender:
        """Takes the trie along wherever the parameters go."""
        super()._apply(fn, recurse)
        self.trie = self.trie.to(self.start_vector.device)
        return self
