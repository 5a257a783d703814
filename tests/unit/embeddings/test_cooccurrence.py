"""Co-occurrence against loops; only training events may count."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.sequences import Ragged
from genrec.data.synthetic import PlantedCatalogue
from genrec.embeddings.cooccurrence import count_cooccurrences, embed_cooccurrence, positive_pmi
from genrec.embeddings.rows import is_zero_row
from genrec.errors import ConfigError, DataError


def slow_counts(rows: list[list[int]], num_items: int, window: int) -> np.ndarray:
    counts = np.zeros((num_items, num_items))
    for row in rows:
        for i, first in enumerate(row):
            for j, second in enumerate(row):
                if first != second and abs(i - j) <= window:
                    counts[first, second] += 1
    return counts


def slow_ppmi(counts: np.ndarray) -> np.ndarray:
    result = np.zeros_like(counts)
    for i, j in zip(*np.nonzero(counts), strict=True):
        ratio = counts[i, j] * counts.sum() / (counts[i].sum() * counts[:, j].sum())
        result[i, j] = max(0.0, math.log(ratio))
    return result


histories = st.lists(st.lists(st.integers(0, 6), max_size=12), max_size=8)


@settings(deadline=None)
@given(histories, st.integers(1, 15))
def test_counts_equal_loops(rows: list[list[int]], window: int) -> None:
    counts = count_cooccurrences(Ragged.from_lists(rows), 7, window=window)
    expected = slow_counts(rows, 7, window)
    np.testing.assert_array_equal(counts.toarray(), expected)
    np.testing.assert_allclose(positive_pmi(counts).toarray(), slow_ppmi(expected), atol=1e-12)


@pytest.fixture(scope="module")
def train() -> Ragged:
    users, items, _ = PlantedCatalogue.create(num_items=80).sample(300, seed=2)
    return Ragged.from_offsets(items.astype(np.int32), np.searchsorted(users, np.arange(301)))


@pytest.mark.parametrize("weighting", ["ppmi", "count"])
def test_gram_matrix_equals_the_dense_oracle(train: Ragged, weighting: str) -> None:
    """U S U^T has no signs, and no order among equal values."""
    vectors = embed_cooccurrence(train, 82, dimensions=12, window=3, weighting=weighting, normalise=False)
    matrix = slow_counts(train.to_lists(), 82, 3)
    matrix = slow_ppmi(matrix) if weighting == "ppmi" else matrix
    left, values, _ = np.linalg.svd(matrix)
    assert values[11] - values[12] > 1e-3 * values[0]  # the cut is not within equal values
    expected = (left[:, :12] * values[:12]) @ left[:, :12].T
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-5 * values[0])


def test_deterministic_normalised_and_counts_unseen(train: Ragged, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        vectors = embed_cooccurrence(train, 83, dimensions=16)
    assert vectors.dtype == np.float32
    assert vectors.shape == (83, 16)
    assert np.array_equal(vectors, embed_cooccurrence(train, 83, dimensions=16))
    assert np.flatnonzero(is_zero_row(vectors)).tolist() == [80, 81, 82]
    assert "3 of 83 items have no neighbour in training" in caplog.text
    np.testing.assert_allclose(np.linalg.norm(vectors[:80], axis=1), 1.0, atol=1e-6)


def test_later_events_do_not_matter(train: Ragged) -> None:
    """Rows are views of the user's whole history; what lies behind their end is validation and test."""
    shorter = Ragged(train.values, train.starts, train.ends - 2)
    changed = train.values.copy()
    changed[train.ends - 1] = 0
    changed[train.ends - 2] = 79
    other = Ragged(changed, train.starts, train.ends - 2)
    expected = embed_cooccurrence(shorter, 80, dimensions=8)
    assert np.array_equal(expected, embed_cooccurrence(other, 80, dimensions=8))
    assert not np.array_equal(expected, embed_cooccurrence(train, 80, dimensions=8))


def test_next_items_are_close(train: Ragged) -> None:
    vectors = embed_cooccurrence(train, 80, dimensions=32, window=1)
    catalogue = PlantedCatalogue.create(num_items=80)
    cosine = vectors @ vectors.T
    near = cosine[np.arange(80), catalogue.successors[:, 0]]
    assert near.mean() > cosine.mean() + 0.1


def test_errors(train: Ragged) -> None:
    with pytest.raises(DataError, match=r"co-occurrence of training items: .*expected 81, found 80 non-empty rows"):
        embed_cooccurrence(train, 100, dimensions=81)
    with pytest.raises(DataError, match="there is nothing to embed"):
        embed_cooccurrence(Ragged.from_lists([[1], [2], [3, 3]]), 5, dimensions=1)
    with pytest.raises(DataError, match=r"item_index is out of range \(expected 0 to 9, found 0 to 79\)"):
        embed_cooccurrence(train, 10, dimensions=4)
    with pytest.raises(DataError, match=r"item_index is out of range .*found -1 to 0"):
        count_cooccurrences(Ragged.from_lists([[0, -1]]), 3)
    with pytest.raises(ConfigError, match="window is out of range"):
        embed_cooccurrence(train, 80, window=0)
    with pytest.raises(ConfigError, match="expected ppmi or count, found 'pmi'"):
        embed_cooccurrence(train, 80, weighting="pmi")
