"""Time and memory of preparing a dataset, as ratios to a bare Polars scan + sort + write of the same Parquet file.

    python benchmarks/prepare.py --rows 10000000

Interactions are synthetic (string ids of 14 characters, Zipf popularity, random times). Both roads are timed in one
process, alternating, and the best of the repeats counts; peak memory is that of a fresh process for each. The whole
command is timed: prepare, audit, and writing the dataset with its hashes. The last line is JSON. Exit code 1 if a bound
is broken: time ratio (wall or CPU) above 4, or 4 GB.
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
import polars as pl

from genrec.data.audit import audit
from genrec.data.dataset import save_dataset
from genrec.data.prepare import prepare
from genrec.data.schema import RawData

MAX_RATIO, MAX_GIGABYTES = 4.0, 4.0
NUM_USERS, NUM_ITEMS, ROWS = 500_000, 200_000, 10_000_000


def make_interactions(path: Path, rows: int) -> None:
    rng = np.random.default_rng(0)

    def draw(prefix: str, size: int, exponent: float) -> pl.Series:
        share = np.cumsum(np.arange(1.0, size + 1) ** -exponent)
        codes = rng.permutation(size)[np.searchsorted(share / share[-1], rng.random(rows))]
        # multiplying by an odd number scatters the ids without making two of them equal
        ids = pl.Series([f"{prefix}{(n * 2654435761) % 2**52:013X}" for n in range(size)])
        return ids.gather(codes)

    columns = {
        "user_id": draw("A", max(10, NUM_USERS * rows // ROWS), 0.6),
        "item_id": draw("B", max(10, NUM_ITEMS * rows // ROWS), 0.9),
        "timestamp": rng.integers(1_400_000_000_000, 1_700_000_000_000, rows),
    }
    pl.DataFrame(columns).write_parquet(path)


def run_reference(folder: Path) -> dict[str, float]:
    table = pl.scan_parquet(folder / "interactions.parquet").sort("user_id", "timestamp").collect()
    table.write_parquet(folder / "sorted.parquet")
    return {}


def run_prepare(folder: Path) -> dict[str, float]:
    start = time.perf_counter()
    prepared = prepare(RawData(pl.scan_parquet(folder / "interactions.parquet")))
    then = time.perf_counter()
    findings = audit(prepared.interactions, prepared.items)
    after = time.perf_counter()
    save_dataset(prepared, folder / "dataset", audit=findings, overwrite=True)
    return {"prepare": then - start, "audit": after - then, "save": time.perf_counter() - after}


ROADS: dict[str, Callable[[Path], dict[str, float]]] = {"reference": run_reference, "prepare": run_prepare}


def timed(road: str, folder: Path) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    parts = ROADS[road](folder)
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, **parts}


def peak_gigabytes(road: str, folder: Path) -> float:
    """Peak resident memory of a fresh process; Linux counts kilobytes."""
    command = [sys.executable, __file__, "--only", road, "--folder", str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1024 / 1e9


def measure(folder: Path, rows: int, repeats: int) -> dict[str, Any]:
    make_interactions(folder / "interactions.parquet", rows)
    runs: dict[str, list[dict[str, float]]] = {road: [] for road in ROADS}
    for _ in range(repeats):
        for road in ROADS:
            runs[road].append(timed(road, folder))
    best = {road: {name: min(run[name] for run in found) for name in found[0]} for road, found in runs.items()}
    return {
        "rows": rows,
        "ratio_wall": round(best["prepare"]["wall"] / best["reference"]["wall"], 2),
        "ratio_cpu": round(best["prepare"]["cpu"] / best["reference"]["cpu"], 2),
        "peak_gigabytes": {road: round(peak_gigabytes(road, folder), 2) for road in ROADS},
        "seconds": {road: {name: round(value, 2) for name, value in found.items()} for road, found in best.items()},
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS, help="interactions (default 10 million)")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each road, of which the best counts")
    parser.add_argument("--only", choices=list(ROADS), help=argparse.SUPPRESS)  # the child of peak_gigabytes
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        ROADS[arguments.only](arguments.folder)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), arguments.rows, arguments.repeats)
    print(json.dumps(result))
    ratio = max(result["ratio_wall"], result["ratio_cpu"])
    return int(ratio > MAX_RATIO or result["peak_gigabytes"]["prepare"] >= MAX_GIGABYTES)


if __name__ == "__main__":
    sys.exit(main())
