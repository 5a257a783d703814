"""The trees of a value-guided search, and the steps by which they grow: docs/methods.md section 4, rules 1 to 6.

In what order the steps are taken, and when the model is called, is for those who drive the growth: `value_guided` until
all is done, `serving` inside a graph of fixed shapes. Must not know networks.
"""
# B requests, W nodes at once, L levels, M most children of a node, S slots, C rows

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genrec.data.hashing import fold_words, gumbel_of
from genrec.decoding.beam_search import advance
from genrec.decoding.exhaustive import check_scores
from genrec.decoding.search_tree import DEPTH_SHIFT, ROOT, SLOT_FIELDS, SearchTree, Slots, select_nodes
from genrec.decoding.selection import Select, select_best
from genrec.decoding.tree_scorer import TreeScorer, widest_below_root
from genrec.decoding.value_guided_settings import ValueGuidedSettings, most_slots
from genrec.errors import DataError
from genrec.seeding import fold_in
from genrec.semantic_ids.constraints import Constraint
from genrec.semantic_ids.trie import SemanticIdTrie

_TABLES = ("log_probs", "keys", "first_children", "num_left", "num_forwarded")


class Growth:
    """The trees of one search while they grow; what it is made of is what `value_guided_search` is given.

    Of the children of the prefix in a row, `log_probs` holds the log-probabilities (-inf: not admissible), `keys` the
    same with noise, -inf where it is in the tree already, so that the largest is the next to be drawn, and `num_left`
    how many that leaves. The last row is nowhere: what is written for requests that are done goes there. In the first
    two, rows have M cells each, the children of prefixes below the root; the root stands behind them and has more.

    Args:
        scorer: the model.
        trie: the catalogue.
        context: of B requests.
        settings: the budget and how it is spent.
        seed: of the noise.
        request_ids: what the noise of each request depends on beside the seed; None: its place in the batch.
        constraint: what each request may get.
        is_static: for a tracer: sizes depend on settings and trie alone, and nobody looks at a number, not even for
            NaN. Otherwise there are no more slots than the largest tree needs.
    """

    def __init__(
        self,
        scorer: TreeScorer,
        trie: SemanticIdTrie,
        context: Any,
        settings: ValueGuidedSettings,
        *,
        seed: int = 0,
        request_ids: Int64[Tensor, " B"] | None = None,
        constraint: Constraint | None = None,
        is_static: bool = False,
    ) -> None:
        self.scorer, self.trie, self.settings, self.constraint = scorer, trie, settings, constraint
        self.is_static = is_static
        num_rows = settings.node_budget + 2
        log_probs, values, self.state = scorer.open(context, num_rows)
        log_probs = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))
        batch = log_probs.shape[0]
        self.num_calls, self.nowhere = 1, num_rows - 1
        capacity = most_slots(trie, settings) if is_static else 2 * num_rows
        self.tree = SearchTree(
            batch, trie.num_levels, capacity, nowhere=self.nowhere, like=log_probs, can_grow=not is_static
        )
        assert constraint is None or constraint.num_requests in (None, batch), "a constraint of another batch"
        self.words = _words(seed, torch.arange(batch, device=log_probs.device) if request_ids is None else request_ids)
        self.columns, width = torch.arange(max(trie.max_branching), device=log_probs.device), widest_below_root(trie)
        self.first_cells = (torch.arange(num_rows, device=log_probs.device) * width).roll(1)
        self.is_below_root = self.columns < width
        self.log_probs = log_probs.new_full((batch, (num_rows - 1) * width + len(self.columns)), -torch.inf)
        self.keys = torch.full_like(self.log_probs, -torch.inf, dtype=torch.float64)
        self.first_children = torch.zeros(batch, num_rows, dtype=torch.int64, device=log_probs.device)
        self.both_ends = torch.arange(2, device=log_probs.device)
        self.num_left = torch.zeros_like(self.first_children)
        self.num_forwarded = torch.zeros(batch, dtype=torch.int64, device=log_probs.device)
        root = torch.full((batch, 1), ROOT, dtype=torch.int64, device=log_probs.device)
        self._take(root, log_probs, values, range(1))

    def plant(self, select: Select = select_best) -> None:
        """The initial beam search, and its visits; see `selection.Select` for how a level chooses."""
        trie, tree = self.trie, self.tree
        slots = torch.full_like(tree.num_nodes, ROOT).unsqueeze(1)
        rounds = torch.zeros_like(slots)
        nodes, totals = torch.zeros_like(slots), self.log_probs.new_zeros(slots.shape)
        for level in range(trie.num_levels):
            rows = tree.slots.rows.gather(1, slots)
            log_probs = _read(self.log_probs, self._cells(rows, trie.max_branching[level]))
            scores, width = totals.unsqueeze(2) + log_probs, self.settings.initial_width
            beams = advance(trie, level, nodes, scores, beam_width=width, constraint=None, select=select)
            is_new = beams.nodes >= 0
            parents = slots.gather(1, beams.parents)
            self._take_off(parents, beams.nodes)
            depths = torch.full_like(beams.nodes, level + 1)
            slots = tree.add(is_new, parents, depths, beams.nodes, beams.log_prob, rounds)
            nodes, totals = beams.nodes, beams.log_prob
            if level + 1 < trie.num_levels or self.settings.forwards_leaves:
                self._charge(slots)
                self.forward(slots, range(level + 1, min(level + 2, trie.num_levels)))
        tree.visit(slots)

    def tensors(self) -> tuple[Tensor, ...]:
        """All that a step changes, for loops that hand it on; but not what the scorer changes in its own state."""
        slots = tuple(getattr(self.tree.slots, name) for name in SLOT_FIELDS)
        return (*slots, self.tree.num_nodes, *(getattr(self, name) for name in _TABLES))

    def resumed(self, tensors: Sequence[Tensor]) -> Growth:
        """The same search where `tensors` are what its own `tensors` gave, or would give later."""
        other, num_fields = copy(self), len(SLOT_FIELDS)
        other.tree = copy(self.tree)
        other.tree.slots = Slots(*tensors[:num_fields])
        other.tree.num_nodes = tensors[num_fields]
        for name, tensor in zip(_TABLES, tensors[num_fields + 1 :], strict=True):
            setattr(other, name, tensor)
        return other

    @property
    def levels_below_root(self) -> range:
        """Of the prefixes that `expand` may give to `forward`."""
        return range(1, self.trie.num_levels)

    def is_active(self) -> Bool[Tensor, " B"]:
        """Whose budget is not spent and who has something left to expand."""
        return (self.num_forwarded < self.settings.node_budget) & self.tree.is_open.any(dim=1)

    def expand_several(self, is_ready: Bool[Tensor, " B"], rounds: Int64[Tensor, " B"]) -> Int64[Tensor, "B R"]:
        """A round of the search but for its call of the model: `selections_per_round` times `expand`."""
        chosen = [self.expand(is_ready, rounds)]
        for _ in range(self.settings.selections_per_round - 1):
            chosen.append(self.expand(is_ready & self.is_active(), rounds))
        return torch.cat(chosen, dim=1)

    def expand(self, is_active: Bool[Tensor, " B"], rounds: Int64[Tensor, " B"]) -> Int64[Tensor, "B 1"]:
        """Selects a prefix in each tree and adds a child of it.

        Args:
            is_active: whose tree grows.
            rounds: what to note down at the child.

        Returns:
            The slot of the child where the model has to read it, 0 elsewhere.
        """
        tree, is_active = self.tree, is_active.unsqueeze(1)
        chosen, is_passed = select_nodes(tree.slots, tree.end, self.settings.exploration)
        tree.slots.visits[:, : tree.end] += is_passed & is_active
        parents = torch.where(is_active, chosen.unsqueeze(1), 0)
        depths = tree.slots.depths.gather(1, parents) + 1
        rows = tree.slots.rows.gather(1, parents)
        cells = self._cells(rows, self.columns.shape[0])
        keys = _read(self.keys, cells).masked_fill(~(self.is_below_root | (rows == 0).unsqueeze(2)), -torch.inf)
        place = keys.argmax(dim=2)
        nodes = self.first_children.gather(1, rows) + place
        of_child = self.log_probs.gather(1, self.first_cells[rows] + place)
        log_probs = tree.slots.log_probs.gather(1, parents) + of_child
        self._take_off(parents, torch.where(is_active, nodes, -1))
        slots = tree.add(is_active, parents, depths, nodes, log_probs, rounds.unsqueeze(1))
        tree.visit(slots)
        if not self.settings.forwards_leaves:
            slots = torch.where(depths < self.trie.num_levels, slots, 0)
        self._charge(slots)
        return slots

    def _take_off(self, parents: Int64[Tensor, "B W"], nodes: Int64[Tensor, "B W"]) -> None:
        """These children of theirs are not left to the parents (slots) any more; -1: nothing happens."""
        is_child = nodes >= 0
        parents = torch.where(is_child, parents, 0)
        rows = self.tree.slots.rows.gather(1, parents)
        places = torch.where(is_child, nodes - self.first_children.gather(1, rows), 0)
        self.keys.scatter_(1, self.first_cells[rows] + places, -torch.inf)
        self.num_left.scatter_add_(1, rows, -is_child.long())
        self.tree.slots.is_open.scatter_(1, parents, (self.num_left.gather(1, rows) > 0) & is_child)

    def _charge(self, slots: Int64[Tensor, "B W"]) -> None:
        """Gives each of these a row, which the budget pays for."""
        is_new = slots > 0
        rows = torch.where(is_new, self.num_forwarded.unsqueeze(1) + is_new.cumsum(dim=1), self.nowhere)
        self.tree.slots.rows.scatter_(1, slots, rows)
        self.num_forwarded += is_new.sum(dim=1)

    def forward(self, slots: Int64[Tensor, "B W"], levels: range) -> None:
        """Has the model read what stands in these slots, of the depths in `levels` or leaves."""
        own = self.tree.slots
        depths = own.depths.gather(1, slots)
        above = _pick(own.paths, slots).gather(2, (depths - 1).clamp(min=0).unsqueeze(2)).squeeze(2)
        nodes = torch.where(slots > 0, own.nodes.gather(1, slots), -1)
        rows, parents = own.rows.gather(1, slots), own.rows.gather(1, above)
        of_prefixes = own.log_probs.gather(1, slots)
        log_probs, values = self.scorer.forward(self.state, rows, parents, depths, nodes, of_prefixes)
        self.num_calls += 1
        self._take(slots, log_probs.to(self.log_probs.dtype), values, levels)

    def _take(self, slots: Int64[Tensor, "B W"], log_probs: Tensor, values: Tensor, levels: range) -> None:
        """Takes in what the model says of the prefixes in these slots."""
        own = self.tree.slots
        depths, rows = own.depths.gather(1, slots), own.rows.gather(1, slots)
        nodes = torch.where(slots > 0, own.nodes.gather(1, slots), -1)
        first, is_child, is_alive = self._children(depths, nodes, levels, width=log_probs.shape[2])
        log_probs = log_probs.masked_fill(~is_child, -torch.inf)
        values = torch.where(slots > 0, values.double(), 0.0)
        if not self.is_static:
            _check_numbers(log_probs, values, depths)
        entropies = entropy(log_probs)
        if self.constraint is not None:
            log_probs = log_probs.masked_fill(~is_alive, -torch.inf)
        children = first.unsqueeze(2) + torch.arange(log_probs.shape[2], device=first.device)
        noise = _noise(self.words, depths + 1, children)
        num_left = (log_probs > -torch.inf).sum(dim=2)
        cells = self._cells(rows, log_probs.shape[2]).flatten(1)
        self.log_probs.scatter_(1, cells, log_probs.flatten(1))
        self.keys.scatter_(1, cells, (log_probs + noise).flatten(1))
        self.first_children.scatter_(1, rows, first)
        self.num_left.scatter_(1, rows, num_left)
        own.values.scatter_(1, slots, values)
        own.entropies.scatter_(1, slots, entropies)
        own.priorities.scatter_(1, slots, values + self.settings.entropy_weight * entropies)
        own.is_open.scatter_(1, slots, num_left > 0)

    def _cells(self, rows: Int64[Tensor, "B W"], width: int) -> Int64[Tensor, "B W M"]:
        """Where the first `width` children of the prefixes in these rows stand in `log_probs` and `keys`."""
        return self.first_cells[rows].unsqueeze(2) + self.columns[:width]

    def _children(
        self, depths: Int64[Tensor, "B W"], nodes: Int64[Tensor, "B W"], levels: range, *, width: int
    ) -> tuple[Int64[Tensor, "B W"], Bool[Tensor, "B W M"], Bool[Tensor, "B W M"]]:
        """Of nodes of any depth: the first child, which places hold a child, and which of these an admissible item."""
        ends, both = torch.zeros(*nodes.shape, 2, dtype=torch.int64, device=nodes.device), self.both_ends
        is_alive = torch.zeros(*nodes.shape, width, dtype=torch.bool, device=nodes.device)
        for level in levels:
            is_own = (depths == level) & (nodes >= 0)
            own = (nodes * is_own).unsqueeze(2)
            ends += self.trie.child_offsets[level][own + both] * is_own.unsqueeze(2)
            if self.constraint is not None:
                own = torch.where(is_own, nodes, -1)
                is_alive[..., : self.trie.max_branching[level]] |= self.constraint.alive_children(level, own)
        first, end = ends[..., 0], ends[..., 1]
        is_child = torch.arange(width, device=nodes.device) < (end - first).unsqueeze(2)
        return first, is_child, is_child if self.constraint is None else is_alive


def node_noise(
    seed: int, request_ids: Int64[Tensor, " B"], depths: Int64[Tensor, "B W"], nodes: Int64[Tensor, "B W M"]
) -> Float[Tensor, "B W M"]:
    """Gumbel noise of trie nodes, float64: added to log-probabilities, it draws among them without replacement.

    Args:
        seed: in [0, 2^64).
        request_ids: for which it is.
        depths: of the nodes.
        nodes: any integers for which noise is wanted.
    """
    return _noise(_words(seed, request_ids), depths, nodes)


def _words(seed: int, request_ids: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
    return fold_words(torch.full_like(request_ids, fold_in(seed)), request_ids)


def _noise(words: Int64[Tensor, " B"], depths: Int64[Tensor, "B W"], nodes: Int64[Tensor, "B W M"]) -> Tensor:
    numbers = (depths << DEPTH_SHIFT).unsqueeze(2) + nodes
    return gumbel_of(fold_words(words.view(-1, 1, 1), numbers))


def entropy(log_probs: Float[Tensor, "*B M"]) -> Float[Tensor, "*B"]:
    """Of a distribution that is made to sum to one, float64; -inf is probability zero, and nothing at all has 0.

    >>> entropy(torch.tensor([[-0.5, -0.5], [-7.0, -torch.inf], [-torch.inf, -torch.inf]])).exp().tolist()
    [2.0, 1.0, 1.0]
    """
    entropies = torch.special.entr(log_probs.double().softmax(dim=-1)).sum(dim=-1)
    return entropies.masked_fill(entropies.isnan(), 0.0)


def _read(table: Float[Tensor, "B F"], cells: Int64[Tensor, "B W M"]) -> Float[Tensor, "B W M"]:
    return table.gather(1, cells.flatten(1)).view_as(cells)


def _pick(table: Tensor, places: Int64[Tensor, "B W"]) -> Tensor:
    """table[b, places[b, w]], whole rows of a table [B, S, M]."""
    return table.gather(1, places.unsqueeze(2).expand(-1, -1, table.shape[2]))


def _check_numbers(
    log_probs: Float[Tensor, "B W M"], values: Float[Tensor, "B W"], depths: Int64[Tensor, "B W"]
) -> None:
    is_good = log_probs.amax(dim=2) < torch.inf  # false for NaN
    if bool((is_good & values.isfinite()).all()):
        return
    for level in range(int(depths.max()) + 1):
        check_scores([torch.zeros_like(is_good[:, 0])] * level + [(~is_good & (depths == level)).any(dim=1)])
    request, place = (int(part) for part in (~values.isfinite()).nonzero()[0])
    raise DataError(
        "the value head gave something that is no number",
        where=f"request {request} of the batch, prefix of {int(depths[request, place])} codes",
        found=float(values[request, place]),
        fix="check its weights: the training may have diverged",
    )
