"""The proxy for recall the slow way: every position, and chance item by item."""

from __future__ import annotations

from collections import Counter
from typing import Any


def share_and_chance(train: list[list[int]], codes: list[tuple[int, ...]], depth: int, window: int) -> dict[str, Any]:
    """Of the next items that are none of the last `window` ones: which share their prefix with one, and by chance."""
    popularity = Counter(item for history in train for item in history)
    shared, chance, num_positions = [], [], 0
    for history in train:
        for at in range(1, len(history)):
            num_positions += 1
            last = set(history[max(0, at - window) : at])
            if history[at] in last:
                continue
            prefixes = {codes[item][:depth] for item in last}
            others = {item: count for item, count in popularity.items() if item not in last}
            alike = sum(count for item, count in others.items() if codes[item][:depth] in prefixes)
            shared.append(codes[history[at]][:depth] in prefixes)
            chance.append(alike / sum(others.values()))
    return {"num_positions": num_positions, "shared": shared, "chance": chance}
