"""Prefix-aware losses in plain Python, one target, one depth, one negative at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

Codes = tuple[int, ...]


def pointwise(log_probs: Sequence[Sequence[float]]) -> list[float]:
    """The mean over targets of -(1/t) sum_{j <= t} log p_j, for each t."""
    depths = range(1, len(log_probs[0]) + 1)
    return [sum(-sum(row[:t]) / t for row in log_probs) / len(log_probs) for t in depths]


def kept_negatives(codes: Sequence[Codes], depth: int) -> list[int]:
    """The negatives (codes[0] is the target's) whose prefix is neither the target's nor an earlier negative's."""
    kept: list[int] = []
    for place in range(1, len(codes)):
        prefix = codes[place][:depth]
        if prefix != codes[0][:depth] and all(codes[other][:depth] != prefix for other in kept):
            kept.append(place)
    return kept


def pairwise(
    log_probs: Sequence[Sequence[Sequence[float]]],
    codes: Sequence[Sequence[Codes]],
    num_prefixes: Sequence[int],
    *,
    temperature: float,
    depth_scaled: bool,
) -> tuple[list[float], list[float], list[float]]:
    """Losses, AUC and MRR of each depth."""
    losses, areas, ranks = [], [], []
    for depth in range(1, len(num_prefixes) + 1):
        of_targets, auc, mrr = [], [], []
        for scores, own in zip(log_probs, codes, strict=True):
            kept = kept_negatives(own, depth)
            if not kept:
                of_targets.append(0.0)
                continue
            total = [sum(row[:depth]) for row in scores]
            target = math.exp(total[0] / temperature)
            scale = (num_prefixes[depth - 1] - 1) / len(kept)
            others = scale * sum(math.exp(total[place] / temperature) for place in kept)
            of_targets.append(-math.log(target / (target + others)) / (depth if depth_scaled else 1))
            wins = [1.0 if total[0] > total[place] else 0.5 if total[0] == total[place] else 0.0 for place in kept]
            auc.append(sum(wins) / len(kept))
            mrr.append(1 / (1 + sum(total[place] >= total[0] for place in kept)))
        losses.append(sum(of_targets) / len(of_targets))
        areas.append(sum(auc) / len(auc) if auc else 1.0)
        ranks.append(sum(mrr) / len(mrr) if mrr else 1.0)
    return losses, areas, ranks
