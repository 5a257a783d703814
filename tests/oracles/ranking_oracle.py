"""Full ranking the slow way: dicts, sorting and loops."""

from __future__ import annotations

import itertools
import math


def rank_counts(scores: dict[int, float], target: int, seen: set[int]) -> tuple[int, int] | None:
    """(items above the target, other items level with it) among the unseen, or None for a miss."""
    if target not in scores or target in seen:
        return None
    others = [score for item, score in scores.items() if item != target and item not in seen]
    return sum(s > scores[target] for s in others), sum(s == scores[target] for s in others)


def position(scores: dict[int, float], target: int, tie_rule: str) -> int:
    """Place of the target in a list sorted by score, the target behind or before all of its equals."""
    late = {"pessimistic": 1, "optimistic": -1}[tie_rule]
    ordered = sorted(scores, key=lambda item: (-scores[item], late if item == target else 0))
    return ordered.index(target)


def metrics(rank: float, k: int) -> dict[str, float]:
    hit = rank < k
    return {
        "recall": 1.0 if hit else 0.0,
        "ndcg": math.log(2) / math.log(rank + 2) if hit else 0.0,
        "mrr": 1 / (rank + 1) if hit else 0.0,
    }


def recommend(scores: dict[int, float], k: int, seen: set[int]) -> list[tuple[int, float]]:
    """The k best unseen items, (score descending, item ascending), fewer if there are fewer."""
    return sorted(((i, s) for i, s in scores.items() if i not in seen), key=lambda pair: (-pair[1], pair[0]))[:k]


def mean_over_orders(num_greater: int, num_tied: int, k: int) -> dict[str, float]:
    """The metrics of a target (called 0) averaged over all orders of it and its equals."""
    orders = list(itertools.permutations(range(num_tied + 1)))
    found = [metrics(num_greater + order.index(0), k) for order in orders]
    return {name: sum(values[name] for values in found) / len(orders) for name in found[0]}


def id_position(scores: dict[int, float], codes: list[int], target: int) -> int | None:
    """Place of the target's ID in the list of distinct IDs by the best score of their items; None if not found."""
    best: dict[int, float] = {}
    for item, score in scores.items():
        best[codes[item]] = max(score, best.get(codes[item], score))
    ordered = sorted(best, key=lambda code: (-best[code], code))
    return ordered.index(codes[target]) if target >= 0 and codes[target] in best else None
