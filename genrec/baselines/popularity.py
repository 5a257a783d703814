"""Popularity of items in the training part, over all of it or its last days: the same list for everybody.

Knows histories and clocks as arrays; must not know evaluation or configuration.
"""

# B histories, N items of the catalogue

from __future__ import annotations

from typing import Self

import numpy as np

from genrec.baselines.base import check_items, count_items
from genrec.baselines.scores import BackoffScores, empty_scores
from genrec.data.sequences import Ragged
from genrec.errors import ConfigError, DataError

SECONDS_PER_DAY = 86_400


class Popularity:
    """Score of an item = its training interactions.

    Attributes:
        item_counts_: [N] int64, after `fit`.
    """

    name = "popularity"

    def fit(self, train: Ragged, *, num_items: int, timestamps: Ragged | None = None) -> Self:
        """See `Baseline.fit`; the clock is not looked at."""
        self.item_counts_ = count_items(train, num_items)
        return self

    def scores(self, histories: Ragged) -> BackoffScores:
        """See `Baseline.scores`."""
        check_items(histories, len(self.item_counts_))
        return BackoffScores(empty_scores(len(histories), len(self.item_counts_)), self.item_counts_.astype(np.float64))


class RecentPopularity:
    """Score of an item = its interactions near the latest training timestamp.

    Args:
        window_days: count interactions at most so many days before the latest one; None where `half_life_days` is set.
        half_life_days: instead of a window, weigh an interaction of age t by 2^(-t / half_life_days).

    Attributes:
        weights_: [N] float64, after `fit`.

    Raises:
        ConfigError: not exactly one of the two, or one that is negative (a half-life of zero included).
    """

    name = "recent_popularity"

    def __init__(self, *, window_days: float | None = 30.0, half_life_days: float | None = None) -> None:
        if (window_days is None) == (half_life_days is None):
            raise ConfigError(
                "recent popularity takes a window or a half-life",
                expected="exactly one of window_days and half_life_days",
                found=f"window_days={window_days}, half_life_days={half_life_days}",
                fix=f"set recent_popularity.window_days={'30' if window_days is None else 'null'}",
            )
        if window_days is not None and not window_days >= 0:
            raise ConfigError(
                "wrong window_days",
                expected="at least 0",
                found=window_days,
                fix="set recent_popularity.window_days=30",
            )
        if half_life_days is not None and not half_life_days > 0:
            raise ConfigError(
                "wrong half_life_days",
                expected="above 0",
                found=half_life_days,
                fix="set recent_popularity.half_life_days=30",
            )
        self.window_days = window_days
        self.half_life_days = half_life_days

    def fit(self, train: Ragged, *, num_items: int, timestamps: Ragged | None = None) -> Self:
        """See `Baseline.fit`; timestamps are required.

        Raises:
            DataError: the data have no timestamps.
        """
        if timestamps is None:
            raise DataError(
                "the data have no timestamps, which recent popularity needs",
                fix="leave recent_popularity out of models",
            )
        count_items(train, num_items)
        _, item, _ = train.flat()
        _, time, _ = timestamps.flat()
        if not np.array_equal(train.lengths, timestamps.lengths):
            raise DataError("timestamps are not parallel to the histories", expected=len(item), found=len(time))
        age_days = (time.max() - time) / SECONDS_PER_DAY
        if self.half_life_days is not None:
            weights = np.exp2(-age_days / self.half_life_days)
        else:
            weights = (age_days <= self.window_days).astype(np.float64)
        self.weights_ = np.bincount(item, weights=weights, minlength=num_items)
        return self

    def scores(self, histories: Ragged) -> BackoffScores:
        """See `Baseline.scores`."""
        check_items(histories, len(self.weights_))
        return BackoffScores(empty_scores(len(histories), len(self.weights_)), self.weights_)
