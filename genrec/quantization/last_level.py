"""What an item's squared error would be under other codes of the last level. Knows arrays and the quantiser's codes."""
# N vectors, E width, D width of the last level's codes, L levels, m items and k last codes of one request

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from genrec.quantization.assignment import chunks

# vectors [m, E] and their codes [m, L] -> what the last level has to meet, float32 [m, D]; and the squared error that
# no last code can change, float64 [m]
Rest = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False)
class LastLevelErrors:
    """|t - B_L[k]|^2 + u of items at last codes k, in the space in which their quantiser assigns.

    t is what an item's codes before the last one leave to the last level, u what they miss for good: 0 where each level
    takes up all that is left, the error of the other parts under a product quantiser. Both are computed as encoding
    does, and the rest in float64 row by row. So the code that a greedy quantiser has chosen is never beaten by another
    (with the prices of balanced codes, which are no part of an error, it may be, and a move may then gain), and a value
    depends on no other item.

    Attributes:
        vectors: float32 [N, E] that were quantised; may be a memory map.
        codes: integers [N, L] of the quantiser.
        rest: t and u of some rows.
        codebook: B_L, float32 [K_L, D].
        mean_error: the quantiser's mean squared error, in the same space, of the set that it was fitted on.

    >>> vectors = np.array([[3.0], [5.0]], dtype=np.float32)
    >>> books = [np.array([[2.0], [4.0]], dtype=np.float32), np.array([[0.0], [1.0]], dtype=np.float32)]
    >>> rest = lambda rows, codes: take_off(rows, books[:-1], codes)
    >>> errors = LastLevelErrors(vectors, np.array([[0, 1], [1, 1]]), rest, books[-1], 0.0)
    >>> errors(np.array([0, 1]), np.array([[0, 1], [0, 1]])).tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """

    vectors: np.ndarray
    codes: np.ndarray
    rest: Rest
    codebook: np.ndarray
    mean_error: float

    def __call__(self, items: np.ndarray, last_codes: np.ndarray) -> np.ndarray:
        """Squared errors, float64 [m, k], of items [m] at last codes [m, k]."""
        num_items, num_codes = last_codes.shape
        squared = np.empty((num_items, num_codes))
        for rows in chunks(num_items, 4 * (num_codes * self.codebook.shape[1] + self.vectors.shape[1])):
            target, missed = self.rest(self.vectors[items[rows]], self.codes[items[rows]])
            difference = self.codebook[last_codes[rows]].astype(np.float64)
            difference -= target[:, None]
            squared[rows] = np.square(difference, out=difference).sum(axis=2) + missed[:, None]
        return squared


def take_off(
    residuals: np.ndarray, codebooks: Sequence[np.ndarray], codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The rest under residual codes: r - B_1[c_1] - .. for the codebooks that are given, in turn; nothing is missed."""
    for codebook, column in zip(codebooks, codes.T, strict=False):
        residuals = residuals - codebook[column]
    return residuals, np.zeros(len(residuals))
