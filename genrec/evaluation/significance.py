"""Intervals and tests over evaluation cases.

Pure NumPy and scipy.sparse; knows values and differences, one a case, and nothing of metrics or models. The statistic
is always the mean over cases. Users are the unit of resampling: the cases of one user are not independent, and come and
go together. Without `users`, every case is a user of its own. All columns of a call share the same resamples, so
differences between columns are paired. Resample r is a function of (seed, r) alone: neither chunking nor the number of
columns changes it.
"""

# C cases, U users among them, M columns (one a model, mask and metric), R resamples

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import scipy.sparse as sp

from genrec.errors import ConfigError, DataError
from genrec.seeding import generator

_BOOTSTRAP, _SIGN_FLIP = 1, 2  # streams of randomness below one seed
_CHUNK_ELEMENTS = 1 << 21  # counts or signs held at a time


def resample_counts(num_users: int, resamples: range, *, seed: int = 0) -> np.ndarray:
    """How often each user is drawn in each bootstrap resample.

    Args:
        num_users: U; each resample draws U users with replacement.
        resamples: which resamples, e.g. ``range(1000)``.
        seed: of all resamples.

    Returns:
        [len(resamples), U] float64, rows summing to U.
    """
    counts = np.empty((len(resamples), num_users))
    for at, resample in enumerate(resamples):
        drawn = generator(seed, _BOOTSTRAP, resample).integers(0, num_users, size=num_users)
        counts[at] = np.bincount(drawn, minlength=num_users)
    return counts


def sums_by_user(values: Any, users: np.ndarray | None = None) -> tuple[Any, np.ndarray]:
    """The sum of each column over the cases of each user, users in the order of their first case.

    Args:
        values: [C, M], dense or CSR.
        users: [C] integer, the user of each case; None: every case is a user of its own.

    Returns:
        sums [U, M] in the form of `values`, and the number of cases of each user, [U] float64.

    >>> sums, sizes = sums_by_user(np.array([[1.0], [2.0], [4.0]]), np.array([7, 3, 7]))
    >>> sums.tolist(), sizes.tolist()
    ([[5.0], [2.0]], [2.0, 1.0])
    """
    num_cases = values.shape[0]
    if users is not None:
        _, first, group = np.unique(users, return_index=True, return_inverse=True)
        if len(first) < num_cases:
            place = np.empty(len(first), dtype=np.int64)
            place[np.argsort(first)] = np.arange(len(first))
            group = place[group]
            indicator = sp.csr_matrix((np.ones(num_cases), (group, np.arange(num_cases))))
            return indicator @ values, np.bincount(group).astype(np.float64)
    return values, np.ones(num_cases)


def bootstrap_means(
    values: np.ndarray | sp.csr_matrix,
    users: np.ndarray | None = None,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    row_chunk: int | None = None,
) -> np.ndarray:
    """Means of each column over the cases of bootstrap resamples of the users (cluster bootstrap).

    Counts matrix formulation: the mean under a resample is (counts of the users . their sums) / (counts . their numbers
    of cases), one matrix product for all columns.

    Args:
        values: [C, M] one value a case, dense or CSR (metrics at a cut-off are mostly zero).
        users: [C] integer, the user of each case; None: every case is a user of its own.
        num_resamples: R.
        seed: of the resamples.
        row_chunk: resamples done at a time; by default what keeps the counts in about 16 MB.

    Returns:
        [R, M] float64.

    Raises:
        DataError: no cases.
        ConfigError: `num_resamples` below 1.
    """
    shape: Any = values.shape
    check_resamples(num_resamples)
    _check_cases(shape[0])
    sums, sizes = sums_by_user(values, users)
    step = row_chunk or max(1, _CHUNK_ELEMENTS // len(sizes))
    means = np.empty((num_resamples, shape[1]))
    for start in range(0, num_resamples, step):
        stop = min(start + step, num_resamples)
        counts = resample_counts(len(sizes), range(start, stop), seed=seed)
        means[start:stop] = (counts @ sums) / (counts @ sizes)[:, None]
    return means


def percentile_interval(means: np.ndarray, *, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of each column.

    Args:
        means: [R, ...] means (or paired differences of means) over resamples.
        confidence: in (0, 1).

    Returns:
        low and high, [...] each.

    >>> low, high = percentile_interval(np.arange(101.0), confidence=0.5)
    >>> low.item(), high.item()
    (25.0, 75.0)
    """
    check_confidence(confidence)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail], axis=0)
    return low, high


def check_confidence(confidence: float) -> None:
    """Raises ConfigError unless it lies in (0, 1)."""
    if not 0.0 < confidence < 1.0:
        raise ConfigError("wrong confidence", expected="between 0 and 1", found=confidence, fix="set confidence=0.95")


def check_resamples(number: int, what: str = "num_resamples") -> None:
    """Raises ConfigError if it is below 1."""
    if number < 1:
        raise ConfigError(f"too few resamples: {what}", expected="at least 1", found=number, fix=f"set {what}=1000")


def bootstrap_p_value(difference_means: np.ndarray) -> np.ndarray:
    """Two-sided p-value of "the difference is zero" from paired bootstrap differences.

    Twice the smaller share of resamples on either side of zero (zeros on both), with the observed sample added to both
    counts, so that it is never 0; it inverts the percentile interval.

    Args:
        difference_means: [R, ...] mean differences over the same resamples.

    Returns:
        [...] in (0, 1].

    >>> bootstrap_p_value(np.array([[1.0], [2.0], [3.0]])).tolist()
    [0.5]
    """
    num_resamples = len(difference_means)
    below = np.count_nonzero(difference_means <= 0.0, axis=0) + 1
    above = np.count_nonzero(difference_means >= 0.0, axis=0) + 1
    return np.minimum(1.0, 2.0 * np.minimum(below, above) / (num_resamples + 1))


def sign_flip_p_value(
    differences: np.ndarray,
    users: np.ndarray | None = None,
    *,
    num_permutations: int = 10_000,
    seed: int = 0,
    row_chunk: int | None = None,
) -> np.ndarray:
    """Two-sided p-value of the paired permutation test.

    Under the null hypothesis the two models are exchangeable for each user, so the differences of a user may change
    their sign together:
    p = (1 + number of random sign patterns whose |mean| reaches the observed |mean|) / (1 + number of patterns).

    Args:
        differences: [C] or [C, M] differences, one a case; all columns share the sign patterns.
        users: [C] integer, the user of each case; None: every case is a user of its own.
        num_permutations: sign patterns to draw.
        seed: of the patterns.
        row_chunk: patterns done at a time.

    Returns:
        [] or [M] in (0, 1]. A column of zeros gives 1.

    Raises:
        DataError: no cases.
        ConfigError: `num_permutations` below 1.

    >>> sign_flip_p_value(np.zeros(5)).item()
    1.0
    """
    columns = differences[:, None] if differences.ndim == 1 else differences
    check_resamples(num_permutations, "num_permutations")
    _check_cases(len(columns))
    columns, sizes = sums_by_user(columns, users)
    used = np.flatnonzero(columns.any(axis=1))  # signs of users without a difference do not matter
    columns = columns[used]
    step = row_chunk or max(1, _CHUNK_ELEMENTS // max(1, len(used)))
    # Sums that are equal in exact arithmetic must count as reached whatever the order of summation.
    observed = np.abs(columns.sum(axis=0)) - 1e-9 * np.abs(columns).sum(axis=0)
    reached = np.zeros(columns.shape[1], dtype=np.int64)
    for start in range(0, num_permutations, step):
        stop = min(start + step, num_permutations)
        signs = np.empty((stop - start, len(used)))
        for at in range(start, stop):
            packed = generator(seed, _SIGN_FLIP, at).integers(0, 256, size=-(-len(sizes) // 8), dtype=np.uint8)
            signs[at - start] = np.unpackbits(packed)[used]
        reached += np.count_nonzero(np.abs((2.0 * signs - 1.0) @ columns) >= observed, axis=0)
    return ((1 + reached) / (1 + num_permutations)).reshape(differences.shape[1:])


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down correction: controls the chance of one or more false discoveries in the whole family.

    Adjusted p of the i-th smallest (0-based) of m: the running maximum of (m - i) p_i, at most 1.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * p_values[order]))
    return adjusted


def standard_errors(values: np.ndarray, users: np.ndarray | None = None) -> list[float | None]:
    """Standard error of the mean of each column, clustered by user; None for fewer than two users.

    The linearised variance of a ratio: with residuals e_u = sum of u's values - mean * number of u's cases, its square
    is U / (U - 1) times the sum of e_u^2, over C^2. One case a user: the standard deviation over the root of C.

    Args:
        values: [C, M] one value a case.
        users: [C] integer, the user of each case; None: every case is a user of its own.

    >>> standard_errors(np.array([[0.0], [1.0]])), standard_errors(np.array([[1.0]]))
    ([0.5], [None])
    >>> standard_errors(np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([1, 1, 2, 2]))
    [0.5]
    """
    sums, sizes = sums_by_user(values, users)
    num_users = len(sizes)
    if num_users < 2:
        return [None] * values.shape[1]
    residuals = sums - sizes[:, None] * values.mean(axis=0)
    errors = np.sqrt(np.square(residuals).sum(axis=0) * num_users / (num_users - 1)) / len(values)
    return errors.tolist()


def smallest_detectable_effect(
    differences: np.ndarray, users: np.ndarray | None = None, *, significance: float = 0.05, power: float = 0.8
) -> float | None:
    """The true mean difference that a two-sided paired test of this size finds with the given probability.

    (z(1 - significance / 2) + z(power)) times the standard error of the mean paired difference, z the normal quantile.

    Args:
        differences: [C] paired differences, one a case.
        users: [C] integer, the user of each case; None: every case is a user of its own.
        significance: level of the test.
        power: probability to find it.

    Returns:
        In the unit of the differences; None for fewer than two users.

    >>> round(smallest_detectable_effect(np.array([0.0, 1.0])), 3)
    1.401
    """
    (error,) = standard_errors(differences[:, None], users)
    quantile = NormalDist().inv_cdf
    return None if error is None else (quantile(1.0 - significance / 2.0) + quantile(power)) * error


def _check_cases(num_cases: int) -> None:
    if num_cases == 0:
        raise DataError("no evaluation cases", fix="choose another split, as in split=validation")
