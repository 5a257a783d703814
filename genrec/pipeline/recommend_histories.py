"""``genrec recommend recommender=...``: histories of item ids in, recommended item ids out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from genrec.artifacts import check_outside_artifacts
from genrec.config.training import RecommendConfig
from genrec.data.dataset import Dataset
from genrec.data.sources.registry import read_source
from genrec.errors import ConfigError, RunError
from genrec.files import writing_by_others
from genrec.pipeline.open_recommender import open_recommender
from genrec.terminal import Outcome, Progress, Table

SCHEMA = {"user_id": pl.String, "rank": pl.UInt32, "item_id": pl.String, "score": pl.Float64}
NO_TIMES = "the recommender reads the time between events, and the histories were read without times"


def recommend_histories(config: RecommendConfig, *, progress: Progress) -> Outcome:
    """One file, a row a user and recommended item, best first."""
    assert config.dataset is not None
    assert config.recommender is not None
    if config.output.exists() and not config.overwrite:
        raise RunError("the file is there already", where=config.output, fix="set overwrite=true or another output")
    check_outside_artifacts(config.output)
    dataset = Dataset.load(config.dataset)
    _, generator = open_recommender(config.recommender, dataset, config.search, semantic_ids=config.semantic_ids)
    if config.k > generator.max_candidates:
        most = generator.max_candidates
        fix = f"set search.beam_width={config.k}" if most < generator.num_items else f"set k={most}"
        raise ConfigError("too many items", where="key 'k'", expected=f"at most {most}", found=config.k, fix=fix)
    times = None
    if config.histories is None:
        histories, times = _dataset_histories(dataset), dataset.timestamps()
    else:
        histories = _read_histories(config.histories)
    users = list(histories)
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA}
    unknown = popular = 0
    for start, rows in _batches(list(histories.values()), 16 * config.search.batch_size):
        clock = None if times is None else times.take(slice(start, start + len(rows))).to_lists()
        found = generator.recommend(rows, config.k, exclude_seen=config.exclude_seen, times=clock)
        unknown += found.num_unknown_items
        popular += found.num_popular
        for user, items, scores in zip(users[start : start + len(rows)], found.item_ids, found.scores, strict=True):
            columns["user_id"] += [user] * len(items)
            columns["rank"] += range(1, len(items) + 1)
            columns["item_id"] += items
            columns["score"] += scores
        progress("recommend", start + len(rows), len(users))
    table = pl.DataFrame(columns, schema=SCHEMA)
    _write(table, config.output)
    summary = {
        "output": str(config.output),
        "num_users": len(users),
        "num_rows": len(table),
        "num_unknown_items": unknown,
        "num_popular": popular,
    }
    labels = ("users", "rows", "unknown items, skipped", "users without a known history, served by popularity")
    shown = tuple((label, f"{value:,}") for label, value in zip(labels, list(summary.values())[1:], strict=True))
    notes = (NO_TIMES,) if generator.uses_gaps and times is None else ()
    return Outcome(summary, (Table(f"{config.output}", ("what", "value"), shown, left=("what",)),), notes=notes)


def _dataset_histories(dataset: Dataset) -> dict[str, list[str]]:
    items = dataset.item_ids.to_list()
    return {
        user: [items[item] for item in history]
        for user, history in zip(dataset.user_ids, dataset.histories().to_lists(), strict=True)
    }


def _read_histories(path: Path) -> dict[str, list[str]]:
    """Events in the order of the file, by user in the order of their first event."""
    raw = read_source("table", path.parent, interactions=path.name, timestamp_column=None)
    events = raw.interactions.select("user_id", "item_id").collect()
    grouped = events.group_by("user_id", maintain_order=True).agg("item_id")
    return dict(zip(grouped["user_id"], grouped["item_id"].to_list(), strict=True))


def _batches(rows: list[list[str]], size: int) -> Iterator[tuple[int, list[list[str]]]]:
    for start in range(0, len(rows), size):
        yield start, rows[start : start + size]


def _write(table: pl.DataFrame, path: Path) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with writing_by_others(path, inside=path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            table.write_parquet(partial)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
