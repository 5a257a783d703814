"""Drift against loops, and what it says of items that the codebooks know, and of others."""

from __future__ import annotations

import numpy as np
import pytest

from genrec.quantization.drift import drift, squared_errors
from genrec.quantization.residual_kmeans import ResidualKMeans


def fitted(num_items: int = 60, seed: int = 0) -> tuple[np.ndarray, ResidualKMeans]:
    vectors = np.random.default_rng(seed).standard_normal((num_items, 3)).astype(np.float32)
    return vectors, ResidualKMeans(codebook_sizes=(4, 3), num_iterations=5).fit(vectors)


def test_every_number_is_a_loop_over_items() -> None:
    vectors, quantiser = fitted()
    later = np.random.default_rng(1).standard_normal((7, 3)).astype(np.float32) * 2
    names = [f"n{item}" for item in range(7)]
    found = drift(vectors, later, encode=quantiser.encode, decode=quantiser.decode, names=names)

    def errors(rows: np.ndarray, level: int) -> list[float]:
        codes = quantiser.encode(rows)
        means = [quantiser.mean_ + sum(quantiser.codebooks_[at][code[at]] for at in range(level)) for code in codes]
        return [float(((row.astype(float) - mean) ** 2).sum()) for row, mean in zip(rows, means, strict=True)]

    for level in (1, 2):
        entry = found["levels"][level - 1]
        old, new = errors(vectors, level), errors(later, level)
        assert entry["level"] == level
        assert entry["fitted_mean"] == pytest.approx(np.mean(old), rel=1e-5)
        assert entry["mean"] == pytest.approx(np.mean(new), rel=1e-5)
        assert entry["ratio"] == pytest.approx(np.mean(new) / np.mean(old), rel=1e-5)
        assert entry["beyond_95"] == np.mean([error > np.percentile(old, 95) for error in new])
        assert entry["beyond_99"] == np.mean([error > np.percentile(old, 99) for error in new])
        spread = np.mean([((row - vectors.mean(axis=0)) ** 2).sum() for row in later])
        assert entry["unexplained"] == pytest.approx(np.mean(new) / spread, rel=1e-5)
    assert found["total"] == found["levels"][-1]
    order = sorted(range(7), key=lambda item: -errors(later, 2)[item])[:5]
    assert [item["item_id"] for item in found["worst"]] == [f"n{item}" for item in order]
    below = np.mean([error < errors(later, 2)[order[0]] for error in errors(vectors, 2)])
    assert found["worst"][0]["percentile"] == below


def test_the_fitted_items_do_not_drift_and_others_do() -> None:
    vectors, quantiser = fitted()
    words = {"encode": quantiser.encode, "decode": quantiser.decode, "names": [str(item) for item in range(60)]}
    same = drift(vectors, vectors, **words)
    assert [level["ratio"] for level in same["levels"]] == [1.0, 1.0]
    assert same["total"]["beyond_99"] <= 1 / 60
    errors = squared_errors(vectors, quantiser.encode(vectors), quantiser.decode)
    np.testing.assert_allclose(errors.mean(axis=0), quantiser.mean_squared_residuals_, rtol=1e-4)
    far = drift(vectors, vectors + 20, **words)
    assert far["levels"][0]["ratio"] > 100
    assert far["total"]["unexplained"] > 0.5
    assert far["total"]["beyond_99"] == 1


def test_fitted_items_without_error_have_no_ratio() -> None:
    vectors = np.array([[0.0], [1.0]], dtype=np.float32)
    quantiser = ResidualKMeans(codebook_sizes=(2,)).fit(vectors)
    found = drift(
        vectors,
        np.array([[5.0]], dtype=np.float32),
        encode=quantiser.encode,
        decode=quantiser.decode,
        names=["a"],
    )
    assert found["total"]["ratio"] is None
    assert found["total"]["beyond_95"] == 1
