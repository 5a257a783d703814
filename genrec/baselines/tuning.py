"""Search for the constants of item-kNN: which trial comes next, and a fit that re-uses co-occurrence counts.

Pure: the next trial is a function of space, seed and the trials so far, so a search that was interrupted goes on
exactly. Knows nothing of metrics, run folders or configuration: whoever owns them asks for a trial and reports a score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from genrec.baselines.base import count_items
from genrec.baselines.item_knn import DirectedItemKnn, decayed_cooccurrence
from genrec.baselines.transitions import lag_counts
from genrec.data.sequences import Ragged
from genrec.errors import ConfigError, DataError
from genrec.seeding import generator

Params = dict[str, Any]
Space = Mapping[str, Sequence[float]]
Trial = tuple[Params, float]

KNN_SPACE: Space = {
    "window": (3, 5, 8, 12),
    "decay": (0.5, 0.7, 0.85, 1.0),
    "backward": (0.0, 0.25, 0.5, 1.0),
    "source_power": (0.0, 0.25, 0.5, 0.75),
    "target_power": (0.0, 0.15, 0.3, 0.45),
    "history_decay": (0.35, 0.5, 0.65, 0.8),
}

_MAX_REDRAWS = 1000
_MAX_KEPT = 4  # co-occurrence matrices, each of the order of the training part times the window


def random_trials(space: Space, num_trials: int, seed: int) -> list[Params]:
    """Distinct random points of the space, each value of each key equally likely.

    Trial i is drawn with the generator of (seed, i, attempt); an attempt that repeats an earlier trial is drawn anew.
    So the first trials do not depend on how many are asked for.

    Args:
        space: key to its values.
        num_trials: how many; fewer come back if the space has fewer points.
        seed: of the draws.

    Raises:
        ConfigError: a key without values or with repeated ones.

    >>> random_trials({"window": (1, 2), "decay": (0.5,)}, 5, seed=0) in (
    ...     [{"window": 1, "decay": 0.5}, {"window": 2, "decay": 0.5}],
    ...     [{"window": 2, "decay": 0.5}, {"window": 1, "decay": 0.5}],
    ... )
    True
    """
    _check_space(space)
    trials: list[Params] = []
    for number in range(min(num_trials, math.prod(len(values) for values in space.values()))):
        for attempt in range(_MAX_REDRAWS):
            random = generator(seed, number, attempt)
            trial = {key: values[int(random.integers(len(values)))] for key, values in space.items()}
            if trial not in trials:
                trials.append(trial)
                break
        else:  # nearly all of a small space is drawn, and chance is slow to find the rest
            return trials
    return trials


def coordinate_neighbours(best: Params, space: Space) -> list[Params]:
    """The points that differ from `best` in one key by one step, keys in the order of the space, lower value first.

    Raises:
        ConfigError: `best` is not a point of the space.

    >>> coordinate_neighbours({"window": 2, "decay": 0.5}, {"window": (1, 2, 3), "decay": (0.5, 0.7)})
    [{'window': 1, 'decay': 0.5}, {'window': 3, 'decay': 0.5}, {'window': 2, 'decay': 0.7}]
    """
    _check_space(space)
    neighbours = []
    for key, values in space.items():
        ordered = sorted(values)
        if key not in best or best[key] not in ordered:
            raise ConfigError(f"a trial is not in the space: {key}={best.get(key)}", expected=f"one of {ordered}")
        at = ordered.index(best[key])
        neighbours += [{**best, key: ordered[near]} for near in (at - 1, at + 1) if 0 <= near < len(ordered)]
    return neighbours


def best_trial(history: Sequence[Trial]) -> Trial:
    """The trial with the highest score, the earliest among equals.

    Raises:
        DataError: no trials, or a score that is not a number.

    >>> best_trial([({"window": 1}, 0.1), ({"window": 2}, 0.3), ({"window": 3}, 0.3)])
    ({'window': 2}, 0.3)
    """
    if not history:
        raise DataError("no trials yet")
    for params, score in history:
        if not math.isfinite(score):
            raise DataError(f"the score of trial {params} is not a number", found=score)
    return max(history, key=lambda trial: trial[1])


class KnnSearch:
    """Random trials first, then steps of one key at a time around the best so far, until none is left.

    Holds settings only. The caller keeps the history of (params, score), in the order of the proposals.

    Args:
        space: key to its values.
        num_trials: trials in all.
        num_random: random trials before the steps.
        seed: of the random trials.

    Raises:
        ConfigError: a number below 1, or a space without values.
    """

    def __init__(self, space: Space = KNN_SPACE, *, num_trials: int = 100, num_random: int = 40, seed: int = 0) -> None:
        if num_trials < 1 or num_random < 1:
            raise ConfigError(
                "too few trials",
                expected="at least 1",
                found=f"num_trials={num_trials}, num_random={num_random}",
                fix="set num_trials=100 num_random=40",
            )
        self.space = {key: tuple(values) for key, values in space.items()}
        self.num_trials = num_trials
        self._random_trials = random_trials(self.space, min(num_random, num_trials), seed)

    def propose(self, history: Sequence[Trial]) -> Params | None:
        """The next trial, a function of the settings and the history; None when the search is over.

        Raises:
            ConfigError: the history was not made by a search with these settings.
            DataError: a score is not a number.
        """
        for number in range(len(history)):
            expected, found = self._next(history[:number]), history[number][0]
            if expected != found:
                raise ConfigError(
                    "the trials so far come from another search",
                    where=f"trial {number + 1}",
                    expected=expected,
                    found=found,
                    fix="resume with the settings it was started with",
                )
        return self._next(history)

    def _next(self, history: Sequence[Trial]) -> Params | None:
        number = len(history)
        if number >= self.num_trials:
            return None
        if number < len(self._random_trials):
            return dict(self._random_trials[number])
        tried = [params for params, _ in history]
        best, _ = best_trial(history)
        return next((params for params in coordinate_neighbours(best, self.space) if params not in tried), None)


class KnnFactory:
    """Fits item-kNN with many settings on the same data: pairs are counted once, the last few T are kept.

    Args:
        train: training histories, oldest first.
        num_items: N.
        max_window: largest window that will be asked for.

    Raises:
        DataError: no interactions, or an index outside the catalogue.
    """

    def __init__(self, train: Ragged, *, num_items: int, max_window: int) -> None:
        self.item_counts = count_items(train, num_items)
        self._lags = lag_counts(train, num_items, max_window)
        self._cooccurrence: dict[tuple[int, float], sp.csr_matrix] = {}

    def fit(self, params: Params, *, history_length: int = 20) -> DirectedItemKnn:
        """The same model as ``DirectedItemKnn(**params).fit(train)``.

        Raises:
            ConfigError: a value out of range, or a window above `max_window`.
        """
        model = DirectedItemKnn(**params, history_length=history_length)
        if model.window > len(self._lags):
            raise ConfigError("window too large", expected=f"at most {len(self._lags)}", found=model.window)
        key = (model.window, float(model.decay))
        if key not in self._cooccurrence:
            if len(self._cooccurrence) == _MAX_KEPT:
                del self._cooccurrence[next(iter(self._cooccurrence))]  # the one made first
            self._cooccurrence[key] = decayed_cooccurrence(self._lags[: model.window], model.decay)
        return model.fit_cooccurrence(self._cooccurrence[key], np.asarray(self.item_counts))


def _check_space(space: Space) -> None:
    for key, values in space.items():
        if not values or len(set(values)) < len(values):
            raise ConfigError(
                f"wrong values to search for {key!r}",
                where=f"key 'space.{key}'",
                expected="distinct values",
                found=list(values),
            )
