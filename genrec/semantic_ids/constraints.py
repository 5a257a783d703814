"""Which items a request may get, and therefore which nodes of the trie are worth a look.

An item is admissible if it is in the request's allow set and not in its deny list. A node is alive if at least one
admissible item is under it: exact counts, so that no search ever spends a beam on a dead subtree. Must not know scores.
"""
# B requests, W beams, D entries of the longest deny list, A = 1 (one allow set for all) or B, N items, N1 = N + 1,
# L levels, n_d nodes of depth d, M_l most children of a node of depth l

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Int32, Int64
from torch import Tensor

from genrec.semantic_ids.trie import SemanticIdTrie


@dataclass(frozen=True, eq=False)
class Constraint:
    """The admissible items of B requests, or of any number of requests that share one allow set.

    A deny list costs nothing in the catalogue: only nodes with a denied item under them can be dead, so the dead nodes
    of each depth are listed once per request. An allow set is a mask of items in trie order, and its prefix sums c say
    that a node holding the positions [lo, hi) has c[hi] - c[lo] allowed items.

    Attributes:
        trie: the trie whose nodes it speaks of.
        denied: [B, D] sorted positions in trie order of denied items that are allowed, N as padding; None: no lists.
        dead: L + 1 tensors [B, D], depth d: the sorted nodes whose allowed items are all denied, n_d as padding; None
            without deny lists.
        allowed_sums: [A, N + 1] prefix sums of the allow set; None: everything is allowed.
    """

    trie: SemanticIdTrie
    denied: Int64[Tensor, "B D"] | None
    dead: tuple[Int64[Tensor, "B D"], ...] | None
    allowed_sums: Int32[Tensor, "A N1"] | None

    @classmethod
    def build(
        cls,
        trie: SemanticIdTrie,
        *,
        deny: Int[Tensor, "B D"] | Sequence[Int[Tensor, "B _"]] = (),
        allow: Bool[Tensor, "*A N"] | None = None,
    ) -> Constraint:
        """Combines deny lists and an allow set.

        Args:
            trie: the catalogue.
            deny: item_index, -1 as padding, in any order, repeats allowed: a deny list, a history whose items must not
                come again, or several such tensors with a row for each request.
            allow: the items that may be returned, by item_index: one set for all requests [N], or [A, N]. Tags are
                combined by `&`, `|` and `~` before.
        """
        lists = [deny] if isinstance(deny, Tensor) else list(deny)
        sums = None if allow is None else _prefix_sums(trie, allow)
        if not lists or not sum(part.shape[1] for part in lists):
            return cls(trie, None, None, sums)
        denied = _denied_positions(trie, torch.cat([part.long() for part in lists], dim=1), sums)
        return cls(trie, denied, _dead_nodes(trie, denied, sums), sums)

    @property
    def num_requests(self) -> int | None:
        """B; None if it holds for any number of requests."""
        if self.denied is not None:
            return self.denied.shape[0]
        if self.allowed_sums is not None and self.allowed_sums.shape[0] > 1:
            return self.allowed_sums.shape[0]
        return None

    def is_alive(self, depth: int, nodes: Int64[Tensor, "B *W"]) -> Bool[Tensor, "B *W"]:
        """Whether an admissible item is under each node of `depth`; false for node -1."""
        is_alive = nodes >= 0
        flat = nodes.flatten(1)
        if self.allowed_sums is not None:
            first, end = self.trie.item_ranges(depth, flat)
            is_alive &= (_gather(self.allowed_sums, end) > _gather(self.allowed_sums, first)).view_as(nodes)
        if self.dead is not None:
            is_alive &= ~_contains(self.dead[depth], flat).view_as(nodes)
        return is_alive

    def alive_children(self, level: int, nodes: Int64[Tensor, "B W"]) -> Bool[Tensor, "B W M"]:
        """Which children of nodes of depth `level` (padded to M_level, node -1 has none) have an admissible item.

        The same as `is_alive` of the children, at a fraction of its cost.
        """
        first, count = self.trie.child_ranges(level, nodes)
        slots = torch.arange(self.trie.max_branching[level], device=nodes.device)
        is_valid = slots < count.unsqueeze(-1)
        if self.allowed_sums is not None:
            is_valid &= self._has_allowed(level, first)
        if self.dead is None:
            return is_valid
        # Either every dead node looks for its place, or every child looks for itself among the dead, by binary search.
        if self.dead[0].shape[1] <= 2 * len(slots):
            return is_valid & ~self._is_dead_child(level, nodes)
        children = (first.unsqueeze(-1) + slots).flatten(1)
        return is_valid & ~_contains(self.dead[level + 1], children).view_as(is_valid)

    def is_admissible(self, items: Int64[Tensor, "B *W"]) -> Bool[Tensor, "B *W"]:
        """Whether each item (item_index) may be returned; false for item -1."""
        is_admissible = items >= 0
        positions = self.trie.item_positions[items.clamp(min=0)].flatten(1)
        if self.allowed_sums is not None:
            is_allowed = _gather(self.allowed_sums, positions + 1) > _gather(self.allowed_sums, positions)
            is_admissible &= is_allowed.view_as(items)
        if self.denied is not None:
            is_admissible &= ~_contains(self.denied, positions).view_as(items)
        return is_admissible

    def _has_allowed(self, level: int, first: Tensor) -> Tensor:
        """[B, W, M]; consecutive children share a boundary, so M + 1 look-ups do for M children."""
        assert self.allowed_sums is not None
        offsets = self.trie.item_offsets[level + 1]
        edges = first.unsqueeze(-1) + torch.arange(self.trie.max_branching[level] + 1, device=first.device)
        edges = offsets[edges.clamp(max=offsets.shape[0] - 1)]
        sums = _gather(self.allowed_sums, edges.flatten(1)).view_as(edges)
        return sums[..., 1:] > sums[..., :-1]

    def _is_dead_child(self, level: int, nodes: Tensor) -> Tensor:
        """[B, W, M]; every dead node marks its place below its parent, in all beams that are at this parent."""
        assert self.dead is not None
        dead, width = self.dead[level + 1], self.trie.max_branching[level]
        num_nodes = self.trie.num_nodes(level + 1)
        safe = dead.clamp(max=num_nodes - 1)
        parents = torch.where(dead < num_nodes, self.trie.parents[level][safe], -2)
        slots = safe - self.trie.child_offsets[level][parents.clamp(min=0)]
        is_below = nodes.unsqueeze(2) == parents.unsqueeze(1)  # [B, W, D]
        places = torch.where(is_below, slots.unsqueeze(1), width)  # the last place takes what is not below
        is_dead = torch.zeros(*nodes.shape, width + 1, dtype=torch.bool, device=nodes.device)
        return is_dead.scatter_(2, places, True)[..., :width]


def mask_of_items(items: Int[Tensor, "B D"], num_items: int) -> Bool[Tensor, "B N"]:
    """Lists of item_index, padded with -1, as masks: the form in which allow sets are combined.

    >>> mask_of_items(torch.tensor([[2, 0, -1], [-1, -1, -1]]), 3).tolist()
    [[True, False, True], [False, False, False]]
    """
    mask = torch.zeros(items.shape[0], num_items + 1, dtype=torch.bool, device=items.device)
    mask.scatter_(1, torch.where(items >= 0, items.long(), num_items), True)
    return mask[:, :num_items]


def _prefix_sums(trie: SemanticIdTrie, allow: Tensor) -> Tensor:
    mask = allow.reshape(-1, trie.num_items)[:, trie.item_order]
    sums = torch.zeros(mask.shape[0], trie.num_items + 1, dtype=torch.int32, device=mask.device)
    torch.cumsum(mask, dim=1, dtype=torch.int32, out=sums[:, 1:])
    return sums


def _denied_positions(trie: SemanticIdTrie, deny: Tensor, sums: Tensor | None) -> Tensor:
    """Sorted and distinct; items that are not allowed anyway, repeats and padding become N, at the end."""
    padding = trie.num_items
    positions = torch.where(deny >= 0, trie.item_positions[deny.clamp(min=0)], padding)
    if sums is not None:
        safe = positions.clamp(max=padding - 1)
        positions = torch.where(_gather(sums, safe + 1) > _gather(sums, safe), positions, padding)
    positions = positions.sort(dim=1).values
    is_repeat = torch.zeros_like(positions, dtype=torch.bool)
    is_repeat[:, 1:] = positions[:, 1:] == positions[:, :-1]
    return positions.masked_fill(is_repeat, padding).sort(dim=1).values


def _dead_nodes(trie: SemanticIdTrie, denied: Tensor, sums: Tensor | None) -> tuple[Tensor, ...]:
    is_denied = denied < trie.num_items
    items = torch.where(is_denied, trie.item_order[denied.clamp(max=trie.num_items - 1)], -1)
    dead = []
    for depth in range(trie.num_levels + 1):
        nodes = trie.nodes_of_items(items, depth)
        first, end = trie.item_ranges(depth, nodes)
        num_allowed = end - first if sums is None else _gather(sums, end) - _gather(sums, first)
        # Positions are sorted, so the denied items under a node are neighbours: a run. Padding is a run of its own.
        is_start = torch.ones_like(is_denied)
        is_start[:, 1:] = nodes[:, 1:] != nodes[:, :-1]
        run = is_start.cumsum(dim=1) - 1
        num_denied = torch.zeros_like(nodes).scatter_add_(1, run, torch.ones_like(run)).gather(1, run)
        is_dead = is_denied & (num_denied >= num_allowed)
        dead.append(torch.where(is_dead, nodes, trie.num_nodes(depth)).sort(dim=1).values)
    return tuple(dead)


def _gather(sums: Tensor, places: Tensor) -> Tensor:
    """sums[b, places[b, i]], where the row of sums may be shared."""
    return sums[0][places] if sums.shape[0] == 1 else sums.gather(1, places)


def _contains(ordered: Tensor, values: Tensor) -> Tensor:
    """Whether values[b, i] is in the sorted row ordered[b]."""
    places = torch.searchsorted(ordered, values.contiguous()).clamp(max=ordered.shape[1] - 1)
    return ordered.gather(1, places) == values
