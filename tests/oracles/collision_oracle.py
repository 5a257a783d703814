"""Collision policies by trying everything: who stays, and every way to place the others."""

from __future__ import annotations

from collections import defaultdict
from itertools import product

import numpy as np


def stayers_and_movers(codes: np.ndarray, errors: np.ndarray) -> tuple[set[int], list[int]]:
    """Of each bucket the item with the smallest error [N, K] at its last code, the first of equals; and the others."""
    buckets = defaultdict(list)
    for item, row in enumerate(codes.tolist()):
        buckets[tuple(row)].append(item)
    stay = {min(items, key=lambda item: (errors[item, codes[item, -1]], item)) for items in buckets.values()}
    return stay, [item for item in range(len(codes)) if item not in stay]


def best_moves(codes: np.ndarray, size: int, errors: np.ndarray, limit: float | None) -> dict[tuple, tuple[int, float]]:
    """For each parent with movers: most items that can move (each within the limit), and the least total cost then."""
    _, movers = stayers_and_movers(codes, errors)
    best = {}
    for parent in {tuple(codes[item, :-1].tolist()) for item in movers}:
        below = [item for item in range(len(codes)) if tuple(codes[item, :-1].tolist()) == parent]
        free = sorted(set(range(size)) - {int(codes[item, -1]) for item in below})
        moving = [item for item in movers if item in below]
        found = []
        for choice in product([None, *free], repeat=len(moving)):
            taken = [code for code in choice if code is not None]
            costs = [
                float(errors[item, code] - errors[item, codes[item, -1]])
                for item, code in zip(moving, choice, strict=True)
                if code is not None
            ]
            if len(set(taken)) == len(taken) and (limit is None or all(cost <= limit for cost in costs)):
                found.append((-len(taken), sum(costs)))
        number, cost = min(found)
        best[parent] = (-number, cost)
    return best
