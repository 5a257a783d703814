"""A growing tree of prefixes for each request of a batch, one slot of tensors a node; and which node is expanded next.

Slot 0 is nowhere: what is written for a request that is already done goes there. Slot 1 is the root, and every request
fills the slots after it in its own order. Must not know models, budgets or constraints.
"""
# B requests, S slots, W nodes at once, L levels, P = L + 1 places on a path, n nodes of the largest tree

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

ROOT = 1
DEPTH_SHIFT = 48  # nodes of a depth are below 2^48
_ROUNDING = 1e-9  # relative error of a mean that is taken for rounding


@dataclass(frozen=True, eq=False)
class SearchTrace:
    """The trees of a search, for those who want to look at it; nodes in the order in which they were added.

    Attributes:
        nodes: trie node of its depth; -1 where there is no more.
        depths: codes of the prefix; the root, at place 0, has none.
        parents: place of the prefix without its last code; -1 for the root.
        rounds: 0 for the root and the initial beams, then the round of its request.
        visits: initial beams through it, expansions at or below it and its own, and how often it was passed over.
        log_probs: of the prefix; -inf where there is no more.
        values: V of the prefix; -inf for leaves that were not forwarded.
        entropies: H of the policy over its children; 0 for leaves.
        is_forwarded: it counts against the budget (the root is forwarded and does not count).
        num_nodes: with the root.
        num_forwarded: spent.
        num_calls: of the model, for all requests together; the root's included.
    """

    nodes: Int64[Tensor, "B n"]
    depths: Int64[Tensor, "B n"]
    parents: Int64[Tensor, "B n"]
    rounds: Int64[Tensor, "B n"]
    visits: Int64[Tensor, "B n"]
    log_probs: Float[Tensor, "B n"]
    values: Float[Tensor, "B n"]
    entropies: Float[Tensor, "B n"]
    is_forwarded: Bool[Tensor, "B n"]
    num_nodes: Int64[Tensor, " B"]
    num_forwarded: Int64[Tensor, " B"]
    num_calls: int


@dataclass(eq=False)
class Slots:
    """One entry a node. `rows` says where what was forwarded is kept, -1 for what was not; see `SearchTrace`.

    `paths` holds the slots of the prefixes of 0 to L codes on the way to the node and itself, 0 below it; `order` is
    larger for deeper nodes, and at equal depth for lower nodes.
    """

    nodes: Int64[Tensor, "B S"]
    depths: Int64[Tensor, "B S"]
    rows: Int64[Tensor, "B S"]
    rounds: Int64[Tensor, "B S"]
    visits: Int64[Tensor, "B S"]
    order: Int64[Tensor, "B S"]
    paths: Int64[Tensor, "B S P"]
    log_probs: Float[Tensor, "B S"]
    values: Float[Tensor, "B S"]
    entropies: Float[Tensor, "B S"]
    priorities: Float[Tensor, "B S"]
    is_open: Bool[Tensor, "B S"]


SLOT_FIELDS = tuple(field.name for field in fields(Slots))


class SearchTree:
    """The slots of all requests; grows when it has to.

    Args:
        batch: B.
        num_levels: L.
        capacity: slots to begin with.
        nowhere: row of slot 0.
        like: what log-probabilities are like.
        can_grow: false: the capacity is all there will be, and is enough.

    Attributes:
        slots: of the nodes.
        num_nodes: of each tree.
        end: slots from here on are empty in all trees.
    """

    def __init__(
        self, batch: int, num_levels: int, capacity: int, *, nowhere: int, like: Tensor, can_grow: bool = True
    ) -> None:
        self.num_levels, self.like, self.can_grow = num_levels, like, can_grow
        self.end = ROOT if can_grow else capacity
        self.slots = self._empty(batch, capacity)
        self.num_nodes = torch.zeros(batch, dtype=torch.int64, device=like.device)
        everyone = torch.ones(batch, 1, dtype=torch.bool, device=like.device)
        root = torch.zeros_like(everyone, dtype=torch.int64)
        self.slots.rows[:, 0] = nowhere
        self.slots.rows[:, ROOT] = 0
        self.add(everyone, root, root, root, torch.zeros_like(root, dtype=like.dtype), root)

    def add(
        self,
        is_new: Bool[Tensor, "B W"],
        parents: Int64[Tensor, "B W"],
        depths: Int64[Tensor, "B W"],
        nodes: Int64[Tensor, "B W"],
        log_probs: Float[Tensor, "B W"],
        rounds: Int64[Tensor, "B W"],
    ) -> Int64[Tensor, "B W"]:
        """Takes new nodes in and returns their slots, 0 for those that are not new.

        Args:
            is_new: what of the rest counts.
            parents: slots.
            depths: of the nodes.
            nodes: trie nodes.
            log_probs: of the prefixes.
            rounds: in which they are added; its one column may stand for all.
        """
        if self.can_grow:
            self._reserve(self.end + nodes.shape[1])
        places = self.num_nodes.unsqueeze(1) + is_new.cumsum(dim=1)  # slot 0 is nowhere, so the first is 1
        slots = torch.where(is_new, places, 0)
        self.num_nodes += is_new.sum(dim=1)
        own = self.slots
        paths = own.paths.gather(1, parents.unsqueeze(2).expand(-1, -1, own.paths.shape[2]))
        paths.scatter_(2, depths.unsqueeze(2), slots.unsqueeze(2))
        own.paths.scatter_(1, slots.unsqueeze(2).expand_as(paths), paths)
        own.nodes.scatter_(1, slots, nodes)
        own.depths.scatter_(1, slots, depths * is_new)
        own.order.scatter_(1, slots, (depths << DEPTH_SHIFT) - nodes)
        own.log_probs.scatter_(1, slots, log_probs)
        own.rounds.scatter_(1, slots, rounds.expand_as(slots))
        return slots

    def visit(self, slots: Int64[Tensor, "B W"]) -> None:
        """Counts a visit of each node and of all above it; of slot 0, nothing that anybody reads."""
        paths = self.slots.paths.gather(1, slots.unsqueeze(2).expand(-1, -1, self.num_levels + 1))
        paths = (paths * (slots > 0).unsqueeze(2)).flatten(1)
        self.slots.visits.scatter_add_(1, paths, torch.ones_like(paths))

    @property
    def is_open(self) -> Bool[Tensor, "B S"]:
        """Which prefixes can be expanded."""
        return self.slots.is_open[:, : self.end]

    def trace(self, num_calls: int) -> SearchTrace:
        """The trees as they are."""
        own, end = self.slots, ROOT + int(self.num_nodes.max())
        is_node = torch.arange(ROOT, end, device=own.nodes.device) <= self.num_nodes.unsqueeze(1)
        depths, paths = own.depths[:, ROOT:end], own.paths[:, ROOT:end]
        parents = paths.gather(2, (depths - 1).clamp(min=0).unsqueeze(2)).squeeze(2) - ROOT
        is_forwarded = is_node & (own.rows[:, ROOT:end] >= 0)
        return SearchTrace(
            nodes=own.nodes[:, ROOT:end].masked_fill(~is_node, -1),
            depths=depths,
            parents=parents.masked_fill(~is_node | (depths == 0), -1),
            rounds=own.rounds[:, ROOT:end],
            visits=own.visits[:, ROOT:end],
            log_probs=own.log_probs[:, ROOT:end],
            values=own.values[:, ROOT:end],
            entropies=own.entropies[:, ROOT:end],
            is_forwarded=is_forwarded,
            num_nodes=self.num_nodes.clone(),
            num_forwarded=is_forwarded.sum(dim=1) - 1,
            num_calls=num_calls,
        )

    def _reserve(self, end: int) -> None:
        """Makes room for slots up to `end`."""
        batch, capacity = self.slots.nodes.shape
        if end > capacity:
            larger = self._empty(batch, max(end, 2 * capacity))
            for name in SLOT_FIELDS:
                getattr(larger, name)[:, :capacity] = getattr(self.slots, name)
            self.slots = larger
        self.end = end

    def _empty(self, batch: int, capacity: int) -> Slots:
        device = self.like.device

        def full(value: float, dtype: torch.dtype, *more: int) -> Tensor:
            return torch.full((batch, capacity, *more), value, dtype=dtype, device=device)

        return Slots(
            nodes=full(-1, torch.int64),
            depths=full(0, torch.int64),
            rows=full(-1, torch.int64),
            rounds=full(0, torch.int64),
            visits=full(0, torch.int64),
            order=full(0, torch.int64),
            paths=full(0, torch.int64, self.num_levels + 1),
            log_probs=full(-torch.inf, self.like.dtype),
            values=full(-torch.inf, torch.float64),
            entropies=full(0.0, torch.float64),
            priorities=full(-torch.inf, torch.float64),
            is_open=full(False, torch.bool),
        )


def select_nodes(slots: Slots, num_slots: int, exploration: float) -> tuple[Int64[Tensor, " B"], Bool[Tensor, "B S"]]:
    """The node to expand in each tree, and the nodes that were passed over on the way to it.

    docs/methods.md section 4, rules 3 and 4: open nodes come in the order of U = G + beta sqrt(ln(N_root + 1) /
    (N + 1)), of equal ones the deeper, then the lower node; the first whose G is not below the mean G of the open nodes
    of its depth (by more than rounding) is chosen. The best of a depth never is, so there always is one.

    Args:
        slots: of the trees.
        num_slots: those behind are empty in all trees.
        exploration: beta.

    Returns:
        The slot, anything where no node is open; flags of the first `num_slots` slots.
    """
    priorities, order, depths = (part[:, :num_slots] for part in (slots.priorities, slots.order, slots.depths))
    is_open, visits = slots.is_open[:, :num_slots], slots.visits[:, :num_slots].double()
    by_depth = priorities.new_zeros(priorities.shape[0], slots.paths.shape[2])
    counts = by_depth.scatter_add(1, depths, is_open.double())
    means = by_depth.scatter_add(1, depths, priorities.masked_fill(~is_open, 0.0)) / counts
    is_low = is_open & (priorities < (means - _ROUNDING * (1 + means.abs())).gather(1, depths))
    bonus = exploration * ((visits[:, ROOT] + 1).log().unsqueeze(1) / (visits + 1)).sqrt()
    scores = (priorities + bonus).masked_fill(~is_open, -torch.inf)
    chosen = _first(scores.masked_fill(is_low, -torch.inf), order)
    place = chosen.unsqueeze(1)
    top, top_order = scores.gather(1, place), order.gather(1, place)
    return chosen, is_low & ((scores > top) | ((scores == top) & (order > top_order)))


def _first(scores: Float[Tensor, "B S"], order: Int64[Tensor, "B S"]) -> Int64[Tensor, " B"]:
    """Place of the largest score, of equal ones that of the largest order."""
    is_best = scores == scores.amax(dim=1, keepdim=True)
    return order.masked_fill(~is_best, torch.iinfo(torch.int64).min).argmax(dim=1)
