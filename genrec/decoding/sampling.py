"""Rollouts: candidates to learn from, drawn from a scorer or found by a beam, code by code (docs/methods.md section 4).

All noise is a hash of (seed, request, draw, node), so what a request gets does not depend on its batch. At every node
the codes are drawn from the *proposal*: the scorer's probabilities to the power 1 / temperature, over the children that
may still lead to an admissible item, normalised over these. Must not know networks, rewards or training.
"""
# B requests, W beams, M most children of a node, L levels, k candidates, S most items of a leaf

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genrec.data.hashing import fold_words, gumbel_of
from genrec.decoding.exhaustive import check_scores
from genrec.decoding.scorer import Scorer
from genrec.decoding.selection import select_best
from genrec.errors import ConfigError
from genrec.seeding import fold_in
from genrec.semantic_ids.constraints import Constraint
from genrec.semantic_ids.trie import SemanticIdTrie


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Candidates of each request, with what they were made of.

    Attributes:
        item_index: -1 where a request has fewer than k.
        nodes: trie nodes of depths 1 to L; -1 where there is no candidate.
        codes: likewise.
        log_probs: log-probability of each code given those before it, by the scorer itself: neither temperature nor
            constraint nor hint is in it. -inf where there is no candidate.
    """

    item_index: Int64[Tensor, "B k"]
    nodes: Int64[Tensor, "B k L"]
    codes: Int64[Tensor, "B k L"]
    log_probs: Float[Tensor, "B k L"]

    @classmethod
    def of_items(cls, trie: SemanticIdTrie, items: Int64[Tensor, "B k"], log_probs: Float[Tensor, "B k L"]) -> Rollouts:
        """Items that some search found, -1 as padding, and the log-probabilities of their codes."""
        nodes = trie.path_nodes(items)
        columns = enumerate(nodes.unbind(dim=2))
        codes = torch.stack([trie.child_codes[level][column.clamp(min=0)].long() for level, column in columns], dim=2)
        is_padding = (items < 0).unsqueeze(2)
        return cls(items, nodes, codes.masked_fill(is_padding, -1), log_probs.masked_fill(is_padding, -torch.inf))

    @property
    def is_valid(self) -> Bool[Tensor, "B k"]:
        return self.item_index >= 0


@dataclass(frozen=True, eq=False)
class Sampling:
    """How codes are drawn.

    Attributes:
        seed: of these rollouts; another one for another epoch or step.
        requests: numbers that name the requests, whatever batch they are in.
        temperature: above 0. Below 1 the probable becomes more probable.

    Raises:
        ConfigError: a temperature that is not above 0.
    """

    seed: int
    requests: Int64[Tensor, " B"]
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError("wrong temperature", expected="above 0", found=self.temperature)

    def noise(self, draws: Int64[Tensor, "B W"], depth: int, nodes: Int64[Tensor, "B W M"]) -> Float[Tensor, "B W M"]:
        """Standard Gumbel noise, float64, of nodes (or items) of a depth; shapes broadcast."""
        words = torch.full_like(self.requests, fold_in(self.seed, depth))
        words = fold_words(fold_words(words, self.requests).unsqueeze(1), draws)
        return gumbel_of(fold_words(words.unsqueeze(2), nodes))


def hint_nodes(
    trie: SemanticIdTrie, targets: Int64[Tensor, " B"], lengths: Int64[Tensor, " B"]
) -> Int64[Tensor, "B L"]:
    """Prefix hints (PrefixRL): the nodes of the first h codes of each target, -1 for what is left free.

    Args:
        trie: the catalogue.
        targets: item_index; -1 for a request without a target, which gets no hint.
        lengths: h of each request, 0 to L.
    """
    levels = torch.arange(trie.num_levels, device=targets.device)
    return trie.path_nodes(targets).masked_fill(levels >= lengths.unsqueeze(1), -1)


@torch.no_grad()
def sample_with_replacement(
    scorer: Scorer,
    trie: SemanticIdTrie,
    context: Any,
    sampling: Sampling,
    *,
    num_candidates: int,
    constraint: Constraint | None = None,
    hints: Int64[Tensor, "B L"] | None = None,
) -> Rollouts:
    """Ancestral sampling: k independent candidates from the proposal, so the same one may come again.

    Args:
        scorer: the model.
        trie: the catalogue.
        context: of B requests, from `scorer.encode`.
        sampling: seed, requests and temperature.
        num_candidates: k, at least 1.
        constraint: what each request may get.
        hints: from `hint_nodes`. A hint that the constraint does not admit, or that has probability 0, leaves the
            request without candidates.

    Returns:
        The candidates in the order of the draws; of items that share their codes, one is drawn uniformly.

    Raises:
        ConfigError: k below 1.
        DataError: the scorer gave NaN or +inf.
    """
    walk = _Walk(scorer, trie, context, num_candidates, constraint, hints)
    draws = torch.arange(num_candidates, device=walk.nodes.device).expand(len(walk.nodes), -1)
    parents = torch.zeros_like(draws)
    for level in range(trie.num_levels):
        noisy = walk.proposal(sampling.temperature) + sampling.noise(draws, level + 1, walk.children())
        best, slots = noisy.max(dim=2)
        walk.advance(parents, slots, best > -torch.inf)
        parents = draws
    return walk.finish(_pick_items(walk, sampling, draws))


@torch.no_grad()
def stochastic_beam_search(
    scorer: Scorer,
    trie: SemanticIdTrie,
    context: Any,
    sampling: Sampling,
    *,
    num_candidates: int,
    constraint: Constraint | None = None,
    hints: Int64[Tensor, "B L"] | None = None,
) -> Rollouts:
    """k candidates drawn from the proposal without replacement, by Gumbel top-k from the root down (Kool et al. 2019).

    Every leaf has its log-probability plus independent Gumbel noise, and the k largest are the sample. A prefix has the
    largest such value below it, which is drawn before its descendants: so the beam holds the k best prefixes of each
    length (algorithm 1), and a larger k only adds candidates at the end.

    Arguments and errors as of `sample_with_replacement`.

    Returns:
        The candidates in the order in which they would be drawn one after the other; no leaf twice.
    """
    walk = _Walk(scorer, trie, context, num_candidates, constraint, hints)
    first = torch.zeros_like(walk.nodes)
    total = torch.zeros_like(walk.nodes, dtype=torch.float64)
    perturbed = sampling.noise(first, 0, first.unsqueeze(2)).squeeze(2)  # of the root, whose probability is 1
    for level in range(trie.num_levels):
        log_probs = total.unsqueeze(2) + walk.proposal(sampling.temperature)
        noisy = log_probs + sampling.noise(first, level + 1, walk.children())
        width = noisy.shape[2]
        scores = condition_on_maximum(noisy, perturbed).flatten(1)
        perturbed, place = select_best(scores, min(num_candidates, scores.shape[1]))
        walk.advance(place // width, place % width, perturbed > -torch.inf)
        total = log_probs.flatten(1).gather(1, place)
    order = perturbed.sort(dim=1, descending=True, stable=True).indices
    return walk.finish(_pick_items(walk, sampling, first), order)


@torch.no_grad()
def sample_siblings(
    scorer: Scorer,
    trie: SemanticIdTrie,
    context: Any,
    sampling: Sampling,
    *,
    num_candidates: int,
    depths: Int64[Tensor, " B"],
    constraint: Constraint | None = None,
    hints: Int64[Tensor, "B L"] | None = None,
) -> Rollouts:
    """Truncated rollouts (SLATE): candidates that share a prefix, differ in the next code, and end greedily.

    The prefix is drawn from the proposal, the k next codes from it without replacement, all later codes are the most
    probable ones (of equal ones the lower). The prefix may be the target's: give `hints` of the length of the depths.

    Args:
        scorer: the model.
        trie: the catalogue.
        context: of B requests, from `scorer.encode`.
        sampling: seed, requests and temperature.
        num_candidates: k, at least 1; where fewer codes can follow, there are fewer candidates.
        depths: length of the shared prefix of each request, 0 to L - 1.
        constraint: what each request may get.
        hints: from `hint_nodes`; one that is longer than the depth leaves a single candidate.

    Returns:
        The candidates in the order in which their codes would be drawn one after the other.

    Raises:
        ConfigError: k or a depth out of range.
        DataError: the scorer gave NaN or +inf.
    """
    if not bool(((depths >= 0) & (depths < trie.num_levels)).all()):
        expected = f"0 to {trie.num_levels - 1}"
        raise ConfigError("wrong length of the shared prefix", expected=expected, found=depths.unique().tolist())
    walk = _Walk(scorer, trie, context, num_candidates, constraint, hints)
    first = torch.zeros_like(walk.nodes)
    beams = torch.arange(num_candidates, device=first.device)
    for level in range(trie.num_levels):
        proposal = walk.proposal(sampling.temperature)
        width = proposal.shape[2]
        # Up to the branching the one live beam draws one code, there it draws k, and then each beam goes on by itself.
        noisy = (proposal + sampling.noise(first, level + 1, walk.children())).flatten(1)
        missing = max(0, num_candidates - noisy.shape[1])
        drawn, place = torch.nn.functional.pad(noisy, (0, missing), value=-torch.inf).topk(num_candidates, dim=1)
        is_live = (drawn > -torch.inf) & (depths.eq(level).unsqueeze(1) | (beams == 0))
        parents, slots = (place // width).clamp(max=proposal.shape[1] - 1), place % width
        if level > 0:
            best, greedy = proposal.max(dim=2)
            is_behind = depths.lt(level).unsqueeze(1)
            parents, slots = torch.where(is_behind, beams, parents), torch.where(is_behind, greedy, slots)
            is_live = torch.where(is_behind, best > -torch.inf, is_live)
        walk.advance(parents, slots, is_live)
    return walk.finish(_pick_items(walk, sampling, first))


@torch.no_grad()
def beam_rollouts(
    scorer: Scorer,
    trie: SemanticIdTrie,
    context: Any,
    *,
    num_candidates: int,
    constraint: Constraint | None = None,
    hints: Int64[Tensor, "B L"] | None = None,
) -> Rollouts:
    """The candidates of `beam_search` with k beams, with the log-probability of every code, and with hints.

    Arguments and errors as of `sample_with_replacement`.

    Returns:
        The candidates by (log-probability descending, item_index ascending). Deviation from `beam_search`: of items
        that share their codes, only the first admissible one.
    """
    walk = _Walk(scorer, trie, context, num_candidates, constraint, hints)
    total = torch.zeros_like(walk.nodes, dtype=walk.scores.dtype)
    for _ in range(trie.num_levels):
        scores = (total.unsqueeze(2) + walk.scores).flatten(1)
        width = walk.scores.shape[2]
        total, place = select_best(scores, min(num_candidates, scores.shape[1]))
        walk.advance(place // width, place % width, total > -torch.inf)
    items = _pick_items(walk, None, walk.nodes)
    order = items.sort(dim=1, stable=True).indices
    order = order.gather(1, total.gather(1, order).sort(dim=1, descending=True, stable=True).indices)
    return walk.finish(items, order)


def condition_on_maximum(noisy: Float[Tensor, "B W M"], maximum: Float[Tensor, "B W"]) -> Float[Tensor, "B W M"]:
    """Gumbel values of children, moved so that the largest of them is that of their parent.

    With Z the largest value of the row: -log(exp(-maximum) - exp(-Z) + exp(-value)), in the stable form of Kool et al.
    2019, appendix B.3. The order in a row stays.

    Args:
        noisy: float64, -inf for what cannot be; a row may have nothing else.
        maximum: of each row.
    """
    largest = noisy.amax(dim=2, keepdim=True)
    is_possible = noisy > -torch.inf
    maximum = maximum.unsqueeze(2)
    gap = torch.where(is_possible, noisy - largest, -torch.inf)  # at most 0
    excess = torch.where(is_possible, maximum - noisy, torch.inf) + torch.log(-torch.expm1(gap))
    moved = maximum - excess.clamp(min=0) - torch.log1p(torch.exp(-excess.abs()))
    return torch.where(is_possible, moved, -torch.inf)


class _Walk:
    """Beams on their way from the root to the leaves: what all rollouts share but the choice of the codes.

    Attributes:
        level: codes that the beams have.
        nodes: of the beams, -1 for dead ones.
        scores: log-probabilities of their children by the scorer, -inf for those that lead to nothing admissible.
    """

    def __init__(
        self,
        scorer: Scorer,
        trie: SemanticIdTrie,
        context: Any,
        num_candidates: int,
        constraint: Constraint | None,
        hints: Tensor | None,
    ) -> None:
        if num_candidates < 1:
            raise ConfigError("wrong number of candidates", expected="1 or more", found=num_candidates)
        self.scorer, self.trie, self.constraint, self.hints = scorer, trie, constraint, hints
        self.num_candidates, self.level = num_candidates, 0
        log_probs, self.state = scorer.start(context)
        batch = len(log_probs)
        assert constraint is None or constraint.num_requests in (None, batch), "a constraint of another batch"
        assert hints is None or hints.shape == (batch, trie.num_levels), "hints of another batch"
        self.nodes = torch.zeros(batch, 1, dtype=torch.int64, device=log_probs.device)
        self.is_bad: list[Tensor] = []
        self.chosen: list[Tensor] = []
        self._read(log_probs)

    def children(self) -> Int64[Tensor, "B W M"]:
        """Numbers of the children; of the padding, numbers that nobody needs."""
        first, _ = self.trie.child_ranges(self.level, self.nodes)
        return first.unsqueeze(2) + torch.arange(self.trie.max_branching[self.level], device=first.device)

    def proposal(self, temperature: float) -> Float[Tensor, "B W M"]:
        """Logarithms of the proposal, float64; -inf for what cannot be drawn."""
        scores = self.scores.double() / temperature
        total = scores.logsumexp(dim=2, keepdim=True)
        return torch.where(scores > -torch.inf, scores - total, -torch.inf)

    def advance(self, parents: Tensor, slots: Tensor, is_live: Tensor) -> None:
        """Gives every beam its next code: child `slots` of beam `parents`, any valid place for a dead one."""
        width = self.scores.shape[2]
        first, _ = self.trie.child_ranges(self.level, self.nodes)
        nodes = torch.where(is_live, first.gather(1, parents) + slots, -1)
        self.chosen = [part.gather(1, parents) for part in self.chosen]
        self.chosen.append(self.scores.flatten(1).gather(1, parents * width + slots))
        codes = self.trie.child_codes[self.level][nodes.clamp(min=0)].long() * is_live
        self.level, self.nodes = self.level + 1, nodes
        if self.level < self.trie.num_levels:
            log_probs, self.state = self.scorer.step(self.level, self.state, parents, codes, nodes)
            self._read(log_probs)

    def finish(self, items: Int64[Tensor, "B W"], order: Int64[Tensor, "B W"] | None = None) -> Rollouts:
        """The candidates in an order of the beams, with the dead ones at the end, padded to k."""
        check_scores(self.is_bad)
        log_probs = torch.stack(self.chosen, dim=2)
        if order is not None:
            items, log_probs = items.gather(1, order), log_probs.gather(1, order.unsqueeze(2).expand_as(log_probs))
        missing = self.num_candidates - items.shape[1]
        items = torch.nn.functional.pad(items, (0, missing), value=-1)
        log_probs = torch.nn.functional.pad(log_probs, (0, 0, 0, missing), value=-torch.inf)
        return Rollouts.of_items(self.trie, items, log_probs)

    def _read(self, log_probs: Tensor) -> None:
        if self.constraint is None:
            _, count = self.trie.child_ranges(self.level, self.nodes)
            slots = torch.arange(log_probs.shape[2], device=log_probs.device)
            is_alive = slots < count.unsqueeze(2)
        else:
            is_alive = self.constraint.alive_children(self.level, self.nodes)
        if self.hints is not None:
            hint = self.hints[:, self.level].view(-1, 1, 1)
            is_alive &= (hint < 0) | (hint == self.children())
        dtype = torch.promote_types(log_probs.dtype, torch.float32)
        self.scores = log_probs.to(dtype).masked_fill(~is_alive, -torch.inf)
        self.is_bad.append(~(self.scores.flatten(1).amax(dim=1) < torch.inf))


def _pick_items(walk: _Walk, sampling: Sampling | None, draws: Tensor) -> Int64[Tensor, "B W"]:
    """An admissible item of each leaf: the only one, a uniform one, or without sampling the first one."""
    items = walk.trie.leaf_items(walk.nodes)
    if walk.trie.max_bucket == 1:
        return items.squeeze(2)
    is_admissible = items >= 0 if walk.constraint is None else walk.constraint.is_admissible(items)
    if sampling is None:
        place = is_admissible.long().argmax(dim=2, keepdim=True)
    else:
        noise = sampling.noise(draws, walk.trie.num_levels + 1, items)
        place = noise.masked_fill(~is_admissible, -torch.inf).argmax(dim=2, keepdim=True)
    return items.gather(2, place).squeeze(2)
