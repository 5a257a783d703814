"""Squared errors at other last codes."""

from __future__ import annotations

import numpy as np
import pytest

from genrec.errors import ConfigError
from genrec.quantization import assignment
from genrec.quantization.faiss_residual import FaissResidualQuantizer
from genrec.quantization.last_level import LastLevelErrors
from genrec.quantization.product import ProductQuantizer
from genrec.quantization.residual_kmeans import ResidualKMeans
from genrec.semantic_ids.collisions import reassign
from genrec.training.rqvae import RqVaeQuantizer


def normal(num_vectors: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_vectors, width)).astype(np.float32)


def test_they_are_those_of_the_decoded_codes_of_a_product() -> None:
    """Where the parts divide the width, the rotation only turns: errors in parts are errors of vectors."""
    vectors = normal(300, 12) * np.linspace(2, 0.5, 12, dtype=np.float32) + 1
    quantiser = ProductQuantizer(codebook_sizes=(8, 8, 8), num_rotations=4).fit(vectors)
    codes = quantiser.encode(vectors)
    found = quantiser.last_level_errors(vectors, codes)(np.arange(300), np.broadcast_to(np.arange(8), (300, 8)))
    for code in range(8):
        other = np.concatenate([codes[:, :-1], np.full((300, 1), code)], axis=1)
        expected = np.square(vectors - quantiser.decode(other), dtype=np.float64).sum(axis=1)
        np.testing.assert_allclose(found[:, code], expected, rtol=1e-4)


def test_what_is_not_fitted_has_no_errors() -> None:
    for quantiser in (ResidualKMeans(), ProductQuantizer(), FaissResidualQuantizer(), RqVaeQuantizer()):
        with pytest.raises(ConfigError, match="not fitted"):
            quantiser.last_level_errors(normal(3, 2), np.zeros((3, 3), dtype=np.int32))


@pytest.fixture(scope="module")
def fitted() -> tuple[ResidualKMeans, np.ndarray, np.ndarray]:
    vectors = normal(400, 6) + 3
    quantiser = ResidualKMeans(codebook_sizes=(6, 5, 16)).fit(vectors)
    return quantiser, vectors, quantiser.encode(vectors)


def errors_of(fitted: tuple[ResidualKMeans, np.ndarray, np.ndarray]) -> LastLevelErrors:
    quantiser, vectors, codes = fitted
    return quantiser.last_level_errors(vectors, codes)


def test_they_are_those_of_the_decoded_codes(fitted) -> None:
    quantiser, vectors, codes = fitted
    items = np.array([7, 3, 399, 7])
    last = np.array([[0, 15], [4, 4], [2, 1], [15, 0]])
    found = errors_of(fitted)(items, last)
    for at, item in enumerate(items):
        for column in range(2):
            row = np.append(codes[item, :-1], last[at, column])[None]
            expected = np.square(vectors[item] - quantiser.decode(row)[0], dtype=np.float64).sum()
            assert found[at, column] == pytest.approx(expected, rel=1e-5)
    assert found[0].tolist() == found[3, ::-1].tolist()


def test_the_chosen_code_is_never_beaten(fitted) -> None:
    codes = fitted[2]
    items = np.arange(400)
    found = errors_of(fitted)(items, np.broadcast_to(np.arange(16), (400, 16)))
    assert (found >= found[items, codes[:, -1]][:, None]).all()
    assert found[items, codes[:, -1]].mean() == pytest.approx(fitted[0].mean_squared_residuals_[-1], rel=1e-4)


def test_chunks_do_not_matter(fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    items, last = np.arange(400), np.broadcast_to(np.arange(16), (400, 16))
    whole = errors_of(fitted)(items, last)
    monkeypatch.setattr(assignment, "_CHUNK_NUMBERS", 1000)
    np.testing.assert_array_equal(errors_of(fitted)(items, last), whole)
    assert errors_of(fitted)(items[:0], last[:0]).shape == (0, 16)


def test_moves_of_residual_kmeans_cost_something(fitted) -> None:
    quantiser, vectors, codes = fitted
    moved = reassign(codes, quantiser.codebook_sizes, errors_of(fitted), mean_error=1.0, max_added_distortion=1e9)
    assert len(moved.items) > 20
    assert (moved.added >= 0).all()
    before, after = (np.square(vectors - quantiser.decode(table)).sum(axis=1) for table in (codes, moved.codes))
    np.testing.assert_allclose((after - before)[moved.items], moved.added, rtol=1e-3, atol=1e-5)
