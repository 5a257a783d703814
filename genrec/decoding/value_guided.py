"""Value-guided search (VED): a tree of prefixes that grows where values and the policy's doubt promise most.

V-STAR (arXiv 2602.10699, section 4.2), docs/methods.md section 4. After an initial beam search, every round expands one
prefix of a request by one child:

1. initial tree: a beam search of small width, whose nodes count against the budget (at most half of it);
2. priority of a prefix s: G(s) = V(s) + lambda H(s), V the value of its own prefix, H the entropy of the policy over
   its children in the catalogue (renormalised over them);
3. of the prefixes with an unexpanded admissible child, the one with the largest G + beta sqrt(ln(N_root + 1) / (N + 1))
   is selected; ties: deeper, then lower node; N starts as the number of initial beams through it;
4. gate: one whose G is below the mean G of the open ones of its depth is passed over for the next, and gets a visit of
   its own (its ancestors do not);
5. expansion: one child, drawn from the policy restricted to the unexpanded admissible ones by Gumbel noise that is a
   function of (seed, request, depth, node); visits go up along the path;
6. the budget counts forwarded prefixes; the root belongs to the prompt, and leaves are forwarded only if their value is
   needed to rank them.

The authors' released code gives children the value of their parent and never runs its loop at the budget it ships;
this is the paper's algorithm. Because noise is counter-based, the tree of a larger budget contains that of a smaller
one. All requests advance together, and one call of the model reads what they have added. Must not know networks.
"""
# B requests, W nodes at once, L levels, M most children of a node, S slots, C rows, k returned

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genrec.data.hashing import fold_words, gumbel_of
from genrec.decoding.beam_search import advance
from genrec.decoding.exhaustive import check_scores
from genrec.decoding.scorer import Candidates
from genrec.decoding.search_tree import DEPTH_SHIFT, ROOT, SearchTrace, SearchTree, select_nodes
from genrec.decoding.selection import rank_order
from genrec.decoding.tree_scorer import TreeScorer
from genrec.errors import ConfigError, DataError
from genrec.seeding import fold_in
from genrec.semantic_ids.constraints import Constraint
from genrec.semantic_ids.trie import SemanticIdTrie

RANKINGS = ("log_prob", "value", "mixture")


@dataclass(frozen=True)
class ValueGuidedSettings:
    """How a value-guided search spends its budget.

    Attributes:
        node_budget: prefixes that may be forwarded for each request. A beam search of width W forwards W (L - 1).
        initial_width: of the beam search at the beginning; it may cost at most half the budget.
        entropy_weight: lambda.
        exploration: beta.
        rank_by: "log_prob"; "value" of the leaf; or "mixture", (1 - m) log_prob + m value. The last two forward leaves.
        mixture: m.
        selections_per_round: prefixes of a request that are expanded before the model is called. Above 1, the later
            ones are selected without what the earlier would have shown, held apart by the visits alone.

    Raises:
        ConfigError: unknown `rank_by`, or a number out of range.
    """

    node_budget: int = 64
    initial_width: int = 8
    entropy_weight: float = 0.1
    exploration: float = 1.0
    rank_by: str = "log_prob"
    mixture: float = 0.5
    selections_per_round: int = 1

    def __post_init__(self) -> None:
        if self.rank_by not in RANKINGS:
            raise ConfigError("unknown ranking", expected=" or ".join(RANKINGS), found=repr(self.rank_by))
        for name in ("node_budget", "initial_width", "selections_per_round"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be positive", expected="1 or more", found=getattr(self, name))
        for name in ("entropy_weight", "exploration"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} out of range", expected="0 or more", found=getattr(self, name))
        if not 0 <= self.mixture <= 1:
            raise ConfigError("mixture out of range", expected="0 to 1", found=self.mixture)

    @property
    def forwards_leaves(self) -> bool:
        """Whether the value of leaves is needed."""
        return self.rank_by != "log_prob"


def value_guided_search(
    scorer: TreeScorer,
    trie: SemanticIdTrie,
    context: Any,
    settings: ValueGuidedSettings,
    *,
    num_candidates: int,
    seed: int = 0,
    request_ids: Int64[Tensor, " B"] | None = None,
    constraint: Constraint | None = None,
) -> tuple[Candidates, SearchTrace]:
    """Searches the trees of B requests; see the module for the algorithm.

    Exact are: log-probabilities; that items are in the catalogue, admissible and distinct; the order (score desc,
    item_index asc) of what is returned; and everything, if the budget covers the catalogue. A child of probability zero
    is never expanded. Items that share their codes share what their leaf gets.

    Args:
        scorer: the model.
        trie: the catalogue.
        context: of B requests, from `scorer.encode`.
        settings: the budget and how it is spent.
        num_candidates: k, at least 1. Fewer leaves may be found; the rest is padding.
        seed: of the noise, in [0, 2^64).
        request_ids: what the noise of each request depends on beside the seed; None: its place in the batch.
        constraint: what each request may get.

    Returns:
        The candidates, whose score is what `rank_by` says, and the trees.

    Raises:
        ConfigError: k below 1, or an initial beam search that may cost more than half the budget.
        DataError: the scorer gave NaN or +inf.
    """
    if num_candidates < 1:
        raise ConfigError("wrong number of candidates", expected="1 or more", found=num_candidates)
    check_budget(trie, settings)
    search = _Search(scorer, trie, context, settings, constraint, seed, request_ids)
    search.plant()
    search.grow()
    trace = search.tree.trace(search.num_calls)
    return _rank_leaves(trie, trace, settings, num_candidates, constraint), trace


def initial_cost(trie: SemanticIdTrie, width: int, *, forwards_leaves: bool = False) -> int:
    """The most prefixes that a beam search forwards for one request; the root and, by default, leaves do not count."""
    cost, beams = 0, 1
    for level in range(trie.num_levels - (not forwards_leaves)):
        beams = min(width, beams * trie.max_branching[level], trie.num_nodes(level + 1))
        cost += beams
    return cost


def check_budget(trie: SemanticIdTrie, settings: ValueGuidedSettings) -> None:
    """Raises ConfigError if the initial beam search may cost more than half the budget."""
    cost = initial_cost(trie, settings.initial_width, forwards_leaves=settings.forwards_leaves)
    if 2 * cost > settings.node_budget:
        raise ConfigError(
            f"an initial beam search of width {settings.initial_width} may cost more than half the budget",
            expected=f"at most {settings.node_budget // 2} nodes",
            found=cost,
            fix="make the initial width smaller or the budget larger",
        )


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


class _Search:
    """The trees of one search while they grow.

    Of the children of the prefix in a row, `log_probs` holds the log-probabilities (-inf: not admissible), `keys` the
    same with noise, -inf where it is in the tree already, so that the largest is the next to be drawn, and `num_left`
    how many that leaves. The last row is nowhere: what is written for requests that are done goes there.
    """

    def __init__(
        self,
        scorer: TreeScorer,
        trie: SemanticIdTrie,
        context: Any,
        settings: ValueGuidedSettings,
        constraint: Constraint | None,
        seed: int,
        request_ids: Int64[Tensor, " B"] | None,
    ) -> None:
        self.scorer, self.trie, self.settings, self.constraint = scorer, trie, settings, constraint
        num_rows = settings.node_budget + 2
        log_probs, values, self.state = scorer.open(context, num_rows)
        log_probs = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))
        batch = len(log_probs)
        self.num_calls, self.nowhere = 1, num_rows - 1
        self.tree = SearchTree(batch, trie.num_levels, 2 * num_rows, nowhere=self.nowhere, like=log_probs)
        assert constraint is None or constraint.num_requests in (None, batch), "a constraint of another batch"
        self.words = _words(seed, torch.arange(batch, device=log_probs.device) if request_ids is None else request_ids)
        self.log_probs = log_probs.new_full((batch, num_rows, max(trie.max_branching)), -torch.inf)
        self.keys = torch.full_like(self.log_probs, -torch.inf, dtype=torch.float64)
        self.first_children = torch.zeros(batch, num_rows, dtype=torch.int64, device=log_probs.device)
        self.both_ends = torch.arange(2, device=log_probs.device)
        self.num_left = torch.zeros_like(self.first_children)
        self.num_forwarded = torch.zeros(batch, dtype=torch.int64, device=log_probs.device)
        root = torch.full((batch, 1), ROOT, dtype=torch.int64, device=log_probs.device)
        self._take(root, log_probs, values, range(1))

    def plant(self) -> None:
        """The initial beam search, and its visits."""
        trie, tree = self.trie, self.tree
        slots = torch.full_like(tree.num_nodes, ROOT).unsqueeze(1)
        rounds = torch.zeros_like(slots)
        nodes, totals = torch.zeros_like(slots), self.log_probs.new_zeros(slots.shape)
        for level in range(trie.num_levels):
            rows = tree.slots.rows.gather(1, slots)
            log_probs = _pick(self.log_probs, rows)[..., : trie.max_branching[level]]
            scores, width = totals.unsqueeze(2) + log_probs, self.settings.initial_width
            beams = advance(trie, level, nodes, scores, beam_width=width, constraint=None)
            is_new = beams.nodes >= 0
            parents = slots.gather(1, beams.parents)
            self._take_off(parents, beams.nodes)
            depths = torch.full_like(beams.nodes, level + 1)
            slots = tree.add(is_new, parents, depths, beams.nodes, beams.log_prob, rounds)
            nodes, totals = beams.nodes, beams.log_prob
            if level + 1 < trie.num_levels or self.settings.forwards_leaves:
                self._charge(slots)
                self._forward(slots, range(level + 1, min(level + 2, trie.num_levels)))
        tree.visit(slots)

    def grow(self) -> None:
        """Until every budget is spent or nothing is left to expand.

        No tree depends on another, so who has only leaves to add need not wait for the model: it is called when three
        in four of the requests that are not done wait for it.
        """
        waiting = self.first_children.new_zeros(len(self.words), self.settings.selections_per_round)
        rounds = torch.zeros_like(self.num_forwarded)
        while True:
            is_waiting = waiting.any(dim=1)
            is_ready = self._is_active() & ~is_waiting
            num_waiting, num_ready = torch.stack([is_waiting.sum(), is_ready.sum()]).tolist()
            if num_waiting + num_ready == 0:
                return
            if num_waiting >= 3 * num_ready:
                self._forward(waiting, range(1, self.trie.num_levels))
                waiting = torch.zeros_like(waiting)
                continue
            rounds += is_ready
            chosen = [self._expand(is_ready, rounds)]
            for _ in range(self.settings.selections_per_round - 1):
                chosen.append(self._expand(is_ready & self._is_active(), rounds))
            waiting += torch.cat(chosen, dim=1)

    def _is_active(self) -> Bool[Tensor, " B"]:
        return (self.num_forwarded < self.settings.node_budget) & self.tree.is_open.any(dim=1)

    def _expand(self, is_active: Bool[Tensor, " B"], rounds: Int64[Tensor, " B"]) -> Int64[Tensor, "B 1"]:
        """Selects a prefix in each tree and adds a child of it; gives the slots of the children to be forwarded."""
        tree, is_active = self.tree, is_active.unsqueeze(1)
        chosen, is_passed = select_nodes(tree.slots, tree.end, self.settings.exploration)
        tree.slots.visits[:, : tree.end] += is_passed & is_active
        parents = torch.where(is_active, chosen.unsqueeze(1), 0)
        depths = tree.slots.depths.gather(1, parents) + 1
        rows = tree.slots.rows.gather(1, parents)
        place = _pick(self.keys, rows).argmax(dim=2)
        nodes = self.first_children.gather(1, rows) + place
        of_child = self.log_probs.flatten(1).gather(1, rows * self.log_probs.shape[2] + place)
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
        self.keys.flatten(1).scatter_(1, rows * self.keys.shape[2] + places, -torch.inf)
        self.num_left.scatter_add_(1, rows, -is_child.long())
        self.tree.slots.is_open.scatter_(1, parents, (self.num_left.gather(1, rows) > 0) & is_child)

    def _charge(self, slots: Int64[Tensor, "B W"]) -> None:
        """Gives each of these a row, which the budget pays for."""
        is_new = slots > 0
        rows = torch.where(is_new, self.num_forwarded.unsqueeze(1) + is_new.cumsum(dim=1), self.nowhere)
        self.tree.slots.rows.scatter_(1, slots, rows)
        self.num_forwarded += is_new.sum(dim=1)

    def _forward(self, slots: Int64[Tensor, "B W"], levels: range) -> None:
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
        _check_numbers(log_probs, values, depths)
        entropies = entropy(log_probs)
        if self.constraint is not None:
            log_probs = log_probs.masked_fill(~is_alive, -torch.inf)
        children = first.unsqueeze(2) + torch.arange(log_probs.shape[2], device=first.device)
        noise = _noise(self.words, depths + 1, children)
        num_left = (log_probs > -torch.inf).sum(dim=2)
        where = rows.unsqueeze(2).expand_as(log_probs)
        self.log_probs.scatter_(1, where, log_probs)
        self.keys.scatter_(1, where, log_probs + noise)
        self.first_children.scatter_(1, rows, first)
        self.num_left.scatter_(1, rows, num_left)
        own.values.scatter_(1, slots, values)
        own.entropies.scatter_(1, slots, entropies)
        own.priorities.scatter_(1, slots, values + self.settings.entropy_weight * entropies)
        own.is_open.scatter_(1, slots, num_left > 0)

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
        first, end = ends.unbind(dim=2)
        is_child = torch.arange(width, device=nodes.device) < (end - first).unsqueeze(2)
        return first, is_child, is_child if self.constraint is None else is_alive


def entropy(log_probs: Float[Tensor, "*B M"]) -> Float[Tensor, "*B"]:
    """Of a distribution that is made to sum to one, float64; -inf is probability zero, and nothing at all has 0.

    >>> entropy(torch.tensor([[-0.5, -0.5], [-7.0, -torch.inf], [-torch.inf, -torch.inf]])).exp().tolist()
    [2.0, 1.0, 1.0]
    """
    return torch.special.entr(log_probs.double().softmax(dim=-1)).sum(dim=-1).nan_to_num(nan=0.0)


def _pick(table: Tensor, places: Int64[Tensor, "B W"]) -> Tensor:
    """table[b, places[b, w]], whole rows of a table [B, S, M]."""
    return table.gather(1, places.unsqueeze(2).expand(-1, -1, table.shape[2]))


def _rank_leaves(
    trie: SemanticIdTrie,
    trace: SearchTrace,
    settings: ValueGuidedSettings,
    num_candidates: int,
    constraint: Constraint | None,
) -> Candidates:
    leaves = torch.where(trace.depths == trie.num_levels, trace.nodes, -1)
    items = trie.leaf_items(leaves)  # [B, n, bucket]
    log_probs = trace.log_probs.unsqueeze(2).masked_fill(items < 0, -torch.inf)
    if constraint is not None and trie.max_bucket > 1:  # an alive leaf of several items may hold a denied one
        log_probs = log_probs.masked_fill(~constraint.is_admissible(items), -torch.inf)
    scores = log_probs
    if settings.forwards_leaves:
        share = 1.0 if settings.rank_by == "value" else settings.mixture
        mixed = (1 - share) * trace.log_probs + share * trace.values.to(trace.log_probs.dtype)
        scores = mixed.unsqueeze(2).expand_as(log_probs).masked_fill(log_probs == -torch.inf, -torch.inf)
    items, log_probs, scores = items.flatten(1), log_probs.flatten(1), scores.flatten(1)
    order = rank_order(items, scores)[:, :num_candidates]
    found = [part.gather(1, order) for part in (items, log_probs, scores)]
    missing = (0, num_candidates - order.shape[1])
    items = torch.nn.functional.pad(found[0].masked_fill(found[2] == -torch.inf, -1), missing, value=-1)
    return Candidates(items, *(torch.nn.functional.pad(part, missing, value=-torch.inf) for part in found[1:]))


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
