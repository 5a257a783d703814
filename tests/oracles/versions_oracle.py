"""New items beside taken codes the slow way: sets of tuples, and every assignment there is."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence

Codes = tuple[int, ...]


def next_suffixes(codes: Sequence[Codes], taken: Sequence[Codes]) -> list[int]:
    """The smallest number above all that a bucket ever had, item after item."""
    used: dict[Codes, list[int]] = defaultdict(list)
    for row in taken:
        used[row[:-1]].append(row[-1])
    found = []
    for row in codes:
        number = max(used[row], default=-1) + 1
        used[row].append(number)
        found.append(number)
    return found


def best_moves(
    codes: Sequence[Codes], taken: Sequence[Codes], size: int, errors: Sequence[Sequence[float]], limit: float | None
) -> tuple[int, float] | None:
    """(number of moves, least total of what they add), None where without a limit there are too few free codes.

    Args:
        codes: of the quantiser.
        taken: codes of the quantiser that somebody has.
        size: last codes there are.
        errors: of each item at each last code.
        limit: of what one move may add.
    """
    there, free_of, movers_of = set(taken), {}, defaultdict(list)
    claims: dict[Codes, list[int]] = defaultdict(list)
    for item, row in enumerate(codes):
        claims[row].append(item)
    for row, items in claims.items():
        closest = min(items, key=lambda item: (errors[item][row[-1]], item))
        movers_of[row[:-1]] += [item for item in items if row in there or item != closest]
    there |= set(codes)
    for parent in movers_of:
        free_of[parent] = [code for code in range(size) if (*parent, code) not in there]
    moves, total = 0, 0.0
    for parent, items in movers_of.items():
        if limit is None and len(items) > len(free_of[parent]):
            return None
        best = (0, 0.0)
        for choice in itertools.permutations([*free_of[parent], *[None] * len(items)], len(items)):
            pairs = [(item, code) for item, code in zip(items, choice, strict=True) if code is not None]
            added = [errors[item][code] - errors[item][codes[item][-1]] for item, code in pairs]
            if (limit is None and len(pairs) < len(items)) or (limit is not None and any(x > limit for x in added)):
                continue
            if best == (0, 0.0) or (-len(pairs), sum(added)) < (-best[0], best[1]):
                best = (len(pairs), sum(added))
        moves, total = moves + best[0], total + best[1]
    return moves, total
