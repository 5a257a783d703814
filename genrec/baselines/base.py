"""What a ranker and a baseline are, and how scores become a list.

Knows ragged histories and NumPy; must not know evaluation, artifacts or configuration.
"""

# B histories, N items of the catalogue, k recommendations

from __future__ import annotations

from typing import Protocol, Self

import numpy as np

from genrec.baselines.scores import BackoffScores, Scores, shape_of, stored_rows
from genrec.data.sequences import Ragged
from genrec.errors import ConfigError, DataError

_BATCH = 256  # histories scored together


class Ranker(Protocol):
    """Anything that scores items for histories."""

    def scores(self, histories: Ragged) -> Scores:
        """[B, N] finite scores, higher is better; a row depends on its own history alone."""
        ...


class Baseline(Ranker, Protocol):
    """A model that is fitted by counting and scores every item for a history."""

    name: str

    def fit(self, train: Ragged, *, num_items: int, timestamps: Ragged | None = None) -> Self:
        """Counts the training part and returns itself.

        Args:
            train: training histories of item indices in [0, num_items), oldest first.
            num_items: N.
            timestamps: seconds, rows parallel to `train`, for baselines that look at the clock.

        Raises:
            DataError: no interactions, an index outside the catalogue, or no timestamps where they are needed.
        """
        ...


def recommend(model: Ranker, histories: Ragged, k: int, *, exclude_seen: bool) -> tuple[np.ndarray, np.ndarray]:
    """The k best items of each history, sorted by (score descending, item_index ascending).

    Args:
        model: a fitted baseline.
        histories: B rows of item indices.
        k: length of the lists, 1 to N.
        exclude_seen: leave out the items of the history.

    Returns:
        item_index [B, k] int32 padded with -1 and score [B, k] float64 padded with -inf, where fewer than k items have
        a score.

    Raises:
        ConfigError: k below 1 or above N.
        DataError: an index outside the catalogue.
    """
    items = np.full((len(histories), max(k, 0)), -1, dtype=np.int32)
    best = np.full(items.shape, -np.inf)
    for start in range(0, len(histories), _BATCH):
        batch = histories.take(slice(start, start + _BATCH))
        scores = model.scores(batch)
        check_list_length(k, shape_of(scores)[1])
        row, item, _ = batch.flat()
        found = best_items(scores, k, (row, item) if exclude_seen else None)
        items[start : start + len(batch)], best[start : start + len(batch)] = found
    return items, best


def best_items(
    scores: Scores, k: int, seen: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k best items of each row of scores, sorted by (score descending, item_index ascending).

    Args:
        scores: [B, N].
        k: length of the lists, 1 to N.
        seen: (row, item) pairs to leave out, in any order; None: none.

    Returns:
        item_index [B, k] int32 padded with -1 and score [B, k] float64 padded with -inf, as `recommend`.
    """
    num_rows, num_items = shape_of(scores)
    keys = np.zeros(0, dtype=np.int64) if seen is None else np.unique(seen[0] * num_items + seen[1])
    row, item, score = _candidates(scores, k, keys)
    order = np.lexsort((item, -score, row))
    row, item, score = row[order], item[order], score[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    kept = place < k
    items = np.full((num_rows, k), -1, dtype=np.int32)
    best = np.full((num_rows, k), -np.inf)
    items[row[kept], place[kept]] = item[kept]
    best[row[kept], place[kept]] = score[kept]
    return items, best


def check_list_length(k: int, num_items: int) -> None:
    """Raises ConfigError unless 1 <= k <= num_items."""
    if not 1 <= k <= num_items:
        raise ConfigError(
            "wrong number of recommendations",
            expected=f"k from 1 to {num_items} (the items)",
            found=k,
            fix=f"set k={min(10, num_items)}",
        )


def check_items(histories: Ragged, num_items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`histories.flat()`, after a check of the range.

    Raises:
        DataError: an index outside the catalogue.
    """
    row, item, age = histories.flat()
    wrong = np.flatnonzero((item < 0) | (item >= num_items))
    if len(wrong):
        raise DataError(
            "item outside the catalogue",
            where=f"history {row[wrong[0]]}",
            expected=f"item_index 0 to {num_items - 1}",
            found=int(item[wrong[0]]),
        )
    return row, item, age


def count_items(train: Ragged, num_items: int) -> np.ndarray:
    """[N] int64 training interactions of each item.

    Raises:
        DataError: no interactions, or an index outside the catalogue.

    >>> count_items(Ragged.from_lists([[0, 2], [2]]), 4).tolist()
    [1, 0, 2, 0]
    """
    _, item, _ = check_items(train, num_items)
    if len(item) == 0:
        raise DataError("no training interactions", fix="check the split and the filters")
    return np.bincount(item, minlength=num_items)


def _candidates(scores: Scores, k: int, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, item, score) of a set that holds the k best unseen items of each row; `seen` = sorted row * N + item."""
    if isinstance(scores, np.ndarray):
        return _dense_candidates(scores, k, seen)
    entries, base = scores if isinstance(scores, BackoffScores) else (scores, None)
    num_rows, num_items = shape_of(entries)
    row = stored_rows(entries)
    keys = row * num_items + entries.indices
    kept = ~_contains(seen, keys)
    row, item, score = row[kept], entries.indices[kept].astype(np.int64), entries.data[kept].astype(np.float64)
    if base is None:
        return _narrow(row, item, score, k, num_rows)
    # The first of the base's own order are enough: k and as many as can be overruled or seen in one row.
    left_out = np.unique(np.concatenate([seen, keys]))
    most = np.bincount(left_out // num_items, minlength=num_rows).max(initial=0)
    order = np.lexsort((np.arange(num_items), -base))[: k + most]
    base_keys = (np.arange(num_rows)[:, None] * num_items + order).ravel()
    base_keys = base_keys[~_contains(left_out, base_keys)]
    base_row, base_item = base_keys // num_items, base_keys % num_items
    return (
        np.concatenate([row, base_row]),
        np.concatenate([item, base_item]),
        np.concatenate([score, base[base_item]]),
    )


def _narrow(
    row: np.ndarray, item: np.ndarray, score: np.ndarray, k: int, num_rows: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leaves out what is below the k-th best score of its row: finding that costs less than to sort everything."""
    lengths = np.bincount(row, minlength=num_rows)
    starts = np.cumsum(lengths) - lengths
    least = np.full(num_rows, -np.inf)
    for at in np.flatnonzero(lengths > k):
        scores = score[starts[at] : starts[at] + lengths[at]]
        least[at] = np.partition(scores, len(scores) - k)[len(scores) - k]
    kept = score >= least[row]
    return row[kept], item[kept], score[kept]


def _dense_candidates(scores: np.ndarray, k: int, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    num_items = scores.shape[1]
    scores = scores.astype(np.float64)  # a copy, to be masked
    scores[seen // num_items, seen % num_items] = -np.inf
    kth = np.partition(scores, num_items - k, axis=1)[:, num_items - k]
    row, item = np.nonzero((scores >= kth[:, None]) & (scores > -np.inf))
    return row, item, scores[row, item]


def _contains(ordered: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Which keys are in the sorted array."""
    if len(ordered) == 0:
        return np.zeros(len(keys), dtype=bool)
    at = np.searchsorted(ordered, keys)
    return ordered[np.minimum(at, len(ordered) - 1)] == keys
