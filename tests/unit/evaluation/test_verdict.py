"""Verdicts on published numbers: the edges of the tolerance, and intervals that cover what they promise to."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from genrec.errors import ConfigError, DataError
from genrec.evaluation.verdict import judge, place, seed_interval, together


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0600, "reproduced"),
        (0.0620, "reproduced"),
        (0.0580, "reproduced"),
        (0.0620001, "above"),
        (0.0579999, "below"),
        (0.0, "below"),
        (1.0, "above"),
    ],
)
def test_both_ends_of_the_tolerance_belong_to_it(value: float, expected: str) -> None:
    assert place(value, 0.0600, 0.0020) == expected


def test_no_tolerance_is_equality_up_to_rounding() -> None:
    assert place(0.1 + 0.2, 0.3, 0.0) == "reproduced"
    assert place(0.3001, 0.3, 0.0) == "above"


@pytest.mark.parametrize(
    ("mean", "interval", "expected"),
    [
        (0.060, (0.059, 0.061), ("reproduced", True)),
        (0.060, (0.057, 0.061), ("reproduced", False)),
        (0.060, (0.050, 0.070), ("reproduced", False)),
        (0.065, (0.063, 0.067), ("above", True)),
        (0.065, (0.061, 0.069), ("above", False)),
        (0.055, (0.053, 0.057), ("below", True)),
        # An interval so wide that it holds the published number does not make a distant mean the published number.
        (0.040, (0.000, 0.080), ("below", False)),
        (0.060, None, ("reproduced", True)),
        (0.050, None, ("below", True)),
    ],
)
def test_the_mean_decides_and_the_interval_settles(
    mean: float, interval: tuple[float, float] | None, expected: tuple[str, bool]
) -> None:
    assert tuple(judge(mean, interval, published=0.060, tolerance=0.002)) == expected


def test_one_verdict_on_several_numbers() -> None:
    assert together(["reproduced", "reproduced"]) == "reproduced"
    assert together(["reproduced", "above"]) == "above"
    assert together(["above", "reproduced", "below"]) == "below"


@pytest.mark.parametrize("values", [[0.06, 0.07], [0.061, 0.0605, 0.0655], [0.2, 0.1, 0.4, 0.3, 0.15]])
def test_seed_intervals_are_students(values: list[float]) -> None:
    expected = stats.t.interval(0.9, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert seed_interval(values, confidence=0.9) == pytest.approx(expected, rel=1e-9)


def test_seeds_that_agree_leave_no_width_and_one_seed_says_nothing() -> None:
    assert seed_interval([0.06, 0.06, 0.06]) == pytest.approx((0.06, 0.06))
    with pytest.raises(DataError, match="found 1 values"):
        seed_interval([0.06])
    with pytest.raises(ConfigError, match="confidence"):
        seed_interval([0.06, 0.07], confidence=1.0)


def test_seed_intervals_cover_the_mean_as_often_as_they_say() -> None:
    drawn = np.random.default_rng(0).normal(0.06, 0.002, size=(2000, 3))
    covered = [low <= 0.06 <= high for low, high in map(seed_interval, drawn.tolist())]
    assert 0.935 <= np.mean(covered) <= 0.965
