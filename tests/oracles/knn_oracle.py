"""Counting baselines the slow way: dicts and loops over histories."""

from __future__ import annotations

from collections import Counter, defaultdict


def popularity(train: list[list[int]]) -> Counter[int]:
    return Counter(item for history in train for item in history)


def lag_counts(train: list[list[int]], lag: int) -> Counter[tuple[int, int]]:
    return Counter((history[at], history[at + lag]) for history in train for at in range(len(history) - lag))


def knn_scores(
    train: list[list[int]],
    history: list[int],
    *,
    history_length: int = 20,
    counts: Counter[int] | None = None,
    **constants: float,
) -> dict[int, float]:
    """Item -> score over the items that share a window with the history; constants as in docs/methods.md section 6.

    `counts`: of the items, where they are not those of `train`.
    """
    window, decay, backward = int(constants["window"]), constants["decay"], constants["backward"]
    counts = popularity(train) if counts is None else counts
    forward: dict[tuple[int, int], float] = defaultdict(float)
    for past in train:
        for first in range(len(past)):
            for second in range(first + 1, min(first + window, len(past) - 1) + 1):
                forward[past[first], past[second]] += decay ** (second - first - 1)
    both: dict[tuple[int, int], float] = defaultdict(float)
    for (i, j), value in forward.items():
        both[i, j] += value
        both[j, i] += backward * value
    scores: dict[int, float] = defaultdict(float)
    for age, seen in enumerate(history[::-1][:history_length]):
        for (i, j), value in both.items():
            if i == seen and value > 0:
                p_i, p_j = max(counts[i], 1), max(counts[j], 1)
                weight = constants["history_decay"] ** age
                scores[j] += weight * p_i ** -constants["source_power"] * value * p_j ** -constants["target_power"]
    return {item: score for item, score in scores.items() if score > 0}


def markov_order(train: list[list[int]], history: list[int], num_items: int) -> list[tuple[int, int]]:
    """Per item, the pair of keys it is ranked by: transitions from the last item, popularity."""
    counts, follows = popularity(train), lag_counts(train, 1)
    return [(follows[history[-1], item] if history else 0, counts[item]) for item in range(num_items)]
