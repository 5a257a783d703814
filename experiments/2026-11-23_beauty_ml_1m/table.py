"""Prints the tables of README.md from results/*.json."""

import json
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
METRICS = [f"{name}@{k}" for name in ("recall", "ndcg") for k in (5, 10, 20, 50)]
MASKS = {"none": "no mask", "seen": "seen masked"}


def short(value: float) -> str:
    return f"{value:.4f}".replace("0.", ".", 1)


def main() -> None:
    for path in sorted(RESULTS.glob("report_*.json")):
        report = json.loads(path.read_text())
        heads = [name.replace("recall", "R").replace("ndcg", "N") for name in METRICS]
        print(f"\n| {path.stem.removeprefix('report_')} | {' | '.join(heads)} |\n|---{'|---' * len(heads)}|")
        for row in report["rows"]:
            cells = [short(row["metrics"][name]["mean"]) for name in METRICS]
            print(f"| {row['model']}, {MASKS[row['mask']]} | {' | '.join(cells)} |")
        print()
        for row in report["comparisons"]:
            if row["model"] == "hierarchical" and row["metric"] in ("recall@10", "ndcg@10"):
                interval = f"[{row['low']:+.4f}, {row['high']:+.4f}]"
                print(
                    f"{row['metric']}, {MASKS[row['mask']]}: - {row['reference']} {row['difference']:+.4f} {interval}"
                )


if __name__ == "__main__":
    main()
