"""Prints the tables of README.md from results/*.json."""

import json
from pathlib import Path

HERE = Path(__file__).resolve().parent / "results"
MASKS = {"none": "no mask", "seen": "seen masked"}


def short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def rows(name: str) -> list[dict]:
    return json.loads((HERE / f"{name}.json").read_text())["rows"]


def reference_table(data: str) -> None:
    """The rows of the reference, each under the tie rule that its numbers follow."""
    print(f"\n{data}, test | R@10 | N@10 | tie rule\n---|---|---|---")
    for row in rows(f"{data}_test"):
        rule = "pessimistic" if row["model"] == "item_knn" else "mid"
        recall, ndcg = (row["tie_bounds"][f"{metric}@10"][rule] for metric in ("recall", "ndcg"))
        print(f"{row['model']}, {MASKS[row['mask']]} | {short(recall)} | {short(ndcg)} | {rule}")
    for row in rows(f"{data}_validation"):
        if row["model"] == "item_knn" and row["mask"] == "none":
            print(f"validation, item_knn, no mask | {short(row['metrics']['recall@10']['mean'])} | | pessimistic")


def interval_table(name: str, metric: str = "@10") -> None:
    print(f"\n{name} | R{metric} [95 %] | N{metric} [95 %]\n---|---|---")
    for row in rows(name):
        cells = []
        for kind in ("recall", "ndcg"):
            value = row["metrics"][kind + metric]
            cells.append(f"{short(value['mean'])} [{short(value['low'])}, {short(value['high'])}]")
        print(f"{row['model']}, {MASKS[row['mask']]} | {' | '.join(cells)}")


def main() -> None:
    for data in ("office", "beauty"):
        reference_table(data)
    for file in sorted(HERE.glob("*_test.json")):
        interval_table(file.stem)
    for file in sorted(HERE.glob("sweep_*.json")):
        found = json.loads(file.read_text())
        print(f"\n{file.stem}: {json.dumps(found)}")
    print("\ndata | users | items | interactions\n---|---|---|---")
    for file in sorted(HERE.glob("prepare_*.json")):
        found = json.loads(file.read_text())
        print(f"{file.stem.removeprefix('prepare_')} | {found['users']} | {found['items']} | {found['interactions']}")


if __name__ == "__main__":
    main()
