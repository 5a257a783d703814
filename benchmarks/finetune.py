"""Cost of a step of policy optimisation, as a ratio to a supervised step on the same positions.

CPU seconds, forward and backward without the optimiser, one thread, alternating in one process, on batches of the last
training positions of 64 histories of Office (hierarchical recommender, 2 layers, width 128, history 50):

- supervised: cross-entropy of the 64 targets, with dropout;
- beam: 16 candidates of each by a beam search, rewards, group and sibling advantages, exact KL to a reference, anchor;
- value: the same with a value head that learns beside it;
- value_guided: candidates by value-guided search of 64 prefixes, and the value head.

Office comes from GENREC_DATA; without it, random sequences and codes of the same sizes are used.

    python benchmarks/finetune.py [DATA_ROOT]

Prints one JSON line; exit code 1 if a step with beams costs more than its limit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from office import KINDS, SIZES, Work, build_hierarchical, keep_freed_memory, load_office, measure

from genrec.data.batches import BatchStream
from genrec.data.sequences import Ragged
from genrec.losses.likelihood import token_cross_entropy
from genrec.models.settings import ValueHeadSettings
from genrec.models.value_head import ValueHead
from genrec.seeding import generator
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.training.policy_objective import PolicyObjective
from genrec.training.policy_task import Judge, PolicyTask, Schedule
from genrec.training.rollouts import Requests, RolloutSettings

PROJECT = Path(__file__).resolve().parent.parent
BATCH, HISTORY, LIMIT = 64, 50, 6.0
REWARDS = {"exact_hit": 1.0, "rank_discounted": 1.0, "prefix_depth": 0.5}
WAYS: dict[str, dict[str, Any]] = {
    "beam": {"method": "beam", "has_head": False},
    "value": {"method": "beam", "has_head": True},
    "value_guided": {"method": "value_guided", "has_head": True},
}


def supervised_work(model: Any, batches: list[Requests]) -> Work:
    def work() -> int:
        model.train()
        for batch in batches:
            log_probs = model.score_targets(batch.histories, batch.targets).log_probs
            token_cross_entropy(log_probs, batch.targets >= 0).loss.backward()
            model.zero_grad(set_to_none=True)
        return len(batches)

    return work


def policy_work(model: Any, batches: list[Requests], method: str, *, has_head: bool) -> Work:
    trie = model.trie
    embeddings = torch.from_numpy(generator(1).standard_normal((trie.num_items, 32)).astype(np.float32))
    head = ValueHead(trie, ValueHeadSettings(width=model.settings.width)) if has_head else None
    task = PolicyTask(
        model,
        head,
        objective=PolicyObjective(sibling_weight=1.0, kl_weight=0.1, anchor_weight=0.1),
        rollouts=RolloutSettings(method=method, num_candidates=16),
        judge=Judge(trie, REWARDS, embeddings),
        schedule=Schedule(seed=1),
        parameter_groups=[],
        learning_rate=1e-4,
        total_steps=1_000_000,
    )
    steps = itertools.count()

    def work() -> int:
        for batch in batches:
            task.minimise(batch, step=next(steps)).loss.backward()
            task.zero_grad(set_to_none=True)
        return len(batches)

    return work


def compare(sequences: list[list[int]], codes: np.ndarray, kind: str, arguments: Any) -> dict[str, float]:
    """Steps per CPU second."""
    trie = SemanticIdTrie.build(codes, SIZES)
    shown = [row[:-2] for row in sequences]
    model = build_hierarchical(shown, trie, history=HISTORY, kind=kind)
    stream = BatchStream(Ragged.from_lists(shown), batch_size=BATCH, max_length=HISTORY, pairs="last")
    some = itertools.islice(stream.epoch(0), arguments.batches)
    batches = [
        Requests.of_batch(
            {
                "items": torch.from_numpy(b.items),
                "targets": torch.from_numpy(b.targets),
                "is_target": torch.from_numpy(b.is_target),
            }
        )
        for b in some
    ]
    works = {"supervised": supervised_work(model, batches)}
    works |= {name: policy_work(model, batches, **way) for name, way in WAYS.items()}
    return measure(works, arguments.repetitions)


def main() -> int:
    parser = argparse.ArgumentParser(description="Cost of a step of policy optimisation against a supervised step.")
    default = os.environ.get("GENREC_DATA", PROJECT.parent / "shared" / "data")
    parser.add_argument("data_root", nargs="?", type=Path, default=Path(default))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["with_nodes", "joint_memory"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    data, sequences, codes = load_office(arguments.data_root)
    speeds = {kind: compare(sequences, codes, kind, arguments) for kind in arguments.kinds}
    ratios = {kind: {way: found["supervised"] / found[way] for way in WAYS} for kind, found in speeds.items()}
    result = {
        "benchmark": "finetune",
        "data": data,
        "ratio": {kind: {way: round(ratio, 2) for way, ratio in found.items()} for kind, found in ratios.items()},
        "steps_per_cpu_s": {
            kind: {name: round(speed, 2) for name, speed in found.items()} for kind, found in speeds.items()
        },
        "limit": LIMIT,
        "repetitions": arguments.repetitions,
        "torch": torch.__version__,
    }
    print(json.dumps(result))
    return int(any(found["beam"] > LIMIT for found in ratios.values()))


if __name__ == "__main__":
    sys.exit(main())
