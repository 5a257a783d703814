"""Benchmark files that hold whole histories: SASRec and S3-Rec text, JSON lines, and the JSON of LETTER and APAO.

In all of them the file's order is the order of a user's events. Ids stay as they are in the file, as text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from genrec.data.schema import RawData
from genrec.data.sources.codes import read_codes
from genrec.data.sources.json_lines import BadRecord, as_id, read_object, read_records
from genrec.data.sources.lines import BadLines, find_file, read_lines, require_rows
from genrec.data.sources.texts import items_frame, text_of, texts_of
from genrec.data.sources.timestamps import EARLIEST_MS, LATEST_MS, MS_PER_UNIT
from genrec.errors import ConfigError, DataError

LAYOUTS = ("sequence", "pairs", "auto")
ITEM_ID_FIELDS = ("item_id", "asin", "parent_asin", "item")
BRAND_FIELDS = ("brand", "brand_inferred", "store")


def read_sasrec_text(
    raw_dir: Path,
    *,
    interactions: str,
    layout: str = "sequence",
    items: str | None = None,
    item_id_field: str | None = None,
    codes: str | None = None,
    codes_offset: int = 0,
    skip_bad_lines: bool = False,
) -> RawData:
    """Text files of the sequential benchmarks, without times.

    Args:
        raw_dir: folder of the files.
        interactions: lines of blank-separated ids.
        layout: ``sequence``: ``user item item ...``, one line a user (S3-Rec); ``pairs``: ``user item``, one line an
            event (SASRec); ``auto``: pairs if every line has two ids, which a note records.
        items: JSON lines of item descriptions, or None.
        item_id_field: field of `items` with the id; None: the first of `ITEM_ID_FIELDS` that its first line has.
        codes: JSON of imported semantic IDs, see `codes.read_codes`, or None.
        codes_offset: added to the integer ids of `codes` (1 for codes counted from 0 of items counted from 1).
        skip_bad_lines: leave out and count lines that cannot be used.

    Returns:
        Events in file order; item_codes if `codes` is given.

    Raises:
        ConfigError: unknown layout.
        DataError: a file is missing, empty or corrupt; a line cannot be used; a user has two lines.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"unknown source.layout {layout!r}", expected=f"one of {', '.join(LAYOUTS)}")
    bad = BadLines(find_file(raw_dir, interactions, "interactions"), skip_bad_lines)
    notes: tuple[str, ...] = ()
    if layout == "auto":
        is_pairs = all(len(text.split()) == 2 for _, text in read_lines(bad.path, bad=BadLines(bad.path, skip=True)))
        layout = "pairs" if is_pairs else "sequence"
        notes = (f"{bad.path.name} is read with source.layout={layout} (auto)",)
    users, histories = _read_pairs(bad) if layout == "pairs" else _read_text_histories(bad)
    events = _explode(users, histories)
    require_rows(len(histories), bad)
    accounts = [bad]
    table = _items_jsonl(raw_dir, items, item_id_field, skip_bad_lines, accounts)
    code_path = None if codes is None else find_file(raw_dir, codes, "codes")
    return RawData(
        events.lazy(),
        items=table,
        items_file=None if table is None else accounts[-1].path,
        codes_file=code_path,
        item_codes=None if code_path is None else read_codes(code_path, offset=codes_offset),
        files=(*(account.path for account in accounts), *(() if code_path is None else (code_path,))),
        num_bad_lines=sum(account.count for account in accounts),
        notes=(*notes, *(note for account in accounts for note in account.notes)),
    )


def read_sequences_jsonl(
    raw_dir: Path,
    *,
    interactions: str,
    items: str | None = None,
    item_id_field: str | None = None,
    timestamp_unit: str = "s",
    skip_bad_lines: bool = False,
) -> RawData:
    """JSON lines, one user each: ``{"user": ..., "items": [...], "timestamps": [...]}``.

    A time may be null; a note counts those. ``timestamps`` stands in every line or in none.

    Args:
        raw_dir: folder of the files.
        interactions: JSON lines of users, their items oldest first.
        items: JSON lines of item descriptions (title, brand, categories, description, all optional), or None.
        item_id_field: field of `items` with the id; None: the first of `ITEM_ID_FIELDS` that its first line has.
        timestamp_unit: ``s`` or ``ms``.
        skip_bad_lines: leave out and count lines that cannot be used.

    Returns:
        Events in file order, with timestamp if there are times.

    Raises:
        ConfigError: unknown unit.
        DataError: a file is missing, empty or corrupt; a line cannot be used; a user has two lines.
    """
    if timestamp_unit not in MS_PER_UNIT:
        raise ConfigError(f"unknown source.timestamp_unit {timestamp_unit!r}", expected="s or ms")
    bad = BadLines(find_file(raw_dir, interactions, "interactions"), skip_bad_lines)
    users: dict[str, int] = {}
    histories: list[list[str]] = []
    times: list[list[int | None] | None] = []
    for line, record in read_records(bad.path, bad=bad):
        try:
            user, history, stamps = _history(record, MS_PER_UNIT[timestamp_unit])
            if times and (stamps is None) != (times[0] is None):
                raise BadRecord("field 'timestamps' stands in some lines only")
            _new_user(users, user, line)
        except BadRecord as error:
            bad.add(line, str(error), found=error.found)
            continue
        histories.append(history)
        times.append(stamps)
    with_times = [stamps for stamps in times if stamps is not None]
    events = _explode(list(users), histories, with_times or None)
    require_rows(len(histories), bad)
    accounts = [bad]
    table = _items_jsonl(raw_dir, items, item_id_field, skip_bad_lines, accounts)
    return RawData(
        events.lazy(),
        items=table,
        items_file=None if table is None else accounts[-1].path,
        files=tuple(account.path for account in accounts),
        num_bad_lines=sum(account.count for account in accounts),
        notes=(*_missing_times(events), *(note for account in accounts for note in account.notes)),
    )


def read_letter(raw_dir: Path, *, interactions: str, items: str | None = None, codes: str | None = None) -> RawData:
    """The layout of LETTER and APAO: ``X.inter.json``, ``X.item.json`` and ``X.index*.json``, without times.

    Args:
        raw_dir: folder of the files.
        interactions: JSON ``{user: [item, ...]}``, oldest first.
        items: JSON ``{item: {title, brand, categories (comma-separated), description}}``, or None.
        codes: JSON of imported semantic IDs, see `codes.read_codes`, or None.

    Returns:
        Events in file order; item_codes if `codes` is given.

    Raises:
        DataError: a file is missing, empty or corrupt, or has another layout.
    """
    path = find_file(raw_dir, interactions, "interactions")
    users: list[str] = []
    histories: list[list[str]] = []
    for user, history in read_object(path).items():
        try:
            histories.append(_ids(history, "items"))
        except BadRecord as error:
            raise DataError(str(error), where=f"{path}: user {user!r}", found=error.found) from error
        users.append(user)
    events = _explode(users, histories)
    require_rows(len(histories), BadLines(path))
    items_file = None if items is None else find_file(raw_dir, items, "items")
    codes_file = None if codes is None else find_file(raw_dir, codes, "codes")
    return RawData(
        events.lazy(),
        items=None if items_file is None else _items_letter(items_file),
        item_codes=None if codes_file is None else read_codes(codes_file),
        files=tuple(file for file in (path, items_file, codes_file) if file is not None),
        items_file=items_file,
        codes_file=codes_file,
    )


# --- histories -------------------------------------------------------------------------------------------------------


def _read_text_histories(bad: BadLines) -> tuple[list[str], list[list[str]]]:
    users: dict[str, int] = {}
    histories: list[list[str]] = []
    for line, text in read_lines(bad.path, bad=bad):
        user, *history = text.split()
        try:
            if not history:
                raise BadRecord("expected a user and items", found="one id")
            _new_user(users, user, line)
        except BadRecord as error:
            bad.add(line, str(error), found=error.found)
            continue
        histories.append(history)
    return list(users), histories


def _read_pairs(bad: BadLines) -> tuple[list[str], list[list[str]]]:
    users: list[str] = []
    histories: list[list[str]] = []
    for line, text in read_lines(bad.path, bad=bad):
        ids = text.split()
        if len(ids) == 2:
            users.append(ids[0])
            histories.append(ids[1:])
        else:
            bad.add(line, "expected a user and one item", found=f"{len(ids)} ids")
    return users, histories


def _new_user(users: dict[str, int], user: str, line: int) -> None:
    if user in users:
        raise BadRecord(f"user {user!r} has a line already, line {users[user]}")
    users[user] = line


def _history(record: dict[str, Any], factor: int) -> tuple[str, list[str], list[int | None] | None]:
    missing = [name for name in ("user", "items") if name not in record]
    if missing:
        raise BadRecord(f"missing field {missing[0]!r}", found=f"fields {', '.join(record) or 'none'}")
    history = _ids(record["items"], "items")
    stamps = record.get("timestamps")
    if stamps is None:
        return as_id(record["user"], "user"), history, None
    if not isinstance(stamps, list) or len(stamps) != len(history):
        found = f"{len(stamps)} times" if isinstance(stamps, list) else "no list"
        raise BadRecord(f"expected {len(history)} timestamps, one an item", found=found)
    return as_id(record["user"], "user"), history, [_time(stamp, factor) for stamp in stamps]


def _time(stamp: Any, factor: int) -> int | None:
    if stamp is None:
        return None
    if isinstance(stamp, bool) or not isinstance(stamp, int) or not EARLIEST_MS <= stamp * factor <= LATEST_MS:
        raise BadRecord("a time is no integer in the years 1 to 9999", found=repr(stamp)[:40])
    return stamp * factor


def _ids(values: Any, field: str) -> list[str]:
    if not isinstance(values, list) or not values:
        raise BadRecord(f"field {field!r} is no list of items", found="nothing in it" if values == [] else None)
    return [as_id(value, field) for value in values]


def _explode(users: list[str], histories: list[list[str]], times: list[list[int | None]] | None = None) -> pl.DataFrame:
    columns: dict[str, Any] = {"user_id": users, "item_id": histories}
    schema: dict[str, Any] = {"user_id": pl.String, "item_id": pl.List(pl.String)}
    if times is not None:
        columns["timestamp"], schema["timestamp"] = times, pl.List(pl.Int64)
    return pl.DataFrame(columns, schema=schema).explode([name for name in columns if name != "user_id"])


def _missing_times(events: pl.DataFrame) -> tuple[str, ...]:
    if "timestamp" not in events.columns or not events["timestamp"].null_count():
        return ()
    without = events.filter(pl.col("timestamp").is_null())
    users = without["user_id"].n_unique()
    return (f"{without.height} timestamps of {users} users are missing; the file's order is complete (order.by=file)",)


# --- items -----------------------------------------------------------------------------------------------------------


def _items_jsonl(
    raw_dir: Path, name: str | None, id_field: str | None, skip_bad_lines: bool, accounts: list[BadLines]
) -> pl.DataFrame | None:
    if name is None:
        return None
    bad = BadLines(find_file(raw_dir, name, "items"), skip_bad_lines)
    accounts.append(bad)
    rows = []
    for line, record in read_records(bad.path, bad=bad):
        id_field = id_field or next((field for field in ITEM_ID_FIELDS if field in record), ITEM_ID_FIELDS[0])
        try:
            if id_field not in record:
                raise BadRecord(f"missing field {id_field!r}", found=f"fields {', '.join(record) or 'none'}")
            brand = next((record[field] for field in BRAND_FIELDS if record.get(field) is not None), None)
            rows.append(_item(as_id(record[id_field], id_field), {**record, "brand": brand}))
        except BadRecord as error:
            bad.add(line, str(error), found=error.found)
    table = items_frame(rows)
    require_rows(table.height, bad)
    return table


def _items_letter(path: Path) -> pl.DataFrame:
    rows = []
    for item, record in read_object(path).items():
        try:
            if not isinstance(record, dict):
                raise BadRecord("expected an object of texts")
            categories = record.get("categories")
            if isinstance(categories, str):
                categories = [part.strip() for part in categories.split(",")]
            rows.append(_item(item, {**record, "categories": categories}))
        except BadRecord as error:
            raise DataError(str(error), where=f"{path}: item {item!r}", found=error.found) from error
    if not rows:
        raise DataError("the file has no items", where=path)
    return items_frame(rows)


def _item(item_id: str, record: dict[str, Any]) -> tuple[Any, ...]:
    return (
        item_id,
        text_of(record.get("title"), "title"),
        text_of(record.get("brand"), "brand"),
        texts_of(record.get("categories"), "categories"),
        text_of(record.get("description"), "description"),
    )
