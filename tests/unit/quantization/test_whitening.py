"""PCA-whitening, alone and in front of residual k-means."""

from __future__ import annotations

import numpy as np
import pytest

from genrec.errors import ConfigError, DataError
from genrec.quantization.residual_kmeans import ResidualKMeans
from genrec.quantization.whitening import Whitening
from genrec.semantic_ids.table import table_identity


def scaled(num_vectors: int = 800, seed: int = 0) -> np.ndarray:
    """Ten coordinates with standard deviations 10, 9, .. 1, turned."""
    random = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((10, 10)))
    return ((random.standard_normal((num_vectors, 10)) * np.arange(10, 0, -1)) @ turn).astype(np.float32)


def test_whitened_vectors_are_uncorrelated_and_of_variance_one() -> None:
    centred = scaled() - scaled().mean(axis=0)
    whitening = Whitening.fit(centred, 1.0)
    whitened = whitening.apply(centred)
    np.testing.assert_allclose(whitened.T @ whitened / len(whitened), np.eye(10), atol=1e-4)
    assert (np.diff(whitening.scales) < 0).all()
    np.testing.assert_allclose(whitening.undo(whitened), centred, atol=1e-4)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_the_share_of_the_variance_decides_the_directions(share) -> None:
    centred = scaled() - scaled().mean(axis=0)
    variances = np.sort(np.linalg.eigvalsh(np.cov(centred.T, bias=True)))[::-1]
    held = np.cumsum(variances) / variances.sum()
    kept = len(Whitening.fit(centred, share).scales)
    assert held[kept - 1] >= share
    assert kept == 1 or held[kept - 2] < share
    rest = np.square(centred - Whitening.fit(centred, share).undo(Whitening.fit(centred, share).apply(centred)))
    assert rest.sum() / np.square(centred).sum() == pytest.approx(1 - held[kept - 1], abs=1e-4)


def test_directions_without_variance_are_left_out() -> None:
    flat = np.hstack([scaled(), scaled()[:, :3]])  # rank 10 of 13
    assert len(Whitening.fit(flat - flat.mean(axis=0), 1.0).scales) == 10


def test_residual_kmeans_clusters_whitened_vectors() -> None:
    vectors = scaled()
    quantiser = ResidualKMeans(codebook_sizes=(8, 8), whiten=1.0).fit(vectors)
    whitening = Whitening.fit(vectors - quantiser.mean_, 1.0)
    before = ResidualKMeans(codebook_sizes=(8, 8), centre=False).fit(whitening.apply(vectors - quantiser.mean_))
    np.testing.assert_array_equal(quantiser.encode(vectors), before.encode(whitening.apply(vectors - quantiser.mean_)))
    assert quantiser.variance_ == pytest.approx(10, rel=1e-3)


def test_tables_without_whitening_keep_their_identity() -> None:
    """The arrays and their names are those of before there was an option."""
    state = ResidualKMeans(codebook_sizes=(4, 4)).fit(scaled(60)).state()
    assert list(state) == ["mean", "codebook.0", "codebook.1", "variance", "mean_squared_residuals"]
    whitened = ResidualKMeans(codebook_sizes=(4, 4), whiten=0.9).fit(scaled(60)).state()
    assert whitened.keys() - state.keys() == {"whitening.directions", "whitening.scales"}
    assert table_identity(state, (4, 4, 9), "suffix") != table_identity(whitened, (4, 4, 9), "suffix")


def test_wrong_shares_and_damaged_states_are_refused() -> None:
    for wrong in ({"whiten": 0.0}, {"whiten": 1.1}, {"whiten": 0.9, "centre": False}):
        with pytest.raises(ConfigError, match="wrong whiten"):
            ResidualKMeans(**wrong)
    state = ResidualKMeans(codebook_sizes=(4, 4), whiten=0.9).fit(scaled(60)).state()
    with pytest.raises(DataError, match=r"whitening\.directions"):
        ResidualKMeans.from_state({**state, "whitening.directions": state["whitening.directions"][:-1]})
    with pytest.raises(DataError, match="not the state"):
        ResidualKMeans.from_state({key: array for key, array in state.items() if key != "whitening.scales"})
