"""Prints the differences of the mean over seeds, with intervals by bootstrap over cases (the seeds are fixed).

python3 pooled.py KIND: from work/evaluation_KIND_{0,1,2}/cases.parquet. R@10 and N@10, tied targets last, no mask.
"""

from __future__ import annotations

import sys

import numpy as np
import polars as pl

kind, losses = sys.argv[1], ("msl", "apao", "apao_msl")
random = np.random.default_rng(0)


def values(loss: str) -> np.ndarray:
    """[2, C]: the mean over seeds of recall and NDCG of each case."""
    found = []
    for seed in range(3):
        table = pl.read_parquet(f"work/evaluation_{kind}_{seed}/cases.parquet")
        rank = (
            table.filter(pl.col("model") == f"{kind}_{loss}_{seed}")
            .sort("case_index")
            .select(pl.col("num_greater") + pl.col("num_tied"))
            .to_series()
            .to_numpy()
        )
        found.append([rank < 10, np.where(rank < 10, 1 / np.log2(rank + 2.0), 0.0)])
    return np.mean(np.array(found, dtype=np.float64), axis=0)


base = {name: values(name) for name in ("ce", *losses)}
for better, worse in [*((loss, "ce") for loss in losses), ("apao_msl", "msl")]:
    difference = base[better] - base[worse]
    picks = random.integers(0, difference.shape[1], size=(2000, difference.shape[1]))
    means = np.stack([row[picks].mean(axis=1) for row in difference])
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    cells = [f"{m:+.4f} [{a:+.4f}, {b:+.4f}]" for m, a, b in zip(difference.mean(axis=1), low, high, strict=True)]
    print(f"| {kind}: {better} - {worse} | {' | '.join(cells)} |")
