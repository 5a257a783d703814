"""What APAO's pairwise loss costs beside cross-entropy, on the hierarchical recommender and Office.

OMP_NUM_THREADS=1 python benchmarks/prefix_losses.py DATA_ROOT
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from office import SIZES, Work, build_hierarchical, keep_freed_memory, load_office, measure

from genrec.data.batches import BatchStream
from genrec.data.sequences import Ragged
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.training.objectives import Likelihood, Objective, Prefixes

PROJECT = Path(__file__).resolve().parent.parent
BATCH, HISTORY = 64, 50
KINDS = ("with_nodes", "without_nodes", "joint_memory")
LOSSES: dict[str, Prefixes | None] = {
    "cross_entropy": None,
    "pointwise": Prefixes(beta=0.3, eta=1e-3),
    "pairwise_16": Prefixes(beta=0.2, eta=1e-3, num_negatives=16),
    "pairwise_100": Prefixes(beta=0.2, eta=1e-3, num_negatives=100),
}
LIMITS = {"pairwise_16": 10.0}  # times the cost of a step of cross-entropy


def work_of(
    sequences: list[list[int]], trie: SemanticIdTrie, kind: str, prefixes: Prefixes | None, *, batches: int
) -> Work:
    shown = [row[:-2] for row in sequences]
    model = build_hierarchical(shown, trie, history=HISTORY, kind=kind).train()
    num_prefixes = [trie.num_nodes(level + 1) for level in range(trie.num_levels)]
    objective = Objective(num_prefixes, likelihood=Likelihood(), prefixes=prefixes)
    stream = BatchStream(Ragged.from_lists(shown), batch_size=BATCH, max_length=HISTORY)
    some = [batch for _, batch in zip(range(batches), stream.epoch(0), strict=False)]
    names = ("items", "targets", "is_target", "user_index")
    tensors = [
        {name: torch.from_numpy(np.asarray(getattr(batch, name))) for name in names} | {"epoch": torch.tensor(0)}
        for batch in some
    ]

    def work() -> int:
        for batch in tensors:
            objective(model, batch).loss.backward()
            model.zero_grad(set_to_none=True)
        return sum(batch.num_targets for batch in some)

    return work


def main() -> int:
    parser = argparse.ArgumentParser(description="Cost of prefix-aware losses on the hierarchical recommender.")
    default = os.environ.get("GENREC_DATA", PROJECT.parent / "shared" / "data")
    parser.add_argument("data_root", nargs="?", type=Path, default=Path(default))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batches", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    data, sequences, codes = load_office(arguments.data_root)
    trie = SemanticIdTrie.build(codes, SIZES)
    result: dict[str, Any] = {"benchmark": "prefix_losses", "data": data}
    is_long = False
    for kind in KINDS:
        works = {
            name: work_of(sequences, trie, kind, prefixes, batches=arguments.batches)
            for name, prefixes in LOSSES.items()
        }
        speeds = measure(works, arguments.repetitions)
        costs = {name: speeds["cross_entropy"] / speeds[name] for name in LOSSES}
        is_long |= any(costs[name] > limit for name, limit in LIMITS.items())
        result[kind] = {
            "times_cross_entropy": {name: round(cost, 2) for name, cost in costs.items()},
            "targets_per_cpu_s": {name: round(speed, 1) for name, speed in speeds.items()},
        }
    print(json.dumps({**result, "limits": LIMITS, "repetitions": arguments.repetitions, "torch": torch.__version__}))
    return int(is_long)


if __name__ == "__main__":
    sys.exit(main())
