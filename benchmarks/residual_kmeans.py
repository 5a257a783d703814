"""Residual k-means against FAISS's own residual quantiser: time and peak memory at equal squared error.

1,000,000 vectors of 384 numbers (two random choices among 3,000 centres, of Zipf popularity, and noise) lie in a `.npy`
file in a temporary folder. Each contender trains 4 codebooks of 256 and encodes all vectors, in a fresh process with
the same number of threads (OMP_NUM_THREADS, 1 if it is not set):

- ours: `ResidualKMeans` on the memory map, with 10 iterations of k-means, else with its defaults;
- reference: `faiss.ResidualQuantizer` with max_beam_size = 1, trained with FAISS's defaults (progressive dimensions, 10
  iterations at each of their steps) on as many random vectors as ours, 256 a code, which is all that its clustering
  takes of more; then `compute_codes` of all, from the same memory map, with use_beam_LUT = 0, FAISS's default;
- tables: the same with use_beam_LUT = 1, which is faster and needs more memory.

Ratios are to the better of the two in each of time, memory and error.

The processes run one after the other, `--repeats` times each, and the best counts. CPU time is user + system, peak
memory is all that was resident, the mapped file included. The mean squared errors are those of all vectors, decoded
after time and memory have been taken.

    OMP_NUM_THREADS=1 python benchmarks/residual_kmeans.py [--vectors N]

Prints one JSON line; exit code 1 if a bound is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from genrec.quantization.residual_kmeans import ResidualKMeans
from genrec.seeding import generator

VECTORS, WIDTH, SIZES, POINTS = 1_000_000, 384, (256, 256, 256, 256), 256
ITERATIONS, CENTRES, CHUNK = 10, 3000, 20_000
LIMITS = {"ratio_wall": 1.0, "ratio_cpu": 1.0, "ratio_memory": 0.6, "ratio_error": 1.005}

Decode = Callable[[slice], np.ndarray]


def make_vectors(path: Path, num_vectors: int) -> None:
    centres = (
        generator(0, 0).standard_normal((2, CENTRES, WIDTH), dtype=np.float32)
        * np.array([1.0, 0.5], dtype=np.float32)[:, None, None]
    )
    share = np.cumsum(1.0 / np.arange(1, CENTRES + 1))
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(num_vectors, WIDTH))
    for start in range(0, num_vectors, CHUNK):
        rng = generator(0, 1, start)
        size = min(CHUNK, num_vectors - start)
        first, second = np.searchsorted(share / share[-1], rng.random((2, size)))
        noise = rng.standard_normal((size, WIDTH), dtype=np.float32)
        vectors[start : start + size] = centres[0, first] + centres[1, second] + np.float32(0.3) * noise
    vectors.flush()


def run_ours(vectors: np.ndarray) -> Decode:
    quantiser = ResidualKMeans(codebook_sizes=SIZES, num_iterations=ITERATIONS, max_points_per_centroid=POINTS).fit(
        vectors
    )
    codes = quantiser.encode(vectors)
    return lambda rows: quantiser.decode(codes[rows])


def run_reference(vectors: np.ndarray, use_beam_lut: int = 0) -> Decode:
    import faiss

    quantiser = faiss.ResidualQuantizer(vectors.shape[1], len(SIZES), 8)
    quantiser.max_beam_size = 1
    size = min(len(vectors), max(SIZES) * POINTS)
    quantiser.train(vectors[np.sort(generator(0, 2).choice(len(vectors), size, replace=False))])
    quantiser.use_beam_LUT = use_beam_lut
    codes = quantiser.compute_codes(vectors)
    return lambda rows: quantiser.decode(codes[rows])


CONTENDERS: dict[str, Callable[[np.ndarray], Decode]] = {
    "reference": run_reference,
    "tables": lambda vectors: run_reference(vectors, use_beam_lut=1),
    "ours": run_ours,
}


def run_alone(name: str, path: Path) -> dict[str, float]:
    """One contender in this process, which has done nothing before."""
    vectors = np.load(path, mmap_mode="r")
    wall, cpu = time.perf_counter(), time.process_time()
    decode = CONTENDERS[name](vectors)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    squared = 0.0
    for start in range(0, len(vectors), CHUNK):
        rows = slice(start, min(start + CHUNK, len(vectors)))
        squared += float(np.square(vectors[rows] - decode(rows), dtype=np.float64).sum())
    return {"wall_s": wall, "cpu_s": cpu, "peak_gb": peak / 1e9, "mean_squared_error": squared / len(vectors)}


def measure(num_vectors: int, repeats: int) -> dict[str, Any]:
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", **os.environ}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        make_vectors(path, num_vectors)
        for _ in range(repeats):
            for name, found in runs.items():
                command = [sys.executable, __file__, "--only", name, "--file", str(path)]
                output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
                found.append(json.loads(output))
    best = {name: {key: min(run[key] for run in found) for key in found[0]} for name, found in runs.items()}
    ratio = {
        key: ours / min(best[name][key] for name in CONTENDERS if name != "ours") for key, ours in best["ours"].items()
    }
    return {
        "benchmark": "residual_kmeans",
        "num_vectors": num_vectors,
        "num_threads": int(environment["OMP_NUM_THREADS"]),
        "ratio_wall": round(ratio["wall_s"], 3),
        "ratio_cpu": round(ratio["cpu_s"], 3),
        "ratio_memory": round(ratio["peak_gb"], 3),
        "ratio_error": round(ratio["mean_squared_error"], 5),
        **{name: {key: round(value, 3) for key, value in found.items()} for name, found in best.items()},
        "repeats": repeats,
        "load": round(os.getloadavg()[0], 1),
        "limits": LIMITS,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=VECTORS, help="number of vectors (default 1 million)")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each contender, of which the best counts")
    parser.add_argument("--only", choices=list(CONTENDERS), help=argparse.SUPPRESS)  # a child's work
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(run_alone(arguments.only, arguments.file)))
        return 0
    result = measure(arguments.vectors, arguments.repeats)
    print(json.dumps(result))
    return int(any(result[name] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
