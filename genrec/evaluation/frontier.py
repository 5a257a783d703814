"""Recall against latency: how requests are timed, which settings are worth having, which one meets a target.

Pure functions of callables and arrays; must not know searches, configuration or artifacts.
"""
# S settings, R requests

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from genrec.errors import ConfigError

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_TARGET = re.compile(r"p(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)(us|ms|s)")


@dataclass(frozen=True)
class LatencyTarget:
    """So many percent of the requests within so many seconds."""

    percent: float
    seconds: float

    @classmethod
    def parse(cls, text: str, *, where: str | None = None) -> LatencyTarget:
        """From "p99:30ms".

        Raises:
            ConfigError: not of that form, a percentage that is not in (0, 100], or no time.

        >>> LatencyTarget.parse("p99:30ms"), LatencyTarget.parse("p50:1.5s").name
        (LatencyTarget(percent=99.0, seconds=0.03), 'p50')
        """
        match = _TARGET.fullmatch(text)
        percent, seconds = (float(match[1]), float(match[2]) * _UNITS[match[3]]) if match else (0.0, 0.0)
        if not 0 < percent <= 100 or not seconds > 0:
            raise ConfigError(
                "not a latency to meet",
                where=where,
                expected="a percentage of the requests and a time in us, ms or s, as in p99:30ms",
                found=repr(text),
            )
        return cls(percent, seconds)

    @property
    def name(self) -> str:
        """Of the percentile, "p99" say."""
        return f"p{self.percent:g}"


def time_requests(
    settings: Sequence[Callable[[int], object]],
    num_requests: int,
    *,
    warm_up: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Seconds of every request under every setting, one at a time.

    Each request goes through all settings before the next one, so what else the machine does hits all alike; which
    setting is first rotates, so that none always finds what another has left in the caches.

    Args:
        settings: S functions that serve the request of a number.
        num_requests: R.
        warm_up: requests, those of the numbers from 0 on, that go before and are not timed.
        clock: in seconds.
        progress: is told how many requests are done.

    Returns:
        [S, R] float64.
    """
    for number in range(warm_up):
        for serve in settings:
            serve(number % num_requests)
    seconds = np.empty((len(settings), num_requests))
    for number in range(num_requests):
        for turn in range(len(settings)):
            place = (turn + number) % len(settings)
            start = clock()
            settings[place](number)
            seconds[place, number] = clock() - start
        progress(number + 1)
    return seconds


def percentile(seconds: np.ndarray, percent: float) -> float:
    """The smallest of the values that at least so many percent of them do not exceed (nearest rank).

    >>> percentile(np.array([3.0, 1.0, 2.0, 4.0]), 50), percentile(np.array([3.0, 1.0, 2.0, 4.0]), 51)
    (2.0, 3.0)
    """
    rank = int(np.ceil(round(percent / 100 * len(seconds), 9)))
    return float(np.sort(seconds)[max(rank, 1) - 1])


def pareto(cost: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Which settings no other one beats: none costs no more and gains no less, with one of the two better.

    Args:
        cost: [S], lower is better.
        gain: [S], higher is better.

    Returns:
        [S] bool.

    >>> pareto(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.3, 0.2])).tolist()
    [True, True, False]
    """
    no_worse = (cost[:, None] <= cost) & (gain[:, None] >= gain)  # [i, j]: i is no worse than j
    return np.logical_not((no_worse & ~no_worse.T).any(axis=0))


def choose(cost: np.ndarray, gain: np.ndarray, limit: float) -> int | None:
    """The setting of the largest gain within a limit of the cost; of equal ones the cheapest, then the first.

    >>> choose(np.array([1.0, 2.0, 5.0]), np.array([0.1, 0.1, 0.9]), 3.0)
    0
    """
    fitting = np.flatnonzero(cost <= limit)
    if not len(fitting):
        return None
    return int(fitting[np.lexsort((cost[fitting], -gain[fitting]))[0]])
