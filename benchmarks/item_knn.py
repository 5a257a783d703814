"""Full-ranking evaluation of item-kNN on Beauty, as a ratio to its sparse product alone.

The evaluation: history weights, product, ranks of all 22,363 test targets with and without the seen items, metrics. The
yardstick: the product of the same history weights and similarity in the same batches, nothing else. Both are measured
as CPU time in one process, in alternating repetitions; the ratio is that of the medians.

    python benchmarks/item_knn.py [DATA_ROOT]

Prints one JSON line; exit code 1 if the ratio is above the limit.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from genrec.baselines.item_knn import DirectedItemKnn, history_weights
from genrec.data.sequences import Cases, Ragged
from genrec.evaluation.evaluate import rank_cases
from genrec.evaluation.metrics import metric_values, ranks

PROJECT = Path(__file__).resolve().parent.parent
BATCH_SIZE = 1024
LIMIT = 3.0


def read_beauty(data_root: Path) -> Ragged:
    with gzip.open(data_root / "amazon2014_beauty" / "s3rec_Beauty.txt.gz", "rt") as file:
        return Ragged.from_lists([[int(item) - 1 for item in line.split()[1:]] for line in file])


def evaluate(model: DirectedItemKnn, cases: Cases, train_counts: np.ndarray) -> dict[str, float]:
    frame = rank_cases({model.name: model}, cases, train_counts=train_counts, batch_size=BATCH_SIZE)
    means = {}
    for suffix in ("", "_masked"):
        rank = ranks(frame[f"num_greater{suffix}"].to_numpy(), frame[f"num_tied{suffix}"].to_numpy())
        for name, values in metric_values(rank, (1, 5, 10, 20, 50)).items():
            means[name + suffix] = float(values.mean())
    return means


def main() -> int:
    parser = argparse.ArgumentParser(description="Item-kNN evaluation of Beauty against its sparse product.")
    default = os.environ.get("GENREC_DATA", PROJECT.parent / "shared" / "data")
    parser.add_argument("data_root", nargs="?", type=Path, default=Path(default))
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()

    events = read_beauty(arguments.data_root)
    train = Ragged(events.values, events.starts, events.ends - 2)
    histories = Ragged(events.values, events.starts, events.ends - 1)
    cases = Cases(np.arange(len(events)), events.values[events.ends - 1], histories)
    num_items = int(events.values.max()) + 1
    model = DirectedItemKnn(
        window=5, decay=0.85, backward=0.25, source_power=0.25, target_power=0.3, history_decay=0.65
    ).fit(train, num_items=num_items)
    train_counts = np.bincount(train.flat()[1], minlength=num_items)
    weights = history_weights(histories.tail(model.history_length), num_items, decay=model.history_decay)
    batches = [weights[start : start + BATCH_SIZE] for start in range(0, len(cases), BATCH_SIZE)]

    metrics = evaluate(model, cases, train_counts)  # also warms up
    times: dict[str, list[float]] = {"evaluation": [], "product": []}
    for _ in range(arguments.repetitions):
        start = time.process_time()
        for batch in batches:
            _ = batch @ model.similarity_
        middle = time.process_time()
        evaluate(model, cases, train_counts)
        times["product"].append(middle - start)
        times["evaluation"].append(time.process_time() - middle)
    evaluation, product = (statistics.median(times[name]) for name in ("evaluation", "product"))
    ratio = evaluation / product
    result = {
        "benchmark": "item_knn",
        "num_cases": len(cases),
        "ratio": round(ratio, 3),
        "limit": LIMIT,
        "evaluation_cpu_s": round(evaluation, 3),
        "product_cpu_s": round(product, 3),
        "repetitions": arguments.repetitions,
        "recall@10": round(metrics["recall@10"], 4),
        "recall@10_masked": round(metrics["recall@10_masked"], 4),
    }
    print(json.dumps(result))
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
