"""PCA-whitening: principal directions, each scaled to variance one. Knows arrays only."""
# N vectors, E width, D directions kept

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from threadpoolctl import threadpool_limits

from genrec.embeddings.rows import row_chunks
from genrec.quantization.products import exact_products

_NEGLIGIBLE = 1e-6  # variance of a direction, as a share of the largest, that float32 vectors cannot carry


@dataclass(frozen=True, eq=False)
class Whitening:
    """z = P x / s for centred x: uncorrelated coordinates of variance one on the fitted set.

    Attributes:
        directions: P, orthonormal rows, by falling variance; the largest number of each is positive.
        scales: s, the standard deviations along them.
    """

    directions: Float32[np.ndarray, "D E"]
    scales: Float32[np.ndarray, " D"]

    @classmethod
    def fit(cls, centred: np.ndarray, share: float) -> Whitening:
        """The fewest directions that hold this share (0..1] of the variance of centred vectors [N, E].

        Directions with next to no variance are left out even at 1: to divide by it would make rounding the signal.
        """
        covariance = np.zeros((centred.shape[1], centred.shape[1]))
        with threadpool_limits(1):  # sums and factorisations round otherwise with another number of threads
            for rows in row_chunks(centred):
                chunk = centred[rows].astype(np.float64)
                covariance += chunk.T @ chunk
            values, vectors = np.linalg.eigh(covariance / len(centred))
        values, vectors = np.maximum(values[::-1], 0.0), vectors.T[::-1]
        # the last direction counts only as far as the sum before it falls short, so share = 1 needs no luck in rounding
        num_wanted = 1 + int(np.count_nonzero(np.cumsum(values)[:-1] < share * values.sum() * (1 - 1e-12)))
        kept = min(num_wanted, int(np.count_nonzero(values > _NEGLIGIBLE * values[0])))
        vectors = vectors[:kept]
        signs = np.sign(vectors[np.arange(kept), np.abs(vectors).argmax(axis=1)])
        directions = np.ascontiguousarray(vectors * signs[:, None], dtype=np.float32)  # as files keep it
        return cls(directions, np.sqrt(values[:kept]).astype(np.float32))

    def apply(self, centred: np.ndarray) -> np.ndarray:
        """z of centred vectors, float32 [N, D]; that of a row depends on no other row."""
        whitened = np.empty((len(centred), len(self.scales)), dtype=np.float32)
        for rows in row_chunks(whitened):
            whitened[rows] = exact_products(centred[rows], self.directions) / self.scales
        return whitened

    def undo(self, whitened: np.ndarray) -> np.ndarray:
        """P' (s z), float32 [N, E]: back to centred vectors, the directions left out at their mean."""
        return exact_products(whitened * self.scales, self.directions.T).astype(np.float32)
