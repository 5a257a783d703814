"""Truncated SVD against the dense one."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sparse

from genrec.embeddings.svd import truncated_svd
from genrec.errors import ConfigError, DataError
from genrec.seeding import generator


def random_matrix(rows: int, columns: int, density: float = 0.2, seed: int = 0) -> sparse.csr_array:
    rng = generator(seed, rows, columns)
    return sparse.csr_array(rng.standard_normal((rows, columns)) * (rng.random((rows, columns)) < density))


@pytest.mark.parametrize(
    ("rows", "columns", "dimensions"), [(60, 40, 5), (40, 60, 5), (50, 50, 49), (30, 80, 30), (80, 30, 30), (9, 9, 1)]
)
def test_equals_the_dense_one_up_to_sign(rows: int, columns: int, dimensions: int) -> None:
    matrix = random_matrix(rows, columns)
    left, values = truncated_svd(matrix, dimensions, seed=0, where="m")
    expected_left, expected_values, _ = np.linalg.svd(matrix.toarray())
    assert left.shape == (rows, dimensions)
    np.testing.assert_allclose(values, expected_values[:dimensions], rtol=1e-10)
    cosine = np.abs(np.sum(left * expected_left[:, :dimensions], axis=0))
    np.testing.assert_allclose(cosine, 1.0, atol=1e-7)


@pytest.mark.parametrize("dimensions", [3, 30])
def test_signs_and_seeds(dimensions: int) -> None:
    matrix = random_matrix(50, 35)
    left, values = truncated_svd(matrix, dimensions, seed=1, where="m")
    again, same_values = truncated_svd(matrix, dimensions, seed=1, where="m")
    assert np.array_equal(left, again)
    assert np.array_equal(values, same_values)
    assert (left.max(axis=0) > -left.min(axis=0)).all()
    other, _ = truncated_svd(matrix, dimensions, seed=2, where="m")
    np.testing.assert_allclose(left, other, atol=1e-7)
    negated, _ = truncated_svd(-matrix, dimensions, seed=1, where="m")
    np.testing.assert_allclose(left, negated, atol=1e-7)


def test_empty_rows_are_exactly_zero() -> None:
    dense = random_matrix(40, 30).toarray()
    dense[[3, 39]] = 0.0
    for dimensions in (4, 25):
        left, _ = truncated_svd(sparse.csr_array(dense), dimensions, seed=0, where="m")
        assert np.flatnonzero(~left.any(axis=1)).tolist() == [3, 39]


def test_never_fewer_dimensions() -> None:
    rng = generator(0)
    rank_three = sparse.csr_array(rng.standard_normal((40, 3)) @ rng.standard_normal((3, 30)))
    assert truncated_svd(rank_three, 3, seed=0, where="m")[1].shape == (3,)
    for dimensions in (5, 25):
        message = rf"m: too little .*\(expected {dimensions}, found rank 3\); set embedding.dimensions=3 or fewer"
        with pytest.raises(DataError, match=message):
            truncated_svd(rank_three, dimensions, seed=0, where="m")
    with pytest.raises(DataError, match=r"found 40 non-empty rows and 30 columns\); set embedding.dimensions=30"):
        truncated_svd(rank_three, 31, seed=0, where="m")
    with pytest.raises(DataError, match="found 0 non-empty rows and 0 columns"):
        truncated_svd(sparse.csr_array((4, 4)), 1, seed=0, where="m")
    with pytest.raises(ConfigError, match="dimensions is out of range"):
        truncated_svd(rank_three, 0, seed=0, where="m")
