from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from examples import examples
from genrec.quantization.assignment import chunks, nearest_codes


def brute_force(vectors: np.ndarray, codebook: np.ndarray, bias: np.ndarray | float = 0.0) -> np.ndarray:
    difference = vectors[:, None].astype(np.float64) - codebook[None]
    return (np.square(difference).sum(axis=2) + bias).argmin(axis=1)


@settings(max_examples=examples(60), deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 40),
    num_codes=st.integers(1, 30),
    exponent=st.integers(-80, 35),
    offset=st.sampled_from([0.0, 1.0, 1000.0]),
)
def test_equals_float64_brute_force(seed, width, num_codes, exponent, offset) -> None:
    """A large common offset leaves float32 products no digits: there every decision is made in float64."""
    rng = np.random.default_rng(seed)
    vectors, codebook = rng.standard_normal((50, width)), rng.standard_normal((num_codes, width))
    vectors, codebook = (((array + offset) * 2.0**exponent).astype(np.float32) for array in (vectors, codebook))
    np.testing.assert_array_equal(nearest_codes(vectors, codebook), brute_force(vectors, codebook))


@settings(max_examples=examples(40), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, 4), num_codes=st.integers(1, 30))
def test_ties_go_to_the_lower_code(seed, width, num_codes) -> None:
    """On a small grid most distances are tied, and exact."""
    rng = np.random.default_rng(seed)
    vectors, codebook = (rng.integers(-2, 3, (n, width)).astype(np.float32) for n in (50, num_codes))
    np.testing.assert_array_equal(nearest_codes(vectors, codebook), brute_force(vectors, codebook))


@settings(max_examples=examples(40), deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 40),
    num_codes=st.integers(1, 30),
    exponent=st.integers(-30, 30),
    grid=st.booleans(),
)
def test_a_bias_is_added_to_the_squared_distance(seed, width, num_codes, exponent, grid) -> None:
    """From none that matters to one that decides alone; on a grid most sums are tied, and exact."""
    rng = np.random.default_rng(seed)
    vectors, codebook = rng.standard_normal((50, width)), rng.standard_normal((num_codes, width))
    bias = rng.random(num_codes) * 2.0**exponent
    if grid:
        vectors, codebook, bias = (np.round(array) for array in (vectors, codebook, bias))
    vectors, codebook, bias = (array.astype(np.float32) for array in (vectors, codebook, bias))
    np.testing.assert_array_equal(nearest_codes(vectors, codebook, bias), brute_force(vectors, codebook, bias))


def test_neighbouring_floats_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    base = rng.standard_normal(64).astype(np.float32)
    codebook = np.stack([np.nextafter(base, np.float32(np.inf)), base, base, np.nextafter(base, np.float32(-np.inf))])
    assert nearest_codes(codebook, codebook).tolist() == [0, 1, 1, 3]


@pytest.mark.parametrize("exponent", [0, 30, -30, -63, -67, -70, -73, -76])
def test_near_ties_at_every_scale(exponent: int) -> None:
    """Near 2^-70 the products lose digits below the normal range of float32."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        base = rng.standard_normal(8)
        near = base + rng.integers(-3, 4, (12, 8)) * 2.0**-8, base + rng.standard_normal((50, 8)) * 2.0**-7
        codebook, vectors = ((array * 2.0**exponent).astype(np.float32) for array in near)
        np.testing.assert_array_equal(nearest_codes(vectors, codebook), brute_force(vectors, codebook))


def test_a_tiny_vector_among_large_codes() -> None:
    codebook = np.array([[1e14, 0], [0, 1e-30], [1e-30, 0]], dtype=np.float32)
    vectors = np.array([[9e-31, 0], [0, 9e-31], [9e13, 0], [0, 0]], dtype=np.float32)
    assert nearest_codes(vectors, codebook).tolist() == [2, 1, 0, 1]


def test_the_company_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    codebook = rng.standard_normal((64, 48)).astype(np.float32)
    middles = (codebook[rng.integers(0, 64, 500)] + codebook[rng.integers(0, 64, 500)]) / 2  # near-ties
    codes = nearest_codes(middles, codebook)
    for size in (1, 3, 64, 499):
        parts = [nearest_codes(middles[start : start + size], codebook) for start in range(0, 500, size)]
        np.testing.assert_array_equal(np.concatenate(parts), codes)
    order = rng.permutation(500)
    with threadpool_limits(1):
        np.testing.assert_array_equal(nearest_codes(middles[order], codebook), codes[order])
    np.testing.assert_array_equal(nearest_codes(np.asfortranarray(middles), codebook), codes)


@pytest.mark.parametrize(("num_rows", "numbers"), [(0, 5), (1, 2**40), (10, 2**22), (2**23 + 1, 1)])
def test_chunks_cover_the_rows(num_rows, numbers) -> None:
    found = list(chunks(num_rows, numbers))
    assert [part.start for part in found] == [0, *(part.stop for part in found)][: len(found)]
    assert (found[-1].stop if found else 0) == num_rows
    assert all(part.stop - part.start <= max(1, 2**23 // numbers) for part in found)
