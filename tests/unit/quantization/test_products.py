"""Products that are the same in every order and company."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.quantization.products import exact_products, sum_of_codes


def numbers(num_rows: int, width: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((num_rows, width)) * 10.0 ** random.uniform(-12, 12, (num_rows, 1))
    return rows.astype(np.float32)


@settings(max_examples=examples(25), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, 900))
def test_order_and_company_do_not_matter(seed, width) -> None:
    left, right = numbers(7, width, seed), numbers(5, width, seed + 1)
    products = exact_products(left, right)
    order = np.random.default_rng(seed).permutation(width)
    np.testing.assert_array_equal(exact_products(left[:, order], right[:, order]), products)
    np.testing.assert_array_equal(exact_products(right, left).T.shape, products.shape)
    alone = [[exact_products(one[None], other[None])[0, 0] for other in right] for one in left]
    np.testing.assert_array_equal(alone, products)


@settings(max_examples=examples(25), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, 900))
def test_products_are_about_as_good_as_float32(seed, width) -> None:
    left, right = numbers(7, width, seed), numbers(5, width, seed + 1)
    lengths = np.linalg.norm(left, axis=1)[:, None].astype(np.float64) * np.linalg.norm(right, axis=1)
    difference = exact_products(left, right) - left.astype(np.float64) @ right.T.astype(np.float64)
    assert (np.abs(difference) <= 2.0**-18 * lengths).all()


def test_zeros_and_small_whole_numbers_are_exact() -> None:
    left = np.array([[0, 0, 0], [1, -2, 3]], dtype=np.float32)
    np.testing.assert_array_equal(exact_products(left, left), left @ left.T)
    assert exact_products(left[:0], left).shape == (0, 2)


def test_sums_take_the_first_codebooks() -> None:
    books = [np.array([[1.0], [2.0]], dtype=np.float32), np.array([[10.0], [20.0]], dtype=np.float32)]
    mean = np.array([0.5], dtype=np.float32)
    assert sum_of_codes(mean, books, np.array([[0, 1], [1, 0]])).tolist() == [[21.5], [12.5]]
    assert sum_of_codes(mean, books, np.array([[1]])).tolist() == [[2.5]]
