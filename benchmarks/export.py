"""One request on a CPU: the eager search, torch.export's program, and the bundle's ONNX graph; ratios to the eager one.

    python benchmarks/export.py --bundle DIR --recommender DIR --dataset DIR [--torch-bundle DIR] [--threads 2]

Rounds alternate between the rows, so that a busy machine slows all of them alike. Histories are random items.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from genrec.config.training import SearchSection
from genrec.data.dataset import Dataset
from genrec.data.sequences import Ragged
from genrec.pipeline.open_recommender import open_generative
from genrec.serving.runtime import CandidateGenerator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--torch-bundle", type=Path)
    parser.add_argument("--recommender", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    dataset, bundle = Dataset.load(words.dataset), CandidateGenerator.load(words.bundle, num_threads=words.threads)
    k, beams = bundle.limits.max_candidates, bundle.config["beam_width"]
    _, eager = open_generative(words.recommender, dataset, SearchSection(beam_width=beams))
    draw = np.random.default_rng(0)
    histories = [draw.integers(bundle.num_items, size=words.length).tolist() for _ in range(words.batch)]
    everything = np.ones((words.batch, bundle.num_items), dtype=bool)
    rows: dict[str, Callable[[], object]] = {
        "eager": lambda: eager.search(Ragged.from_lists(histories), k),
        "onnx": lambda: bundle.search(histories, [[]] * words.batch, everything),
    }
    if words.torch_bundle:
        from genrec.serving.torch_runtime import TorchGenerator

        exported = TorchGenerator(words.torch_bundle)
        rows["torch.export"] = lambda: exported.search(histories, [[]] * words.batch, everything)
    print(json.dumps({"items": bundle.num_items, "beams": beams, **vars(words)}, default=str))
    print(json.dumps(measure(rows, words.rounds), indent=1))


def measure(rows: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """p50 and p99 in milliseconds, and how many times the eager median goes into that of each row."""
    times: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(rounds + 5):
        for name, call in rows.items():
            start = time.perf_counter()
            call()
            if number >= 5:  # after warming up
                times[name].append(1000 * (time.perf_counter() - start))
    base = float(np.median(times["eager"]))
    return {
        name: {
            "p50_ms": round(float(np.median(values)), 2),
            "p99_ms": round(float(np.quantile(values, 0.99)), 2),
            "times_faster": round(base / float(np.median(values)), 2),
        }
        for name, values in times.items()
    }


if __name__ == "__main__":
    main()
