"""Labels that cut evaluation cases into slices: popularity and category of the target, history length, repeat or new.

Knows NumPy and ragged histories. One label a case, from fixed lists of labels, so that slices of different models and
runs line up. Only training counts are used: a slice must not look at the split it cuts.
"""

# C cases, N items

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genrec.data.sequences import Ragged

POPULARITY_LABELS = ("head", "middle", "tail", "unseen", "outside")
NOVELTY_LABELS = ("new", "repeat")
LENGTH_EDGES = (0, 5, 10, 20, 50)
REST_OF_CATEGORIES = ("other", "no category", "outside")
NUM_CATEGORIES = 8


def popularity_labels(
    target: np.ndarray, train_counts: np.ndarray, *, boundaries: tuple[float, float] = (1 / 3, 2 / 3)
) -> np.ndarray:
    """How popular each target is in the training part.

    Let s be the share of all training interactions that fall on items with strictly more interactions than the target.
    The target is "head" if s < boundaries[0], else "middle" if s < boundaries[1], else "tail". Items with equal counts
    thus get equal labels, and with the default boundaries head, middle and tail hold about a third of the training
    interactions each. "unseen": no training interaction; "outside": not in the catalogue (target -1).

    Args:
        target: [C] integer, item index or -1.
        train_counts: [N] training interactions of each item.
        boundaries: two shares, ascending, in [0, 1].

    Returns:
        [C] strings out of `POPULARITY_LABELS`.

    >>> popularity_labels(np.array([0, 1, 2, 3, -1]), np.array([50, 30, 20, 0])).tolist()
    ['head', 'middle', 'tail', 'unseen', 'outside']
    """
    counts = np.asarray(train_counts, dtype=np.int64)
    ascending = np.sort(counts)
    cumulative = np.concatenate([[0], np.cumsum(ascending)])  # [N + 1]
    total = cumulative[-1]
    above = total - cumulative[np.searchsorted(ascending, counts, side="right")]
    code = np.digitize(above / max(total, 1), boundaries)  # 0 head, 1 middle, 2 tail
    code = np.where(counts == 0, 3, code)
    code = np.append(code, 4)  # for target -1
    return np.array(POPULARITY_LABELS)[code[np.asarray(target, dtype=np.int64)]]


def length_bucket_names(edges: tuple[int, ...] = LENGTH_EDGES) -> tuple[str, ...]:
    """Names of the buckets that end at the edges, shortest first.

    >>> length_bucket_names()
    ('0', '1-5', '6-10', '11-20', '21-50', '51+')
    """
    starts = (0, *(edge + 1 for edge in edges))
    closed = (str(end) if start == end else f"{start}-{end}" for start, end in zip(starts, edges, strict=False))
    return (*closed, f"{starts[-1]}+")


def length_labels(history_length: np.ndarray, *, edges: tuple[int, ...] = LENGTH_EDGES) -> np.ndarray:
    """The bucket of each history length.

    Args:
        history_length: [C] number of interactions before the target, without truncation.
        edges: last length of each bucket, ascending.

    Returns:
        [C] strings out of `length_bucket_names(edges)`.

    >>> length_labels(np.array([0, 3, 5, 6, 200])).tolist()
    ['0', '1-5', '1-5', '6-10', '51+']
    """
    return np.array(length_bucket_names(edges))[np.searchsorted(edges, history_length, side="left")]


def novelty_labels(target: np.ndarray, histories: Ragged) -> np.ndarray:
    """ "repeat" where the target is in the history already, else "new"; [C] strings.

    >>> novelty_labels(np.array([1, 2]), Ragged.from_lists([[1, 3], [1]])).tolist()
    ['repeat', 'new']
    """
    row, item, _ = histories.flat()
    is_repeat = np.bincount(row[item == np.asarray(target)[row]], minlength=len(histories)) > 0
    return np.array(NOVELTY_LABELS)[is_repeat.astype(np.int64)]


def category_labels(
    target: np.ndarray,
    categories: Sequence[str | None],
    train_counts: np.ndarray,
    *,
    num_categories: int = NUM_CATEGORIES,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The category of each target, by name where it is one of those with the most training interactions.

    Equal numbers of interactions: the name that comes first in the alphabet. "other": a rarer category; "no category":
    the item has none; "outside": not in the catalogue (target -1). A category that bears one of these names is never
    among the frequent ones.

    Args:
        target: [C] integer, item index or -1.
        categories: [N] top-level category of each item; None: not known.
        train_counts: [N] training interactions of each item.
        num_categories: how many are kept apart at most.

    Returns:
        [C] strings, and all labels there can be: the frequent categories, most frequent first, then
        `REST_OF_CATEGORIES`.

    >>> labels, names = category_labels(np.array([0, 2, 3, -1]), ["a", "b", "b", None], np.array([1, 1, 1, 1]),
    ...     num_categories=1)
    >>> labels.tolist(), names
    (['other', 'b', 'no category', 'outside'], ('b', 'other', 'no category', 'outside'))
    """
    totals: dict[str, int] = {}
    for name, count in zip(categories, np.asarray(train_counts).tolist(), strict=True):
        if name is not None and name not in REST_OF_CATEGORIES:
            totals[name] = totals.get(name, 0) + count
    frequent = sorted(totals, key=lambda name: (-totals[name], name))[:num_categories]
    labels = (*frequent, *REST_OF_CATEGORIES)
    code = {name: at for at, name in enumerate(frequent)}
    other, none, outside = range(len(frequent), len(labels))
    by_item = np.array([none if name is None else code.get(name, other) for name in categories] + [outside])
    return np.array(labels)[by_item[np.asarray(target, dtype=np.int64)]], labels
