"""Prints the tables of README.md from results/*.json."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
KINDS = ("plain", "nodes", "tiger", "t5", "llama")
LOSSES = ("ce", "msl", "apao", "apao_msl", "pair", "pair_msl")
METRICS = ("recall@10", "ndcg@10")


def short(value: float) -> str:
    return f"{value:.4f}".replace("0.", ".", 1)


def load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def seeds_of(kind: str) -> list[int]:
    return [seed for seed in range(3) if (RESULTS / f"evaluation_{kind}_{seed}.json").is_file()]


def print_test(kind: str) -> None:
    print(f"\n| {kind}, test, no mask | R@10 | N@10 | R@10 by seed | N@10 by seed |\n|---|---|---|---|---|")
    files = {seed: load(f"evaluation_{kind}_{seed}") for seed in seeds_of(kind)}
    for loss in LOSSES:
        rows = [
            row["metrics"]
            for seed, file in files.items()
            for row in file["rows"]
            if (row["model"], row["mask"]) == (f"{kind}_{loss}_{seed}", "none")
        ]
        if rows:
            values = [[row[name]["mean"] for row in rows] for name in METRICS]
            cells = [short(mean(part)) for part in values] + [", ".join(map(short, part)) for part in values]
            print(f"| {loss} | {' | '.join(cells)} |")


def print_differences(kind: str) -> None:
    print(
        f"\n| {kind}: minus ce | {' | '.join(f'{name}, seed {seed}' for name in METRICS for seed in seeds_of(kind))} |"
    )
    print(f"|---{'|---' * (len(METRICS) * len(seeds_of(kind)))}|")
    for loss in LOSSES[1:]:
        cells = []
        for name in METRICS:
            for seed in seeds_of(kind):
                wanted = (f"{kind}_{loss}_{seed}", "none", name)
                found = [
                    row
                    for row in load(f"evaluation_{kind}_{seed}")["comparisons"]
                    if (row["model"], row["mask"], row["metric"]) == wanted
                ]
                cells += [f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]" for row in found] or ["-"]
        if any(cell != "-" for cell in cells):
            print(f"| {loss} | {' | '.join(cells)} |")


def print_prefixes(kind: str) -> None:
    print(f"\n| {kind}: prefix recall@20, relative gain over ce | depth 1 | depth 2 | depth 3 | depth 4 |")
    print("|---|---|---|---|---|")
    for loss in LOSSES:
        files = [load(f"prefixes_{kind}_{seed}") for seed in seeds_of(kind)]
        rows = [file[name] for file in files for name in file if name.rsplit("_", 1)[0] == f"{kind}_{loss}"]
        firsts = [next(iter(file.values())) for file in files if any(f"{kind}_{loss}_" in name for name in file)]
        rows = [row for row in rows if row]
        if not rows:
            continue
        cells = []
        for depth in range(4):
            recall = mean(row["recall"][depth] for row in rows)
            of_ce = mean(row["recall"][depth] for row in firsts)
            cells.append(f"{short(recall)} ({100 * (recall / of_ce - 1):+.1f} %)")
        print(f"| {loss} | {' | '.join(cells)} |")


def main() -> None:
    for kind in KINDS:
        if seeds_of(kind):
            print_test(kind)
            print_differences(kind)
            print_prefixes(kind)
    print("\n| trained | best validation R@10 | at step |\n|---|---|---|")
    for path in sorted(RESULTS.glob("train_*.json")):
        found = json.loads(path.read_text())
        print(f"| {path.stem.removeprefix('train_')} | {short(found['recall@10'])} | {found['best_step']} |")


if __name__ == "__main__":
    main()
