"""What two datasets share: users and items by the user's own ids, and events that one holds out and the other shows.

Knows tables; must not know models, nor how the datasets came about.
"""
# M rows of one table

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Int64

from genrec.data.dataset import Dataset


def match_rows(old: pl.Series, new: pl.Series) -> Int64[np.ndarray, " M"]:
    """Where each id of one table stands in another, -1 where it does not; ids are distinct.

    >>> match_rows(pl.Series(["b", "c", "a"]), pl.Series(["a", "b"])).tolist()
    [1, -1, 0]
    """
    rows = pl.DataFrame({"id": new}).with_row_index("row")
    found = pl.DataFrame({"id": old}).join(rows, on="id", how="left", maintain_order="left")
    return found.get_column("row").cast(pl.Int64).fill_null(-1).to_numpy(writable=True)


def count_leaks(older: Dataset, newer: Dataset) -> int:
    """Events that `newer` holds out although `older` has them among its training events.

    Whoever was trained on `older` has seen them. Where both have a clock the time counts as well.
    """
    trained = older.load_interactions().filter(pl.col("split") == "train")
    places = {
        "user_index": match_rows(older.user_ids, newer.user_ids),
        "item_index": match_rows(older.item_ids, newer.item_ids),
    }
    moved = [pl.Series(name, rows[trained.get_column(name).to_numpy()]) for name, rows in places.items()]
    trained = trained.with_columns(moved)  # -1 where it is gone, which meets nothing
    events = newer.load_interactions().with_columns(pl.col(*places).cast(pl.Int64))
    key = [*places, "timestamp"] if older.has_clock and newer.has_clock else [*places]
    return count_held_out(trained, events, key)


def count_held_out(trained: pl.DataFrame, newer: pl.DataFrame, key: Sequence[str]) -> int:
    """How many events held out in `newer` are among training events of another dataset.

    Events of equal keys cannot be told apart: those that `newer` trains on as well are taken first.

    Args:
        trained: training events of the other dataset, with the columns of `key`.
        newer: all events, with these columns and split.
        key: what tells events apart.
    """
    is_held_out = pl.col("split") != "train"
    parts = {"held_out": newer.filter(is_held_out), "kept": newer.filter(~is_held_out), "trained": trained}
    counts = {name: part.group_by(key).agg(pl.len().cast(pl.Int64).alias(name)) for name, part in parts.items()}
    found = counts["held_out"].join(counts["trained"], on=key).join(counts["kept"], on=key, how="left")
    surplus = (pl.col("trained") - pl.col("kept").fill_null(0)).clip(lower_bound=0)
    return int(found.select(pl.min_horizontal(pl.col("held_out"), surplus).sum()).item())
