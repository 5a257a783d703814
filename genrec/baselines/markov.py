"""Which item follows the last one: first-order transition counts with popularity behind them.

Knows histories as arrays; must not know evaluation or configuration.
"""

# B histories, N items of the catalogue

from __future__ import annotations

from typing import Self

import numpy as np
import scipy.sparse as sp

from genrec.baselines.base import check_items, count_items
from genrec.baselines.scores import BackoffScores
from genrec.baselines.transitions import lag_counts
from genrec.data.sequences import Ragged
from genrec.errors import DataError

_EXACT = 2**53  # whole numbers up to here are exact in float64


class LastItemMarkov:
    """Items ranked by (transitions from the last item of the history, popularity), the second key breaking ties.

    The pair of keys is one number, count * (largest popularity + 1) + popularity, exact in float64, so no transition is
    ever outweighed by popularity, and items that never followed the last one are ranked by popularity.

    Attributes:
        item_counts_: [N] int64, after `fit`.
        keys_: [N, N] CSR, the number above for every transition that was seen.
    """

    name = "markov"

    def fit(self, train: Ragged, *, num_items: int, timestamps: Ragged | None = None) -> Self:
        """See `Baseline.fit`; the clock is not looked at."""
        counts = count_items(train, num_items)
        (keys,) = lag_counts(train, num_items, 1)
        factor = int(counts.max()) + 1
        if keys.nnz and (int(keys.data.max()) + 1) * factor > _EXACT:
            raise DataError("too many interactions of one item for exact keys", expected=f"below {_EXACT}")
        keys.data = keys.data * factor + counts[keys.indices]
        self.item_counts_ = counts
        self.keys_: sp.csr_matrix = keys
        return self

    def scores(self, histories: Ragged) -> BackoffScores:
        """See `Baseline.scores`; an empty history has popularity scores."""
        num_items = len(self.item_counts_)
        row, last, _ = check_items(histories.tail(1), num_items)
        # The rows of the last items, with empty ones where a history is empty.
        lengths = np.zeros(len(histories), dtype=np.int64)
        lengths[row] = np.diff(self.keys_.indptr)[last]
        chosen = self.keys_[last]
        entries = sp.csr_matrix(
            (chosen.data, chosen.indices, np.concatenate([[0], np.cumsum(lengths)])), shape=(len(histories), num_items)
        )
        return BackoffScores(entries, self.item_counts_.astype(np.float64))
