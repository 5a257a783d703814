"""Training speed of the hierarchical recommender, as a ratio to transformers' T5 of the size that APAO trains.

Targets per CPU second, forward and backward without the optimiser, one thread, dropout on, alternating in one process:

- the hierarchical recommender (2 layers, width 128, history 50, trie normalisation) with and without trie-node
  embeddings, with a joint depth of 4, and with that and a transition memory, on batches of 64 windows of Office as
  training draws them: every position is a target;
- T5 (4 + 4 layers, width 128, feed-forward 1024, 6 heads of 64), on batches of 64 random pairs of a history (the last
  20 items, 4 tokens each, padded to the longest of the batch) and one target.

Both in float32 and under bfloat16 autocast; a ratio compares like with like. Office comes from GENREC_DATA; without it,
random sequences and codes of the same sizes are used. Needs `transformers`, which genrec does not: without it the
benchmark says so and leaves with 0.

    python benchmarks/hierarchical.py [DATA_ROOT]

Prints one JSON line; exit code 1 if a ratio is below its limit.
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
from office import (
    END,
    PADDING,
    SIZES,
    Work,
    build_hierarchical,
    build_t5,
    keep_freed_memory,
    load_office,
    measure,
    t5_inputs,
    t5_tokens,
)

from genrec.data.batches import BatchStream
from genrec.data.sequences import Ragged
from genrec.losses.likelihood import token_cross_entropy
from genrec.seeding import generator
from genrec.semantic_ids.trie import SemanticIdTrie

PROJECT = Path(__file__).resolve().parent.parent
BATCH, HISTORY = 64, 50
LIMITS = {"with_nodes": 30.0, "without_nodes": 60.0, "joint": 30.0, "joint_memory": 30.0}
PRECISIONS = {"float32": False, "bfloat16": True}


def hierarchical_work(sequences: list[list[int]], trie: SemanticIdTrie, kind: str, *, half: bool, batches: int) -> Work:
    shown = [row[:-2] for row in sequences]
    model = build_hierarchical(shown, trie, history=HISTORY, kind=kind).train()
    stream = BatchStream(Ragged.from_lists(shown), batch_size=BATCH, max_length=HISTORY)
    some = [batch for _, batch in zip(range(batches), stream.epoch(0), strict=False)]
    tensors = [tuple(map(torch.from_numpy, (batch.items, batch.targets, batch.is_target))) for batch in some]

    def work() -> int:
        for items, targets, is_target in tensors:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                log_probs = model.score_targets(items, targets).log_probs
            token_cross_entropy(log_probs, is_target).loss.backward()
            model.zero_grad(set_to_none=True)
        return sum(int(is_target.sum()) for _, _, is_target in tensors)

    return work


def t5_work(sequences: list[list[int]], codes: np.ndarray, *, half: bool, batches: int) -> Work:
    model = build_t5().train()
    tokens = t5_tokens(codes)
    rng = generator(1)
    pairs = [(user, place) for user, row in enumerate(sequences) for place in range(1, len(row) - 2)]
    inputs = []
    for chosen in rng.choice(len(pairs), (batches, BATCH), replace=False):
        some = [pairs[n] for n in chosen]
        input_ids = t5_inputs(tokens, [sequences[user][:place] for user, place in some])
        labels = tokens[[sequences[user][place] for user, place in some]]
        inputs.append((input_ids, torch.nn.functional.pad(labels, (0, 1), value=END)))

    def work() -> int:
        for input_ids, labels in inputs:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                loss = model(input_ids=input_ids, attention_mask=(input_ids != PADDING).long(), labels=labels).loss
            loss.backward()
            model.zero_grad(set_to_none=True)
        return BATCH * len(inputs)

    return work


def main() -> int:
    parser = argparse.ArgumentParser(description="Training speed of the hierarchical recommender against T5.")
    default = os.environ.get("GENREC_DATA", PROJECT.parent / "shared" / "data")
    parser.add_argument("data_root", nargs="?", type=Path, default=Path(default))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batches", type=int, default=20, help="of the recommender in a repetition; T5 does a tenth")
    arguments = parser.parse_args()
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("skipped: transformers is not installed; pip install transformers")
        return 0
    torch.set_num_threads(1)
    keep_freed_memory()
    data, sequences, codes = load_office(arguments.data_root)
    trie = SemanticIdTrie.build(codes, SIZES)
    result: dict[str, Any] = {"benchmark": "hierarchical", "data": data}
    is_short = False
    for precision, half in PRECISIONS.items():
        works = {
            name: hierarchical_work(sequences, trie, name, half=half, batches=arguments.batches) for name in LIMITS
        }
        works["t5"] = t5_work(sequences, codes, half=half, batches=max(1, arguments.batches // 10))
        speeds = measure(works, arguments.repetitions)
        ratios = {name: speeds[name] / speeds["t5"] for name in LIMITS}
        is_short |= any(ratios[name] < limit for name, limit in LIMITS.items())
        result[precision] = {
            "ratio": {name: round(ratio, 1) for name, ratio in ratios.items()},
            "targets_per_cpu_s": {name: round(speed, 1) for name, speed in speeds.items()},
        }
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({**result, "limits": LIMITS, "repetitions": arguments.repetitions, **versions}))
    return int(is_short)


if __name__ == "__main__":
    sys.exit(main())
