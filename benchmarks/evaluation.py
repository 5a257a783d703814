"""What evaluation costs beside the decoding that it measures, as a ratio, and the memory that it takes.

CPU time of one thread, 2,000 users of Beauty (all with `--users 0`), 50 beams and 50 items each, without and with the
seen items masked, alternating in one process:

- decoding: the two searches of every user, batches of 64, as the evaluation runs them, and nothing else;
- evaluation: `evaluate_models` from the same recommender to the report: every metric at 1, 5, 10, 20 and 50, bootstrap
  intervals, item-kNN as the reference with its own lists and the paired tests, slices by popularity, length, novelty
  and category, coverage, evenness, novelty and diversity in a space of 384 numbers.

The recommender is hierarchical (2 layers, width 128, history 50) with a joint depth of 4 and a transition memory, whose
decoding is the fastest there is, so that the ratio is the least favourable; with `--kind` another of `office.KINDS`.
Its weights are random, as are codes, vectors and categories; nothing depends on them. Peak memory is that of the
process, with the data and the model.

Beauty comes from GENREC_DATA; without it, random sequences of the same sizes are used.

    python benchmarks/evaluation.py [DATA_ROOT]

Prints one JSON line; exit code 1 if a limit is broken.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from office import KINDS, build_hierarchical, keep_freed_memory

from genrec.baselines.item_knn import DirectedItemKnn
from genrec.data.sequences import Cases, Ragged
from genrec.decoding.generator import CandidateGenerator
from genrec.evaluation.evaluate import evaluate_models
from genrec.evaluation.search_ranker import GeneratorRanker
from genrec.seeding import generator
from genrec.semantic_ids.trie import SemanticIdTrie

PROJECT = Path(__file__).resolve().parent.parent
SIZES, BEAMS, WIDTH = (256, 256, 256, 256), 50, 384
USERS, ITEMS, EVENTS = 22_363, 12_101, 198_502
LIMIT, LIMIT_GB = 1.3, 3.0


def load_beauty(data_root: Path) -> tuple[str, list[list[int]]]:
    """Kind and sequences: the real ones if they are there, else random ones of the same sizes."""
    file = data_root / "amazon2014_beauty" / "s3rec_Beauty.txt.gz"
    if file.is_file():
        with gzip.open(file, "rt") as lines:
            return "beauty", [[int(item) - 1 for item in line.split()[1:]] for line in lines]
    rng = generator(0)
    lengths = 4 + rng.geometric(1 / (EVENTS / USERS - 4), USERS)
    return "random", [rng.integers(ITEMS, size=length).tolist() for length in lengths]


def draw_trie(num_items: int) -> SemanticIdTrie:
    """Distinct codes that branch about as those of a real catalogue do."""
    shape = (256, 40, 6, 2)
    chosen = generator(1).choice(int(np.prod(shape)), num_items, replace=False)
    codes = np.stack(np.unravel_index(chosen, shape), axis=1)
    return SemanticIdTrie.build(codes.astype(np.int32), SIZES)


def build(
    sequences: list[list[int]], num_users: int, kind: str
) -> tuple[GeneratorRanker, DirectedItemKnn, dict[str, Any]]:
    """The recommender, the reference, and the other arguments of the evaluation."""
    train = Ragged.from_lists([row[:-2] for row in sequences])
    num_items = 1 + max(map(max, sequences))
    counts = np.bincount(train.flat()[1], minlength=num_items)
    trie = draw_trie(num_items)
    search = CandidateGenerator(
        build_hierarchical([row[:-2] for row in sequences], trie, history=50, kind=kind).eval(),
        trie,
        item_ids=[str(item) for item in range(num_items)],
        train_counts=counts,
        beam_width=BEAMS,
    )
    users = generator(2).permutation(len(sequences))[: num_users or len(sequences)]
    cases = Cases(
        users.astype(np.int32),
        np.array([sequences[user][-1] for user in users], dtype=np.int32),
        Ragged.from_lists([sequences[user][:-1] for user in users]),
    )
    rng = generator(3)
    arguments = {
        "cases": cases,
        "train_counts": counts,
        "categories": [f"category {number}" for number in rng.integers(12, size=num_items)],
        "vectors": rng.normal(size=(num_items, WIDTH)).astype(np.float32),
    }
    return GeneratorRanker(search, BEAMS), DirectedItemKnn().fit(train, num_items=num_items), arguments


def decode(search: CandidateGenerator, histories: Ragged) -> None:
    for exclude_seen in (False, True):
        for start in range(0, len(histories), search.batch_size):
            rows = histories.take(slice(start, start + search.batch_size))
            search.search(rows, BEAMS, exclude_seen=exclude_seen)


def main() -> int:
    parser = argparse.ArgumentParser(description="CPU time and memory of evaluation against those of decoding.")
    default = os.environ.get("GENREC_DATA", PROJECT.parent / "shared" / "data")
    parser.add_argument("data_root", nargs="?", type=Path, default=Path(default))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--users", type=int, default=2_000, help="0: all")
    parser.add_argument("--kind", choices=list(KINDS), default="joint_memory")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    data, sequences = load_beauty(arguments.data_root)
    ranker, knn, rest = build(sequences, arguments.users, arguments.kind)
    times: dict[str, list[float]] = {"decoding": [], "evaluation": []}
    report: dict[str, Any] = {}
    for _ in range(arguments.repetitions):
        start = time.process_time()
        decode(ranker.generator, rest["cases"].histories)
        middle = time.process_time()
        report = evaluate_models({"item_knn": knn, "recommender": ranker}, **rest).report
        times["decoding"].append(middle - start)
        times["evaluation"].append(time.process_time() - middle)
    assert all(row["mean_length"] == row["cutoff"] for row in report["lists"] if row["model"] == "recommender")
    decoding, evaluation = (statistics.median(times[name]) for name in ("decoding", "evaluation"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result = {
        "benchmark": "evaluation",
        "data": data,
        "kind": arguments.kind,
        "num_cases": report["num_cases"],
        "ratio": round(evaluation / decoding, 3),
        "limit": LIMIT,
        "evaluation_cpu_s": round(evaluation, 2),
        "decoding_cpu_s": round(decoding, 2),
        "peak_gb": round(peak, 2),
        "limit_gb": LIMIT_GB,
        "repetitions": arguments.repetitions,
        "torch": torch.__version__,
    }
    print(json.dumps(result))
    return int(evaluation / decoding > LIMIT or peak > LIMIT_GB)


if __name__ == "__main__":
    sys.exit(main())
