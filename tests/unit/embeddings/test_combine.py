"""Weighted concatenation: lengths, inner products, errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from genrec.embeddings.combine import combine
from genrec.errors import ConfigError, DataError

numbers = st.floats(-1e3, 1e3, width=32)
weights = st.floats(0.015625, 64, width=32)


def matrix(num_items: int) -> st.SearchStrategy[np.ndarray]:
    return st.integers(1, 4).flatmap(lambda width: stn.arrays(np.float32, (num_items, width), elements=numbers))


@settings(deadline=None)
@given(st.integers(1, 6).flatmap(lambda n: st.lists(st.tuples(matrix(n), weights), min_size=1, max_size=3)))
def test_every_block_has_length_weight_or_zero(parts: list[tuple[np.ndarray, float]]) -> None:
    combined = combine([(str(number), vectors, weight) for number, (vectors, weight) in enumerate(parts)])
    assert combined.dtype == np.float32
    assert combined.shape == (len(parts[0][0]), sum(vectors.shape[1] for vectors, _ in parts))
    start = 0
    expected = np.zeros(len(combined))
    for vectors, weight in parts:
        block = combined[:, start : start + vectors.shape[1]]
        start += vectors.shape[1]
        is_filled = vectors.any(axis=1)
        np.testing.assert_allclose(np.linalg.norm(block, axis=1), weight * is_filled, rtol=1e-5)
        assert (np.sign(block) * np.sign(vectors) >= 0).all()  # direction is kept; tiny numbers may become 0
        expected += is_filled * weight**2
    np.testing.assert_allclose(np.linalg.norm(combined, axis=1), np.sqrt(expected), rtol=1e-5)


@settings(deadline=None)
@given(matrix(2), matrix(2), weights)
def test_scale_of_a_block_does_not_matter(text: np.ndarray, clicks: np.ndarray, weight: float) -> None:
    once = combine([("text", text, 1.0), ("clicks", clicks, weight)])
    scaled = combine([("text", text * np.float32(8), 1.0), ("clicks", clicks * np.float32(2), weight)])
    np.testing.assert_allclose(once, scaled, atol=1e-5 * weight)


def test_weight_zero_keeps_the_columns() -> None:
    combined = combine([("a", np.array([[2.0]]), 3.0), ("b", np.array([[1.0, 1.0]]), 0.0)])
    assert combined.tolist() == [[3.0, 0.0, 0.0]]


def test_errors() -> None:
    ones = np.ones((3, 2), dtype=np.float32)
    for blocks in ([], [("a", ones, 1.0), ("a", ones, 1.0)]):
        with pytest.raises(ConfigError, match="need different names"):
            combine(blocks)
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=f"weight of embedding 'a' .*found {weight}"):
            combine([("a", ones, weight)])
    with pytest.raises(ConfigError, match="all weights"):
        combine([("a", ones, 0.0)])
    with pytest.raises(DataError, match=r"'b' has the wrong shape \(expected \[3, E\] like 'a', found \[4, 2\]\)"):
        combine([("a", ones, 1.0), ("b", np.ones((4, 2)), 1.0)])
    with pytest.raises(DataError, match="wrong shape"):
        combine([("a", np.ones(3), 1.0)])
    bad = ones.copy()
    bad[2, 0] = np.nan
    with pytest.raises(DataError, match="embedding 'b': a vector is not finite in row 2"):
        combine([("a", ones, 1.0), ("b", bad, 1.0)])
