"""Exact scores of the catalogue, its prefixes, and given items: what every approximate search is compared with.

Must not know how a scorer works. Costs a forward pass of every node of the trie, so it is for catalogues of up to about
50,000 items.
"""
# B requests, L levels, n_d nodes of depth d, M_l most children of a node of depth l, N items, k returned

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genrec.decoding.scorer import Candidates, Scorer
from genrec.decoding.selection import rank_items, select_best
from genrec.errors import ConfigError, DataError
from genrec.semantic_ids.constraints import Constraint
from genrec.semantic_ids.trie import SemanticIdTrie


def exhaustive_search(
    scorer: Scorer,
    trie: SemanticIdTrie,
    context: Any,
    *,
    num_candidates: int | None = None,
    constraint: Constraint | None = None,
) -> Candidates:
    """Scores every item and returns the best, ties and all exactly in the order (score desc, item_index asc).

    Args:
        scorer: the model.
        trie: the catalogue.
        context: of B requests, from `scorer.encode`.
        num_candidates: k, at least 1; None: N.
        constraint: what each request may get.

    Returns:
        The candidates; items of probability zero are not among them. Where fewer than k items are admissible, the rest
        is padding.

    Raises:
        ConfigError: k below 1.
        DataError: the scorer gave NaN or +inf.
    """
    k = trie.num_items if num_candidates is None else num_candidates
    if k < 1:
        raise ConfigError("wrong number of candidates", expected="1 or more", found=k)
    scores = keep_admissible(score_catalogue(scorer, trie, context), constraint)
    best, items = select_best(scores, min(k, trie.num_items))
    items, best = rank_items(items, best, k)
    return Candidates(items, best, best)


def keep_admissible(scores: Float[Tensor, "B N"], constraint: Constraint | None) -> Float[Tensor, "B N"]:
    """Scores of all items, -inf where a request may not get the item."""
    if constraint is None:
        return scores
    items = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    return scores.masked_fill(~constraint.is_admissible(items), -torch.inf)


def score_catalogue(scorer: Scorer, trie: SemanticIdTrie, context: Any) -> Float[Tensor, "B N"]:
    """Log-probability of every item, by item_index.

    Raises:
        DataError: the scorer gave NaN or +inf.
    """
    return score_prefixes(scorer, trie, context)[-1][:, trie.item_leaves]


def score_prefixes(scorer: Scorer, trie: SemanticIdTrie, context: Any) -> list[Float[Tensor, "B _"]]:
    """Log-probability of every prefix of 1 to L codes, by node: level by level, all nodes of a depth at once.

    Returns:
        L tensors [B, n_d], d = 1 to L.

    Raises:
        DataError: the scorer gave NaN or +inf.
    """
    log_probs, state = scorer.start(context)
    total = log_probs.new_zeros(len(log_probs), 1, dtype=torch.promote_types(log_probs.dtype, torch.float32))
    totals, is_bad = [], []
    for level in range(trie.num_levels):
        parents = trie.parents[level]
        if level > 0:
            above = trie.parents[level - 1]
            beams = (above, trie.child_codes[level - 1].long(), torch.arange(len(above), device=above.device))
            log_probs, state = scorer.step(level, state, *(beam.expand(len(total), -1) for beam in beams))
        slots = torch.arange(len(parents), device=parents.device) - trie.child_offsets[level][parents]
        total = total[:, parents] + log_probs[:, parents, slots]
        totals.append(total)
        is_bad.append(~(total.amax(dim=1) < torch.inf))
    check_scores(is_bad)
    return totals


def score_items(
    scorer: Scorer, trie: SemanticIdTrie, context: Any, items: Int64[Tensor, "B k"]
) -> Float[Tensor, "B k"]:
    """Log-probability of given items, each scored along its own path.

    Args:
        scorer: the model.
        trie: the catalogue.
        context: of B requests, from `scorer.encode`.
        items: item_index, -1 as padding.

    Returns:
        The log-probabilities, -inf for -1.

    Raises:
        DataError: the scorer gave NaN or +inf.
    """
    return score_paths(scorer, trie, context, items)[..., -1]


def score_paths(
    scorer: Scorer, trie: SemanticIdTrie, context: Any, items: Int64[Tensor, "B k"]
) -> Float[Tensor, "B k L"]:
    """Log-probability of the prefixes of 1 to L codes on the way to given items; arguments as of `score_items`.

    Raises:
        DataError: the scorer gave NaN or +inf.
    """
    totals, is_bad = score_steps(scorer, trie, context, items)
    check_scores(is_bad)
    return torch.stack(totals, dim=-1)


def score_steps(
    scorer: Scorer, trie: SemanticIdTrie, context: Any, items: Int64[Tensor, "B k"]
) -> tuple[list[Float[Tensor, "B k"]], list[Bool[Tensor, " B"]]]:
    """`score_paths` without its check, a function of tensors alone: L totals, and L flags for `check_scores`."""
    is_item = items >= 0
    paths = trie.path_nodes(items)
    log_probs, state = scorer.start(context)
    total = log_probs.new_zeros(items.shape, dtype=torch.promote_types(log_probs.dtype, torch.float32))
    beams = torch.zeros_like(items)  # all continue the one beam of the start, and later each its own
    above = torch.zeros_like(items)
    totals, is_bad = [], []
    for level in range(trie.num_levels):
        nodes = paths[..., level]
        if level > 0:
            codes = trie.child_codes[level - 1][above.clamp(min=0)].long() * is_item
            log_probs, state = scorer.step(level, state, beams, codes, above)
            beams = torch.arange(items.shape[1], device=items.device).expand_as(items)
            log_probs = log_probs.gather(2, _slots(trie, level, above, nodes).unsqueeze(2)).squeeze(2)
        else:
            log_probs = log_probs[:, 0].gather(1, _slots(trie, level, above, nodes))
        total = torch.where(is_item, total + log_probs, -torch.inf)
        totals.append(total)
        is_bad.append(~(total.amax(dim=1) < torch.inf))
        above = nodes
    return totals, is_bad


def check_scores(is_bad: list[Tensor]) -> None:
    """Raises DataError if a request's scores held NaN or +inf; one flag [B] a level."""
    flags = torch.stack(is_bad).cpu()
    if flags.any():
        level, request = (int(place) for place in flags.nonzero()[0])
        raise DataError(
            "the model gave something that is no log-probability",
            where=f"request {request} of the batch, level {level}",
            expected="numbers up to 0, or -inf",
            found="NaN or +inf",
            fix="check its weights: the training may have diverged",
        )


def _slots(trie: SemanticIdTrie, level: int, above: Tensor, nodes: Tensor) -> Tensor:
    """Place of each node among the children of the node above it; 0 for node -1."""
    first, _ = trie.child_ranges(level, above)
    return torch.where(nodes >= 0, nodes - first, 0)
