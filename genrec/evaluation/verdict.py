"""Is a number that was measured the number that was published? Pure functions of floats.

The mean decides, against the published value and a tolerance that was written down before; the interval says whether
more seeds could change the answer. An interval alone would call everything reproduced that is noisy enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from scipy.special import stdtrit

from genrec.errors import DataError
from genrec.evaluation.significance import check_confidence

Verdict = Literal["reproduced", "above", "below"]
ROUNDING = 1e-9  # of sums and decimal fractions; far below what anyone publishes


class Judgement(NamedTuple):
    """What a measurement says of a published number.

    Attributes:
        verdict: where the mean is: within the tolerance, above or below it.
        is_settled: the whole interval is where the mean is.
    """

    verdict: Verdict
    is_settled: bool


def place(value: float, published: float, tolerance: float) -> Verdict:
    """Where a value is; both ends of the tolerance belong to it.

    >>> place(0.0972, 0.0970, 0.0002), place(0.0975, 0.0970, 0.0002), place(0.0, 0.0970, 0.0002)
    ('reproduced', 'above', 'below')
    """
    difference = value - published
    if abs(difference) <= tolerance + ROUNDING:
        return "reproduced"
    return "above" if difference > 0 else "below"


def judge(mean: float, interval: tuple[float, float] | None, *, published: float, tolerance: float) -> Judgement:
    """The verdict on a mean, and whether its interval leaves another one open.

    Args:
        mean: over seeds.
        interval: low and high; None: nothing is left to chance.
        published: the number to compare with.
        tolerance: largest difference that counts as none, at least 0.

    >>> judge(0.060, (0.055, 0.065), published=0.0608, tolerance=0.004)
    Judgement(verdict='reproduced', is_settled=False)
    >>> judge(0.030, (0.025, 0.035), published=0.0608, tolerance=0.004)
    Judgement(verdict='below', is_settled=True)
    """
    verdict = place(mean, published, tolerance)
    ends = interval or (mean, mean)
    return Judgement(verdict, all(place(end, published, tolerance) == verdict for end in ends))


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict on several numbers: reproduced if all are; below as soon as one is, above otherwise.

    >>> together(["reproduced", "above"]), together(["above", "below"])
    ('above', 'below')
    """
    if "below" in verdicts:
        return "below"
    return "above" if "above" in verdicts else "reproduced"


def seed_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean over independent trainings: mean +- t(n - 1) s / sqrt(n).

    Args:
        values: one of each seed, two or more.
        confidence: in (0, 1).

    Raises:
        DataError: fewer than two values.
        ConfigError: `confidence` outside (0, 1).

    >>> [round(end, 4) for end in seed_interval([0.060, 0.062, 0.064])]
    [0.057, 0.067]
    """
    check_confidence(confidence)
    number = len(values)
    if number < 2:
        raise DataError("one training has no interval over seeds", found=f"{number} values")
    mean = math.fsum(values) / number
    variance = math.fsum((value - mean) ** 2 for value in values) / (number - 1)
    half = float(stdtrit(number - 1, 0.5 + confidence / 2.0)) * math.sqrt(variance / number)
    return mean - half, mean + half
