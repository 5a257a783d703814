"""Prefix-wise recall@20 on test: is the target's prefix of t codes among the 20 beams after t codes?

python3 prefix_recall.py NAME ...     recommenders work/NAME/recommender; the others are compared with the first
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from genrec.data.dataset import Dataset
from genrec.decoding.beam_search import search_levels
from genrec.pipeline.recommenders import load_recommender

BEAMS, RESAMPLES, BATCH = 20, 2000, 256


@torch.inference_mode()
def survival(name: str, dataset: Dataset) -> np.ndarray:
    """[cases, L]: whether the target's prefix is in the beam."""
    _, model = load_recommender(Path("work") / name / "recommender", dataset)
    cases, found = dataset.cases("test"), []
    for start in range(0, len(cases), BATCH):
        some = cases.take(slice(start, start + BATCH))
        rows = some.histories.tail(model.settings.history_length)
        row, value, age = rows.flat()
        items = np.full((len(some), int(rows.lengths.max())), -1, dtype=np.int64)
        items[row, rows.lengths[row] - 1 - age] = value
        context = model.encode(torch.from_numpy(items), torch.from_numpy(rows.lengths.astype(np.int64)))
        levels = search_levels(model, model.trie, context, beam_width=BEAMS)
        path = model.trie.path_nodes(torch.from_numpy(some.target.astype(np.int64)))
        kept = [(beams.nodes == path[:, place : place + 1]).any(dim=1) for place, beams in enumerate(levels)]
        found.append(torch.stack(kept, dim=1).numpy())
    return np.concatenate(found)


def main(names: list[str]) -> None:
    dataset = Dataset.load(Path("work/office"))
    rng = np.random.default_rng(0)
    kept = {name: survival(name, dataset) for name in names}
    draws = rng.integers(len(kept[names[0]]), size=(RESAMPLES, len(kept[names[0]])))
    result = {}
    for name in names:
        difference = kept[name].astype(float) - kept[names[0]]
        resampled = np.stack([difference[draw].mean(axis=0) for draw in draws])
        low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
        result[name] = {
            "recall": kept[name].mean(axis=0).round(5).tolist(),
            "difference": difference.mean(axis=0).round(5).tolist(),
            "low": low.round(5).tolist(),
            "high": high.round(5).tolist(),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
