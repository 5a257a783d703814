"""Percentiles, the frontier and the choice against loops; the order of timed requests, by a clock that counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.errors import ConfigError
from genrec.evaluation.frontier import LatencyTarget, choose, pareto, percentile, time_requests

few = st.integers(0, 4).map(float)  # many of them equal
settings_of = st.lists(st.tuples(few, few), min_size=1, max_size=8)


def columns(settings: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    cost, gain = zip(*settings, strict=True)
    return np.array(cost), np.array(gain)


@given(settings_of)
def test_the_frontier_is_what_no_other_beats(settings: list[tuple[float, float]]) -> None:
    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one != other and one[0] <= other[0] and one[1] >= other[1]

    found = pareto(*columns(settings)).tolist()
    assert found == [not any(beats(one, other) for one in settings) for other in settings]
    assert any(found)
    for place, setting in enumerate(settings):  # what is not on it is beaten by something that is
        on = [one for one, is_on in zip(settings, found, strict=True) if is_on]
        assert found[place] or any(beats(one, setting) for one in on)


@given(settings_of, few)
def test_the_choice_is_the_best_within_the_limit_and_on_its_frontier(
    settings: list[tuple[float, float]], limit: float
) -> None:
    cost, gain = columns(settings)
    fitting = [place for place in range(len(settings)) if cost[place] <= limit]
    best = min(fitting, key=lambda place: (-gain[place], cost[place], place), default=None)
    found = choose(cost, gain, limit)
    assert found == best
    assert found is None or pareto(cost, gain)[found]


@given(st.lists(few, min_size=1, max_size=30), st.floats(0.5, 100))
def test_a_percentile_is_the_least_that_so_many_do_not_exceed(seconds: list[float], percent: float) -> None:
    def covers(value: float) -> bool:
        return 100 * sum(each <= value for each in seconds) >= percent * len(seconds) * (1 - 1e-12)

    assert percentile(np.array(seconds), percent) == min(filter(covers, seconds))


def test_percentiles_of_round_numbers() -> None:
    seconds = np.arange(200, 0, -1.0)
    assert [percentile(seconds, at) for at in (0.1, 50, 99, 99.5, 100)] == [1, 100, 198, 199, 200]


def test_requests_take_turns_and_warm_ups_are_not_timed() -> None:
    served: list[tuple[str, int]] = []
    now = 0.0

    def serve(name: str, takes: float, number: int) -> None:
        nonlocal now
        served.append((name, number))
        now += takes + number

    searches = [lambda number: serve("a", 10, number), lambda number: serve("b", 20, number)]
    done: list[int] = []
    seconds = time_requests(searches, 3, warm_up=4, clock=lambda: now, progress=done.append)
    assert seconds.tolist() == [[10, 11, 12], [20, 21, 22]]
    assert done == [1, 2, 3]
    assert served[:8] == [(name, number) for number in (0, 1, 2, 0) for name in "ab"]
    assert served[8:] == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]


def test_targets_are_read() -> None:
    assert LatencyTarget.parse("p99.9:250us") == LatencyTarget(99.9, 250e-6)
    assert LatencyTarget.parse("p99.9:250us").name == "p99.9"
    assert LatencyTarget.parse("p50:2s").seconds == 2


@pytest.mark.parametrize("text", ["99:30ms", "p99", "p99:30", "p0:1ms", "p101:1ms", "p99:0ms", "p99:30 ms", ""])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"key 'target': not a latency to meet \(expected .* as in p99:30ms"):
        LatencyTarget.parse(text, where="key 'target'")
