"""What two datasets share, against plain Python."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.audit import audit
from genrec.data.dataset import Dataset, save_dataset
from genrec.data.filters import FilterPolicy
from genrec.data.overlap import count_held_out, count_leaks, match_rows
from genrec.data.prepare import OrderPolicy, prepare
from genrec.data.schema import SPLITS, RawData
from genrec.data.splits import SplitPolicy

NAMES = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)
EVENTS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=25)


@given(NAMES, NAMES)
def test_rows_are_matched_by_id(old: list[str], new: list[str]) -> None:
    found = match_rows(pl.Series(old, dtype=pl.String), pl.Series(new, dtype=pl.String))
    assert found.tolist() == [new.index(name) if name in new else -1 for name in old]


@given(EVENTS, EVENTS, st.data())
def test_held_out_events_are_counted_with_their_repeats(
    trained: list[tuple[int, int]], newer: list[tuple[int, int]], data: st.DataObject
) -> None:
    splits = data.draw(st.lists(st.sampled_from(SPLITS), min_size=len(newer), max_size=len(newer)))
    schema = {"user": pl.Int64, "item": pl.Int64}
    frame = pl.DataFrame(newer, schema=schema, orient="row").with_columns(pl.Series("split", splits, dtype=pl.String))
    found = count_held_out(pl.DataFrame(trained, schema=schema, orient="row"), frame, ["user", "item"])
    kept = [event for event, split in zip(newer, splits, strict=True) if split == "train"]
    held_out = [event for event, split in zip(newer, splits, strict=True) if split != "train"]
    left = Counter(trained) - Counter(kept)  # what training saw and the newer training does not explain
    assert found == sum((left & Counter(held_out)).values())


def dataset(path: Path, events: pl.DataFrame, split: str) -> Dataset:
    order = OrderPolicy("timestamp" if "timestamp" in events.columns else "file")
    filters = FilterPolicy(min_user_interactions=0, min_item_interactions=0)
    made = prepare(RawData(events.lazy()), filters=filters, order=order, split=SplitPolicy(split))
    save_dataset(made, path, audit=audit(made.interactions, made.items))
    return Dataset.load(path)


def named(dataset: Dataset, *, has_clock: bool) -> tuple[Counter[tuple[str, ...]], Counter[tuple[str, ...]]]:
    """Training and held-out events by the users' own ids."""
    found = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for row in dataset.load_interactions().iter_rows(named=True):
        event = (dataset.user_ids[row["user_index"]], dataset.item_ids[row["item_index"]])
        found[row["split"] != "train"][(*event, str(row["timestamp"])) if has_clock else event] += 1
    return found


@pytest.mark.parametrize("has_clock", [True, False])
def test_leaks_between_datasets_of_different_splits(has_clock: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {name: rng.integers(0, size, 600).astype(str) for name, size in (("user_id", 40), ("item_id", 30))}
    events = pl.DataFrame(columns | {"timestamp": rng.integers(0, 90, 600) * 86_400_000})
    if not has_clock:
        events = events.drop("timestamp")
    few = events.filter((pl.col("user_id") != "7") & (pl.col("item_id") != "3"))  # so that indices differ
    older = dataset(tmp_path / "a", events, "temporal" if has_clock else "leave_one_out")
    newer = dataset(tmp_path / "b", few.head(400), "leave_one_out")
    trained, (kept, held_out) = named(older, has_clock=has_clock)[0], named(newer, has_clock=has_clock)
    assert count_leaks(older, newer) == sum(((trained - kept) & held_out).values()) > 0
    assert count_leaks(newer, newer) == 0


def test_a_repeat_that_both_train_on_is_no_leak() -> None:
    newer = pl.DataFrame({"user": [0, 0, 0], "item": [5, 5, 6], "split": ["train", "test", "test"]})
    once = pl.DataFrame({"user": [0], "item": [5]})
    assert count_held_out(once, newer, ["user", "item"]) == 0
    assert count_held_out(pl.concat([once, once]), newer, ["user", "item"]) == 1
