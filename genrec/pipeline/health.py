"""What is said of every table of semantic IDs beside its codes: proxy for recall, examples of prefixes, figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from genrec.config import training
from genrec.data.dataset import Dataset
from genrec.quantization.examples import prefix_examples
from genrec.quantization.neighbours import prefix_indices
from genrec.quantization.proxy import MAX_DEPTH, next_item_proxy, training_counts
from genrec.reports.figures import write_health_figures
from genrec.terminal import Table

FIGURES = "figures"  # the folder inside of the artifact
_TITLE = 48  # characters of a title that are shown


def facts_of_histories(config: training.TokenizeConfig, dataset: Dataset, codes: np.ndarray) -> dict[str, Any]:
    """What health.json says of the quantiser's codes and the training histories: the proxy for recall, and examples."""
    train = dataset.train()
    proxy = next_item_proxy(train, prefix_indices(codes[:, :MAX_DEPTH]), **asdict(config.proxy))
    counts = training_counts(train, dataset.num_items)
    titles = dataset.items["title"]
    examples = [
        {
            "place": example.place,
            "prefix": list(example.prefix),
            "num_items": example.num_items,
            "items": [
                {
                    "item_id": dataset.item_ids[item],
                    "title": titles[item],
                    "training_interactions": int(counts[item]),
                }
                for item in example.items
            ],
        }
        for example in prefix_examples(codes, counts)
    ]
    return {"proxy": proxy, "examples": examples}


def write_figures(found: dict[str, Any], path: Callable[[str], Path]) -> None:
    """All figures of a health report into the artifact that `path` belongs to."""
    write_health_figures(found, lambda name: path(f"{FIGURES}/{name}"))


def examples_table(examples: list[dict[str, Any]]) -> Table:
    """A line for each prefix: its place among the others, how many items, and the titles of some."""
    rows = tuple(
        (
            f"{', '.join(map(str, example['prefix']))} ({example['place']})",
            f"{example['num_items']:,}",
            " | ".join(_short(item["title"] or item["item_id"]) for item in example["items"]),
        )
        for example in examples
    )
    columns = ("prefix", "items", "the most popular of them")
    return Table("examples of prefixes, of one and two codes", columns, rows, left=("prefix", columns[2]))


def _short(title: str) -> str:
    return title if len(title) <= _TITLE else title[: _TITLE - 3] + "..."
