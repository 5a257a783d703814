"""Prints the tables of README.md from results/*.json."""

import json
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
SEEDS = (0, 1, 2)
METRICS = [f"{name}@{k}" for name in ("recall", "ndcg") for k in (5, 10, 20, 50)]
MASKS = {"none": "no mask", "seen": "seen items masked"}


def short(value: float) -> str:
    return f"{value:.4f}".replace("0.", ".", 1)


def load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def seeds_of(model: str, mask: str) -> list[dict[str, Any]]:
    """The metrics of a model in each evaluation that has it."""
    files = [load(f"evaluation_{seed}") for seed in SEEDS]
    return [row["metrics"] for file in files for row in file["rows"] if (row["model"], row["mask"]) == (model, mask)]


def print_metrics(mask: str) -> None:
    heads = [name.replace("recall", "R").replace("ndcg", "N") for name in METRICS]
    print(f"\n| {MASKS[mask]} | {' | '.join(heads)} |\n|---{'|---' * len(heads)}|")
    for model in ("popularity", "markov", "item_knn", "plain", "tree", "nodes", "memory", "own"):
        found = seeds_of(model, mask)
        cells = []
        for name in METRICS:
            values = [metrics[name]["mean"] for metrics in found]
            cell = short(statistics.mean(values))
            if name in ("recall@10", "ndcg@10") and len(set(values)) > 1:
                cell = f"{cell} ({', '.join(map(short, values))})"
            cells.append(cell)
        print(f"| {model} | {' | '.join(cells)} |")


def print_differences(file: str, model: str, metric: str) -> None:
    for seed in SEEDS:
        for row in load(f"{file}_{seed}")["comparisons"]:
            if (row["model"], row["mask"], row["metric"]) == (model, "none", metric):
                interval = f"[{row['low']:+.4f}, {row['high']:+.4f}]"
                print(f"seed {seed}: {metric} of {model} - {row['reference']} {row['difference']:+.4f} {interval}")


def main() -> None:
    for mask in MASKS:
        print_metrics(mask)
    print()
    for metric in ("recall@10", "ndcg@10"):
        print_differences("evaluation", "nodes", metric)
        for model in ("nodes", "memory", "own"):
            print_differences("against_knn", model, metric)
    print()
    for path in sorted(RESULTS.glob("train_*.json")):
        run = json.loads(path.read_text())
        print(f"{path.stem}: validation recall@10 {short(run['recall@10'])} at step {run['best_step']}")


if __name__ == "__main__":
    main()
