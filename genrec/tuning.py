"""Search for the best values of a few settings: random trials, then steps around the best.

Pure: the next trial is a function of space, seed and the trials so far, so a search that was interrupted goes on
exactly. Knows nothing of what is tuned, of metrics or run folders: whoever owns them asks for a trial and reports a
score.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from genrec.errors import ConfigError, DataError
from genrec.seeding import generator

Params = dict[str, Any]
Space = Mapping[str, Sequence[Any]]
Trial = tuple[Params, float | None]  # a trial that failed has no score

_MAX_REDRAWS = 1000
_LEAST_OTHERS = 5


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
    """The points that differ from `best` in one key by one step, keys in the order of the space.

    A step of a number is to the next lower or the next higher value, lower first; whatever else a key may be (names,
    flags, lists) has no order, so that a step leads to each of its other values.

    Raises:
        ConfigError: `best` is not a point of the space.

    >>> coordinate_neighbours({"window": 2, "decay": 0.5}, {"window": (1, 2, 3), "decay": (0.5, 0.7)})
    [{'window': 1, 'decay': 0.5}, {'window': 3, 'decay': 0.5}, {'window': 2, 'decay': 0.7}]
    >>> coordinate_neighbours({"loss": "a"}, {"loss": ("b", "a", "c")})
    [{'loss': 'b'}, {'loss': 'c'}]
    """
    _check_space(space)
    neighbours = []
    for key, values in space.items():
        if key not in best or best[key] not in values:
            raise ConfigError(f"a trial is not in the space: {key}={best.get(key)}", expected=f"one of {list(values)}")
        neighbours += [{**best, key: value} for value in _steps(best[key], values)]
    return neighbours


def best_trial(history: Sequence[Trial]) -> tuple[Params, float]:
    """The trial with the highest score, the earliest among equals; failed ones do not count.

    Raises:
        DataError: no trial has a score, or one is not a number.

    >>> best_trial([({"window": 1}, None), ({"window": 2}, 0.3), ({"window": 3}, 0.3)])
    ({'window': 2}, 0.3)
    """
    scored = [(params, score) for params, score in history if score is not None]
    if not scored:
        raise DataError("no trial has a score" if history else "no trials yet")
    for params, score in scored:
        if not math.isfinite(score):
            raise DataError(f"the score of trial {params} is not a number", found=score)
    return max(scored, key=lambda trial: trial[1])


def luck(score: float, *, num_cases: int, num_trials: int) -> tuple[float, float]:
    """How far chance alone may move the score of one trial, and lift that of the best of several.

    The variance of values in [0, 1] is at most that of coin tosses with their mean; the expected maximum of n normal
    variables of standard deviation s is at most s sqrt(2 ln n), whether they are independent or, as trials on the same
    cases, not (Boucheron, Lugosi and Massart 2013, theorem 2.5).

    Args:
        score: a mean over cases of values in [0, 1], as recall and NDCG of one target are.
        num_cases: how many, at least 1.
        num_trials: of which it is the best, at least 1.

    Returns:
        Upper bounds of its standard error and of the selection bias among trials that are equally good.

    >>> error, bias = luck(0.1, num_cases=900, num_trials=20)
    >>> f"{error:.4f} {bias:.4f}"
    '0.0100 0.0245'
    """
    error = math.sqrt(score * (1 - score) / num_cases)
    return error, error * math.sqrt(2 * math.log(num_trials))


def is_hopeless(scores: Sequence[float], others: Sequence[Sequence[float]], *, after: int) -> bool:
    """Whether a trial is below the median of the others at the same validation.

    Source: the median stopping rule of Google Vizier (Golovin et al. 2017, section 3.2.1). We compare the best scores
    so far where it has running means, and ask for five others before any trial is stopped. Those that ended earlier
    count with their best. A trial that is stopped is not the best of all trials: half of the others are above it.

    Args:
        scores: of the trial's validations so far, the higher the better.
        others: likewise those of earlier trials.
        after: validations without judgement, at least 1.

    >>> is_hopeless([0.1, 0.2], [[0.2, 0.3]] * 5, after=2), is_hopeless([0.1, 0.4], [[0.2, 0.3]] * 5, after=2)
    (True, False)
    >>> is_hopeless([0.1], [[0.2, 0.3]] * 5, after=2), is_hopeless([0.1, 0.2], [[0.2, 0.3]] * 4, after=2)
    (False, False)
    """
    if len(scores) < after or len(others) < _LEAST_OTHERS:
        return False
    return max(scores) < statistics.median(max(other[: len(scores)]) for other in others)


class CoordinateSearch:
    """Random trials first, then steps of one key at a time around the best so far, until none is left.

    Where all random trials failed, more are drawn.

    Holds settings only. The caller keeps the history of (params, score), in the order of the proposals.

    Args:
        space: key to its values.
        num_trials: trials in all.
        num_random: random trials before the steps.
        seed: of the random trials.

    Raises:
        ConfigError: a number below 1, or a space without values.
    """

    def __init__(self, space: Space, *, num_trials: int = 100, num_random: int = 40, seed: int = 0) -> None:
        if num_trials < 1 or num_random < 1:
            raise ConfigError(
                "too few trials",
                expected="at least 1",
                found=f"num_trials={num_trials}, num_random={num_random}",
                fix="set num_trials=100 num_random=40",
            )
        self.space = {key: tuple(values) for key, values in space.items()}
        self.num_trials = num_trials
        self.num_random = num_random
        self._random_trials = random_trials(self.space, num_trials, seed)

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
        has_best = any(score is not None for _, score in history)
        if number < len(self._random_trials) and (number < self.num_random or not has_best):
            return dict(self._random_trials[number])
        if not has_best:
            return None
        tried = [params for params, _ in history]
        best, _ = best_trial(history)
        return next((params for params in coordinate_neighbours(best, self.space) if params not in tried), None)


def _steps(value: Any, values: Sequence[Any]) -> list[Any]:
    if not all(isinstance(entry, int | float) and not isinstance(entry, bool) for entry in values):
        return [entry for entry in values if entry != value]
    ordered = sorted(values)
    at = ordered.index(value)
    return [ordered[near] for near in (at - 1, at + 1) if 0 <= near < len(ordered)]


def _check_space(space: Space) -> None:
    for key, values in space.items():
        if not values or any(value in values[:number] for number, value in enumerate(values)):
            raise ConfigError(
                f"wrong values to search for {key!r}",
                where=f"key 'space.{key}'",
                expected="distinct values",
                found=list(values),
            )
