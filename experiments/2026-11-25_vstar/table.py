"""Prints the tables of README.md: from results/; `python3 table.py intervals`: from work/evaluation_*/cases.parquet.

Intervals: 2.5 and 97.5 % of 2,000 bootstrap samples of the cases, of the mean over the seeds (which are fixed).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
NAMES = ("grpo", "sibling", "sibling_free", "sibling_hints", "vstar", "vstar_free", "vstar_hints")
CUTOFFS = (1, 3, 5, 10, 50)
SEEDS = (0, 1, 2)


def short(value: float) -> str:
    return f"{value:.4f}".replace("0.", ".", 1)


def print_row(first: str, *cells: str) -> None:
    print(f"| {first} | {' | '.join(cells)} |")


def print_head(*cells: str) -> None:
    print()
    print_row(*cells)
    print("|---" * len(cells) + "|")


def records(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RESULTS / f"{name}_metrics.jsonl").read_text().splitlines()]


def of_seeds(name: str) -> list[list[dict[str, Any]]]:
    return [records(f"{name}_{seed}") for seed in SEEDS if (RESULTS / f"{name}_{seed}_metrics.jsonl").is_file()]


def print_validation() -> None:
    columns = (
        "recall@1",
        "recall@5",
        "recall@10",
        "recall@50",
        "coverage@50",
        "level_1_coverage@50",
        "level_1_recall@50",
    )
    print_head("validation, last step", "seeds", *columns, "reward, first and last epoch")
    first = [runs[0] for runs in of_seeds("grpo")]
    print_row("supervised", str(len(first)), *(short(mean(line[name] for line in first)) for name in columns), "")
    for name in NAMES:
        runs = of_seeds(name)
        last = [lines[-1] for lines in runs]
        rewards = (mean(lines[place]["train_reward"] for lines in runs) for place in (1, -1))
        cells = [short(mean(line[column] for line in last)) for column in columns]
        print_row(name, str(len(runs)), *cells, ", ".join(map(short, rewards)))


def print_contrast() -> None:
    """Of the first epoch, where all policies are still nearly the supervised one."""
    levels = range(1, 5)
    print_head("first epoch", "requests without a signal", *(f"std of siblings, level {level}" for level in levels))
    for name in NAMES:
        lines = [runs[1] for runs in of_seeds(name)]
        cells = [short(mean(line[f"train_sibling_std_level_{level}"] for line in lines)) for level in levels]
        print_row(name, short(mean(line["train_zero_signal_share"] for line in lines)), *cells)


def print_test(files: list[str], names: tuple[str, ...]) -> None:
    columns = [*(f"recall@{cutoff}" for cutoff in CUTOFFS), "ndcg@10"]
    reports = [json.loads((RESULTS / f"{file}.json").read_text()) for file in files]
    for mask in ("none", "seen"):
        print_head(f"test, mask {mask}", *columns, "coverage@50")
        for name in ("supervised", *names):
            rows, lists = (
                [row for report in reports for row in report[part] if (row["model"], row["mask"]) == (name, mask)]
                for part in ("rows", "lists")
            )
            cells = [short(mean(row["metrics"][column]["mean"] for row in rows)) for column in columns]
            print_row(name, *cells, short(mean(row["coverage"] for row in lists if row["cutoff"] == 50)))


def print_curve() -> None:
    print_head("prefixes read", "search", "R@10", "95 %")
    for ranking in ("log_prob", "mixture"):
        for entry in json.loads((RESULTS / f"curve_{ranking}.json").read_text())["settings"]:
            if entry["kind"] == "beam" and ranking == "mixture":
                continue
            kind = "beams" if entry["kind"] == "beam" else f"by value, ranked by {ranking}"
            recall = entry["recall"]
            cells = (short(recall["mean"]), f"{short(recall['low'])} to {short(recall['high'])}")
            print_row(f"{entry['nodes_per_request']:.0f}", kind, *cells)


def print_intervals() -> None:
    import numpy as np
    import polars as pl

    random = np.random.default_rng(0)

    def values(files: list[str], name: str) -> np.ndarray:
        found = []
        for file in files:
            table = pl.read_parquet(FOLDER / "work" / file / "cases.parquet")
            rank = (
                table.filter(pl.col("model") == name)
                .sort("case_index")
                .select(pl.col("num_greater") + pl.col("num_tied"))
                .to_series()
                .to_numpy()
            )
            hits = [rank < cutoff for cutoff in CUTOFFS]
            found.append([*hits, np.where(rank < 10, 1 / np.log2(rank + 2.0), 0.0)])
        return np.mean(np.array(found, dtype=np.float64), axis=0)

    sets = {
        "Office": ([f"evaluation_{seed}" for seed in SEEDS], NAMES),
        "Beauty": (["evaluation_beauty"], NAMES),
    }
    for data, (files, names) in sets.items():
        print_head(f"{data}, test, minus supervised", *(f"R@{cutoff}" for cutoff in CUTOFFS), "N@10")
        base = values(files, "supervised")
        for name in names:
            difference = values(files, name) - base
            picks = random.integers(0, difference.shape[1], size=(2000, difference.shape[1]))
            low, high = np.quantile([row[picks].mean(axis=1) for row in difference], [0.025, 0.975], axis=1)
            middle = difference.mean(axis=1)
            print_row(name, *(f"{m:+.4f} [{a:+.4f}, {b:+.4f}]" for m, a, b in zip(middle, low, high, strict=True)))


if __name__ == "__main__":
    if sys.argv[1:] == ["intervals"]:
        print_intervals()
    else:
        print_validation()
        print_contrast()
        print_test([f"evaluation_{seed}" for seed in SEEDS], NAMES)
        print_test(["evaluation_beauty"], NAMES)
        print_curve()
