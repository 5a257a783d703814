"""Sampling the slow way: every item's probability under the proposal, and of every ordered sample of k of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence, Set

from oracles.search_oracle import LogProbs
from oracles.trie_oracle import Prefix

Probabilities = dict[int, float]


def proposal(
    rows: Sequence[Prefix], log_probs: LogProbs, prefix: Prefix, temperature: float, admissible: Set[int]
) -> Probabilities:
    """Of the codes that may follow a prefix."""
    depth = len(prefix)
    alive = {rows[item][depth] for item in admissible if rows[item][:depth] == prefix}
    powers = {code: math.exp(float(log_probs[prefix][code])) ** (1 / temperature) for code in sorted(alive)}
    total = sum(powers.values())
    return {code: power / total for code, power in powers.items() if power > 0}


def item_probabilities(
    rows: Sequence[Prefix],
    log_probs: LogProbs,
    *,
    temperature: float,
    admissible: Set[int],
    start: Prefix = (),
) -> Probabilities:
    """Of drawing each item code by code, behind a given prefix that is possible; items of one leaf share alike."""
    found = {}
    for item in admissible:
        row, probability = rows[item], 1.0
        for depth in range(len(row)):
            if depth < len(start):
                probability *= row[depth] == start[depth] and float(log_probs[row[:depth]][row[depth]]) > -math.inf
            elif probability:
                probability *= proposal(rows, log_probs, row[:depth], temperature, admissible).get(row[depth], 0.0)
        found[item] = probability / sum(rows[other] == row for other in admissible)
    return {item: probability for item, probability in found.items() if probability > 0}


def ordered_samples(probabilities: Mapping[int, float], k: int) -> dict[tuple[int, ...], float]:
    """Probability of each ordered sample of k things, drawn one after the other without replacement."""
    found = {}
    for sample in itertools.permutations(probabilities, k):
        left, probability = 1.0, 1.0
        for thing in sample:
            probability *= probabilities[thing] / left
            left -= probabilities[thing]
        found[sample] = probability
    return found


def greedy(rows: Sequence[Prefix], log_probs: LogProbs, prefix: Prefix, admissible: Set[int]) -> Prefix:
    """The most probable way on, code by code, of equal ones the lower."""
    while len(prefix) < len(rows[0]):
        codes = proposal(rows, log_probs, prefix, 1.0, admissible)
        prefix = (*prefix, max(codes, key=lambda code: (float(log_probs[prefix][code]), -code)))
    return prefix


def is_unlikely(counts: Mapping[tuple[int, ...], int], expected: Mapping[tuple[int, ...], float]) -> bool:
    """Chi-square against probabilities, beyond five deviations; outcomes of fewer than five counts are put together."""
    assert set(counts) <= set(expected), "something came that cannot come"
    total = sum(counts.values())
    cells, rare = [], [0.0, 0.0]
    for outcome, probability in expected.items():
        cell = [counts.get(outcome, 0), total * probability]
        if cell[1] >= 5:
            cells.append(cell)
        else:
            rare = [rare[0] + cell[0], rare[1] + cell[1]]
    if rare[1] > 0:
        cells.append(rare)
    statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in cells)
    freedom = max(1, len(cells) - 1)
    return statistic > freedom + 5 * math.sqrt(2 * freedom)
