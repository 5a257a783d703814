"""Directed item-kNN: what is bought soon after the last items of a history.

The strongest of the simple baselines (docs/methods.md section 6). Pure sparse algebra; must not know evaluation or
configuration.
"""

# B histories, N items of the catalogue

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import scipy.sparse as sp

from genrec.baselines.base import check_items, count_items
from genrec.baselines.scores import shape_of
from genrec.baselines.transitions import lag_counts
from genrec.data.sequences import Ragged
from genrec.errors import ConfigError


class DirectedItemKnn:
    """Scores = H C with C = P^-a (T + b T') P^-c (docs/methods.md section 6).

    T[i, j] sums decay^(distance - 1) over the pairs of a training history with i before j at a distance of at most
    `window`; P holds the training interactions of each item, at least 1; H[u, i] sums history_decay^age over the last
    `history_length` items of the history, age 0 being the last. An item that shares no window with any of them has no
    entry: it is never recommended.

    Args:
        window: w, at least 1.
        decay: weight of one more step of distance, in [0, 1].
        backward: b, weight of the reversed direction, at least 0.
        source_power: a, exponent of the count of the item that was seen.
        target_power: c, exponent of the count of the item that is scored.
        history_decay: weight of one more step of age, in [0, 1].
        history_length: last items that count, at least 1.

    Attributes:
        similarity_: C, [N, N] CSR float64, after `fit`.

    Raises:
        ConfigError: a value out of range.
    """

    name = "item_knn"

    def __init__(
        self,
        *,
        window: int = 8,
        decay: float = 0.7,
        backward: float = 0.25,
        source_power: float = 0.75,
        target_power: float = 0.15,
        history_decay: float = 0.5,
        history_length: int = 20,
    ) -> None:
        for name, value, least in (
            ("window", window, 1),
            ("history_length", history_length, 1),
            ("backward", backward, 0),
        ):
            if not least <= value < np.inf:
                raise ConfigError(
                    f"item-kNN: wrong {name}", where=f"key 'item_knn.{name}'", expected=f"at least {least}", found=value
                )
        for name, value in (("decay", decay), ("history_decay", history_decay)):
            if not 0.0 <= value <= 1.0:
                raise ConfigError(
                    f"item-kNN: wrong {name}", where=f"key 'item_knn.{name}'", expected="between 0 and 1", found=value
                )
        for name, value in (("source_power", source_power), ("target_power", target_power)):
            if not np.isfinite(value):
                raise ConfigError(
                    f"item-kNN: wrong {name}", where=f"key 'item_knn.{name}'", expected="a number", found=value
                )
        self.window = window
        self.decay = decay
        self.backward = backward
        self.source_power = source_power
        self.target_power = target_power
        self.history_decay = history_decay
        self.history_length = history_length

    def fit(self, train: Ragged, *, num_items: int, timestamps: Ragged | None = None) -> Self:
        """See `Baseline.fit`; the clock is not looked at."""
        counts = count_items(train, num_items)
        return self.fit_cooccurrence(
            decayed_cooccurrence(lag_counts(train, num_items, self.window), self.decay), counts
        )

    def fit_cooccurrence(self, cooccurrence: sp.csr_matrix, item_counts: np.ndarray) -> Self:
        """Fits on a T that is there already, made with this window and decay.

        Args:
            cooccurrence: T, [N, N].
            item_counts: [N] training interactions of each item.
        """
        self.similarity_ = directed_similarity(
            cooccurrence,
            item_counts,
            backward=self.backward,
            source_power=self.source_power,
            target_power=self.target_power,
        )
        return self

    def scores(self, histories: Ragged) -> sp.csr_matrix:
        """See `Baseline.scores`; an empty history has no entries."""
        _, num_items = shape_of(self.similarity_)
        weights = history_weights(histories.tail(self.history_length), num_items, decay=self.history_decay)
        return weights @ self.similarity_


def decayed_cooccurrence(lags: Sequence[sp.csr_matrix], decay: float) -> sp.csr_matrix:
    """T = sum over distances d of decay^(d - 1) times the pairs at distance d.

    Args:
        lags: counts by distance, from `lag_counts`; their number is the window.
        decay: in [0, 1].

    >>> lags = lag_counts(Ragged.from_lists([[0, 1, 2]]), 3, 2)
    >>> decayed_cooccurrence(lags, 0.5).toarray().tolist()
    [[0.0, 1.0, 0.5], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    total = lags[0]
    for distance, counts in enumerate(lags[1:], start=2):
        total = total + counts * float(decay) ** (distance - 1)
    total = sp.csr_matrix(total)
    total.eliminate_zeros()
    return total


def directed_similarity(
    cooccurrence: sp.csr_matrix,
    item_counts: np.ndarray,
    *,
    backward: float,
    source_power: float,
    target_power: float,
) -> sp.csr_matrix:
    """C = P^-a (T + b T') P^-c, [N, N] CSR float64 with sorted indices and no stored zeros.

    Args:
        cooccurrence: T, [N, N].
        item_counts: [N]; P is at least 1.
        backward: b.
        source_power: a.
        target_power: c.
    """
    counts = np.maximum(item_counts, 1).astype(np.float64)
    both = sp.csr_matrix(cooccurrence + cooccurrence.T * float(backward))
    similarity = sp.csr_matrix(sp.diags(counts**-source_power) @ both @ sp.diags(counts**-target_power))
    similarity.eliminate_zeros()
    similarity.sort_indices()
    return similarity


def history_weights(histories: Ragged, num_items: int, *, decay: float) -> sp.csr_matrix:
    """H, [B, N] CSR: an item of age t in its history (0 = last) weighs decay^t; repeats add up.

    Raises:
        DataError: an index outside the catalogue.

    >>> history_weights(Ragged.from_lists([[2, 0], [1]]), 3, decay=0.5).toarray().tolist()
    [[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]
    """
    row, item, age = check_items(histories, num_items)
    weights = sp.csr_matrix((float(decay) ** age, (row, item)), shape=(len(histories), num_items))
    weights.eliminate_zeros()
    return weights
