"""Sums of products that no library's order of summation, number of threads or neighbouring row can change.

Knows arrays only.
"""
# n, m rows, E width, L levels, K codes of a level

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Float64

from genrec.embeddings.rows import row_chunks

_DIGITS = 53  # binary ones of float64


def exact_products(left: Float[np.ndarray, "n E"], right: Float[np.ndarray, "m E"]) -> Float64[np.ndarray, "n m"]:
    """left @ right.T, after each row was rounded to so few binary digits that every sum of products is exact.

    With 53 - log2(E) digits shared by the two factors (22 and 21 for E = 768, counted from the row's largest number,
    so about float32), no partial sum can be rounded: BLAS gives the same bits in any order, chunk by chunk or row by
    row. A row is as good as if it were multiplied alone.

    >>> exact_products(np.array([[1.0, 2.0]]), np.array([[3.0, 0.25], [0.0, 1.0]])).tolist()
    [[3.5, 2.0]]
    """
    digits = _DIGITS - int(left.shape[1] - 1).bit_length()
    left_whole, left_exponents = _round_rows(left, digits - digits // 2)
    right_whole, right_exponents = _round_rows(right, digits // 2)
    return np.ldexp(left_whole @ right_whole.T, left_exponents[:, None] + right_exponents)


def _round_rows(rows: np.ndarray, digits: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers of at most 2^digits, and the power of two of each row: whole * 2^exponent is about the row."""
    _, exponents = np.frexp(np.abs(rows).max(axis=1, initial=0.0).astype(np.float64))
    exponents = exponents.astype(np.int64) - digits
    return np.rint(np.ldexp(rows.astype(np.float64), -exponents[:, None])), exponents


def sum_of_codes(
    mean: Float32[np.ndarray, " E"], codebooks: Sequence[np.ndarray], codes: np.ndarray
) -> Float32[np.ndarray, "N E"]:
    """mean + B_1[c_1] + .. + B_l[c_l] for codes [N, l] of the first l codebooks [K, E], added in this order."""
    vectors = np.repeat(mean[None], len(codes), axis=0)
    for column, codebook in zip(codes.T, codebooks, strict=False):
        for rows in row_chunks(vectors):
            vectors[rows] += codebook[column[rows]]
    return vectors
