"""The nearest code of each vector, exactly and whatever else is encoded beside. Knows arrays only."""
# n vectors, E width, K codes

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Int32

LARGEST = 1e15  # of a coordinate: squared distances must stay within float32
_CHUNK_NUMBERS = 2**21


def nearest_codes(
    vectors: Float32[np.ndarray, "n E"],
    codebook: Float32[np.ndarray, "K E"],
    bias: Float32[np.ndarray, " K"] | None = None,
) -> Int32[np.ndarray, "n"]:
    """argmin_k |vectors - codebook[k]|^2 + bias[k], as if computed in float64; ties to the lower code.

    (|b|^2 + bias) / 2 - <x, b> in float32 says which codes can be nearest: all that are no farther than its rounding
    error, for which there is a bound. Where these are several, squared differences in float64, summed vector by vector,
    decide. So a vector's code depends on no other vector and no library's order of summation, at the price of one
    product.

    Args:
        vectors: finite, no coordinate above `LARGEST`. Needs n * (E + 2 K) numbers of memory.
        codebook: likewise.
        bias: what a code costs beside the distance, at least 0; None: nothing.

    >>> vectors, codebook = np.float32([[1.0], [9.0]]), np.float32([[2.0], [0.0], [9.0]])
    >>> nearest_codes(vectors, codebook)
    array([0, 2], dtype=int32)
    >>> nearest_codes(vectors, codebook, np.float32([1.0, 0.0, 0.0]))
    array([1, 2], dtype=int32)
    """
    half = np.square(codebook, dtype=np.float64).sum(axis=1)
    half = 0.5 * (half if bias is None else half + bias)
    scores = vectors @ codebook.T
    np.subtract(half.astype(np.float32), scores, out=scores)
    # A sum of E products errs by at most E u |x| |b| in any order (Higham, Accuracy and Stability, section 3.1), and
    # products below the normal range by 2^-126 each; the rest is the rounding of (|b|^2 + bias) / 2, of the difference
    # and of this bound. Twice the error, since two scores are compared.
    width = vectors.shape[1]
    lengths = _lengths_at_most(vectors)
    bound = (width + 8) * (2.0**-24 * (lengths * np.sqrt(2 * half.max()) + half.max()) + 2.0**-126)
    rows, codes = np.arange(len(scores)), scores.argmin(axis=1)
    limit = scores[rows, codes] + 2.02 * bound
    # float32 rounds to nearest: one step up keeps the limit a limit
    limit = np.nextafter(limit.astype(np.float32), np.float32(np.inf))
    scores[rows, codes] = np.inf
    open_rows = np.flatnonzero(scores.min(axis=1) <= limit)
    if len(open_rows):
        is_candidate = scores[open_rows] <= limit[open_rows, None]
        is_candidate[np.arange(len(open_rows)), codes[open_rows]] = True
        codes[open_rows] = _nearest_of(vectors[open_rows], codebook, bias, is_candidate)
    return codes.astype(np.int32)


def _lengths_at_most(vectors: np.ndarray) -> np.ndarray:
    """Upper bounds of |x| in float64, from float32 sums of squares, whose error is bounded as above."""
    width = vectors.shape[1]
    squared = np.einsum("ij,ij->i", vectors, vectors).astype(np.float64)
    return np.sqrt(squared * (1 + (width + 2) * 2.0**-23) + width * 2.0**-126)


def _nearest_of(
    vectors: np.ndarray, codebook: np.ndarray, bias: np.ndarray | None, is_candidate: np.ndarray
) -> np.ndarray:
    """The nearest of the candidates [n, K] in float64; every row has one."""
    row, code = np.nonzero(is_candidate)  # by row, then by code
    squared = np.empty(len(row))
    for pairs in chunks(len(row), 4 * vectors.shape[1]):
        difference = vectors[row[pairs]].astype(np.float64) - codebook[code[pairs]]
        squared[pairs] = np.square(difference, out=difference).sum(axis=1)
    if bias is not None:
        squared += bias[code]
    starts = np.flatnonzero(np.r_[True, row[1:] != row[:-1]])
    is_nearest = squared == np.minimum.reduceat(squared, starts)[row]
    position = np.where(is_nearest, np.arange(len(row)), len(row))
    return code[np.minimum.reduceat(position, starts)]


def chunks(num_rows: int, numbers_per_row: int) -> Iterator[slice]:
    """Consecutive slices of rows of about 8 MiB of float32, which a processor's cache holds."""
    step = max(1, _CHUNK_NUMBERS // numbers_per_row)
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))
