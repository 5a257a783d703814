"""What prefixes say of the next item of a history, counted in training histories: recall to come, before any training.

A recommender that writes codes left to right can only be as good as its first codes can be told from the history. How
often the next item shares its prefix with the last items, against chance, is the part of that which needs no model.
Knows histories and arrays; must not know networks, configuration or artifacts.
"""
# N items, P positions of a chunk, m items of a window

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from genrec.data.sequences import Ragged
from genrec.errors import ConfigError, DataError
from genrec.seeding import generator

MAX_DEPTH = 3
_CHUNK = 2**20  # events looked at together


def next_item_proxy(
    train: Ragged,
    prefixes: Sequence[Int64[np.ndarray, "N"]],
    *,
    window: int = 5,
    max_positions: int = 1_000_000,
    seed: int = 0,
) -> dict[str, Any] | None:
    """How often the next item shares its prefix with one of the last items of its history, and how often by chance.

    The very same item shares every prefix, which says nothing of the codes: positions whose next item is among the last
    ones are left out, and chance is that of an item that is not among them. With p the shares of the training events
    and W the last items, chance at a position is (p(U) - p(W)) / (1 - p(W)), U the items under the prefixes of W:
    exact, nothing is drawn.

    Embeddings that were made of the same histories (co-occurrence) have seen what is counted here: compare them with
    each other, and with embeddings of text only in the knowledge that they are flattered.

    Args:
        train: training histories of item indices, oldest first; nothing else is read.
        prefixes: of each depth from 1, the node of every item (`neighbours.prefix_indices`).
        window: m, how many last items count in `recent`; fewer where the history is shorter.
        max_positions: events looked at; a sample without replacement where there are more. A million bound the
            standard error of a share by 0.0005.
        seed: of that sample.

    Returns:
        None if no history has two events, otherwise num_positions (events with one before them), num_sampled, and for
        `last` (the last item alone) and `recent` (any of the last m) window, num_targets (positions that count),
        repeat_share (of the positions: left out because the item was there already), and depths, a list of depth,
        share s, by_chance c (mean over the positions that count), lift = s / c, and information = s ln(s / c) + (1 - s)
        ln((1 - s) / (1 - c)): the nats a next item that knowing s is worth to one who knows popularity, chance at its
        mean (0 where s < c); unlike share and lift it does not merely follow how fine the prefixes are. share and
        by_chance are None where no position counts, lift and information also where chance is 0.

    Raises:
        ConfigError: window or max_positions < 1.
        DataError: an item index outside of the prefixes.

    >>> histories = Ragged.from_lists([[0, 1], [2, 3], [0, 1]])
    >>> found = next_item_proxy(histories, [np.array([0, 0, 1, 1])])
    >>> found["last"]["depths"][0]["share"], round(found["last"]["depths"][0]["by_chance"], 3)
    (1.0, 0.4)
    """
    for name, value in (("window", window), ("max_positions", max_positions)):
        if value < 1:
            raise ConfigError(f"proxy for recall: wrong {name}", expected="at least 1", found=value)
    before = np.concatenate([[0], np.cumsum(np.maximum(train.lengths - 1, 0))])  # positions of earlier histories
    total = int(before[-1])
    if not total:
        return None
    counts = training_counts(train, len(prefixes[0]))
    mass = counts / counts.sum()
    masses = [np.append(np.bincount(nodes, weights=mass), 0.0) for nodes in prefixes]  # the last: of no item, index -1
    mass = np.append(mass, 0.0)
    nodes_of = [np.append(nodes, -1) for nodes in prefixes]
    tallies = {name: _Tally(width, len(prefixes)) for name, width in (("last", 1), ("recent", window))}
    positions = None
    if total > max_positions:
        positions = np.sort(generator(seed).choice(total, max_positions, replace=False, shuffle=False))
    for targets, recent in _positions(train, before, positions, window):
        for tally in tallies.values():
            tally.add(targets, recent[:, : tally.window], mass, masses, nodes_of)
    sampled = min(total, max_positions)
    return {
        "num_positions": total,
        "num_sampled": sampled,
        **{name: tally.facts(sampled) for name, tally in tallies.items()},
    }


class _Tally:
    """Sums over the positions whose next item is none of the last `window` ones."""

    def __init__(self, window: int, num_depths: int) -> None:
        self.window = window
        self.num_targets = 0
        self.shared, self.chance = np.zeros(num_depths), np.zeros(num_depths)

    def add(
        self,
        targets: Int64[np.ndarray, "P"],
        recent: Int64[np.ndarray, "P m"],
        mass: Float64[np.ndarray, "_"],
        masses: Sequence[Float64[np.ndarray, "_"]],
        nodes_of: Sequence[Int64[np.ndarray, "_"]],
    ) -> None:
        """Adds a chunk; `recent` is padded with -1, which the other arrays answer with mass 0 and node -1."""
        is_new = (recent != targets[:, None]).all(axis=1)
        targets, recent = targets[is_new], recent[is_new]
        self.num_targets += len(targets)
        seen = _mass_of_distinct(recent, mass)
        for at, (nodes, node_mass) in enumerate(zip(nodes_of, masses, strict=True)):
            recent_nodes = nodes[recent]
            self.shared[at] += (recent_nodes == nodes[targets][:, None]).any(axis=1).sum()
            self.chance[at] += ((_mass_of_distinct(recent_nodes, node_mass) - seen) / (1.0 - seen)).sum()

    def facts(self, num_sampled: int) -> dict[str, Any]:
        depths = []
        for depth, (shared, chance) in enumerate(zip(self.shared.tolist(), self.chance.tolist(), strict=True), start=1):
            share, by_chance, lift, information = None, None, None, None
            if self.num_targets:
                share, by_chance = shared / self.num_targets, chance / self.num_targets
                by_chance = by_chance if by_chance > 1e-12 else 0.0  # rounding of what is nothing
            if share is not None and by_chance:
                lift, information = share / by_chance, _information(share, by_chance)
            entry = {"share": share, "by_chance": by_chance, "lift": lift, "information": information}
            depths.append({"depth": depth, **entry})
        repeat_share = 1.0 - self.num_targets / num_sampled
        return {
            "window": self.window,
            "num_targets": self.num_targets,
            "repeat_share": repeat_share,
            "depths": depths,
        }


def _information(share: float, chance: float) -> float:
    """Kullback and Leibler's divergence of two coins, in nats; 0 below chance."""
    if share <= chance:
        return 0.0
    return sum(p * math.log(p / q) for p, q in ((share, chance), (1 - share, 1 - chance)) if p > 0)


def training_counts(train: Ragged, num_items: int) -> Int64[np.ndarray, "N"]:
    """Training events of each item; reads the histories in chunks.

    Raises:
        DataError: an index outside of 0 to N - 1.

    >>> training_counts(Ragged.from_lists([[0, 2], [], [2]]), 4).tolist()
    [1, 0, 2, 0]
    """
    counts = np.zeros(num_items, dtype=np.int64)
    before = np.cumsum(train.lengths) - train.lengths
    cuts = np.searchsorted(before, np.arange(0, int(train.lengths.sum()) + _CHUNK, _CHUNK)).tolist()
    for first, last in pairwise(cuts):
        _, items, _ = train.take(slice(first, last)).flat()
        if not len(items):
            continue
        if items.min() < 0 or items.max() >= num_items:
            wrong = items[(items < 0) | (items >= num_items)][0]
            raise DataError("a training event of an unknown item", expected=f"0 to {num_items - 1}", found=int(wrong))
        counts += np.bincount(items, minlength=num_items)
    return counts


def _positions(
    train: Ragged, before: Int64[np.ndarray, "_"], positions: Int64[np.ndarray, "_"] | None, window: int
) -> Iterator[tuple[Int64[np.ndarray, "P"], Int64[np.ndarray, "P m"]]]:
    """Chunks of next items and the items before each, newest first, -1 where the history has no more."""
    step = max(1, _CHUNK // window)
    back = np.arange(1, window + 1)
    for start in range(0, int(before[-1]) if positions is None else len(positions), step):
        if positions is None:
            chosen = np.arange(start, min(start + step, int(before[-1])))
        else:
            chosen = positions[start : start + step]
        row = np.searchsorted(before, chosen, side="right") - 1
        first = train.starts[row]
        at = first + 1 + chosen - before[row]
        where = at[:, None] - back
        is_there = where >= first[:, None]
        recent = np.where(is_there, train.values[np.where(is_there, where, first[:, None])], -1)
        yield train.values[at].astype(np.int64), recent.astype(np.int64)


def _mass_of_distinct(values: Int64[np.ndarray, "P m"], mass: Float64[np.ndarray, "_"]) -> Float64[np.ndarray, "P"]:
    """Sum over the different values of each row; -1 weighs nothing, as the last entry of `mass` does."""
    ordered = np.sort(values, axis=1)
    is_first = np.ones(ordered.shape, dtype=bool)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return (mass[ordered] * is_first).sum(axis=1)
