"""Policy objectives in plain Python: probabilities instead of logarithms, one code at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]
Table = Sequence[Row]


def ratio(new: Row, old: Row, level: int, kind: str, first: int) -> float:
    """Of the code at `level`; the codes before `first` were given."""
    own = [math.exp(a) / math.exp(b) for a, b in zip(new, old, strict=True)]
    if level < first:
        return 1.0
    if kind == "token":
        return own[level]
    if kind == "prefix_min":
        return own[level] * (min(own[first:level]) if level > first else 1.0)
    return math.prod(own[first:]) ** (1 / (len(own) - first))


def term(new: float, old: float, advantage: float, clip: tuple[float, float], delta: float | None) -> float:
    """Of one code with probabilities new and old; delta for ecpo."""
    low, high = clip
    if delta is not None and advantage < 0:
        old = max(old, new / (1 + high + delta))
    rho = new / old
    return min(rho * advantage, min(max(rho, 1 - low), 1 + high) * advantage)


def objective(
    new: Table,
    old: Table,
    weights: Table,
    advantages: Table,
    kind: str,
    clip: tuple[float, float],
    delta: float | None,
) -> float:
    total, weight = 0.0, 0.0
    for row, of_codes in enumerate(weights):
        counted = [level for level, value in enumerate(of_codes) if value > 0]
        for level in counted:
            rho = ratio(new[row], old[row], level, kind, counted[0])
            total += of_codes[level] * term(rho, 1.0, advantages[row][level], clip, delta)
            weight += of_codes[level]
    return total / weight if weight else 0.0


def kl(new: Sequence[float], reference: Sequence[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(new, reference, strict=True) if p > 0)
