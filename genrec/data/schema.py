"""The columns that every source delivers and every prepared table holds, and the checks at that boundary.

Knows Polars and nothing of files, formats or configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from genrec.errors import DataError

SPLITS = ("train", "validation", "test")
SPLIT_DTYPE = pl.Enum(SPLITS)

# What a source delivers, in file order. Optional columns may be absent; a column that is present has this type.
RAW_REQUIRED = {"user_id": pl.String, "item_id": pl.String}
RAW_OPTIONAL = {"timestamp": pl.Int64, "rating": pl.Float64, "split": SPLIT_DTYPE}  # timestamp: ms UTC
RAW_ITEMS = {
    "item_id": pl.String,
    "title": pl.String,
    "brand": pl.String,
    "categories": pl.List(pl.String),
    "description": pl.String,
}

# What `prepare` writes.
INTERACTIONS = {
    "user_index": pl.UInt32,
    "item_index": pl.UInt32,
    "timestamp": pl.Int64,  # s UTC, null throughout for data that have no clock
    "position": pl.UInt32,
    "split": SPLIT_DTYPE,
}
ITEMS = {"item_index": pl.UInt32, **RAW_ITEMS, "text": pl.String}
USERS = {"user_index": pl.UInt32, "user_id": pl.String, "num_interactions": pl.UInt32}


@dataclass(frozen=True)
class RawData:
    """What a source hands to `prepare`.

    Attributes:
        interactions: one row an event, in file order: `RAW_REQUIRED` and any of `RAW_OPTIONAL`.
        items: item descriptions (`RAW_ITEMS`; one row an item id, unless the files repeat one; plain text without
            mark-up), or None.
        item_codes: imported semantic IDs, columns item_id (String) and codes (List(Int32)), or None.
        files: the files that were read, for hashes and error messages.
        items_file, codes_file: those of `files` that describe the items or hold their codes, for error messages.
        num_bad_lines: lines left out under ``source.skip_bad_lines=true``.
        first_untimed: where the first event without a time stands, if ``source.skip_bad_lines=true`` would leave such
            events out.
        notes: one-line remarks for the user ("287 timestamps are missing, the file's order rules").
    """

    interactions: pl.LazyFrame
    items: pl.DataFrame | None = None
    item_codes: pl.DataFrame | None = None
    files: tuple[Path, ...] = ()
    num_bad_lines: int = 0
    notes: tuple[str, ...] = field(default=())
    items_file: Path | None = None
    codes_file: Path | None = None
    first_untimed: str | None = None


def check_frame(
    frame: pl.DataFrame | pl.LazyFrame,
    required: Mapping[str, object],
    optional: Mapping[str, object] | None = None,
    *,
    where: object,
) -> None:
    """Raises DataError if a required column is absent or any known column has another type.

    Args:
        frame: table to check; a LazyFrame costs its schema only.
        required: column name to Polars type.
        optional: the same for columns that may be absent.
        where: file or table name for the message.
    """
    schema = frame.collect_schema() if isinstance(frame, pl.LazyFrame) else frame.schema
    missing = [name for name in required if name not in schema]
    if missing:
        raise DataError(
            f"missing column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}",
            where=where,
            found=f"columns {', '.join(schema) or 'none'}",
        )
    for name, dtype in {**required, **(optional or {})}.items():
        if name in schema and schema[name] != dtype:
            raise DataError(f"column {name!r} has the wrong type", where=where, expected=dtype, found=schema[name])
