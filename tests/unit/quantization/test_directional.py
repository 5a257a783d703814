"""Codes by direction: the choice against a slow loop, NumPy against torch, and what becomes of the residuals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.errors import DataError
from genrec.quantization import rqvae
from genrec.quantization.directional import codes_by_direction, directions, first_codebooks
from oracles import rqvae_oracle as oracle

D, SIZES = 5, (7, 4, 3)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def books() -> list[np.ndarray]:
    """Rows of very different lengths, which must not matter to the choice."""
    return [
        normal(level, size, D) * np.geomspace(0.01, 3, size, dtype=np.float32)[:, None]
        for level, size in enumerate(SIZES)
    ]


def test_numpy_and_torch_choose_the_largest_cosine_and_subtract_the_row():
    latents = normal(9, 300, D)
    codes, rests = oracle.cosine_codes(latents.astype(np.float64), [book.astype(np.float64) for book in books()])
    found = rqvae.quantise(torch.from_numpy(latents), [torch.from_numpy(book) for book in books()], by_direction=True)
    np.testing.assert_array_equal(found.codes, codes)
    np.testing.assert_allclose(torch.from_numpy(latents) - found.total, rests, atol=1e-5)
    residuals = latents
    for level, book in enumerate(books()):
        mine = codes_by_direction(residuals, book)
        np.testing.assert_array_equal(mine, codes[:, level])
        residuals = residuals - book[mine]


def test_lengths_do_not_matter_and_zeros_have_no_direction():
    vectors, codebook = normal(0, 200, D), normal(1, 9, D)
    codes = codes_by_direction(vectors, codebook)
    for factor in (1e-12, 1e-3, 1e6):
        np.testing.assert_array_equal(codes_by_direction(vectors * np.float32(factor), codebook), codes)
        np.testing.assert_array_equal(codes_by_direction(vectors, codebook * np.float32(factor)), codes)
    zeros = np.zeros((2, D), dtype=np.float32)
    assert codes_by_direction(zeros, codebook).tolist() == [0, 0], "all codes alike: the lowest"
    alike = rqvae.direction_distances(torch.from_numpy(zeros), torch.from_numpy(codebook))
    assert rqvae.nearest(alike).tolist() == [0, 0]
    np.testing.assert_array_equal(directions(zeros), zeros)
    np.testing.assert_array_equal(rqvae.directions(torch.from_numpy(zeros)), zeros)
    np.testing.assert_allclose(rqvae.directions(torch.from_numpy(vectors)), directions(vectors), rtol=1e-6)


def test_rows_that_are_means_never_add_error():
    vectors = normal(0, 400, D) * np.random.default_rng(1).uniform(0.1, 5, (400, 1)).astype(np.float32)
    codebooks = first_codebooks(vectors, SIZES, max_points_per_centroid=256, seed=0)
    assert [len(book) for book in codebooks] == list(SIZES)
    errors, residuals = [float(np.square(vectors).sum())], vectors
    for book in codebooks:
        residuals = residuals - book[codes_by_direction(residuals, book)]
        errors.append(float(np.square(residuals).sum()))
    assert (np.diff(errors) < 0).all()
    assert errors[-1] < 0.5 * errors[0]


def test_the_first_codebook_has_the_clusters_of_the_directions():
    """Four directions, lengths over three orders of magnitude: k-means in space would split by length."""
    random = np.random.default_rng(0)
    label = random.integers(4, size=400)
    units = np.eye(4, D)[label] + 0.02 * random.standard_normal((400, D))
    vectors = (units * 10 ** random.uniform(-1.5, 1.5, (400, 1))).astype(np.float32)
    codes = codes_by_direction(vectors, first_codebooks(vectors, (4,), max_points_per_centroid=256, seed=3)[0])
    assert len(set(zip(label.tolist(), codes.tolist(), strict=True))) == 4


def test_too_few_directions_are_refused():
    line = np.linspace(1, 2, 50, dtype=np.float32)[:, None] * np.ones((1, D), dtype=np.float32)
    with pytest.raises(DataError, match=r"level 1 of 2 .*found . different directions"):
        first_codebooks(line, (8, 4), max_points_per_centroid=256, seed=0)
