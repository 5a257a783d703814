"""Residual codes chosen by direction (`distance: cosine`), in NumPy: the choice, and codebooks to begin with.

c = argmin_k |r / |r| - b_k / |b_k||^2 = argmin_k 2 - 2 cos(r, b_k), the direction of zero being zero. Only the choice
goes by direction: what a code stands for is its codebook row b as it is, with its length, and the next residual is
r - b. With b the mean of the residuals that chose it, the mean of |r - b|^2 over these is that of |r|^2 less |b|^2, so
a level never adds error on the vectors it was fitted on, and decoding remains the sum of the rows. Knows arrays only.
"""
# n vectors, D width, K codes of a level, L levels

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int32

from genrec.quantization import checks
from genrec.quantization.assignment import nearest_codes
from genrec.quantization.residual_kmeans import ResidualKMeans
from genrec.seeding import fold_in


def directions(vectors: Float32[np.ndarray, "n D"]) -> Float32[np.ndarray, "n D"]:
    """Each row divided by its length, in float64; rows of zeros stay as they are.

    >>> directions(np.array([[3, 4], [0, 0]], dtype=np.float32))
    array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    lengths = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1, keepdims=True))
    return (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


def codes_by_direction(
    vectors: Float32[np.ndarray, "n D"], codebook: Float32[np.ndarray, "K D"]
) -> Int32[np.ndarray, "n"]:
    """argmin_k |v / |v| - b_k / |b_k||^2, each vector by itself (see `nearest_codes`); code 0 for a vector of zeros.

    >>> codes_by_direction(np.array([[9, 1]], dtype=np.float32), np.array([[9, 9], [0.1, 0]], dtype=np.float32))
    array([1], dtype=int32)
    """
    codes = nearest_codes(directions(vectors), directions(codebook))
    codes[~vectors.any(axis=1)] = 0  # no code is nearer than another, and rounding must not choose
    return codes


def first_codebooks(
    vectors: Float32[np.ndarray, "n D"], codebook_sizes: Sequence[int], *, max_points_per_centroid: int, seed: int
) -> list[Float32[np.ndarray, "_ D"]]:
    """k-means of the directions level by level; a row is the mean of the residuals that choose it.

    Args:
        vectors: r_0.
        codebook_sizes: K_l.
        max_points_per_centroid: bounds the sample of each k-means.
        seed: in [0, 2^64).

    Raises:
        DataError: fewer different directions than a level has codes.
    """
    codebooks, residuals = [], vectors
    for level, size in enumerate(codebook_sizes):
        units = directions(residuals)
        num_different = len(np.unique(units, axis=0))
        if num_different < size:
            raise checks.too_few(level, codebook_sizes, f"{num_different} different directions")
        kmeans = ResidualKMeans(
            codebook_sizes=(size,),
            max_points_per_centroid=max_points_per_centroid,
            centre=False,
            seed=fold_in(seed, level),
        )
        codebook = directions(kmeans.fit(units).codebooks_[0])
        codebook *= np.float32(np.sqrt(np.square(residuals, dtype=np.float64).sum(axis=1).mean()))
        codes = codes_by_direction(residuals, codebook)
        counts, sums = np.bincount(codes, minlength=size), np.zeros(codebook.shape)
        np.add.at(sums, codes, residuals)
        used = counts > 0
        codebook[used] = sums[used] / counts[used, None]
        codebooks.append(codebook)
        residuals = residuals - codebook[codes_by_direction(residuals, codebook)]
    return codebooks
