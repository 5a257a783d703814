"""Advantages in plain Python: dictionaries of prefixes, one candidate, one code at a time.

A candidate is (request, codes, reward), None is padding. Rewards may be fractions, so that what is equal is exactly so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Prefix = tuple[int, ...]


class Candidate(NamedTuple):
    request: int
    codes: Prefix
    reward: float


Candidates = Sequence[Candidate | None]
Table = list[list[float]]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def std(values: Sequence[float]) -> float:
    return mean([(value - mean(values)) ** 2 for value in values]) ** 0.5


def standard(value: float, among: Sequence[float], floor: float, eps: float) -> float:
    if len(set(among)) == 1:
        return 0.0
    return float(value - mean(among)) / (max(std(among), floor) + eps)


def below(candidates: Candidates, request: int, prefix: Prefix) -> list[float]:
    """Rewards of the candidates of a request that begin with a prefix."""
    return [c.reward for c in candidates if c and c.request == request and c.codes[: len(prefix)] == prefix]


def children(candidates: Candidates, request: int, prefix: Prefix) -> dict[int, float]:
    """Mean reward of each next code, in the order of the codes."""
    depth = len(prefix)
    codes = {c.codes[depth] for c in candidates if c and c.request == request and c.codes[:depth] == prefix}
    return {code: mean(below(candidates, request, (*prefix, code))) for code in sorted(codes)}


def explained(candidates: Candidates, num_levels: int) -> list[float]:
    """Share of the variance within requests of the rewards that prefixes of 0 to L codes explain."""
    valid = [c for c in candidates if c]
    totals = [
        sum(
            (mean(below(candidates, c.request, c.codes[:depth])) - mean(below(candidates, c.request, ()))) ** 2
            for c in valid
        )
        for depth in range(num_levels + 1)
    ]
    if totals[-1] == 0:
        return [depth / num_levels for depth in range(num_levels + 1)]
    return [float(total / totals[-1]) for total in totals]


def group(candidates: Candidates, num_levels: int, floor: float, eps: float) -> Table:
    table = []
    for c in candidates:
        value = standard(c.reward, below(candidates, c.request, ()), floor, eps) if c else 0.0
        table.append([value] * num_levels)
    return table


def undivided(candidates: Candidates, num_levels: int, floor: float, eps: float) -> Table:
    """A(h, v) on every candidate through v."""
    table = []
    for c in candidates:
        row = [0.0] * num_levels
        for depth in range(num_levels if c else 0):
            siblings = children(candidates, c.request, c.codes[:depth])
            if len(siblings) > 1:
                row[depth] = standard(siblings[c.codes[depth]], list(siblings.values()), floor, eps)
        table.append(row)
    return table


def sibling(candidates: Candidates, num_levels: int, floor: float, eps: float) -> Table:
    table = undivided(candidates, num_levels, floor, eps)
    for c, row in zip(candidates, table, strict=True):
        for depth in range(num_levels if c else 0):
            row[depth] /= len(below(candidates, c.request, c.codes[: depth + 1]))
    return table


def fork(candidates: Candidates, num_levels: int, share: float, floor: float, eps: float) -> Table:
    first, second = (f(candidates, num_levels, floor, eps) for f in (group, undivided))
    return [
        [share * a + (1 - share) * b for a, b in zip(*rows, strict=True)] for rows in zip(first, second, strict=True)
    ]


def tree_td(candidates: Candidates, num_levels: int, floor: float, eps: float) -> Table:
    table = []
    for c in candidates:
        row = [0.0] * num_levels
        rewards = below(candidates, c.request, ()) if c else [0.0]
        if len(set(rewards)) > 1:
            for depth in range(num_levels):
                after, before = (mean(below(candidates, c.request, c.codes[:d])) for d in (depth + 1, depth))
                row[depth] = float(c.reward - mean(rewards) + after - before) / (max(std(rewards), floor) + eps)
        table.append(row)
    return table


def potential(candidates: Candidates, potentials: Table, kappa: float, limit: float, ceiling: float) -> Table:
    """Without floor and eps."""
    table = group(candidates, len(potentials[0]) - 1, 0.0, 0.0)
    for c, row, values in zip(candidates, table, potentials, strict=True):
        for depth in range(len(row) if c else 0):
            if values[depth] < ceiling:
                row[depth] += kappa * min(max(values[depth + 1] - values[depth], -limit), limit)
    return table


def pairs(candidates: Candidates, num_levels: int, margin: float) -> set[tuple[int, Prefix, int, int]]:
    """(request, prefix, best code, worse code)."""
    found = set()
    for c in candidates:
        for depth in range(num_levels if c else 0):
            siblings = children(candidates, c.request, c.codes[:depth])
            best = max(siblings, key=lambda code: (siblings[code], -code))
            for code, value in siblings.items():
                if value < siblings[best] and siblings[best] - value > margin:
                    found.add((c.request, c.codes[:depth], best, code))
    return found
