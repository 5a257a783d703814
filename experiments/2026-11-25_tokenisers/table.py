"""Tables of this experiment from `results/`: health and validation of each tokeniser, and which health figure goes
along with what training makes of it (Spearman's rank correlation over tokenisers). Standard library only.

    python3 table.py office      # or beauty
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PERMUTATIONS = 20_000

# name -> (figure of a health.json, whether more of it should be better)
FIGURES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "collision rate": (lambda h: h["collisions"]["rate"], "-"),
    "largest bucket": (lambda h: h["collisions"]["largest_bucket"], "-"),
    **{
        f"perplexity share, level {level}": (lambda h, at=level - 1: h["levels"][at]["perplexity_share"], "+")
        for level in (1, 2, 3)
    },
    "unexplained variance, level 1": (lambda h: h["levels"][0]["unexplained"], "-"),
    "unexplained variance, last level": (lambda h: h["levels"][-1]["unexplained"], "-"),
    **{f"nodes of depth {depth}": (lambda h, at=depth - 1: h["depths"][at]["nodes"], "?") for depth in (1, 2, 3)},
    **{
        f"NMI with the {name} category, depth {depth}, above chance": (
            lambda h, name=name, at=depth - 1: _above(h["purity"][name]["depths"][at], "nmi"),
            "+",
        )
        for name in ("first", "last")
        for depth in (1, 2)
    },
    **{
        f"{what} of 10 neighbours, depth {depth}": (
            lambda h, key=key, at=depth - 1: h["neighbours"] and h["neighbours"]["depths"][at][key],
            "+",
        )
        for what, key in (("share", "share"), ("lift", "lift"))
        for depth in (1, 2)
    },
    **{
        f"proxy, {what} of {label}, depth {depth}": (
            lambda h, key=what, name=name, at=depth - 1: h["proxy"][name]["depths"][at][key],
            "+",
        )
        for what in ("share", "lift", "information")
        for name, label in (("last", "the last item"), ("recent", "the last 5"))
        for depth in (1, 2, 3)
    },
}


def _above(entry: dict[str, float], key: str) -> float:
    return entry[key] - entry["by_chance"]


def load(data: str) -> dict[str, dict[str, Any]]:
    """By tokeniser: health, recall and ndcg of each seed."""
    rows = {}
    for path in sorted(RESULTS.glob(f"health_{data}_*.json")):
        name = path.stem.removeprefix(f"health_{data}_")
        runs = [json.loads(run.read_text()) for run in sorted(RESULTS.glob(f"train_{data}_{name}_[0-9].json"))]
        if runs:
            rows[name] = {
                "health": json.loads(path.read_text()),
                "recall": [run["recall@10"] for run in runs],
                "ndcg": [run["ndcg@10"] for run in runs],
            }
    return rows


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def ranks(values: list[float]) -> list[float]:
    """From 1; equal values have the mean of their ranks."""
    below = [sum(other < value for other in values) for value in values]
    equal = [sum(other == value for other in values) for value in values]
    return [low + (same + 1) / 2 for low, same in zip(below, equal, strict=True)]


def spearman(left: list[float], right: list[float]) -> float:
    a, b = ranks(left), ranks(right)
    centre = (len(a) + 1) / 2
    covariance = sum((x - centre) * (y - centre) for x, y in zip(a, b, strict=True))
    spread = math.sqrt(sum((x - centre) ** 2 for x in a) * sum((y - centre) ** 2 for y in b))
    return covariance / spread if spread else float("nan")


def p_value(left: list[float], right: list[float], found: float) -> float:
    """Two-sided, by permutation: how often chance does as well."""
    shuffled, draw = list(right), random.Random(0)
    hits = 0
    for _ in range(PERMUTATIONS):
        draw.shuffle(shuffled)
        hits += abs(spearman(left, shuffled)) >= abs(found) - 1e-12
    return (hits + 1) / (PERMUTATIONS + 1)


def short(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


def print_tokenisers(rows: dict[str, dict[str, Any]]) -> None:
    columns = ("tokeniser", "levels", "R@10", "N@10", "by seed", "collisions", "perplexity by level", "unexplained")
    columns = (*columns, "neighbours, depth 1", "proxy, last 5, depth 1: lift, nats")
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    for name, row in sorted(rows.items(), key=lambda item: -mean(item[1]["recall"])):
        health = row["health"]
        levels, near, proxy = health["levels"], health["neighbours"], health["proxy"]["recent"]["depths"][0]
        cells = [
            name,
            " ".join(str(level["size"]) for level in levels),
            short(mean(row["recall"])),
            short(mean(row["ndcg"])),
            ", ".join(short(value) for value in row["recall"]),
            f"{100 * health['collisions']['rate']:.1f} %",
            " ".join(f"{100 * level['perplexity_share']:.0f} %" for level in levels),
            "-" if levels[-1]["unexplained"] is None else f"{100 * levels[-1]['unexplained']:.0f} %",
            "-" if near is None else f"{100 * near['depths'][0]['share']:.0f} %",
            f"{proxy['lift']:.2f}, {proxy['information']:.3f}",
        ]
        print("| " + " | ".join(cells) + " |")


def print_correlations(rows: dict[str, dict[str, Any]]) -> None:
    print("| health figure | rho with R@10 | p | rho with N@10 | tokenisers | should be |")
    print("|---|---|---|---|---|---|")
    lines = []
    for figure, (read, sign) in FIGURES.items():
        found = {name: read(row["health"]) for name, row in rows.items()}
        known = [name for name, value in found.items() if value is not None]
        values = [found[name] for name in known]
        targets = {what: [mean(rows[name][what]) for name in known] for what in ("recall", "ndcg")}
        rho = {what: spearman(values, target) for what, target in targets.items()}
        chance = p_value(values, targets["recall"], rho["recall"])
        lines.append((rho["recall"], figure, chance, rho["ndcg"], len(known), sign))
    for rho, figure, chance, other, count, sign in sorted(lines, key=lambda line: -abs(line[0])):
        print(f"| {figure} | {rho:+.2f} | {chance:.3f} | {other:+.2f} | {count} | {sign} |")


if __name__ == "__main__":
    rows = load(sys.argv[1] if len(sys.argv) > 1 else "office")
    print_tokenisers(rows)
    print()
    print_correlations(rows)
