"""Training speed of the hierarchical recommender, as a ratio to transformers' T5 of the size that APAO trains.

Targets per CPU second, forward and backward without the optimiser, one thread, dropout on, alternating in one process:

- the hierarchical recommender (2 layers, width 128, history 50, trie normalisation) with and without trie-node
  embeddings, on batches of 64 windows of Office as training draws them: every position is a target;
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
import gzip
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrec.data.batches import BatchStream
from genrec.data.sequences import Ragged
from genrec.losses.likelihood import token_cross_entropy
from genrec.models.hierarchical import HierarchicalRecommender, HierarchicalSettings
from genrec.seeding import generator
from genrec.semantic_ids.trie import SemanticIdTrie

PROJECT = Path(__file__).resolve().parent.parent
SIZES = (256, 256, 256, 256)
USERS, ITEMS, EVENTS = 4905, 2420, 53_258
BATCH, HISTORY, T5_HISTORY = 64, 50, 20
LIMITS = {"with_nodes": 30.0, "without_nodes": 60.0}
PRECISIONS = {"float32": False, "bfloat16": True}
Work = Callable[[], int]  # does some batches and says how many targets that were


def read_office(folder: Path) -> tuple[list[list[int]], np.ndarray]:
    with gzip.open(folder / "Office.inter.json.gz", "rt") as file:
        sequences = list(json.load(file).values())
    table = json.loads((folder / "Office.index.rq-kmeans.json").read_text())
    codes = [[int(re.sub(r"\D", "", token)) for token in table[str(item)]] for item in range(len(table))]
    return sequences, np.array(codes, dtype=np.int32)


def draw_office() -> tuple[list[list[int]], np.ndarray]:
    """Sequences of 5 items and a geometric rest; codes that branch about as those of Office do."""
    rng = generator(0)
    lengths = 4 + rng.geometric(1 / (EVENTS / USERS - 4), USERS)
    sequences = [rng.integers(ITEMS, size=length).tolist() for length in lengths]
    codes = np.stack([rng.integers(size, size=ITEMS) for size in (256, 6, 3, 2)], axis=1)
    return sequences, codes.astype(np.int32)


def hierarchical_work(
    sequences: list[list[int]], trie: SemanticIdTrie, *, nodes: bool, half: bool, batches: int
) -> Work:
    torch.manual_seed(0)
    settings = HierarchicalSettings(history_length=HISTORY, node_embeddings=nodes)
    model = HierarchicalRecommender(trie, settings).train()
    everything = torch.ones(trie.num_items, dtype=torch.bool)
    model.mark_trained(everything, everything)
    stream = BatchStream(Ragged.from_lists([row[:-2] for row in sequences]), batch_size=BATCH, max_length=HISTORY)
    some = [batch for _, batch in zip(range(batches), stream.epoch(0), strict=False)]
    tensors = [tuple(map(torch.from_numpy, (batch.items, batch.targets, batch.is_target))) for batch in some]

    def work() -> int:
        for items, targets, is_target in tensors:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                log_probs = model(items, targets)
            token_cross_entropy(log_probs, is_target).loss.backward()
            model.zero_grad(set_to_none=True)
        return sum(int(is_target.sum()) for _, _, is_target in tensors)

    return work


def t5_work(sequences: list[list[int]], codes: np.ndarray, *, half: bool, batches: int) -> Work:
    from transformers import T5Config, T5ForConditionalGeneration  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=2 + sum(SIZES),
        d_model=128,
        d_kv=64,
        d_ff=1024,
        num_layers=4,
        num_decoder_layers=4,
        num_heads=6,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config).train()
    tokens = torch.from_numpy(codes + 2 + 256 * np.arange(4)).long()  # 0 is padding, 1 ends
    rng = generator(1)
    pairs = [(user, place) for user, row in enumerate(sequences) for place in range(1, len(row) - 2)]
    inputs = []
    for chosen in rng.choice(len(pairs), (batches, BATCH), replace=False):
        rows = [
            (sequences[user][max(0, place - T5_HISTORY) : place], sequences[user][place])
            for user, place in (pairs[n] for n in chosen)
        ]
        longest = max(len(history) for history, _ in rows)
        input_ids = torch.zeros(BATCH, longest, 4, dtype=torch.int64)
        for row, (history, _) in enumerate(rows):
            input_ids[row, : len(history)] = tokens[history]
        labels = torch.nn.functional.pad(tokens[[target for _, target in rows]], (0, 1), value=1)
        inputs.append((input_ids.flatten(1), labels))

    def work() -> int:
        for input_ids, labels in inputs:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                loss = model(input_ids=input_ids, attention_mask=(input_ids > 0).long(), labels=labels).loss
            loss.backward()
            model.zero_grad(set_to_none=True)
        return BATCH * len(inputs)

    return work


def targets_per_second(work: Work) -> float:
    start = time.process_time()
    return work() / (time.process_time() - start)


def measure(works: dict[str, Work], repetitions: int) -> dict[str, float]:
    for work in works.values():
        work()
    runs = [{name: targets_per_second(work) for name, work in works.items()} for _ in range(repetitions)]
    return {name: statistics.median(run[name] for run in runs) for name in works}


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
    folder = arguments.data_root / "apao_office"
    sequences, codes = read_office(folder) if folder.is_dir() else draw_office()
    trie = SemanticIdTrie.build(codes, SIZES)
    result: dict[str, Any] = {"benchmark": "hierarchical", "data": "office" if folder.is_dir() else "random"}
    is_short = False
    for precision, half in PRECISIONS.items():
        works = {
            name: hierarchical_work(sequences, trie, nodes=name == "with_nodes", half=half, batches=arguments.batches)
            for name in LIMITS
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
