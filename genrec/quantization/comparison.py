"""Tables of semantic IDs side by side: the numbers of a health report under stable names, and how alike two tables are.

Knows health reports and arrays; must not know artifacts or configuration.
"""
# N items, L levels

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from genrec.quantization.neighbours import prefix_indices, similarity

_NO_FIGURES = ("training", "tokenizer", "examples")
_BETTER: dict[str, Literal["higher", "lower"]] = {
    r"collisions\.(rate|avoidable_rate)": "lower",
    r"levels\.\d+\.(dead|unexplained)": "lower",
    r"levels\.\d+\.perplexity_share": "higher",
    r"purity\.\w+\.depths\.\d+\.adjusted": "higher",
    r"neighbours\.depths\.\d+\.lift": "higher",
    r"proxy\.\w+\.depths\.\d+\.(lift|information)": "higher",
}


def flat_figures(health: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a health report by name: the keys on the way, and in a list the level or depth.

    Left out is what is no figure of the table (the tokenizer's configuration and curves, examples, lists of numbers),
    and what is None.

    >>> flat_figures({"num_items": 3, "levels": [{"level": 1, "used": 2}], "purity": None, "tokenizer": {"seed": 1}})
    {'num_items': 3, 'levels.1.used': 2}
    """
    return {name: value for key in health if key not in _NO_FIGURES for name, value in _walk(key, health[key])}


def best_tables(figures: Mapping[str, Mapping[str, float]]) -> dict[str, list[str]]:
    """For each figure of which more or less is better, the tables that have the best value; none where all have it.

    More is better of perplexity_share, of what categories, neighbours and next items share beyond chance (adjusted,
    lift, information); less of collision rates, dead codes and what is unexplained. A share alone is neither good nor
    bad: it is 1 for a table of one code.

    Args:
        figures: by table, those of `flat_figures`.
    """
    best = {}
    for name in dict.fromkeys(name for of in figures.values() for name in of):
        values = {table: of[name] for table, of in figures.items() if name in of}
        way = next((way for pattern, way in _BETTER.items() if re.fullmatch(pattern, name)), None)
        if way is None or len(set(values.values())) < 2:
            continue
        top = max(values.values()) if way == "higher" else min(values.values())
        best[name] = [table for table, value in values.items() if value == top]
    return best


def alike(one: np.ndarray, other: np.ndarray, *, seed: int, max_depth: int = 2) -> list[dict[str, Any]]:
    """How alike the prefixes of two tables of the same items divide them.

    Args:
        one: codes [N, L].
        other: codes [N, L'] of the same items.
        seed: of the shuffle that tells what chance gives.
        max_depth: fewer where a table has fewer levels.

    Returns:
        For each depth depth, nmi, by_chance and adjusted (`neighbours.similarity`). How codes are numbered is nothing.
    """
    depth = min(max_depth, one.shape[1], other.shape[1])
    pairs: Sequence[tuple[np.ndarray, np.ndarray]] = list(
        zip(prefix_indices(one[:, :depth]), prefix_indices(other[:, :depth]), strict=True)
    )
    return [{"depth": at, **similarity(*pair, seed)} for at, pair in enumerate(pairs, start=1)]


def _walk(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield name, value
    elif isinstance(value, Mapping):
        for key, below in value.items():
            yield from _walk(f"{name}.{key}", below)
    elif isinstance(value, list):
        for entry in value:
            key = next((key for key in ("level", "depth") if isinstance(entry, Mapping) and key in entry), None)
            if key is not None:
                rest = {below: entry[below] for below in entry if below != key}
                yield from _walk(f"{name}.{entry[key]}", rest)
