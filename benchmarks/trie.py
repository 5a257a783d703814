"""The trie of a large random catalogue: time and memory of its construction, and what a search step costs on it.

Three things, one thread, CPU time:

- build: the whole construction, as a ratio to `numpy.lexsort` of the same codes, in alternating repetitions;
- memory: of the trie, and the most that a fresh process took beyond the codes while it was building;
- step: one level of beam search for 64 requests of 20 beams, 50 denied items each (find the children, mask, choose the
  best), as a ratio to the same step on a catalogue of 10,000 random items. Both are padded to the same number of
  children, so that the ratio shows what the size of the catalogue costs, and not that a larger one branches more.

    python benchmarks/trie.py [--items N]

Prints one JSON line; exit code 1 if a limit is exceeded.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from genrec.decoding.beam_search import advance
from genrec.seeding import generator
from genrec.semantic_ids.constraints import Constraint
from genrec.semantic_ids.trie import SemanticIdTrie

SIZES = (256, 256, 256, 256)
SMALL, BATCH, BEAMS, DENIED = 10_000, 64, 20, 50
LIMITS = {"build_ratio": 5.0, "peak_gb": 2.0, "step_ratio": 1.5}


def random_codes(num_items: int) -> np.ndarray:
    return generator(0, num_items).integers(0, 256, (num_items, len(SIZES)), dtype=np.int32)


def cpu_time(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def medians(works: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    for work in works.values():
        work()
    times = [{name: cpu_time(work) for name, work in works.items()} for _ in range(repetitions)]
    return {name: statistics.median(row[name] for row in times) for name in works}


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure_memory(num_items: int) -> dict[str, int]:
    """In a process of its own, which has never needed more than the codes before."""
    codes = random_codes(num_items)
    before = peak_bytes()
    trie = SemanticIdTrie.build(codes, SIZES)
    return {"peak": peak_bytes() - before, "trie": trie.num_bytes}


def step(trie: SemanticIdTrie, level: int) -> Callable[[], object]:
    """One level of a search from random distinct nodes; random scores. The constraint is made beforehand."""
    rng = generator(1, level)
    known = trie.num_nodes(level)
    nodes = torch.from_numpy(np.sort(np.stack([rng.choice(known, BEAMS, replace=False) for _ in range(BATCH)])))
    deny = torch.from_numpy(rng.integers(0, trie.num_items, (BATCH, DENIED)))
    scores = torch.from_numpy(rng.standard_normal((BATCH, BEAMS, trie.max_branching[level]), dtype=np.float32))
    constraint = Constraint.build(trie, deny=deny)
    return lambda: advance(trie, level, nodes, scores, beam_width=BEAMS, constraint=constraint)


def measure_steps(large: SemanticIdTrie, small: SemanticIdTrie, repetitions: int) -> dict[str, object]:
    same = tuple(max(pair) for pair in zip(large.max_branching, small.max_branching, strict=True))
    rows = []
    for level in range(1, len(SIZES)):
        tries = {name: dataclasses.replace(t, max_branching=same) for name, t in (("large", large), ("small", small))}
        times = medians({name: step(trie, level) for name, trie in tries.items()}, repetitions)
        own = medians({"small": step(small, level)}, repetitions)
        rows.append((times["large"], times["small"], own["small"]))
    return {
        "step_ratio": round(max(a / b for a, b, _ in rows), 3),
        "step_ratio_by_level": [round(a / b, 3) for a, b, _ in rows],
        "children": list(same[1:]),
        "step_ms": [round(1e3 * a, 3) for a, _, _ in rows],
        "step_ms_small": [round(1e3 * b, 3) for _, b, _ in rows],
        "step_ms_small_own_width": [round(1e3 * c, 3) for _, _, c in rows],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Time and memory of the trie.")
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--memory-only", action="store_true", help="used by the benchmark itself, in a child process")
    arguments = parser.parse_args()
    if arguments.items < 1000:
        parser.error("--items: at least 1000, so that every level has nodes enough for the beams")
    torch.set_num_threads(1)
    if arguments.memory_only:
        print(json.dumps(measure_memory(arguments.items)))
        return 0
    command = [sys.executable, __file__, "--memory-only", "--items", str(arguments.items)]
    memory = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    codes = random_codes(arguments.items)
    times = medians(
        {"build": lambda: SemanticIdTrie.build(codes, SIZES), "lexsort": lambda: np.lexsort(codes.T[::-1])},
        arguments.repetitions,
    )
    large = SemanticIdTrie.build(codes, SIZES)
    small = SemanticIdTrie.build(random_codes(min(SMALL, arguments.items)), SIZES)
    result = {
        "benchmark": "trie",
        "num_items": arguments.items,
        "build_ratio": round(times["build"] / times["lexsort"], 3),
        "build_cpu_s": round(times["build"], 3),
        "lexsort_cpu_s": round(times["lexsort"], 3),
        "trie_gb": round(memory["trie"] / 1e9, 3),
        "peak_gb": round(memory["peak"] / 1e9, 3),
        **measure_steps(large, small, 10 * arguments.repetitions),
        "repetitions": arguments.repetitions,
        "limits": LIMITS,
    }
    print(json.dumps(result))
    return int(any(float(result[name]) > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
