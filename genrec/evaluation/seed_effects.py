"""Intervals and tests over seeds and cases: what another training, on other cases, would give.

Pure NumPy and SciPy; knows values, one a seed and case, and nothing of metrics or models. The statistic is the
difference of the means over seeds and cases.
"""

# S seeds of a system, C cases, U users among them

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from genrec.errors import DataError
from genrec.evaluation.significance import check_confidence, standard_errors


class TwoLevel(NamedTuple):
    """The difference of two systems over both levels.

    Attributes:
        difference: mean of a minus mean of b.
        low, high: its interval.
        p_value: two-sided, of "the difference is zero".
        standard_error: of the difference; from it the interval, with Student's t.
        cases_error: the part that comes from the cases.
        seeds_error: the part that comes from the seeds.
        degrees: of freedom, by Welch and Satterthwaite.
    """

    difference: float
    low: float
    high: float
    p_value: float
    standard_error: float
    cases_error: float
    seeds_error: float
    degrees: float

    def smallest_detectable_effect(self, *, significance: float = 0.05, power: float = 0.8) -> float:
        """The true difference that this test finds with the given probability, as if its error were known well."""
        quantiles = stats.t.ppf([1 - significance / 2, power], self.degrees)
        return float(quantiles.sum() * self.standard_error)


def two_level_test(
    a: np.ndarray, b: np.ndarray, users: np.ndarray | None = None, *, confidence: float = 0.95
) -> TwoLevel:
    """Two systems on the same cases, each trained from several seeds.

    The variance of the difference is the sum of that of the mean over users of the seeds' average difference, and of
    the variance of the seeds' means over the number of seeds, for each system that has more than one. It is judged by
    Student's t with the degrees of freedom of Welch and Satterthwaite.

    A bootstrap that draws seeds and users anew asks the same question, but with three seeds a side its interval is too
    short (it knows neither the factor S / (S - 1) nor the few degrees of freedom): under a seed effect of three times
    the cases' error it rejects a true null hypothesis in 16 % of the repetitions at the 5 % level, this test in 4 %
    (tests/unit/evaluation/test_seed_effects.py). What is random in single answers of a seed is in both parts, so where
    seeds do not matter the test errs on the side of caution (2 to 4 %).

    Args:
        a: [S_a, C] one value a seed and case. One row: a system without seeds, such as a count-based baseline.
        b: [S_b, C] likewise; not both may have one row.
        users: [C] integer, the user of each case; None: every case is a user of its own.
        confidence: of the interval.

    Raises:
        DataError: one row each, no row, different numbers of cases, or fewer than two users.

    >>> a, b = np.array([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 1.0]]), np.array([[0.0, 0.0, 1.0, 0.0]])
    >>> found = two_level_test(a, b)
    >>> found.difference, found.seeds_error
    (0.5, 0.0)
    """
    check_confidence(confidence)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) * len(b) > 1:
        expected = "[seeds, cases] of the same cases, two seeds or more on a side"
        raise DataError("values of two systems do not fit", expected=expected, found=f"{a.shape} and {b.shape}")
    differences = a.mean(axis=0) - b.mean(axis=0)
    (cases_error,) = standard_errors(differences[:, None], users)
    if cases_error is None:
        raise DataError("too few cases for a test", expected="two users or more", found=1)
    num_users = a.shape[1] if users is None else len(np.unique(users))
    parts = [(cases_error**2, num_users - 1)]
    parts += [(side.mean(axis=1).var(ddof=1) / len(side), len(side) - 1) for side in (a, b) if len(side) > 1]
    variance = sum(part for part, _ in parts)
    difference = float(differences.mean())
    if variance == 0:
        p_value = 1.0 if difference == 0 else 0.0
        return TwoLevel(difference, difference, difference, p_value, 0.0, 0.0, 0.0, float(num_users - 1))
    degrees = variance**2 / sum(part**2 / own for part, own in parts)
    error = float(np.sqrt(variance))
    reach = error * float(stats.t.ppf((1 + confidence) / 2, degrees))
    return TwoLevel(
        difference,
        difference - reach,
        difference + reach,
        float(2 * stats.t.sf(abs(difference) / error, degrees)),
        error,
        cases_error,
        float(np.sqrt(variance - parts[0][0])),
        float(degrees),
    )
