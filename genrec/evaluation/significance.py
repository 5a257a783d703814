"""Intervals and tests over evaluation cases.

Pure NumPy; knows values and differences, one a case, and nothing of metrics or models. Cases are the unit of
resampling, and all columns of a call share the same resamples, so differences between columns are paired. Resample r is
a function of (seed, r) alone: neither chunking nor the number of columns changes it.
"""

# C cases, M columns (one a model, mask and metric), R resamples

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


def resample_counts(num_cases: int, resamples: range, *, seed: int = 0) -> np.ndarray:
    """How often each case is drawn in each bootstrap resample.

    Args:
        num_cases: C; each resample draws C cases with replacement.
        resamples: which resamples, e.g. ``range(1000)``.
        seed: of all resamples.

    Returns:
        [len(resamples), C] float64, rows summing to C.
    """
    counts = np.empty((len(resamples), num_cases))
    for at, resample in enumerate(resamples):
        drawn = generator(seed, _BOOTSTRAP, resample).integers(0, num_cases, size=num_cases)
        counts[at] = np.bincount(drawn, minlength=num_cases)
    return counts


def bootstrap_means(
    values: np.ndarray | sp.csr_matrix, *, num_resamples: int = 1000, seed: int = 0, row_chunk: int | None = None
) -> np.ndarray:
    """Means of each column over bootstrap resamples of the cases.

    Counts matrix formulation: the mean under a resample is (counts of the cases . values) / C, one matrix product for
    all columns.

    Args:
        values: [C, M] one value a case, dense or CSR (metrics at a cut-off are mostly zero).
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
    num_cases, num_columns = shape
    step = _chunk_rows(num_cases, num_resamples, row_chunk)
    means = np.empty((num_resamples, num_columns))
    for start in range(0, num_resamples, step):
        stop = min(start + step, num_resamples)
        means[start:stop] = resample_counts(num_cases, range(start, stop), seed=seed) @ values
    return means / num_cases


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
        raise ConfigError("wrong confidence", expected="between 0 and 1", found=confidence)


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
    differences: np.ndarray, *, num_permutations: int = 1000, seed: int = 0, row_chunk: int | None = None
) -> np.ndarray:
    """Two-sided p-value of the paired permutation test.

    Under the null hypothesis the two models are exchangeable in each case, so every difference may change its sign:
    p = (1 + number of random sign patterns whose |mean| reaches the observed |mean|) / (1 + number of patterns).

    Args:
        differences: [C] or [C, M] differences, one a case; all columns share the sign patterns.
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
    num_cases = len(columns)
    step = _chunk_rows(num_cases, num_permutations, row_chunk)
    used = np.flatnonzero(columns.any(axis=1))  # signs of cases without a difference do not matter
    columns = columns[used]
    # Sums that are equal in exact arithmetic must count as reached whatever the order of summation.
    observed = np.abs(columns.sum(axis=0)) - 1e-9 * np.abs(columns).sum(axis=0)
    reached = np.zeros(columns.shape[1], dtype=np.int64)
    for start in range(0, num_permutations, step):
        stop = min(start + step, num_permutations)
        signs = np.empty((stop - start, len(used)))
        for at in range(start, stop):
            packed = generator(seed, _SIGN_FLIP, at).integers(0, 256, size=-(-num_cases // 8), dtype=np.uint8)
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


def standard_error(values: np.ndarray) -> float | None:
    """Standard error of the mean, None for fewer than two values.

    >>> standard_error(np.array([0.0, 1.0])), standard_error(np.array([1.0]))
    (0.5, None)
    """
    return None if len(values) < 2 else float(np.std(values, ddof=1) / np.sqrt(len(values)))


def smallest_detectable_effect(
    differences: np.ndarray, *, significance: float = 0.05, power: float = 0.8
) -> float | None:
    """The true mean difference that a two-sided paired test of this size finds with the given probability.

    (z(1 - significance / 2) + z(power)) times the standard error of the mean paired difference, z the normal quantile.

    Args:
        differences: [C] paired differences, one a case.
        significance: level of the test.
        power: probability to find it.

    Returns:
        In the unit of the differences; None for fewer than two cases.

    >>> round(smallest_detectable_effect(np.array([0.0, 1.0])), 3)
    1.401
    """
    error = standard_error(differences)
    quantile = NormalDist().inv_cdf
    return None if error is None else (quantile(1.0 - significance / 2.0) + quantile(power)) * error


def _chunk_rows(num_cases: int, num_rows: int, row_chunk: int | None) -> int:
    if num_cases == 0:
        raise DataError("no evaluation cases", fix="check the split")
    if num_rows < 1:
        raise ConfigError("too few resamples", expected="at least 1", found=num_rows)
    return row_chunk or max(1, _CHUNK_ELEMENTS // num_cases)
