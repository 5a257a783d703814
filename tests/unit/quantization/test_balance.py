from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits

from examples import examples
from genrec.errors import ConfigError, DataError
from genrec.quantization.balance import TOLERANCE, largest_count, market_prices
from genrec.quantization.residual_kmeans import ResidualKMeans


def skewed(num_vectors: int, width: int = 8, seed: int = 0) -> np.ndarray:
    """Thirty clusters, the first of which has most of the vectors."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((30, width)) * 4
    share = 1.0 / np.arange(1, 31) ** 2
    cluster = rng.choice(30, num_vectors, p=share / share.sum())
    return (centres[cluster] + 0.3 * rng.standard_normal((num_vectors, width))).astype(np.float32)


def encode_slowly(quantiser: ResidualKMeans, vectors: np.ndarray) -> np.ndarray:
    """The definition: all distances and prices in float64, level after level."""
    residuals, codes = vectors - quantiser.mean_, []
    for codebook, prices in zip(quantiser.codebooks_, quantiser.prices_, strict=True):
        costs = np.square(residuals[:, None].astype(np.float64) - codebook[None]).sum(axis=2) + prices
        codes.append(costs.argmin(axis=1))
        residuals = residuals - codebook[codes[-1]]
    return np.stack(codes, axis=1)


def perplexity(codes: np.ndarray) -> float:
    share = np.unique(codes, return_counts=True)[1] / len(codes)
    return float(np.exp(-(share * np.log(share)).sum()))


@settings(max_examples=examples(40), deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(8, 80),
    num_columns=st.integers(2, 8),
    balance=st.sampled_from([1.0, 1.3, 2.0]),
)
def test_prices_are_those_of_a_market(seed, num_rows, num_columns, balance) -> None:
    """No column is too full, and no other choice of equal counts is cheaper (Hungarian method)."""
    rng = np.random.default_rng(seed)
    costs = (rng.standard_normal((num_rows, num_columns)) + np.linspace(0, 4, num_columns)).astype(np.float32)
    prices = market_prices(costs, balance)
    chosen = (costs + prices).argmin(axis=1)
    counts = np.bincount(chosen, minlength=num_columns)
    assert counts.max() <= largest_count(num_rows, num_columns, balance)
    assert (prices >= 0).all()
    rows, seats = linear_sum_assignment(np.repeat(costs, counts, axis=1).astype(np.float64))
    least = np.repeat(costs, counts, axis=1)[rows, seats].sum(dtype=np.float64)
    assert costs[np.arange(num_rows), chosen].sum(dtype=np.float64) == pytest.approx(least, abs=1e-4)


def test_no_prices_where_nothing_is_too_full() -> None:
    costs = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    assert not market_prices(costs, balance=4.0).any()


@pytest.mark.parametrize("balance", [1.2, 3.0])
def test_codes_of_skewed_vectors_are_used_alike(balance: float) -> None:
    """The bound holds at every level, by the exact codes, and plain k-means breaks it; squared error is the price."""
    vectors, sizes = skewed(2000), (24, 12)
    plain = ResidualKMeans(codebook_sizes=sizes).fit(vectors)
    quantiser = ResidualKMeans(codebook_sizes=sizes, balance=balance).fit(vectors)
    before, codes = plain.encode(vectors), quantiser.encode(vectors)
    for level, size in enumerate(sizes):
        assert np.bincount(codes[:, level]).max() <= math.ceil((1 + TOLERANCE) * balance * len(vectors) / size)
    assert np.bincount(before[:, 0]).max() > 1.05 * 3 * len(vectors) / sizes[0]
    assert perplexity(codes[:, 0]) > perplexity(before[:, 0]) + 1
    assert quantiser.mean_squared_residuals_[0] > plain.mean_squared_residuals_[0]
    decoded = quantiser.decode(codes)
    error = np.square(vectors - decoded).sum(axis=1).mean()
    assert error == pytest.approx(quantiser.mean_squared_residuals_[-1], rel=1e-4)


@settings(max_examples=examples(10), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), sizes=st.lists(st.integers(2, 12), min_size=1, max_size=3))
def test_codes_are_those_of_brute_force(seed, sizes) -> None:
    quantiser = ResidualKMeans(codebook_sizes=sizes, balance=1.5, num_iterations=5).fit(skewed(200, seed=seed))
    more = skewed(300, seed=seed + 1)
    codes = quantiser.encode(more)
    np.testing.assert_array_equal(codes, encode_slowly(quantiser, more))
    np.testing.assert_array_equal(
        np.concatenate([quantiser.encode(more[at : at + 7]) for at in range(0, 300, 7)]), codes
    )
    restored = ResidualKMeans.from_state(load(save(quantiser.state())))
    np.testing.assert_array_equal(restored.encode(more), codes)


def test_equal_vectors_count_once() -> None:
    """Nine of ten vectors are zeros, which one code holds; the bound is that of the different ones."""
    vectors = np.concatenate([np.zeros((1800, 8), dtype=np.float32), skewed(200)])
    quantiser = ResidualKMeans(codebook_sizes=(8, 8), balance=1.2, centre=False).fit(vectors)
    codes = quantiser.encode(vectors)
    assert len(np.unique(codes[:1800], axis=0)) == 1
    for level in range(2):
        assert np.bincount(codes[1799:, level]).max() <= largest_count(201, 8, 1.2)


def test_residuals_of_zero_count_once() -> None:
    """A vector that has a code of its own leaves nothing over, and most of forty do."""
    vectors = skewed(40)
    quantiser = ResidualKMeans(codebook_sizes=(32, 4), balance=1.5).fit(vectors)
    codes = quantiser.encode(vectors)
    residuals = vectors - quantiser.mean_ - quantiser.codebooks_[0][codes[:, 0]]
    different, first = np.unique(residuals + np.float32(0), axis=0, return_index=True)
    assert len(different) < 30
    assert np.bincount(codes[first, 1]).max() <= largest_count(len(different), 4, 1.5)


def test_vectors_that_float32_cannot_part() -> None:
    """A hundred neighbouring floats, far from the origin, are different vectors without a distance."""
    vectors = np.full((108, 4), 1000.0, dtype=np.float32)
    vectors[:100, 0] = np.float32(1000) + np.arange(100, dtype=np.float32) * np.spacing(np.float32(1000))
    vectors[100:] = skewed(8, 4)
    with pytest.raises(DataError, match=r"cannot be balanced.*expected at most 29 of 108.*raise tokenizer.balance"):
        ResidualKMeans(codebook_sizes=(4,), balance=1.0, centre=False).fit(vectors)


def test_states_have_prices_only_when_balanced() -> None:
    vectors = skewed(300)
    plain = ResidualKMeans(codebook_sizes=(8, 4)).fit(vectors).state()
    state = ResidualKMeans(codebook_sizes=(8, 4), balance=1.5).fit(vectors).state()
    assert state.keys() - plain.keys() == {"price.0", "price.1"}
    assert ResidualKMeans.from_state(state).state().keys() == state.keys()
    for damaged in ({"price.0": state["price.0"][:3]}, {"price.1": state["price.1"] * np.float32(np.nan)}):
        with pytest.raises(DataError, match="is damaged"):
            ResidualKMeans.from_state({**state, **damaged})
    for wrong in ({**state, "price.2": state["price.1"]}, {**plain, "price.1": state["price.1"]}):
        with pytest.raises(DataError, match="not the state of a residual k-means"):
            ResidualKMeans.from_state(wrong)


def test_the_number_of_threads_does_not_matter() -> None:
    vectors, parameters = skewed(1500, 32), {"codebook_sizes": (16, 8), "balance": 1.5}
    found: list[dict[str, Any]] = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(ResidualKMeans(**parameters).fit(vectors).state())
    for name, array in found[0].items():
        np.testing.assert_array_equal(found[1][name], array)


@pytest.mark.parametrize("balance", [0.9, -1.0, math.inf, math.nan])
def test_wrong_bounds(balance: float) -> None:
    with pytest.raises(ConfigError, match=r"wrong balance .*expected a number of at least 1"):
        ResidualKMeans(balance=balance)
