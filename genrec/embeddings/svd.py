"""Truncated singular value decomposition of a sparse matrix: exact, repeatable, signs fixed.

ARPACK on the smaller Gram matrix. On TF-IDF matrices of thousands of items it is faster than the randomised method at
the accuracy of a few power iterations, and the result does not depend on their number. Knows NumPy and SciPy only.
"""
# N items, V features, E width

from __future__ import annotations

import typing

import numpy as np
import scipy.sparse as sparse
from jaxtyping import Float64
from scipy.sparse.linalg import svds
from threadpoolctl import threadpool_limits

from genrec.errors import ConfigError, DataError
from genrec.seeding import generator

NEGLIGIBLE = 1e-6  # a singular value this small against the largest is lost in float32


def truncated_svd(
    matrix: sparse.csr_array, dimensions: int, *, seed: int, where: str
) -> tuple[Float64[np.ndarray, "N E"], Float64[np.ndarray, "E"]]:
    """The left singular vectors U and singular values of the E largest, in descending order.

    Args:
        matrix: [N, V], no stored zeros.
        dimensions: E; never fewer come back.
        seed: of ARPACK's first vector; it moves the result by rounding only, unless singular values are equal.
        where: name of the matrix for the message.

    Returns:
        U with orthonormal columns, the largest entry (by magnitude) of each positive, rows of zeros where the matrix
        has none but zeros, and the values.

    Raises:
        ConfigError: dimensions < 1.
        DataError: the matrix has a rank below E.
    """
    if dimensions < 1:
        raise ConfigError("embedding.dimensions is out of range", where=where, expected="at least 1", found=dimensions)
    matrix = sparse.csr_array(matrix, dtype=np.float64)
    is_empty = np.diff(matrix.indptr) == 0
    num_rows = int(np.count_nonzero(~is_empty))
    num_columns = len(np.unique(matrix.indices))
    limit = min(num_rows, num_columns)
    if dimensions > limit:
        raise _too_few(where, dimensions, f"{num_rows} non-empty rows and {num_columns} columns", limit)
    size = min(typing.cast(tuple[int, int], matrix.shape))
    # One thread: the many small products of ARPACK are no work for two, which spin while others use the cores (5 x the
    # time), and the result does not depend on the number of cores.
    with threadpool_limits(1, user_api="blas"):
        if 2 * dimensions >= size:  # ARPACK is slow, and wrong in the end, when most singular vectors are asked for
            left, values, _ = np.linalg.svd(matrix.toarray(), full_matrices=False)
        else:
            start = generator(seed).standard_normal(size)
            triple = svds(matrix, k=dimensions, v0=start, solver="arpack")
            left, values, _ = typing.cast(tuple[np.ndarray, np.ndarray, np.ndarray], triple)
    order = np.argsort(-values, kind="stable")[:dimensions]
    left, values = left[:, order], values[order]
    rank = int(np.count_nonzero(values > NEGLIGIBLE * values[0]))
    if rank < dimensions:
        raise _too_few(where, dimensions, f"rank {rank}", rank)
    left[is_empty] = 0.0  # ARPACK leaves 1e-17
    largest = np.argmax(np.abs(left), axis=0)
    return left * np.sign(left[largest, np.arange(dimensions)]), values


def _too_few(where: str, dimensions: int, found: str, limit: int) -> DataError:
    fix = f"set embedding.dimensions={limit} or fewer" if limit else "there is nothing to embed"
    return DataError("too little to make the dimensions of", where=where, expected=dimensions, found=found, fix=fix)
