"""Ranks of targets in full rankings, and the metrics that follow from a rank.

Pure NumPy and scipy.sparse. Must not know models, data containers, configuration or frameworks: scores, targets and
(row, item) pairs come as plain arrays. A metric needs two integers a case: how many other candidates score higher than
the target, and how many score the same; a tie rule turns them into one rank, or into the mean over all ranks that a
random order of the equals would give.
"""

# B cases, N items of the catalogue, S pairs (case, seen item), G distinct code tuples of semantic IDs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from genrec.baselines.scores import BackoffScores, Scores, shape_of, stored_rows
from genrec.errors import ConfigError, DataError

_TIE_WEIGHTS = {"pessimistic": 1.0, "mid": 0.5, "optimistic": 0.0}
TIE_RULES = tuple(_TIE_WEIGHTS)  # those that make one rank
ALL_TIE_RULES = ("pessimistic", "mid", "expected", "optimistic")


class RankCounts(NamedTuple):
    """What decides the rank of each target, without and with the seen items left out; all [B] int64.

    A miss (target outside the catalogue, never recommended by a sparse model, or itself masked) has `num_greater` = N
    and `num_tied` = 0, so that it is a miss at every cut-off under every tie rule.
    """

    num_greater: np.ndarray
    num_tied: np.ndarray
    num_greater_masked: np.ndarray
    num_tied_masked: np.ndarray


def ranks(num_greater: np.ndarray, num_tied: np.ndarray, tie_rule: str = "pessimistic") -> np.ndarray:
    """0-based ranks under a tie rule.

    Args:
        num_greater: [B] other candidates with a higher score than the target.
        num_tied: [B] other candidates with the same score.
        tie_rule: "pessimistic" (the target comes last among its equals), "mid" (half of its equals come before it; such
            a rank may end in .5) or "optimistic" (it comes first).

    Returns:
        [B] float64.

    Raises:
        ConfigError: unknown tie rule.

    >>> [ranks(np.array([2]), np.array([3]), rule).item() for rule in TIE_RULES]
    [5.0, 3.5, 2.0]
    """
    check_tie_rule(tie_rule, TIE_RULES)
    return np.asarray(num_greater) + _TIE_WEIGHTS[tie_rule] * np.asarray(num_tied)


def recall_at_k(rank: np.ndarray, k: int) -> np.ndarray:
    """1 where the one target of a case is among the first k, else 0 (also called hit rate); [B] float64.

    >>> recall_at_k(np.array([0, 9, 10]), 10).tolist()
    [1.0, 1.0, 0.0]
    """
    return (rank < k).astype(np.float64)


def ndcg_at_k(rank: np.ndarray, k: int) -> np.ndarray:
    """1 / log2(rank + 2) where rank < k, else 0; the ideal gain of one target is 1; [B] float64.

    A fractional rank (tie rule "mid") goes into the formula as it is.

    >>> ndcg_at_k(np.array([0, 2, 10]), 10).tolist()
    [1.0, 0.5, 0.0]
    """
    return (rank < k) / np.log2(np.asarray(rank, dtype=np.float64) + 2.0)


def mrr_at_k(rank: np.ndarray, k: int) -> np.ndarray:
    """1 / (rank + 1) where rank < k, else 0; [B] float64.

    >>> mrr_at_k(np.array([0, 3, 10]), 10).tolist()
    [1.0, 0.25, 0.0]
    """
    return (rank < k) / (np.asarray(rank, dtype=np.float64) + 1.0)


METRICS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "recall": recall_at_k,
    "ndcg": ndcg_at_k,
    "mrr": mrr_at_k,
}


def parse_metric(name: str) -> tuple[Callable[[np.ndarray, int], np.ndarray], int]:
    """The function and the cut-off behind a name such as "ndcg@10".

    Raises:
        ConfigError: not of the form metric@k, or an unknown metric.

    >>> function, k = parse_metric("ndcg@10")
    >>> function.__name__, k
    ('ndcg_at_k', 10)
    """
    metric, _, cutoff = name.partition("@")
    if metric not in METRICS or not cutoff.isdecimal() or int(cutoff) < 1:
        raise ConfigError(
            "unknown metric", expected=f"one of {', '.join(METRICS)} with a cut-off, as in recall@10", found=repr(name)
        )
    return METRICS[metric], int(cutoff)


def metric_values(rank: np.ndarray, cutoffs: Sequence[int]) -> dict[str, np.ndarray]:
    """Every metric at every cut-off, one value a case, by name ("recall@1", ..., "mrr@50").

    >>> {name: values.tolist() for name, values in metric_values(np.array([1.0]), (1, 5)).items() if "mrr" in name}
    {'mrr@1': [0.0], 'mrr@5': [0.5]}
    """
    return {f"{name}@{k}": function(rank, k) for name, function in METRICS.items() for k in cutoffs}


def expected_at_k(
    function: Callable[[np.ndarray, int], np.ndarray], num_greater: np.ndarray, num_tied: np.ndarray, k: int
) -> np.ndarray:
    """The mean of a metric over all orders of the items that score the same as the target; [B] float64.

    With r = `num_greater` and m = 1 + `num_tied` the target is equally likely at each rank r, ..., r + m - 1. So
    Recall@k = clip((k - r) / m, 0, 1) and NDCG@k = (1 / m) sum_{j < m} [r + j < k] / log2(r + j + 2).

    Args:
        function: `recall_at_k`, `ndcg_at_k` or `mrr_at_k`: of the rank alone, and 0 from rank k on.
        num_greater: [B] other candidates with a higher score than the target.
        num_tied: [B] other candidates with the same score.
        k: cut-off.

    >>> expected_at_k(recall_at_k, np.array([9, 8, 3]), np.array([3, 1, 0]), 10).tolist()
    [0.25, 1.0, 1.0]
    """
    sums = np.concatenate([[0.0], np.cumsum(function(np.arange(k), k))])  # of the first ranks
    first, size = np.asarray(num_greater), np.asarray(num_tied) + 1
    mean = (sums[np.minimum(first + size, k)] - sums[np.minimum(first, k)]) / size
    # A difference of sums is not quite the value where there is nothing to average.
    return np.where(size == 1, function(first, k), mean)


def count_values(
    num_greater: np.ndarray, num_tied: np.ndarray, cutoffs: Sequence[int], tie_rule: str = "pessimistic"
) -> dict[str, np.ndarray]:
    """`metric_values` from the counts behind the ranks, under any of `ALL_TIE_RULES`.

    >>> count_values(np.array([0]), np.array([1]), (1,), "expected")["recall@1"].tolist()
    [0.5]
    """
    if tie_rule != "expected":
        return metric_values(ranks(num_greater, num_tied, tie_rule), cutoffs)
    return {
        f"{name}@{k}": expected_at_k(function, num_greater, num_tied, k)
        for name, function in METRICS.items()
        for k in cutoffs
    }


def check_tie_rule(tie_rule: str, rules: Sequence[str] = ALL_TIE_RULES) -> None:
    """Raises ConfigError unless it is one of the rules."""
    if tie_rule not in rules:
        raise ConfigError(
            "unknown tie rule",
            expected=f"one of {', '.join(rules)}",
            found=repr(tie_rule),
            fix="set ties=pessimistic",
        )


def check_cutoffs(cutoffs: Sequence[int], num_candidates: int, *, key: str | None = None) -> tuple[int, ...]:
    """The cut-offs in ascending order.

    Args:
        cutoffs: k of the metrics.
        num_candidates: items that can be in a list.
        key: configuration key of the list of cut-offs, if there is one, for the remedy.

    Raises:
        ConfigError: none given, one below 1, one given twice, or one above the number of candidates (recall would be 1
            whatever the model does).

    >>> check_cutoffs([10, 1], 85)
    (1, 10)
    """
    ordered = tuple(sorted(int(k) for k in cutoffs))
    fitting = sorted({k for k in ordered if 1 <= k <= num_candidates}) or [num_candidates]
    fix = "choose a smaller cut-off" if key is None else f"set {key}=[{','.join(map(str, fitting))}]"
    if not ordered or ordered[0] < 1 or len(set(ordered)) < len(ordered):
        raise ConfigError(
            "wrong cut-offs", expected="distinct integers from 1 on", found=list(cutoffs), fix=fix if key else None
        )
    if ordered[-1] > num_candidates:
        raise ConfigError(
            f"cut-off {ordered[-1]} is above the number of candidates",
            expected=f"at most {num_candidates}, the items of the catalogue",
            fix=fix,
        )
    return ordered


def rank_counts(
    scores: Scores,
    targets: np.ndarray,
    seen: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    model: str = "model",
) -> RankCounts:
    """Ranks the targets among all items at once, and again with the seen items left out.

    Args:
        scores: see `genrec.baselines.scores.Scores`; higher is better; every stored number finite.
        targets: [B] integer, item index, or -1 for a target outside the catalogue.
        seen: rows [S] and items [S] of what each user has seen already, in any order, repeats allowed.
        model: name of the model, for messages.

    Returns:
        The counts; the masked ones equal the others if `seen` is None.

    Raises:
        DataError: scores of the wrong shape or not finite, or an index outside the catalogue.
    """
    entries, base = scores if isinstance(scores, BackoffScores) else (scores, None)
    targets = np.asarray(targets, dtype=np.int64)
    num_rows, num_items = shape_of(entries)
    if num_rows != len(targets):
        raise DataError("wrong number of score rows", where=f"model {model!r}", expected=len(targets), found=num_rows)
    _check_range(targets, -1, num_items, "target")
    row, item = _distinct_pairs(seen, num_items)
    inside = np.maximum(targets, 0)

    if isinstance(entries, np.ndarray):
        _check_finite(entries, model)
        greater, equal, target_score, seen_score = _count_dense(entries, inside, row, item)
    else:
        entries = _checked_csr(entries, base, model)
        greater, equal, target_score, seen_score = _count_sparse(entries, base, inside, row, item)

    missed = (targets < 0) | np.isinf(target_score)
    greater_seen = np.bincount(row[seen_score > target_score[row]], minlength=num_rows)
    equal_seen = np.bincount(row[seen_score == target_score[row]], minlength=num_rows)
    is_target_seen = np.bincount(row[item == targets[row]], minlength=num_rows) > 0
    missed_masked = missed | is_target_seen
    return RankCounts(
        np.where(missed, num_items, greater),
        np.where(missed, 0, equal - 1),  # the target equals itself
        np.where(missed_masked, num_items, greater - greater_seen),
        np.where(missed_masked, 0, equal - equal_seen - 1),
    )


def id_rank_counts(
    scores: sp.csr_matrix, codes: np.ndarray, targets: np.ndarray, *, model: str = "model"
) -> tuple[np.ndarray, np.ndarray]:
    """Counts behind the rank of each target's semantic ID among the IDs that were found, whatever items they stand for.

    Args:
        scores: [B, N] CSR of what a search found; an ID has the best score of its items.
        codes: [N] number of each item's code tuple, in [0, G).
        targets: [B] item indices, -1 for a target outside the catalogue.
        model: name for error messages.

    Returns:
        IDs above that of the target and other IDs level with it, [B] int64 each; (N, 0) where it was not found.

    Raises:
        DataError: as `rank_counts`.
    """
    num_rows, num_items = shape_of(scores)
    row, code, best = stored_rows(scores), codes[scores.indices], np.asarray(scores.data, dtype=np.float64)
    order = np.lexsort((np.negative(best), code, row))
    row, code, best = row[order], code[order], best[order]
    is_first = np.ones(len(row), dtype=bool)
    is_first[1:] = (np.diff(row) != 0) | (np.diff(code) != 0)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row[is_first], minlength=num_rows))])
    shape = (num_rows, int(codes.max()) + 1)
    found = sp.csr_matrix((best[is_first], code[is_first], offsets), shape=shape)
    counts = rank_counts(found, np.where(targets < 0, -1, codes[targets]), model=model)
    missed = counts.num_greater == shape[1]
    return np.where(missed, num_items, counts.num_greater), counts.num_tied


def _count_dense(
    scores: np.ndarray, targets: np.ndarray, row: np.ndarray, item: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Per case: items above the target, items equal to it (itself included), its score; and the scores of the pairs."""
    target_score = scores[np.arange(len(targets)), targets]
    greater = np.count_nonzero(scores > target_score[:, None], axis=1)
    equal = np.count_nonzero(scores == target_score[:, None], axis=1)
    return greater, equal, target_score, scores[row, item]


def _count_sparse(
    entries: sp.csr_matrix, base: np.ndarray | None, targets: np.ndarray, row: np.ndarray, item: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """As `_count_dense`, at the cost of the stored entries; a target without a score has inf, a pair -inf."""
    num_rows, num_items = shape_of(entries)
    # A look-up of positions instead of scores tells an absent entry from a stored zero.
    small = entries.nnz < np.iinfo(np.int32).max
    positions = sp.csr_matrix(
        (np.arange(1, entries.nnz + 1, dtype=np.int32 if small else np.int64), entries.indices, entries.indptr),
        shape=entries.shape,
    )

    def score(rows: np.ndarray, items: np.ndarray, absent: float) -> np.ndarray:
        values = np.full(len(rows), absent) if base is None else base[items].astype(np.float64)
        if len(rows) == 0:  # SciPy answers an empty question with a sparse matrix
            return values
        position = np.asarray(positions[rows, items]).ravel()
        found = position > 0
        values[found] = entries.data[position[found] - 1]
        return values

    def count(is_counted: np.ndarray) -> np.ndarray:
        return np.diff(np.searchsorted(np.flatnonzero(is_counted), entries.indptr))

    target_score = score(np.arange(num_rows), targets, np.inf)
    threshold = np.repeat(target_score, np.diff(entries.indptr))
    greater, equal = count(entries.data > threshold), count(entries.data == threshold)
    if base is not None:
        ordered = np.sort(base)
        left, right = (np.searchsorted(ordered, target_score, side) for side in ("left", "right"))
        overruled = base[entries.indices]
        greater += num_items - right - count(overruled > threshold)
        equal += right - left - count(overruled == threshold)
    return greater, equal, target_score, score(row, item, -np.inf)


def _distinct_pairs(seen: tuple[np.ndarray, np.ndarray] | None, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    if seen is None:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    row, item = (np.asarray(part, dtype=np.int64) for part in seen)
    _check_range(item, 0, num_items, "seen item")
    keys = np.unique(row * num_items + item)
    return keys // num_items, keys % num_items


def _check_range(index: np.ndarray, lowest: int, num_items: int, what: str) -> None:
    wrong = np.flatnonzero((index < lowest) | (index >= num_items))
    if len(wrong):
        raise DataError(
            f"{what} outside the catalogue",
            where=f"position {wrong[0]}",
            expected=f"{lowest} to {num_items - 1}",
            found=int(index[wrong[0]]),
        )


def _check_finite(numbers: Any, model: str) -> None:
    # Minimum and maximum hand NaN on, and need no mask of the same size.
    if numbers.size and not (np.isfinite(numbers.min()) and np.isfinite(numbers.max())):
        num_bad = int(numbers.size - np.count_nonzero(np.isfinite(numbers)))
        raise DataError(
            "scores are not finite", where=f"model {model!r}", expected="numbers", found=f"{num_bad} NaN or infinite"
        )


def _checked_csr(entries: Any, base: np.ndarray | None, model: str) -> sp.csr_matrix:
    where = f"model {model!r}"
    if not sp.issparse(entries) or entries.format != "csr":
        raise DataError("wrong type of scores", where=where, expected="an array or CSR", found=type(entries).__name__)
    if entries.has_sorted_indices and not entries.has_canonical_format:
        raise DataError("an item is scored twice in one row", where=where, fix="call sum_duplicates() on the scores")
    _check_finite(entries.data, model)
    if base is not None:
        if base.shape != shape_of(entries)[1:]:
            raise DataError("wrong shape of base scores", where=where, expected=shape_of(entries)[1:], found=base.shape)
        _check_finite(base, model)
    return entries
