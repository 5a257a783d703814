"""The product quantiser and FAISS's residual quantiser: against FAISS, brute force, and other numbers of threads."""

from __future__ import annotations

from itertools import product
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.errors import ConfigError, DataError
from genrec.quantization.faiss_residual import FaissResidualQuantizer
from genrec.quantization.product import ProductQuantizer
from genrec.quantization.residual_kmeans import ResidualKMeans


def correlated(num_vectors: int, width: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(width).standard_normal((width, width)) * np.linspace(3, 0.1, width)
    return (random.standard_normal((num_vectors, width)) @ mixing + 1.0).astype(np.float32)


def error(quantiser: Any, vectors: np.ndarray, depth: int | None = None) -> float:
    rest = vectors - quantiser.decode(quantiser.encode(vectors)[:, :depth])
    return float(np.square(rest, dtype=np.float64).sum(axis=1).mean())


FITS = {
    "product": lambda: ProductQuantizer(codebook_sizes=(16,) * 4, num_rotations=4, num_iterations=5),
    "faiss_residual": lambda: FaissResidualQuantizer(codebook_sizes=(16, 8, 8)),
    "whitened": lambda: ResidualKMeans(codebook_sizes=(16, 16), whiten=0.95),
}


@pytest.mark.parametrize("factory", FITS.values(), ids=FITS.keys())
def test_the_number_of_threads_does_not_matter(factory) -> None:
    vectors = correlated(500, 30)
    before = faiss.omp_get_max_threads()
    states = []
    try:
        for num_threads in (1, 2):
            faiss.omp_set_num_threads(num_threads)
            states.append(factory().fit(vectors).state())
            assert faiss.omp_get_max_threads() == num_threads
    finally:
        faiss.omp_set_num_threads(before)
    for name, array in states[0].items():
        np.testing.assert_array_equal(states[1][name], array)


@pytest.mark.parametrize("factory", list(FITS.values())[:2], ids=list(FITS)[:2])
def test_errors_are_those_of_the_decoded_prefixes(factory) -> None:
    vectors = correlated(600, 18)
    quantiser = factory().fit(vectors)
    variance = np.square(vectors - vectors.mean(axis=0)).sum(axis=1).mean()
    assert quantiser.variance_ == pytest.approx(variance, rel=1e-4)
    for depth, expected in enumerate(quantiser.mean_squared_residuals_, start=1):
        assert error(quantiser, vectors, depth) == pytest.approx(expected, rel=2e-3)


def test_the_rotation_pays_and_keeps_lengths() -> None:
    vectors = correlated(1000, 18)
    plain, turned = (ProductQuantizer(codebook_sizes=(16,) * 4, rotate=rotate).fit(vectors) for rotate in (False, True))
    assert turned.rotation_.shape == (20, 18)  # the next multiple of 4
    np.testing.assert_allclose(turned.rotation_.T @ turned.rotation_, np.eye(18), atol=1e-5)
    assert error(turned, vectors) < 0.8 * error(plain, vectors)


def test_parts_are_coded_alone() -> None:
    vectors = correlated(300, 8)
    quantiser = ProductQuantizer(codebook_sizes=(8, 8), rotate=False).fit(vectors)
    codes = quantiser.encode(vectors)
    for level, part in enumerate((slice(0, 4), slice(4, 8))):
        distances = np.square((vectors - quantiser.mean_)[:, None, part] - quantiser.codebooks_[level]).sum(axis=2)
        np.testing.assert_array_equal(codes[:, level], distances.argmin(axis=1))
    decoded = quantiser.decode(codes[:, :1])
    np.testing.assert_array_equal(decoded[:, 4:], np.broadcast_to(quantiser.mean_[4:], (300, 4)))


def test_beams_are_those_of_faiss() -> None:
    vectors, sizes = correlated(500, 12), (16, 8, 16)
    quantiser = FaissResidualQuantizer(codebook_sizes=sizes, beam_width=4).fit(vectors)
    bits = faiss.UInt64Vector()
    for size in sizes:
        bits.push_back(size.bit_length() - 1)
    theirs = faiss.ResidualQuantizer(12, bits)  # pyright: ignore[reportArgumentType]
    theirs.max_beam_size, theirs.is_trained = 4, True
    faiss.copy_array_to_vector(np.concatenate(quantiser.codebooks_).ravel(), theirs.codebooks)
    codes = faiss.unpack_bitstrings(theirs.compute_codes(vectors - quantiser.mean_), [4, 3, 4])
    assert (codes == quantiser.encode(vectors)).all(axis=1).mean() > 0.99


@settings(max_examples=examples(10), deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_beam_over_all_codes_is_the_best_sum(seed) -> None:
    vectors = correlated(60, 5, seed)
    quantiser = FaissResidualQuantizer(codebook_sizes=(4, 4, 2), beam_width=16, num_iterations=3).fit(vectors)
    every = np.array(list(product(range(4), range(4), range(2))))
    squared = np.square(vectors[:, None] - quantiser.decode(every), dtype=np.float64).sum(axis=2)
    found = np.square(vectors - quantiser.decode(quantiser.encode(vectors)), dtype=np.float64).sum(axis=1)
    np.testing.assert_allclose(found, squared.min(axis=1), rtol=1e-4, atol=1e-4)


def test_wider_beams_leave_less() -> None:
    vectors = correlated(1000, 16)
    errors = [
        error(FaissResidualQuantizer(codebook_sizes=(16,) * 4, beam_width=width).fit(vectors), vectors)
        for width in (1, 4, 16)
    ]
    assert errors[0] > errors[1] > 0.98 * errors[2]


def test_wrong_parameters_are_refused() -> None:
    for wrong in ({"beam_width": 0}, {"num_iterations": 0}, {"codebook_sizes": ()}, {"codebook_sizes": (1, 2)}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            FaissResidualQuantizer(**wrong)
    with pytest.raises(ConfigError, match="levels of equal size"):
        ProductQuantizer(codebook_sizes=(8, 4))
    with pytest.raises(ConfigError, match="num_rotations"):
        ProductQuantizer(num_rotations=0)


def test_parts_that_cannot_be_told_apart_are_refused() -> None:
    vectors = correlated(100, 8)
    with pytest.raises(DataError, match="fewer numbers a vector than levels"):
        ProductQuantizer(codebook_sizes=(2,) * 9).fit(vectors)
    flat = vectors.copy()
    flat[:, 4:] = 1.0
    with pytest.raises(DataError, match=r"level 2 of 2 .*found parts that are all equal"):
        ProductQuantizer(codebook_sizes=(4, 4), rotate=False).fit(flat)
    flat[:, 4] = np.arange(100) % 3
    with pytest.raises(DataError, match=r"level 2 of 2 .*found fewer different parts"):
        ProductQuantizer(codebook_sizes=(4, 4), rotate=False).fit(flat)
    few = np.repeat(vectors[:6], 20, axis=0)
    with pytest.raises(DataError, match=r"level 1 of 2 .*found 6 different vectors"):
        FaissResidualQuantizer(codebook_sizes=(8, 2)).fit(few)


@pytest.mark.parametrize("factory", list(FITS.values())[:2], ids=list(FITS)[:2])
def test_samples_are_bounded(factory) -> None:
    vectors = correlated(400, 8)
    whole = factory()
    whole.max_points_per_centroid = 400
    bounded = factory()
    bounded.max_points_per_centroid = 4
    whole.fit(vectors)
    bounded.fit(vectors)
    np.testing.assert_array_equal(whole.mean_, bounded.mean_)
    assert error(whole, vectors) < error(bounded, vectors) < whole.variance_


@pytest.mark.parametrize("name", ["product", "faiss_residual"])
def test_fewer_vectors_than_numbers_in_each_are_refused(name: str) -> None:
    """FAISS would write outside of its memory."""
    FITS[name]().fit(correlated(40, 40))
    with pytest.raises(DataError, match=r"too few vectors for their width.*at least 41.*found 40"):
        FITS[name]().fit(correlated(40, 41))
    if name == "product":
        ProductQuantizer(codebook_sizes=(16,) * 4, rotate=False).fit(correlated(40, 41))
