"""Amazon reviews of the McAuley lab: the releases of 2014, 2018 and 2023, and the official splits of 2023.

An event is a review; its time is the review's. Items carry title, brand, categories and description, with entities and
mark-up undone. Metadata of 2014 are Python literals, not JSON; they are read without running any code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from genrec.data.schema import SPLIT_DTYPE, SPLITS, RawData
from genrec.data.sources.csv_lines import csv_header, read_csv
from genrec.data.sources.events import EventColumns, checked_events
from genrec.data.sources.json_lines import (
    BadRecord,
    Fields,
    as_id,
    parse_literal,
    parse_record,
    read_json_lines,
    read_records,
)
from genrec.data.sources.lines import LINE, BadLines, find_file, require_rows
from genrec.data.sources.texts import clean_text, items_frame, text_of, texts_of

REVIEWS_2014_2018 = EventColumns("reviewerID", "asin", "unixReviewTime", "overall")  # s
REVIEWS_2023 = EventColumns("user_id", "parent_asin", "timestamp", "rating")  # ms
SPLIT_COLUMNS = ("user_id", "parent_asin", "rating", "timestamp")
PAGE_SCRIPT = "getTime"  # titles with it are page scripts that the crawl of 2018 took for titles

ItemRow = tuple[str, str | None, str | None, list[str], str | None]
ItemReader = Callable[[Mapping[str, Any]], ItemRow]


def read_amazon_2014(raw_dir: Path, *, reviews: str, meta: str | None = None, skip_bad_lines: bool = False) -> RawData:
    """The release of 2014: ``reviews_X_5.json.gz`` and ``meta_X.json.gz``.

    Args:
        raw_dir: folder of the files.
        reviews: JSON lines (or Python literals) with reviewerID, asin, overall and unixReviewTime (s).
        meta: JSON lines or Python literals with asin, title, brand, categories (list of paths), description.
        skip_bad_lines: leave out and count lines that cannot be used.

    Returns:
        Events in file order with timestamp and rating; one item row a line of `meta`.

    Raises:
        DataError: a file is missing, empty or corrupt; a line cannot be used.
    """
    return _read_lines(raw_dir, reviews, meta, skip_bad_lines, REVIEWS_2014_2018, "s", _item_2014)


def read_amazon_2018(raw_dir: Path, *, reviews: str, meta: str | None = None, skip_bad_lines: bool = False) -> RawData:
    """The release of 2018: ``X_5.json.gz`` and ``meta_X.json.gz``.

    Titles that are scripts of the product page are dropped, as its authors advise; a note counts them.

    Args:
        raw_dir: folder of the files.
        reviews: JSON lines with reviewerID, asin, overall and unixReviewTime (s).
        meta: JSON lines with asin, title, brand, category (list), description (list).
        skip_bad_lines: leave out and count lines that cannot be used.

    Returns:
        Events in file order, repetitions included; one item row a line of `meta`, repetitions included.

    Raises:
        DataError: a file is missing, empty or corrupt; a line cannot be used.
    """
    return _read_lines(raw_dir, reviews, meta, skip_bad_lines, REVIEWS_2014_2018, "s", _item_2018)


def read_amazon_2023(raw_dir: Path, *, reviews: str, meta: str | None = None, skip_bad_lines: bool = False) -> RawData:
    """The release of 2023: ``X.jsonl.gz`` and ``meta_X.jsonl.gz``; an item is a parent_asin.

    Args:
        raw_dir: folder of the files.
        reviews: JSON lines with user_id, parent_asin, rating and timestamp (ms).
        meta: JSON lines with parent_asin, title, store, categories, description, details; the brand is the store, or
            else the brand among the details.
        skip_bad_lines: leave out and count lines that cannot be used.

    Returns:
        Events in file order with timestamp and rating; one item row a line of `meta`.

    Raises:
        DataError: a file is missing, empty or corrupt; a line cannot be used.
    """
    return _read_lines(raw_dir, reviews, meta, skip_bad_lines, REVIEWS_2023, "ms", _item_2023)


def read_amazon_2023_splits(
    raw_dir: Path, *, train: str, validation: str, test: str, meta: str | None = None, skip_bad_lines: bool = False
) -> RawData:
    """The official splits of 2023: three CSVs with user_id, parent_asin, rating, timestamp (ms) and perhaps history.

    A row's ``history`` (blank-separated parent_asin) should be the user's items in the rows above it, the three files
    taken one after the other; a note counts the rows for which it is not.

    Args:
        raw_dir: folder of the files.
        train, validation, test: the CSVs, plain or .gz.
        meta: metadata as JSON lines (as in `read_amazon_2023`), or as a CSV with parent_asin and any of title, store,
            categories, description, details.
        skip_bad_lines: leave out and count lines that cannot be used.

    Returns:
        Events with timestamp, rating and split: the rows of train, then of validation, then of test.

    Raises:
        DataError: a file is missing, empty or corrupt; a column is missing; a line cannot be used.
    """
    parts: list[pl.DataFrame] = []
    accounts: list[BadLines] = []
    for split, name in zip(SPLITS, (train, validation, test), strict=True):
        bad = BadLines(find_file(raw_dir, name, split), skip_bad_lines)
        parts.append(_read_split(bad).with_columns(split=pl.lit(split, dtype=SPLIT_DTYPE)))
        accounts.append(bad)
    notes: tuple[str, ...] = ()
    if all("history" in part.columns for part in parts):
        notes = (_history_note(pl.concat(parts, how="vertical")),)
    interactions = pl.concat([part.drop("history", strict=False) for part in parts])
    items, item_notes = _read_items(raw_dir, meta, skip_bad_lines, accounts, _item_2023)
    return _raw_data(interactions, items, accounts, (*notes, *item_notes))


def _read_lines(
    raw_dir: Path,
    reviews: str,
    meta: str | None,
    skip_bad_lines: bool,
    columns: EventColumns,
    unit: str,
    read_item: ItemReader,
) -> RawData:
    bad = BadLines(find_file(raw_dir, reviews, "reviews"), skip_bad_lines)
    types = {columns.user: pl.String, columns.item: pl.String, columns.timestamp: pl.Int64, columns.rating: pl.Float64}
    fields = Fields({name: types[name] for name in columns.names}, ids=(columns.user, columns.item))
    frame = read_json_lines(bad.path, fields, bad=bad, python_dicts=read_item is _item_2014)
    interactions = checked_events(frame, columns, unit, bad=bad)
    require_rows(interactions.height, bad)
    accounts = [bad]
    items, notes = _read_items(raw_dir, meta, skip_bad_lines, accounts, read_item)
    return _raw_data(interactions, items, accounts, notes)


def _raw_data(
    interactions: pl.DataFrame, items: pl.DataFrame | None, accounts: list[BadLines], notes: tuple[str, ...]
) -> RawData:
    return RawData(
        interactions.lazy(),
        items=items,
        items_file=None if items is None else accounts[-1].path,
        files=tuple(bad.path for bad in accounts),
        num_bad_lines=sum(bad.count for bad in accounts),
        notes=(*notes, *(note for bad in accounts for note in bad.notes)),
    )


# --- official splits -------------------------------------------------------------------------------------------------


def _read_split(bad: BadLines) -> pl.DataFrame:
    names = [*SPLIT_COLUMNS, *(["history"] if "history" in csv_header(bad.path) else [])]
    table = read_csv(bad.path, names, bad=bad, nullable=("history",))
    reread = None if table.is_exact else lambda: read_csv(bad.path, names, bad=bad, exact=True).frame
    keep = names[len(SPLIT_COLUMNS) :]
    events = checked_events(table.frame, REVIEWS_2023, "ms", bad=bad, keep=keep, reread=reread)
    require_rows(events.height, bad)
    return events


def _history_note(events: pl.DataFrame) -> str:
    """Compares every history with the user's items so far, as prefixes of one string a user."""
    step = pl.col("item_id").str.len_chars() + 1
    rows = events.select(
        "user_id", "item_id", pl.col("history").fill_null(""), end=(step.cum_sum() - step).over("user_id")
    )
    whole = rows.group_by("user_id", maintain_order=True).agg(so_far=pl.col("item_id").str.join(" "))
    rows = rows.join(whole, on="user_id", how="left")
    length = pl.col("history").str.len_chars() + (pl.col("history") != "").cast(pl.UInt32)  # with the blank after it
    agrees = pl.col("so_far").str.starts_with(pl.col("history")) & (length == pl.col("end"))
    wrong = rows.select((~agrees).sum()).item()
    if wrong:
        return f"{wrong} of {rows.height} histories are not the user's earlier rows; the order of the rows rules"
    return f"all {rows.height} histories are the user's earlier rows"


# --- items -----------------------------------------------------------------------------------------------------------


def _read_items(
    raw_dir: Path, meta: str | None, skip_bad_lines: bool, accounts: list[BadLines], read_item: ItemReader
) -> tuple[pl.DataFrame | None, tuple[str, ...]]:
    if meta is None:
        return None, ()
    bad = BadLines(find_file(raw_dir, meta, "meta"), skip_bad_lines)
    accounts.append(bad)
    is_csv = bad.path.name.removesuffix(".gz").endswith(".csv")
    records = _csv_records(bad) if is_csv else read_records(bad.path, bad=bad, python_dicts=read_item is _item_2014)
    rows: list[ItemRow] = []
    scripts = 0
    for line, record in records:
        try:
            row = read_item(record)
        except BadRecord as error:
            bad.add(line, str(error), found=error.found)
            continue
        if row[1] is not None and PAGE_SCRIPT in row[1]:
            row, scripts = (row[0], None, *row[2:]), scripts + 1
        rows.append(row)
    items = items_frame(rows)
    require_rows(items.height, bad)
    return items, (f"{scripts} titles were scripts of the product page and are dropped",) if scripts else ()


def _csv_records(bad: BadLines) -> Iterator[tuple[int, dict[str, Any]]]:
    optional = ("title", "store", "brand", "categories", "description", "details")
    header = csv_header(bad.path)
    names = ["parent_asin", *(name for name in optional if name in header)]
    for row in read_csv(bad.path, names, bad=bad, exact=True).frame.iter_rows(named=True):
        yield row.pop(LINE), row


def _asin(record: Mapping[str, Any], field: str) -> str:
    if field not in record:
        raise BadRecord(f"missing field {field!r}", found=f"fields {', '.join(record) or 'none'}")
    return as_id(record[field], field)


def _item_2014(record: Mapping[str, Any]) -> ItemRow:
    return (
        _asin(record, "asin"),
        text_of(record.get("title"), "title"),
        text_of(record.get("brand"), "brand"),
        texts_of(record.get("categories"), "categories"),
        text_of(record.get("description"), "description"),
    )


def _item_2018(record: Mapping[str, Any]) -> ItemRow:
    return (
        _asin(record, "asin"),
        text_of(record.get("title"), "title"),
        text_of(record.get("brand"), "brand"),
        texts_of(record.get("category"), "category"),
        text_of(record.get("description"), "description"),
    )


def _item_2023(record: Mapping[str, Any]) -> ItemRow:
    details = _object(record.get("details"))
    if details is not None and not isinstance(details, dict):
        raise BadRecord("field 'details' is no object", found=type(details).__name__)
    brand = text_of(record.get("store"), "store") or text_of(record.get("brand"), "brand")
    if brand is None and details:
        brand = clean_text(str(details.get("Brand") or ""))
    return (
        _asin(record, "parent_asin"),
        text_of(record.get("title"), "title"),
        brand,
        texts_of(_list(record.get("categories")), "categories"),
        text_of(_list(record.get("description")), "description"),
    )


def _object(value: Any) -> Any:
    """The object that a text stands for, in JSON or as a Python literal; anything else as it is."""
    return parse_record(value.encode("utf-8", "replace"), python_dicts=True) if isinstance(value, str) else value


def _list(value: Any) -> Any:
    """A CSV cell that holds a list as text; any other text stands for itself."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            return parse_literal(value)
        except BadRecord:
            return value
    return value
