"""Dense rewards and TD errors in plain Python, one prefix at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

Vector = Sequence[float]
Codes = Sequence[int]


def cosine(a: Vector, b: Vector) -> float:
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths > 0 else 0.0


def mean_below(catalogue: Sequence[Codes], embeddings: Sequence[Vector], prefix: Codes) -> list[float]:
    depth = len(prefix)
    below = [e for codes, e in zip(catalogue, embeddings, strict=True) if tuple(codes[:depth]) == tuple(prefix)]
    return [sum(column) / len(below) for column in zip(*below, strict=True)]


def weight(level: int, num_levels: int) -> float:
    """Levels from 1; the line through (0, 0.3), (1/2, 0.5) and (1, 1)."""
    place = (level - 1) / (num_levels - 1) if num_levels > 1 else 1.0
    return 0.3 + 0.4 * place if place <= 0.5 else 0.5 + (place - 0.5)


def rewards(catalogue: Sequence[Codes], embeddings: Sequence[Vector], item: int, target: int) -> list[float]:
    """Of arriving at each prefix of an item."""
    found, codes, wanted = [], tuple(catalogue[item]), tuple(catalogue[target])
    for level in range(1, len(codes) + 1):
        w = weight(level, len(codes))
        if codes[:level] == wanted[:level]:
            found.append(w)
        else:
            similarity = cosine(mean_below(catalogue, embeddings, codes[:level]), embeddings[target])
            found.append(-w * (1 - similarity))
    return found


def td_errors(values: Vector, of_levels: Vector, gamma: float) -> list[float]:
    """V(s_l) - (r_l + gamma V(s_{l+1})), l = 0 to L."""
    errors = []
    for depth, value in enumerate(values):
        reward = of_levels[depth - 1] if depth > 0 else 0.0
        after = values[depth + 1] if depth + 1 < len(values) else 0.0
        errors.append(value - (reward + gamma * after))
    return errors
