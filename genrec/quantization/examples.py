"""A few prefixes and the items under them, so that a person sees whether the first codes mean something.

Knows arrays only; titles are the caller's.
"""
# N items, L levels

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genrec.quantization.neighbours import prefix_indices

PLACES = {"largest": 0.0, "upper quartile": 0.25, "median": 0.5, "lower quartile": 0.75}


@dataclass(frozen=True)
class PrefixExample:
    """Attributes:
    place: where the prefix stands among those of its depth, the largest first.
    prefix: c_1..c_d.
    num_items: under it.
    items: some of their indices.
    """

    place: str
    prefix: tuple[int, ...]
    num_items: int
    items: tuple[int, ...]


def prefix_examples(
    codes: np.ndarray, counts: np.ndarray, *, max_depth: int = 2, max_items: int = 4
) -> list[PrefixExample]:
    """The largest prefix of each depth, the median one and those at the quartiles, with their most popular items.

    Prefixes of a single item have nothing to show and are left out; the others stand in order of size, then of codes.

    Args:
        codes: integers [N, L].
        counts: training interactions [N]: popular titles are those a person knows. Equals go by item index.
        max_depth: 1 to L; lower where there are fewer levels.
        max_items: of a prefix that are named.

    Returns:
        By depth, then from the largest prefix to the smallest; none twice.

    >>> for example in prefix_examples(np.array([[0], [1], [1], [1], [2], [2]]), np.array([9, 1, 5, 5, 0, 3])):
    ...     print(example)
    PrefixExample(place='largest', prefix=(1,), num_items=3, items=(2, 3, 1))
    PrefixExample(place='median', prefix=(2,), num_items=2, items=(5, 4))
    """
    examples = []
    for depth, nodes in enumerate(prefix_indices(codes[:, :max_depth]), start=1):
        sizes = np.bincount(nodes)
        order = np.lexsort((np.arange(len(sizes)), -sizes))
        order = order[sizes[order] > 1]
        chosen: dict[int, str] = {}
        for place, quantile in PLACES.items():
            if len(order):
                chosen.setdefault(int(order[int(quantile * len(order))]), place)
        for node, place in chosen.items():
            items = np.flatnonzero(nodes == node)
            shown = items[np.lexsort((items, -counts[items]))][:max_items]
            prefix = tuple(codes[items[0], :depth].tolist())
            examples.append(PrefixExample(place, prefix, int(sizes[node]), tuple(shown.tolist())))
    return examples
