"""Where a beam search kept or lost an item: its beams level by level, and exact places of the item and its prefixes.

Looks at the search that serves, and changes nothing in it. Must not know networks, users or titles.
"""
# B requests, L levels, W beams of one length (they differ by level), n_d nodes of depth d, N items, k candidates

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genrec.decoding.beam_search import Beams, check_width, expand_leaves, search_levels
from genrec.decoding.exhaustive import check_scores, keep_admissible, score_paths, score_prefixes
from genrec.decoding.scorer import Candidates, Scorer
from genrec.semantic_ids.constraints import Constraint
from genrec.semantic_ids.trie import SemanticIdTrie

Verdict = Literal["found", "lost_by_search", "ranked_low_by_model", "excluded", "impossible"]


class LevelDiagnosis(NamedTuple):
    """The beams of one length, best first, and the target's prefix of that length.

    Attributes:
        nodes: by (log-probability descending, node ascending); -1 for dead beams, at the end.
        log_prob: of the prefix; -inf for dead beams.
        num_live: beams that are not dead.
        target_node: the target's prefix.
        target_log_prob: its log-probability along its own path, whether it is among the beams or not.
        target_place: its place among the beams, from 0; -1 if it is not there.
    """

    nodes: Int64[Tensor, "B W"]
    log_prob: Float[Tensor, "B W"]
    num_live: Int64[Tensor, " B"]
    target_node: Int64[Tensor, " B"]
    target_log_prob: Float[Tensor, " B"]
    target_place: Int64[Tensor, " B"]


@dataclass(frozen=True, eq=False)
class SearchDiagnosis:
    """A beam search and one target a request.

    Attributes:
        levels: after 1 to L codes.
        candidates: what the search returns.
        targets: item_index.
        target_place: place of the target among the candidates, from 0; -1 if it is not there.
        is_admissible: the request may get its target.
        lost_at: the level (from 0) whose beams are the first without the target's prefix; -1 if the last still hold it.
        rivals: the node of depth `lost_at` + 1 that displaced the target's prefix: the last that was kept. -1 if none
            did: the prefix is still there, or has no admissible item, or has probability zero.
    """

    levels: tuple[LevelDiagnosis, ...]
    candidates: Candidates
    targets: Int64[Tensor, " B"]
    target_place: Int64[Tensor, " B"]
    is_admissible: Bool[Tensor, " B"]
    lost_at: Int64[Tensor, " B"]
    rivals: Int64[Tensor, " B"]

    def cut(self, k: int) -> SearchDiagnosis:
        """The same search with a list of the first k."""
        first = Candidates(*(getattr(self.candidates, each.name)[:, :k] for each in fields(Candidates)))
        place = self.target_place
        return replace(self, candidates=first, target_place=torch.where(place < k, place, -1))

    @property
    def target_log_prob(self) -> Float[Tensor, " B"]:
        """Log-probability of the target."""
        return self.levels[-1].target_log_prob


class ExactPlaces(NamedTuple):
    """Places from 0 among everything of the same length that the request may get; -1 for what no search can return.

    Attributes:
        prefixes: of the target's prefixes of 1 to L codes, by (log-probability descending, node ascending).
        items: of the target, by (log-probability descending, item_index ascending).
    """

    prefixes: Int64[Tensor, "B L"]
    items: Int64[Tensor, " B"]

    @property
    def sufficient_width(self) -> Int64[Tensor, " B"]:
        """Beams with which the target's prefixes are surely kept at every level; 0 if no number is enough.

        What competes at a level is some of its prefixes, so no place there is behind the exact one (up to rounding). A
        narrower beam may do as well, depending on which rivals it keeps.
        """
        return self.prefixes.amax(dim=1).add(1).masked_fill((self.prefixes < 0).any(dim=1), 0)


def diagnose_search(
    scorer: Scorer,
    trie: SemanticIdTrie,
    context: Any,
    targets: Int64[Tensor, " B"],
    *,
    beam_width: int,
    num_candidates: int,
    constraint: Constraint | None = None,
) -> SearchDiagnosis:
    """Runs `beam_search` and looks for the targets on the way.

    Args:
        scorer: the model.
        trie: the catalogue.
        context: of B requests, from `scorer.encode`.
        targets: item_index, one a request.
        beam_width: W, at least 1.
        num_candidates: k, from 1 to W (to W * S where items share their codes).
        constraint: what each request may get.

    Raises:
        ConfigError: W or k out of range.
        DataError: the scorer gave NaN or +inf.
    """
    check_width(trie, beam_width, num_candidates)
    beams = search_levels(scorer, trie, context, beam_width=beam_width, constraint=constraint)
    check_scores([level.is_bad for level in beams])
    paths = trie.path_nodes(targets)  # [B, L]
    log_probs = score_paths(scorer, trie, context, targets.unsqueeze(1)).squeeze(1)  # [B, L]
    levels = tuple(_look(level, paths[:, depth], log_probs[:, depth]) for depth, level in enumerate(beams))
    candidates = expand_leaves(trie, beams[-1], num_candidates=num_candidates, constraint=constraint)
    lost_at = first_true(torch.stack([level.target_place < 0 for level in levels], dim=1))
    return SearchDiagnosis(
        levels=levels,
        candidates=candidates,
        targets=targets,
        target_place=first_true(candidates.item_index == targets.unsqueeze(1)),
        is_admissible=_is_admissible(constraint, targets),
        lost_at=lost_at,
        rivals=_rivals(levels, lost_at, constraint),
    )


def exact_places(
    scorer: Scorer,
    trie: SemanticIdTrie,
    context: Any,
    targets: Int64[Tensor, " B"],
    *,
    constraint: Constraint | None = None,
) -> ExactPlaces:
    """Where exhaustive search puts each target and its prefixes; costs a forward pass of every node of the trie.

    Raises:
        DataError: the scorer gave NaN or +inf.
    """
    return places_by(score_prefixes(scorer, trie, context), trie, targets, constraint=constraint)


def places_by(
    scores: Sequence[Float[Tensor, "B _"]],
    trie: SemanticIdTrie,
    targets: Int64[Tensor, " B"],
    *,
    constraint: Constraint | None = None,
) -> ExactPlaces:
    """`exact_places` by scores of all prefixes that are known already, those of `score_prefixes`."""
    paths, columns = trie.path_nodes(targets), []
    for level, of_nodes in enumerate(scores):
        nodes = torch.arange(of_nodes.shape[1], device=of_nodes.device).expand_as(of_nodes)
        if constraint is not None:
            of_nodes = of_nodes.masked_fill(~constraint.is_alive(level + 1, nodes), -torch.inf)
        columns.append(_places(of_nodes, paths[:, level]))
    of_items = keep_admissible(scores[-1][:, trie.item_leaves], constraint)
    return ExactPlaces(torch.stack(columns, dim=1), _places(of_items, targets))


def judge(diagnosis: SearchDiagnosis, exact: ExactPlaces | None = None) -> list[Verdict]:
    """Why each target is, or is not, among the k candidates.

    - found: it is.
    - excluded: the request may not get it.
    - impossible: its probability is zero, and such prefixes are never followed.
    - lost_by_search: exhaustive search would return it. Without `exact`: it is more probable than the last candidate.
    - ranked_low_by_model: exhaustive search would not return it either. Whether the beams lost it does not matter.
    """
    candidates, target, log_prob = diagnosis.candidates, diagnosis.targets, diagnosis.target_log_prob
    if exact is None:
        last, item = candidates.score[:, -1], candidates.item_index[:, -1]  # of a short list -inf, behind every item
        is_wanted = (log_prob > last) | ((log_prob == last) & (target < item))
    else:
        is_wanted = (exact.items >= 0) & (exact.items < candidates.item_index.shape[1])
    verdicts: list[Verdict] = []
    # Where the last beams still hold the target, its list is full of better items: rounding may not say otherwise.
    is_lost = is_wanted & (diagnosis.lost_at >= 0)
    flags = (diagnosis.target_place >= 0, ~diagnosis.is_admissible, log_prob == -torch.inf, is_lost)
    for is_found, is_excluded, is_impossible, is_lost_by_search in zip(*(flag.tolist() for flag in flags), strict=True):
        if is_found:
            verdicts.append("found")
        elif is_excluded:
            verdicts.append("excluded")
        elif is_impossible:
            verdicts.append("impossible")
        else:
            verdicts.append("lost_by_search" if is_lost_by_search else "ranked_low_by_model")
    return verdicts


def first_true(flags: Bool[Tensor, "B n"]) -> Int64[Tensor, " B"]:
    """Place of the first true flag of each row, -1 where there is none.

    >>> first_true(torch.tensor([[False, True, True], [False, False, False]])).tolist()
    [1, -1]
    """
    return torch.where(flags.any(dim=1), flags.int().argmax(dim=1), -1)


def _look(beams: Beams, target_node: Tensor, target_log_prob: Tensor) -> LevelDiagnosis:
    # Beams are in the order of their nodes, so a stable sort leaves equal scores in that order.
    log_prob, order = beams.log_prob.sort(dim=1, descending=True, stable=True)
    nodes = beams.nodes.gather(1, order)
    return LevelDiagnosis(
        nodes=nodes,
        log_prob=log_prob,
        num_live=(nodes >= 0).sum(dim=1),
        target_node=target_node,
        target_log_prob=target_log_prob,
        target_place=first_true(nodes == target_node.unsqueeze(1)),
    )


def _rivals(levels: tuple[LevelDiagnosis, ...], lost_at: Tensor, constraint: Constraint | None) -> Tensor:
    rivals = torch.full_like(lost_at, -1)
    for depth, level in enumerate(levels):
        target = level.target_node.unsqueeze(1)
        is_open = level.target_log_prob > -torch.inf
        if constraint is not None:
            is_open &= constraint.is_alive(depth + 1, target).squeeze(1)
        # A prefix that could have been kept is lost to full beams only, so the last of them is alive.
        rivals = torch.where((lost_at == depth) & is_open, level.nodes[:, -1], rivals)
    return rivals


def _is_admissible(constraint: Constraint | None, items: Tensor) -> Tensor:
    if constraint is None:
        return torch.ones_like(items, dtype=torch.bool)
    return constraint.is_admissible(items.unsqueeze(1)).squeeze(1)


def _places(scores: Float[Tensor, "B n"], chosen: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
    """How many columns come before the chosen one by (score descending, column ascending); -1 where its score is -inf.

    >>> _places(torch.tensor([[1.0, 2.0, 1.0], [0.0, 0.0, -torch.inf]]), torch.tensor([2, 2])).tolist()
    [2, -1]
    """
    column = chosen.unsqueeze(1)
    own = scores.gather(1, column)
    is_before = torch.arange(scores.shape[1], device=scores.device) < column
    place = ((scores > own) | ((scores == own) & is_before)).sum(dim=1)
    return torch.where(own.squeeze(1) > -torch.inf, place, -1)
