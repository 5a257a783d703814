"""Ordered pairs of items at a fixed distance in training histories.

Knows histories as arrays. Counts are whole numbers, one matrix a distance, so sums over them do not depend on the order
of users, and one count serves every decay.
"""

# N items of the catalogue, M training interactions

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from genrec.baselines.base import check_items
from genrec.data.sequences import Ragged


def lag_counts(train: Ragged, num_items: int, max_lag: int) -> list[sp.csr_matrix]:
    """How often item j follows item i at each distance.

    Args:
        train: training histories, oldest first.
        num_items: N.
        max_lag: largest distance, at least 1.

    Returns:
        `max_lag` matrices [N, N] float64 of whole numbers; entry (i, j) of the d-th (from 1) counts the places where j
        comes d positions after i in the same history. Sorted indices, no stored zeros.

    Raises:
        DataError: an index outside the catalogue.

    >>> first, second = lag_counts(Ragged.from_lists([[0, 1, 2], [0, 1]]), 3, 2)
    >>> first.toarray().astype(int).tolist(), second.toarray().astype(int).tolist()
    ([[0, 2, 0], [0, 0, 1], [0, 0, 0]], [[0, 0, 1], [0, 0, 0], [0, 0, 0]])
    """
    row, item, _ = check_items(train, num_items)
    counts = []
    for lag in range(1, max_lag + 1):
        is_pair = row[:-lag] == row[lag:]
        pair = item[:-lag][is_pair], item[lag:][is_pair]
        counts.append(sp.csr_matrix((np.ones(len(pair[0])), pair), shape=(num_items, num_items)))
    return counts
