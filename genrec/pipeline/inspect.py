"""``genrec inspect``: one item or one user of a dataset, as a person wants to see them.

Trains and writes nothing.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from genrec.baselines.base import count_items, recommend
from genrec.baselines.item_knn import DirectedItemKnn
from genrec.config import schema
from genrec.data.dataset import Dataset
from genrec.data.schema import SPLITS
from genrec.data.sequences import Cases, Ragged
from genrec.errors import DataError
from genrec.terminal import Outcome, Progress, Table

MAX_EVENTS = 50  # of a history that are shown


def inspect_item(config: schema.InspectItemConfig, *, progress: Progress) -> Outcome:
    """Description and counts of an item, and the items that item-kNN recommends after it."""
    dataset = Dataset.load(config.dataset)
    index = find_row(config.item, dataset.items, "item_id", config.dataset)
    train = dataset.train()
    counts = count_items(train, dataset.num_items)
    row = dataset.items.row(index, named=True)
    facts = {
        "item_id": config.item,
        "item_index": index,
        "title": row["title"],
        "brand": row["brand"],
        "categories": row["categories"],
        "training_interactions": int(counts[index]),
        "popularity_rank": int((counts > counts[index]).sum()) + 1,
        **{f"{split}_targets": int((dataset.cases(split).target == index).sum()) for split in SPLITS[1:]},
    }
    shown = [(name, cell(value)) for name, value in facts.items()]
    shown.append(("text", cell(row["text"])))
    model = DirectedItemKnn(**asdict(config.item_knn)).fit(train, num_items=dataset.num_items)
    items, scores = recommend(model, Ragged.from_lists([[index]]), min(config.k, dataset.num_items), exclude_seen=False)
    neighbours = _recommendations(dataset, items[0], scores[0], counts)
    tables = (
        Table(f"item {config.item}", ("what", "value"), tuple(shown), left=("what", "value")),
        _list_table(f"after {config.item}, item-kNN", neighbours),
    )
    return Outcome({**facts, "neighbours": neighbours}, tables)


def inspect_user(config: schema.InspectUserConfig, *, progress: Progress) -> Outcome:
    """A user's history and target, and where the target is among the items that item-kNN recommends."""
    dataset = Dataset.load(config.dataset)
    case, num_cases = find_case(dataset, config.user, config.split, where=config.dataset)
    index = int(case.user_index[0])
    train = dataset.train()
    counts = count_items(train, dataset.num_items)
    history, target = case.histories[0], int(case.target[0])
    model = DirectedItemKnn(**asdict(config.item_knn)).fit(train, num_items=dataset.num_items)
    items, scores = recommend(model, case.histories, dataset.num_items, exclude_seen=config.exclude_seen)
    place = np.flatnonzero(items[0] == target)
    found = _recommendations(dataset, items[0, : config.k], scores[0, : config.k], counts)
    for line in found:
        line["is_target"] = line["item_index"] == target
    events = history_events(dataset, index, history)
    rank = int(place[0]) + 1 if len(place) else None
    facts: dict[str, Any] = {
        "user_id": config.user,
        "user_index": index,
        "split": config.split,
        "history": events,
        "target": {"item_id": dataset.item_ids[target], "title": dataset.items["title"][target], "place": rank},
        "recommendations": found,
    }
    columns = ("age", "time", "item_id", "title")
    rows = tuple(tuple(cell(event[name]) for name in columns) for event in events[-MAX_EVENTS:])
    title = f"user {config.user}: {len(events)} events before the {config.split} target"
    place_text = "is not recommended" if rank is None else f"is recommended at place {rank}"
    note = f"the target {dataset.item_ids[target]} ({cell(dataset.items['title'][target])}) {place_text}"
    more = (f"{num_cases} {config.split} targets, the first is shown",) if num_cases > 1 else ()
    tables = (Table(title, columns, rows, left=("item_id", "title")), _list_table("item-kNN", found))
    return Outcome(facts, tables, notes=(note, *more))


def find_case(dataset: Dataset, user_id: str, split: str, *, where: object) -> tuple[Cases, int]:
    """The first case of a user in a split, as cases of length one; and how many there are.

    Raises:
        DataError: no such user, or no case.
    """
    index = find_row(user_id, dataset.users, "user_id", where)
    cases = dataset.cases(split)
    of_user = np.flatnonzero(cases.user_index == index)
    if not len(of_user):
        raise DataError(f"user {user_id!r} has no {split} target", where=where, fix="choose another split")
    return cases.take(of_user[:1]), len(of_user)


def find_row(wanted: str, table: pl.DataFrame, column: str, where: object) -> int:
    """The row of an id; DataError with the nearest ids if there is none."""
    found = table.select((pl.col(column) == wanted).arg_true()).to_series()
    if len(found):
        return int(found[0])
    close = difflib.get_close_matches(wanted, table[column].head(100_000).to_list(), n=3)
    hint = f"; near: {', '.join(close)}" if close else f"; the first is {table[column][0]!r}"
    raise DataError(f"no {column} {wanted!r}{hint}", where=where)


def history_events(dataset: Dataset, user: int, history: np.ndarray) -> list[dict[str, Any]]:
    """Age, time, id and title of the first events of a user, oldest first."""
    times = dataset.timestamps()
    clock = [None] * len(history) if times is None else times[user][: len(history)].tolist()
    return [
        {
            "age": len(history) - 1 - position,
            "time": None if second is None else datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M"),
            "item_id": dataset.item_ids[item],
            "title": dataset.items["title"][int(item)],
        }
        for position, (item, second) in enumerate(zip(history.tolist(), clock, strict=True))
    ]


def _recommendations(
    dataset: Dataset, items: np.ndarray, scores: np.ndarray, counts: np.ndarray
) -> list[dict[str, Any]]:
    return [
        {
            "place": place + 1,
            "item_index": item,
            "item_id": dataset.item_ids[item],
            "title": dataset.items["title"][item],
            "score": score,
            "training_interactions": int(counts[item]),
        }
        for place, (item, score) in enumerate(zip(items.tolist(), scores.tolist(), strict=True))
        if item >= 0
    ]


def _list_table(title: str, found: list[dict[str, Any]]) -> Table:
    rows = tuple(
        (
            f"{line['place']}{' <- target' if line.get('is_target') else ''}",
            line["item_id"],
            cell(line["title"]),
            f"{line['score']:.4g}",
            str(line["training_interactions"]),
        )
        for line in found
    )
    return Table(title, ("place", "item_id", "title", "score", "count"), rows, left=("place", "item_id", "title"))


def cell(value: Any) -> str:
    """A value as the text of a table's cell."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    text = str(value)
    return text if len(text) <= 160 else text[:157] + "..."
