"""Rewards in plain Python, one candidate at a time; None is padding."""

from __future__ import annotations

import math
from collections.abc import Sequence

from oracles.value_oracle import cosine

Items = Sequence[int | None]


def exact_hit(items: Items, target: int) -> list[float]:
    return [1.0 if item == target else 0.0 for item in items]


def rank_discounted(items: Items, log_probs: Sequence[float], target: int) -> list[float]:
    if target not in items:
        return [0.0] * len(items)
    there = [place for place, item in enumerate(items) if item is not None]
    by_rank = sorted(there, key=lambda place: (-log_probs[place], place))
    discounts = {place: 1 / math.log2(rank + 2) for rank, place in enumerate(by_rank)}
    total = sum(discounts.values())
    return [
        -discounts[place] / total if item is not None and item != target else 0.0 for place, item in enumerate(items)
    ]


def prefix_depth(items: Items, target: int, catalogue: Sequence[Sequence[int]]) -> list[float]:
    found = []
    for item in items:
        depth = 0
        if item is not None:
            while depth < len(catalogue[target]) and catalogue[item][depth] == catalogue[target][depth]:
                depth += 1
        found.append(depth / len(catalogue[target]))
    return found


def embedding_similarity(items: Items, target: int, embeddings: Sequence[Sequence[float]]) -> list[float]:
    return [0.0 if item is None else cosine(embeddings[item], embeddings[target]) for item in items]
