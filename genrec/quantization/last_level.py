"""What an item's squared error would be under other codes of the last level. Knows arrays and the quantiser's codes."""
# N vectors, E width, L levels, m items and k last codes of one request

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genrec.quantization.assignment import chunks


@dataclass(frozen=True, eq=False)
class LastLevelErrors:
    """|e - mean - B_1[c_1] - .. - B_{L-1}[c_{L-1}] - B_L[k]|^2 of items at last codes k, for a quantiser that sums.

    The residual is taken in float32 level by level, as encoding does, and the rest is computed in float64 row by row.
    So the code that residual k-means without prices has chosen is never beaten by another, and a value depends on no
    other item. With prices, which are no part of an error, it may be, and a move may then gain.

    Attributes:
        vectors: float32 [N, E] that were quantised; may be a memory map.
        codes: integers [N, L] of the quantiser.
        mean: float32 [E] that is taken off first.
        codebooks: L arrays, float32 [K_l, E].

    >>> vectors = np.array([[3.0], [5.0]], dtype=np.float32)
    >>> books = [np.array([[2.0], [4.0]], dtype=np.float32), np.array([[0.0], [1.0]], dtype=np.float32)]
    >>> errors = LastLevelErrors(vectors, np.array([[0, 1], [1, 1]]), np.zeros(1, dtype=np.float32), books)
    >>> errors(np.array([0, 1]), np.array([[0, 1], [0, 1]])).tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """

    vectors: np.ndarray
    codes: np.ndarray
    mean: np.ndarray
    codebooks: Sequence[np.ndarray]

    def __call__(self, items: np.ndarray, last_codes: np.ndarray) -> np.ndarray:
        """Squared errors, float64 [m, k], of items [m] at last codes [m, k]."""
        num_items, num_codes = last_codes.shape
        squared = np.empty((num_items, num_codes))
        for rows in chunks(num_items, 4 * num_codes * len(self.mean)):
            chosen = items[rows]
            residuals = self.vectors[chosen] - self.mean
            for codebook, column in zip(self.codebooks[:-1], self.codes[chosen].T, strict=False):
                residuals -= codebook[column]
            difference = self.codebooks[-1][last_codes[rows]].astype(np.float64)
            difference -= residuals[:, None]
            squared[rows] = np.square(difference, out=difference).sum(axis=2)
        return squared
