"""What every embedding has in common: rows of float32 that are finite, maybe normalised, maybe zero.

Works on chunks of rows, so that memory-mapped arrays need no second copy. Knows NumPy only.
"""
# N items, E width

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32

from genrec.errors import DataError

_CHUNK_BYTES = 2**26


def row_chunks(vectors: np.ndarray) -> Iterator[slice]:
    """Consecutive slices of rows of about 64 MiB."""
    step = max(1, _CHUNK_BYTES // max(1, vectors.itemsize * vectors.shape[1]))
    for start in range(0, len(vectors), step):
        yield slice(start, min(start + step, len(vectors)))


def normalise_rows(vectors: Float[np.ndarray, "N E"]) -> Float32[np.ndarray, "N E"]:
    """Rows of length one; rows of zeros stay zero.

    >>> normalise_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).round(3).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    normal = np.empty(vectors.shape, dtype=np.float32)
    for rows in row_chunks(vectors):
        chunk = np.asarray(vectors[rows], dtype=np.float64)
        largest = np.abs(chunk).max(axis=1, keepdims=True, initial=0.0)
        chunk = chunk / np.where(largest > 0, largest, 1.0)  # the squares of tiny or huge numbers leave float64
        length = np.linalg.norm(chunk, axis=1, keepdims=True)
        normal[rows] = chunk / np.where(length > 0, length, 1.0)
    return normal


def is_zero_row(vectors: Float[np.ndarray, "N E"]) -> Bool[np.ndarray, "N"]:
    """Which rows hold nothing but zeros: items without text, or without a training event."""
    zero = np.empty(len(vectors), dtype=bool)
    for rows in row_chunks(vectors):
        zero[rows] = ~np.any(vectors[rows], axis=1)
    return zero


def check_finite(vectors: Float[np.ndarray, "N E"], *, where: object, item_ids: Sequence[str] | None = None) -> None:
    """Raises DataError that names the first row (and item) with NaN or infinity.

    Args:
        vectors: any floating dtype.
        where: file or block for the message.
        item_ids: ids of the rows, if known.
    """
    for rows in row_chunks(vectors):
        bad = np.flatnonzero(~np.isfinite(vectors[rows]).all(axis=1))
        if len(bad):
            row = rows.start + int(bad[0])
            value = vectors[row][~np.isfinite(vectors[row])][0]
            item = "" if item_ids is None else f" (item {item_ids[row]!r})"
            raise DataError(
                f"a vector is not finite in row {row}{item}", where=where, expected="finite numbers", found=value
            )
