"""What many diagnosed searches say together: survival, what displaced targets, calibration, rescues, neighbourhoods.

Pure functions of NumPy arrays, one row a case. Must not know searches, models or configuration.
"""
# C cases, L levels, k items of a list, N items, m neighbours of an item

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

QUANTILES = (0.25, 0.5, 0.75, 0.9)


def displaced(
    lost_at: np.ndarray, gap: np.ndarray, shared: np.ndarray, rival_count: np.ndarray, own_count: np.ndarray
) -> list[dict[str, Any]]:
    """By level, how many targets are lost there and what stands against them: the last prefix that was kept.

    Args:
        lost_at: [C] level (from 0) whose beams are the first without the target's prefix, -1 for none.
        gap: [C, L] log-probability of the last prefix that was kept minus that of the target's; NaN where the target's
            could not have been kept (nothing admissible below it, or impossible).
        shared: [C, L] codes that the two have in common.
        rival_count: [C, L] training interactions of the items below the last prefix that was kept.
        own_count: [C, L] of those below the target's.

    Returns:
        For each level: num_lost; num_displaced, those with a rival; and of the rivals, None without any: quantiles of
            the gap in nats, share_siblings (all codes but the last in common), share_more_popular.
    """
    lines = []
    for level in range(gap.shape[1]):
        is_lost = lost_at == level
        rows = np.flatnonzero(is_lost & ~np.isnan(gap[:, level]))
        line: dict[str, Any] = {"level": level + 1, "num_lost": int(is_lost.sum()), "num_displaced": len(rows)}
        own = gap[rows, level]
        line["gap"] = {f"q{100 * q:g}": float(np.quantile(own, q)) if len(own) else None for q in QUANTILES}
        line["share_siblings"] = _mean(shared[rows, level] == level)
        line["share_more_popular"] = _mean(rival_count[rows, level] > own_count[rows, level])
        lines.append(line)
    return lines


def reliability(predicted: np.ndarray, is_hit: np.ndarray, num_bins: int) -> dict[str, Any]:
    """Predicted probability against how often it came true, in bins of equally many cases, and the calibration error.

    ECE = sum over bins of (cases of the bin / C) |mean predicted - share of hits| (Guo et al. 2017, eq. 3; their bins
    are equally wide, which leaves most of them empty where probabilities are small). Equal predictions may fall into
    two neighbouring bins.

    Args:
        predicted: [C] in [0, 1].
        is_hit: [C] bool.
        num_bins: at most; fewer where there are fewer cases.

    Returns:
        bins (from the lowest predictions: num_cases, low, high, predicted, hit_rate), ece, mean predicted and hit_rate,
            and the Brier score, the mean squared difference.

    >>> found = reliability(np.array([0.1, 0.1, 0.9, 0.9]), np.array([False, False, True, False]), 2)
    >>> [line["hit_rate"] for line in found["bins"]], round(found["ece"], 3)
    ([0.0, 0.5], 0.25)
    """
    order = np.argsort(predicted, kind="stable")
    bins, error = [], 0.0
    for rows in np.array_split(order, min(num_bins, len(order))):
        own, hits = predicted[rows], is_hit[rows].astype(np.float64)
        error += len(rows) / len(order) * abs(float(own.mean() - hits.mean()))
        line = {"low": own.min(), "high": own.max(), "predicted": own.mean(), "hit_rate": hits.mean()}
        bins.append({"num_cases": len(rows), **{name: float(value) for name, value in line.items()}})
    return {
        "bins": bins,
        "ece": error,
        "predicted": float(predicted.mean()),
        "hit_rate": float(is_hit.mean()),
        "brier": float(np.square(predicted - is_hit).mean()),
    }


def rescues(is_kept: np.ndarray, is_found: np.ndarray, extra_nodes: float) -> dict[str, Any]:
    """What a larger search finds of what a small one has lost, and loses of what that has, for the nodes it costs.

    Args:
        is_kept: [C] bool, the small search has the target.
        is_found: [C] bool, the larger one has it.
        extra_nodes: that the larger one reads more for a request, the mean.

    Returns:
        found, rescued and lost as shares of the cases, and net_per_100_nodes, (rescued - lost) for so many nodes more;
            None where there are no more.

    >>> rescues(np.array([True, False, False, False]), np.array([True, True, False, False]), 100.0)
    {'found': 0.5, 'rescued': 0.25, 'lost': 0.0, 'net_per_100_nodes': 0.25}
    """
    rescued, lost = float((is_found & ~is_kept).mean()), float((is_kept & ~is_found).mean())
    rate = 100 * (rescued - lost) / extra_nodes if extra_nodes > 0 else None
    return {"found": float(is_found.mean()), "rescued": rescued, "lost": lost, "net_per_100_nodes": rate}


def near_lists(
    lists: np.ndarray, neighbours: np.ndarray, targets: np.ndarray, is_denied: Sequence[set[int]], num_near: int
) -> tuple[np.ndarray, np.ndarray]:
    """The items of each list and the nearest ones of each of them: how many they are, and whether the target is there.

    Args:
        lists: [C, k] item_index, -1 as padding.
        neighbours: [N, m] the nearest other items of each item, nearest first, -1 as padding.
        targets: [C].
        is_denied: [C] items that a case may not get; a neighbour of them does not count.
        num_near: neighbours of an item that are looked at, at most m.

    Returns:
        sizes [C] int64 and hits [C] bool.
    """
    sizes, hits = np.zeros(len(lists), dtype=np.int64), np.zeros(len(lists), dtype=bool)
    for case, (row, denied) in enumerate(zip(lists, is_denied, strict=True)):
        items = row[row >= 0]
        near = set(items.tolist()) | set(neighbours[items, :num_near].ravel().tolist())
        near -= denied | {-1}
        sizes[case], hits[case] = len(near), int(targets[case]) in near
    return sizes, hits


def _mean(flags: np.ndarray) -> float | None:
    return float(flags.mean()) if len(flags) else None
