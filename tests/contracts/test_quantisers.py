"""What every quantiser keeps, however it finds its codes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from examples import examples
from genrec.errors import ConfigError, DataError
from genrec.quantization.faiss_residual import FaissResidualQuantizer
from genrec.quantization.product import ProductQuantizer
from genrec.quantization.residual_kmeans import ResidualKMeans
from genrec.training.rqvae import RqVaeOptions, RqVaeQuantizer

WIDTH = 6
SIZES = (8, 6, 4)  # three levels, the first of 8 codes, in all of them
RQVAE = RqVaeOptions(
    codebook_sizes=SIZES, latent_width=6, hidden=(), epochs=12, batch_size=100, learning_rate=3e-2, accelerator="cpu"
)

FACTORIES = {
    "residual_kmeans": lambda: ResidualKMeans(codebook_sizes=SIZES),
    "residual_kmeans_random": lambda: ResidualKMeans(codebook_sizes=SIZES, initialisation="random"),
    "residual_kmeans_sampled": lambda: ResidualKMeans(codebook_sizes=SIZES, max_points_per_centroid=4, num_restarts=2),
    "residual_kmeans_not_centred": lambda: ResidualKMeans(codebook_sizes=SIZES, centre=False, seed=7),
    "residual_kmeans_whitened": lambda: ResidualKMeans(codebook_sizes=SIZES, whiten=0.9),
    "residual_kmeans_balanced": lambda: ResidualKMeans(codebook_sizes=SIZES, balance=1.2),
    "residual_kmeans_balanced_whitened": lambda: ResidualKMeans(codebook_sizes=SIZES, balance=1.5, whiten=0.95),
    "product": lambda: ProductQuantizer(codebook_sizes=(8, 8, 8), num_rotations=5),
    "product_not_rotated": lambda: ProductQuantizer(codebook_sizes=(8, 8, 8), rotate=False, seed=3),
    "faiss_residual": lambda: FaissResidualQuantizer(codebook_sizes=(8, 4, 4), num_iterations=5),
    "faiss_residual_greedy": lambda: FaissResidualQuantizer(codebook_sizes=(8, 4, 2), beam_width=1),
    "rqvae": lambda: RqVaeQuantizer(RQVAE),
    "rqvae_cosine": lambda: RqVaeQuantizer(replace(RQVAE, distance="cosine")),
}


def normal(num_vectors: int, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_vectors, width)).astype(np.float32)


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES.keys())
class TestQuantiser:
    def test_fit_returns_the_quantiser(self, factory):
        quantiser = factory()
        assert quantiser.fit(normal(100)) is quantiser

    def test_codes_lie_within_their_levels(self, factory):
        quantiser = factory().fit(normal(100))
        codes = quantiser.encode(normal(500, seed=1))
        assert (codes.shape, codes.dtype) == ((500, len(SIZES)), np.int32)
        assert (codes >= 0).all()
        assert (codes < quantiser.codebook_sizes).all()

    def test_encoding_is_deterministic_and_by_item(self, factory):
        quantiser, vectors = factory().fit(normal(100)), normal(300, seed=1)
        codes = quantiser.encode(vectors)
        np.testing.assert_array_equal(quantiser.encode(vectors), codes)
        np.testing.assert_array_equal(quantiser.encode(vectors[::-1])[::-1], codes)
        alone = [quantiser.encode(vectors[row : row + 1])[0] for row in range(50)]
        np.testing.assert_array_equal(alone, codes[:50])
        assert quantiser.encode(vectors[:0]).shape == (0, len(SIZES))

    def test_fitting_is_deterministic(self, factory):
        vectors, more = normal(200), normal(500, seed=1)
        once, again = factory().fit(vectors), factory().fit(vectors)
        twice = once.fit(vectors)
        for name, array in factory().fit(vectors).state().items():
            np.testing.assert_array_equal(again.state()[name], array)
            np.testing.assert_array_equal(twice.state()[name], array)
        np.testing.assert_array_equal(once.encode(more), again.encode(more))

    def test_inputs_are_left_alone(self, factory):
        vectors = normal(100)
        vectors.flags.writeable = False
        codes = factory().fit(vectors).encode(vectors)
        np.testing.assert_array_equal(vectors, normal(100))
        assert len(codes) == 100

    def test_decoding_is_nearer_than_the_mean(self, factory):
        vectors = normal(300)
        quantiser = factory().fit(vectors)
        decoded = quantiser.decode(quantiser.encode(vectors))
        assert (decoded.shape, decoded.dtype) == (vectors.shape, np.float32)
        assert np.square(vectors - decoded).sum() < 0.6 * np.square(vectors - vectors.mean(axis=0)).sum()

    @settings(max_examples=examples(10), deadline=None)
    @given(seed=st.integers(0, 2**32 - 1))
    def test_state_survives_a_file(self, factory, seed):
        vectors, more = normal(100, seed), normal(200, seed + 1)
        quantiser = factory().fit(vectors)
        restored = type(quantiser).from_state(load(save(quantiser.state())))
        codes = quantiser.encode(more)
        np.testing.assert_array_equal(restored.encode(more), codes)
        np.testing.assert_array_equal(restored.decode(codes), quantiser.decode(codes))
        assert restored.state().keys() == quantiser.state().keys()

    def test_states_of_others_are_refused(self, factory):
        quantiser = factory().fit(normal(100))
        for name in quantiser.state():
            with pytest.raises(DataError):
                type(quantiser).from_state({key: array for key, array in quantiser.state().items() if key != name})
        with pytest.raises(DataError):
            type(quantiser).from_state({})

    def test_another_width_is_refused(self, factory):
        quantiser = factory().fit(normal(100))
        with pytest.raises(DataError, match=r"expected float32 \[N, 6\].*found float32 \[3, 7\]"):
            quantiser.encode(normal(3, width=7))

    def test_other_types_are_refused(self, factory):
        for wrong in (normal(100).astype(np.float64), normal(100)[0], normal(100, width=0)):
            with pytest.raises(DataError, match="wrong shape or type"):
                factory().fit(wrong)
            with pytest.raises(DataError, match="wrong shape or type"):
                factory().fit(normal(100)).encode(wrong)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_numbers_that_are_not_finite_are_refused(self, factory, value):
        vectors = normal(100)
        vectors[17, 3] = value
        with pytest.raises(DataError, match="not finite in row 17"):
            factory().fit(vectors)
        with pytest.raises(DataError, match="not finite in row 17"):
            factory().fit(normal(100)).encode(vectors)

    def test_too_few_items_are_refused(self, factory):
        with pytest.raises(DataError, match=r"too few .*expected at least 8 .*found 7.*lower tokenizer.codebook_sizes"):
            factory().fit(normal(7))

    def test_codes_outside_their_level_are_refused(self, factory):
        quantiser = factory().fit(normal(100))
        for row, codes in ((0, [[-1, 0, 0]]), (1, [[7, 3, 1], [7, 8, 1]])):
            with pytest.raises(DataError, match=f"code outside level . in row {row}"):
                quantiser.decode(np.array(codes))
        for wrong in (np.zeros((2, 4), dtype=int), np.zeros((2, 3)), np.zeros(3, dtype=int)):
            with pytest.raises(DataError, match="codes have the wrong shape or type"):
                quantiser.decode(wrong)

    def test_nothing_works_before_fit(self, factory):
        with pytest.raises(ConfigError, match="not fitted"):
            factory().encode(normal(3))
        with pytest.raises(ConfigError, match="not fitted"):
            factory().decode(np.zeros((3, 3), dtype=int))
        with pytest.raises(ConfigError, match="not fitted"):
            factory().state()
