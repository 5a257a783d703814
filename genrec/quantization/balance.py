"""Balanced k-means: prices of the codes that keep any of them from holding too many vectors.

A vector takes the code of least squared distance plus price, so its code is still a function of the vector alone.
Knows arrays and errors only.
"""
# n vectors, E width, K codes

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float32
from threadpoolctl import threadpool_limits

from genrec.errors import DataError
from genrec.quantization.assignment import chunks, nearest_codes
from genrec.quantization.checks import distinct_rows

TOLERANCE = 0.05  # share of the bound by which the fullest code may pass it
_AIM = 0.04  # tolerance of training, which compares in float32 what is decided in float64 later
_SHAPING = (0.2, 0.2)  # tolerances before the codes become means
_SMOOTHNESS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # as shares of the median margin
_SHARP = 0.01  # share of its room to which a column's smooth count is brought
_STEPS = 40  # of L-BFGS at each of them
_ROUNDS = 100  # of raising the prices of the last columns that are too full


def largest_count(num_vectors: int, num_codes: int, balance: float, tolerance: float = TOLERANCE) -> int:
    """The most vectors that a code may hold: balance * n / K, the tolerance on top, rounded up."""
    return math.ceil((1 + tolerance) * balance * num_vectors / num_codes)


def balanced_codebook(
    vectors: Float32[np.ndarray, "n E"], codebook: Float32[np.ndarray, "K E"], balance: float
) -> tuple[Float32[np.ndarray, "K E"], Float32[np.ndarray, " K"]]:
    """Balanced k-means from a given codebook: rough prices and means in turn, and at last prices that keep the bound.

    The same codebook and prices whatever the number of threads.

    Args:
        vectors: equal ones are taken once, since no prices part them; their distances to all codes, n * K numbers, are
            held in memory.
        codebook: of plain k-means.
        balance: largest number of different vectors a code, as a multiple of n / K; at least 1.

    Returns:
        Codebook and prices, for `nearest_codes`, which then gives no code more than `largest_count` of them.

    Raises:
        DataError: no such prices were found: too many vectors are so nearly equal that float32 cannot part them.
    """
    different = distinct_rows(vectors, np.arange(len(vectors)), len(vectors))
    if len(different) < len(vectors):
        vectors = vectors[different]
    for tolerance in _SHAPING:
        prices = market_prices(_costs(vectors, codebook), balance, tolerance)
        codebook = _means(vectors, codebook, _assign(vectors, codebook, prices))
    prices = market_prices(_costs(vectors, codebook), balance)
    largest = int(np.bincount(_assign(vectors, codebook, prices)).max())
    allowed = largest_count(len(vectors), len(codebook), balance)
    if largest > allowed:
        raise DataError(
            "the codes cannot be balanced",
            expected=f"at most {allowed} of {len(vectors)} different vectors a code",
            found=f"{largest} that no prices part",
            fix="raise tokenizer.balance, or leave it out",
        )
    return codebook, prices


def market_prices(
    costs: Float32[np.ndarray, "n K"], balance: float, tolerance: float = _AIM
) -> Float32[np.ndarray, " K"]:
    """Prices of the columns at which no column is the cheapest of too many rows.

    To give every row a column at least total cost, none more than room = balance * n / K rows, is a transport problem
    (Bradley, Bennett and Demiriz, Constrained k-means clustering, 2000, who bound the sizes from below). Its dual is to
    maximise sum_i min_k (C_ik + p_k) - room * sum_k p_k over p >= 0. L-BFGS does, with the minimum made smooth,
    -eps log sum_k exp(-(C_ik + p_k) / eps), for smaller and smaller eps (Cuturi and Peyré, A smoothed dual approach for
    variational Wasserstein problems, 2016). The eps are shares of the median margin of a row's cheapest column over the
    next, so that they suit codes near to one another. Ends as soon as the sharp minimum gives no column more than its
    room and the tolerance. The last few columns that are too full, by a row or so, become dearer until those that are
    too many leave, as in an ascending auction. Whatever the prices are, no other choice of columns with the same counts
    costs less.

    Args:
        costs: of each column to each row.
        balance: see `balanced_codebook`.
        tolerance: share by which a column may be too full at the end; returns the last prices if that is not reached.
    """
    from scipy.optimize import minimize  # a fifth of a second, not at the start of every command

    num_rows, num_columns = costs.shape
    allowed = largest_count(num_rows, num_columns, balance, tolerance)
    # whole, or some row would have to be shared by two columns, and its prices be exactly those at which it can
    room = (largest_count(num_rows, num_columns, balance, 0.0) + allowed) // 2
    prices = np.zeros(num_columns)
    best, margin = _choice(costs, prices)
    spread = float(np.mean(costs[:: max(1, num_rows // 1000)].std(axis=1, dtype=np.float64))) or 1.0
    with threadpool_limits(1):  # sums of products round otherwise with another number of threads
        for smoothness in (None, *_SMOOTHNESS):
            if np.bincount(best).max() <= allowed:
                break
            share = 0.1 * spread if smoothness is None else smoothness * float(np.median(margin))
            epsilon = max(share, 1e-7 * spread)
            prices = minimize(
                _smooth_dual,
                prices / spread,
                args=(costs, spread, epsilon, room),
                jac=True,
                method="L-BFGS-B",
                bounds=[(0.0, None)] * num_columns,
                options={"maxiter": _STEPS, "maxfun": 2 * _STEPS, "ftol": 0.0, "gtol": _SHARP * room / num_rows},
            ).x
            prices = prices * spread
            best, margin = _choice(costs, prices)
    for _ in range(_ROUNDS):
        counts = np.bincount(best)
        if counts.max() <= allowed:
            break
        for column in np.flatnonzero(counts > allowed):
            margins = np.sort(margin[best == column])
            leaving = counts[column] - room
            prices[column] += (margins[leaving - 1] + margins[leaving]) / 2
        best, margin = _choice(costs, prices)
    return prices.astype(np.float32)


def _smooth_dual(
    prices: np.ndarray, costs: np.ndarray, unit: float, epsilon: float, room: int
) -> tuple[float, np.ndarray]:
    """The smooth dual a row and its gradient, negated for a minimiser; it and the prices are given in this unit."""
    total, counts, offered = 0.0, np.zeros(len(prices)), (unit * prices).astype(np.float32)
    for rows in chunks(*costs.shape):
        priced = costs[rows] + offered
        lowest = priced.min(axis=1)
        priced -= lowest[:, None]
        priced *= np.float32(-1.0 / epsilon)
        np.exp(priced, out=priced)
        weight = priced.sum(axis=1)
        counts += (1.0 / weight) @ priced
        total += float((lowest - epsilon * np.log(weight)).sum(dtype=np.float64))
    return (room * prices.sum() - total / unit) / len(costs), (room - counts) / len(costs)


def _choice(costs: np.ndarray, prices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest column of each row, and how much dearer the next is."""
    best, margin = np.empty(len(costs), dtype=np.int64), np.empty(len(costs), dtype=np.float32)
    for rows in chunks(*costs.shape):
        priced = costs[rows] + prices.astype(np.float32)
        every = np.arange(len(priced))
        best[rows] = priced.argmin(axis=1)
        lowest = priced[every, best[rows]]
        priced[every, best[rows]] = np.inf
        margin[rows] = priced.min(axis=1) - lowest
    return best, margin


def _costs(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """|b|^2 - 2 <x, b>: squared distances less |x|^2, float32 [n, K]."""
    squares = np.square(codebook, dtype=np.float64).sum(axis=1).astype(np.float32)
    costs = np.empty((len(vectors), len(codebook)), dtype=np.float32)
    with threadpool_limits(1):  # products too
        for rows in chunks(len(vectors), vectors.shape[1] + len(codebook)):
            costs[rows] = squares - 2 * (vectors[rows] @ codebook.T)
    return costs


def _assign(vectors: np.ndarray, codebook: np.ndarray, prices: np.ndarray) -> np.ndarray:
    codes = np.empty(len(vectors), dtype=np.int32)
    for rows in chunks(len(vectors), vectors.shape[1] + len(codebook)):
        codes[rows] = nearest_codes(vectors[rows], codebook, prices)
    return codes


def _means(vectors: np.ndarray, codebook: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The mean of each code's vectors; a code without any stays where it is."""
    means = codebook.copy()
    order = np.argsort(codes, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        means[codes[rows[0]]] = vectors[rows].mean(axis=0, dtype=np.float64)
    return means
