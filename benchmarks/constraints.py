"""Are a bundle's answers exact? Random requests with random deny and allow sets, against exhaustive search.

    python benchmarks/constraints.py BUNDLE RECOMMENDER DATASET [--requests 10000] [--batch 50]

The bundle has to be exported with a beam as wide as its catalogue (search.beam_width=N), which then finds everything.
The oracle is the recommender itself, not exported, which scores every item of the catalogue, and keeps the admissible
ones. Histories are 0 to 30 random items; of the requests a third may get anything but what it denies, a third a random
share of the catalogue, a third at most 20 items. A request is wrong if its list is not the best admissible items in
their order, up to ties (scores within 1e-4), if it is shorter or longer than what is admissible allows, or if an item
comes twice, is denied or is not allowed. Prints one JSON line; exit code 1 if one request is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

from genrec.config.training import SearchSection
from genrec.data.dataset import Dataset
from genrec.data.sequences import Ragged
from genrec.decoding.exhaustive import score_catalogue
from genrec.pipeline.open_recommender import open_generative
from genrec.serving.runtime import TOLERANCE, CandidateGenerator


def draw_requests(
    draw: np.random.Generator, rows: int, num_items: int
) -> tuple[list[list[int]], list[list[int]], np.ndarray]:
    """Histories, denied items, and masks of allowed ones."""
    histories = [draw.integers(num_items, size=draw.integers(31)).tolist() for _ in range(rows)]
    denied = [draw.integers(num_items, size=draw.integers(num_items // 2)).tolist() for _ in range(rows)]
    allow = np.ones((rows, num_items), dtype=bool)
    for row, kind in enumerate(draw.integers(3, size=rows)):
        if kind == 1:
            allow[row] = draw.random(num_items) < draw.random()
        elif kind == 2:
            allow[row] = False
            allow[row, draw.integers(num_items, size=20)] = True
    return histories, denied, allow


def is_exact(items: np.ndarray, scores: np.ndarray, exact: np.ndarray, may: np.ndarray) -> bool:
    """Whether a list is the best of what may come, in its order.

    Args:
        items: [k], -1 as padding.
        scores: [k].
        exact: score of every item [N].
        may: which are admissible [N].
    """
    found = items[items >= 0]
    best = np.sort(exact[may & np.isfinite(exact)])[::-1][: len(items)]
    if len(found) != len(best) or len(set(found.tolist())) != len(found) or not may[found].all():
        return False
    own = scores[: len(found)]
    return bool(
        np.abs(own - best).max(initial=0) <= TOLERANCE and np.abs(own - exact[found]).max(initial=0) <= TOLERANCE
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Answers of a bundle against exhaustive search.")
    for name in ("bundle", "recommender", "dataset"):
        parser.add_argument(name, type=Path, nargs="?")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=50)
    words = parser.parse_args()
    if words.dataset is None:
        print(json.dumps({"skipped": "name a bundle of full width, its recommender and its dataset"}))
        return 0
    bundle = CandidateGenerator.load(words.bundle)
    _, generator = open_generative(words.recommender, Dataset.load(words.dataset), SearchSection())
    assert generator.item_ids == bundle.item_ids, "another catalogue"
    assert bundle.config["beam_width"] >= bundle.num_items, "the beam does not cover the catalogue"
    draw, wrong, short, done = np.random.default_rng(0), 0, 0, 0
    while done < words.requests:
        rows = min(words.batch, words.requests - done)
        histories, denied, allow = draw_requests(draw, rows, bundle.num_items)
        items, scores = bundle.search(histories, denied, allow)
        with torch.inference_mode():
            requests = generator.read(Ragged.from_lists(histories))
            exact = score_catalogue(generator.scorer, generator.trie, requests.context).numpy()
        counts = generator.train_counts.numpy()
        for row, history in enumerate(histories):
            may = allow[row].copy()
            may[denied[row]] = False
            wrong += not is_exact(items[row], scores[row], exact[row] if history else counts.astype(float), may)
            short += int((items[row] < 0).any())
        done += rows
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{done}/{words.requests}, {wrong} wrong")
    denials = {"requests": done, "wrong": wrong, "fewer_than_k_admissible": short}
    print(json.dumps({"benchmark": "constraints", "num_items": bundle.num_items, **denials}))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
