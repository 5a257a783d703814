"""Example users of a report: picked by where their target stands, their lists searched again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec.artifacts import MANIFEST, Artifact, load_artifact
from genrec.config.load import load_config
from genrec.config.schema import EvaluateConfig
from genrec.data.dataset import Dataset
from genrec.files import read_json

BANDS = ((0, 10), (10, 50), (50, None))  # ranks: found early, found late, hardly or not at all
SHOWN_HISTORY = 8


def example_users(evaluation: Artifact, row: str, *, num_users: int, k: int) -> list[dict[str, Any]] | str:
    """Users in turn from each band of ranks, with titles; or why there are none.

    The list of each is that of the recommender as it was evaluated, without mask.
    """
    paths = {name: Path(path) for name, path in evaluation.parent_paths.items()}
    recommender, dataset_path = paths.get(f"recommender {row}"), paths["dataset"]
    if recommender is None:
        return f"The row {row} is no recommender whose lists could be made again."
    for name, path in (("dataset", dataset_path), (f"recommender {row}", recommender)):
        if not (path / MANIFEST).is_file() or load_artifact(path, verify=False).identity != evaluation.parents[name]:
            return f"The {name} is no longer what was evaluated."
    dataset = Dataset.load(dataset_path)
    table = pl.read_parquet(evaluation.file("cases.parquet")).filter(pl.col("model") == row).sort("case_index")
    rank = (table["num_greater"] + table["num_tied"]).to_numpy()
    picked = _pick(rank, table["target"].to_numpy(), num_users)
    # Torch is loaded here, for lists that have to be searched.
    from genrec.pipeline.open_recommender import open_recommender

    facts = _configuration(evaluation)
    _, generator = open_recommender(recommender, dataset, facts.search)
    cases = dataset.cases(facts.split)
    titles = _titles(dataset)
    length = min(k, generator.max_candidates)
    examples = []
    for case in picked:
        one = cases.take(np.array([case]))
        (history,) = one.histories.to_lists()
        found = generator.search(one.histories, length).item_index[0].tolist()
        target = int(one.target[0])
        at = int(rank[case])
        place = f"at place {at + 1:,}" if at < dataset.num_items else "not in the list that was searched"
        examples.append(
            {
                "user": dataset.user_ids[int(one.user_index[0])],
                "history": [titles[item] for item in history[-SHOWN_HISTORY:]],
                "start": max(1, len(history) - SHOWN_HISTORY + 1),
                "length": len(history),
                "target": titles[target],
                "outcome": f"It stands {place}.",
                "recommended": [(titles[item], item == target) for item in found if item >= 0],
            }
        )
    return examples


def _pick(rank: np.ndarray, target: np.ndarray, number: int) -> list[int]:
    """Cases in turn from each band, evenly spread over the band's cases; targets inside of the catalogue."""
    bands = []
    for low, high in BANDS:
        inside = (rank >= low) & (target >= 0) & ((rank < high) if high is not None else True)
        bands.append(np.flatnonzero(inside))
    wanted = [number // len(bands) + (at < number % len(bands)) for at in range(len(bands))]
    picked = [
        band[np.linspace(0, len(band) - 1, min(count, len(band)) + 2).astype(np.int64)[1:-1]] if len(band) else band
        for band, count in zip(bands, wanted, strict=True)
    ]
    return [int(case) for band in picked for case in np.unique(band)]


def _configuration(evaluation: Artifact) -> EvaluateConfig:
    """What was evaluated how; typed again from the plain values of the report."""
    facts = read_json(evaluation.file("report.json"))["configuration"]
    return load_config(EvaluateConfig, [], _words(facts))


def _words(facts: dict[str, Any]) -> list[str]:
    return [
        f"dataset={facts['dataset']}",
        f"output={facts['output']}",
        f"split={facts['split']}",
        *(f"search.{key}={'null' if value is None else value}" for key, value in facts["search"].items()),
    ]


def _titles(dataset: Dataset) -> list[str]:
    items = dataset.items
    names = items["item_id"].to_list()
    if "title" not in items.columns:
        return names
    return [title or name for title, name in zip(items["title"].to_list(), names, strict=True)]
