"""The user's own tables: Parquet, CSV, TSV and JSON lines, one file, a folder or a glob, with a column map.

Parquet stays lazy: it is scanned once for its unit of time and its bad rows, and streams from then on. Text is read
whole, since its errors name lines. Knows nothing of any public data set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import polars as pl

from genrec.data.schema import RAW_ITEMS, RawData
from genrec.data.sources.csv_lines import CsvTable, csv_header, read_csv
from genrec.data.sources.events import (
    EventColumns,
    check_event_types,
    check_id_type,
    checked_events,
    event_columns,
    event_messages,
    event_problem,
)
from genrec.data.sources.json_lines import BadRecord, Fields, as_id, read_json_lines, read_records
from genrec.data.sources.lines import LINE, MISSING_FIX, PROBLEM, BadLines, find_file, require_rows
from genrec.data.sources.names import missing_columns
from genrec.data.sources.texts import items_frame, text_of, texts_of
from genrec.data.sources.timestamps import choose_unit
from genrec.errors import ConfigError, DataError

FORMATS = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".tsv", ".tab"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
}
NO_CLOCK_FIX = (
    "name the column in timestamp_column, or set timestamp_column=null if the data have no clock (order=file)"
)


class TableColumns(TypedDict, total=False):
    """The column map of `read_table`; what is left out has the default that stands there."""

    user_column: str
    item_column: str
    timestamp_column: str | None
    timestamp_unit: Literal["auto", "s", "ms", "iso"]
    rating_column: str | None
    item_id_column: str | None
    title_column: str | None
    brand_column: str | None
    categories_column: str | None
    categories_separator: str
    description_column: str | None


def read_table(
    raw_dir: Path,
    *,
    interactions: str,
    items: str | None = None,
    skip_bad_lines: bool = False,
    **columns: Unpack[TableColumns],
) -> RawData:
    """Events, and perhaps items, from tables of any of the usual kinds.

    Args:
        raw_dir: folder of the files.
        interactions: one row an event: a file, a folder of Parquet files, or a glob (files in the order of their
            names); text files may be .gz.
        items: one row an item, likewise, or None.
        skip_bad_lines: leave out and count rows without ids, or whose time or rating cannot be read.
        **columns: the column map.
            ``user_column="user_id"``, ``item_column="item_id"``: texts, integers or categories.
            ``timestamp_column="timestamp"``: dates, numbers or texts; None: the data have no times.
            ``timestamp_unit="auto"``: ``s``, ``ms``, ``iso``; dates need none. ``auto`` decides once for the whole
            column, by type and size, and a note says how; where that is ambiguous it is an error.
            ``rating_column=None``: no rating.
            ``item_id_column=None``: the id in `items`, by default `item_column`.
            ``title_column``, ``brand_column``, ``categories_column``, ``description_column``: columns of `items`; None
            (the default): title, brand, categories, description, where there are such columns.
            ``categories_separator="|"``: between the categories of a text.

    Returns:
        Events in file order: user_id, item_id, and timestamp (ms UTC; null where it is empty, which a note counts) and
        rating where named. Lazy if they are Parquet.

    Raises:
        ConfigError: unknown option or unit.
        DataError: no such file; a column is missing (with the nearest match) or of a wrong type; a time, rating or id
            that cannot be used, with file and line (Parquet: row) and the number of such rows; an ambiguous unit.
    """
    unknown = [name for name in columns if name not in TableColumns.__annotations__]
    if unknown:
        raise ConfigError(f"unknown option {unknown[0]!r} of source table")
    wanted = EventColumns(
        columns.get("user_column", "user_id"),
        columns.get("item_column", "item_id"),
        columns.get("timestamp_column", "timestamp"),
        columns.get("rating_column"),
        is_complete=False,
    )
    files, kind = find_tables(raw_dir, interactions)
    read = _read_parquet if kind == "parquet" else _read_text
    events, num_bad, notes = read(files, kind, wanted, columns.get("timestamp_unit", "auto"), skip_bad_lines)
    table = None
    if items is not None:
        item_files, item_kind = find_tables(raw_dir, items)
        table = _read_items(item_files, item_kind, wanted.item, columns)
        files = (*files, *item_files)
    return RawData(events, items=table, files=files, num_bad_lines=num_bad, notes=notes)


def find_tables(raw_dir: Path, name: str) -> tuple[tuple[Path, ...], str]:
    """The files that `name` (a file, a folder or a glob) stands for, in the order of their names, and their format.

    Raises:
        DataError: none, an empty one, an unknown ending, or more than one format.
    """
    path = Path(raw_dir) / name
    if path.is_dir():
        files = sorted(file for suffix in FORMATS["parquet"] for file in path.rglob(f"*{suffix}"))
        expected = "Parquet files in the folder"
    elif any(char in name for char in "*?[") and not path.exists():
        root = Path(path.anchor) if Path(name).is_absolute() else Path(raw_dir)
        files = sorted(file for file in root.glob(str(path.relative_to(root))) if file.is_file())
        expected = "files that match"
    else:
        files, expected = [find_file(raw_dir, name)], ""
    if not files:
        raise DataError("there is no such file", where=path, expected=expected, fix=MISSING_FIX)
    kinds = {_format(file) for file in files}
    if len(kinds) > 1:
        raise DataError("files of more than one format", where=path, found=", ".join(sorted(kinds)))
    return tuple(files), kinds.pop()


def _format(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    for kind, suffixes in FORMATS.items():
        if name.endswith(suffixes):
            return kind
    endings = ", ".join(suffix for suffixes in FORMATS.values() for suffix in suffixes)
    raise DataError("unknown kind of table", where=path, expected=f"a name that ends in one of {endings}")


# --- Parquet ---------------------------------------------------------------------------------------------------------


def _parquet_schemas(files: Sequence[Path], names: Sequence[str], fix: dict[str, str]) -> pl.Schema:
    """The schema of the first file; every file has to have the same types in the columns `names`."""
    first: pl.Schema | None = None
    for path in files:
        try:
            schema = pl.read_parquet_schema(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError("not a readable Parquet file", where=path, found=str(error).split("\n")[0]) from error
        for name in names:
            missing_columns(schema, [name], where=path, fix=fix.get(name))
        first = pl.Schema(schema) if first is None else first
        for name in names:
            if schema[name] != first[name]:
                raise DataError(
                    f"column {name!r} has another type than in {files[0].name}",
                    where=path,
                    expected=first[name],
                    found=schema[name],
                )
    assert first is not None  # find_tables returns at least one file
    return first


def _scan(files: Sequence[Path], names: Sequence[str]) -> pl.LazyFrame:
    scan = pl.scan_parquet(list(files), hive_partitioning=False, extra_columns="ignore", missing_columns="raise")
    return scan.select(names)


def _read_parquet(
    files: Sequence[Path], _: str, columns: EventColumns, unit: str, skip_bad_lines: bool
) -> tuple[pl.LazyFrame, int, tuple[str, ...]]:
    schema = _parquet_schemas(files, columns.names, _fixes(columns))
    check_event_types(schema, columns, where=files[0])
    notes: tuple[str, ...] = ()
    chosen: str | None = None
    scan = _scan(files, columns.names)
    try:
        if columns.timestamp is not None:
            chosen, note = choose_unit(scan, columns.timestamp, unit, where=files[0])
            notes = (note,)
        problem = event_problem(schema, columns, chosen)
        is_null = pl.lit(False) if columns.timestamp is None else pl.col(columns.timestamp).is_null()
        counts = scan.select(rows=pl.len(), bad=(problem > 0).sum(), null=(is_null & (problem == 0)).sum())
        rows = counts.collect(engine="streaming").row(0, named=True)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError("not a readable Parquet file", where=files[0], found=str(error).split("\n")[0]) from error
    if rows["bad"] and not skip_bad_lines:
        _raise_first_row(files, columns, chosen, problem)
    if rows["rows"] == rows["bad"]:
        found = f"{rows['bad']} bad ones" if rows["bad"] else None
        raise DataError("the table has no usable rows", where=files[0], found=found)
    if rows["bad"]:
        scan = scan.filter(problem == 0)
        notes = (*notes, f"{rows['bad']} bad rows left out")
    events = scan.select(event_columns(schema, columns, chosen))
    return events, rows["bad"], (*notes, *_null_note(columns, rows["null"]))


def _raise_first_row(files: Sequence[Path], columns: EventColumns, unit: str | None, problem: pl.Expr) -> None:
    messages = event_messages(columns, unit)
    for path in files:
        flagged = _scan([path], columns.names).with_row_index(LINE, offset=1).with_columns(problem)
        flagged = flagged.filter(pl.col(PROBLEM) > 0).collect(engine="streaming")
        if flagged.height:
            row = flagged.row(0, named=True)
            what, column = messages[row[PROBLEM]]
            shown = "" if column is None else f" {row[column]!r}"
            same = flagged.filter(pl.col(PROBLEM) == row[PROBLEM]).height
            raise DataError(
                what + shown,
                where=f"{path}: row {row[LINE]}",
                found=f"{same} such rows" if same > 1 else None,
                fix="mend the table, or set skip_bad_lines=true to leave such rows out",
            )


def _fixes(columns: EventColumns) -> dict[str, str]:
    return {columns.timestamp: NO_CLOCK_FIX} if columns.timestamp is not None else {}


def _null_note(columns: EventColumns, count: int) -> tuple[str, ...]:
    return (f"{count} values of column {columns.timestamp!r} are missing",) if count else ()


# --- text ------------------------------------------------------------------------------------------------------------


def _read_text(
    files: Sequence[Path], kind: str, columns: EventColumns, unit: str, skip_bad_lines: bool
) -> tuple[pl.LazyFrame, int, tuple[str, ...]]:
    read: Callable[[BadLines, EventColumns, bool], CsvTable] = _csv_events if kind == "csv" else _jsonl_events
    accounts = [BadLines(path, skip_bad_lines) for path in files]
    tables = [read(bad, columns, False) for bad in accounts]
    notes: tuple[str, ...] = ()
    chosen: str | None = None
    if columns.timestamp is not None and any(table.frame.height for table in tables):
        raw = pl.concat([table.frame.select(columns.timestamp) for table in tables]).lazy()
        chosen, note = choose_unit(raw, columns.timestamp, unit, where=files[0])
        notes = (note,)
    parts: list[pl.DataFrame] = []
    for bad, table in zip(accounts, tables, strict=True):
        reread = None if table.is_exact else lambda bad=bad: read(bad, columns, True).frame
        parts.append(checked_events(table.frame, columns, chosen, bad=bad, reread=reread))
    events = pl.concat(parts)
    require_rows(events, files[0], accounts[0])
    missing = events["timestamp"].null_count() if chosen is not None else 0
    notes = (*notes, *_null_note(columns, missing), *(note for bad in accounts for note in bad.notes))
    return events.lazy(), sum(bad.count for bad in accounts), notes


def _csv_events(bad: BadLines, columns: EventColumns, exact: bool) -> CsvTable:
    header = csv_header(bad.path)
    for name in columns.names:
        missing_columns(header, [name], where=bad.path, fix=_fixes(columns).get(name))
    return read_csv(bad.path, columns.names, bad=bad, exact=exact)


def _jsonl_events(bad: BadLines, columns: EventColumns, _: bool) -> CsvTable:
    """Every field as text, so that numbers and texts are read by the same rules as in a CSV."""
    ids = (columns.user, columns.item)
    optional = [name for name in columns.names if name not in ids]
    for _line, record in read_records(bad.path, bad=BadLines(bad.path, skip=True)):
        for name in columns.names:
            missing_columns(record, [name], where=f"{bad.path}: first line", fix=_fixes(columns).get(name))
        break
    fields = Fields(dict.fromkeys(columns.names, pl.String), ids=ids, optional=optional)
    return CsvTable(read_json_lines(bad.path, fields, bad=bad), is_exact=True)


# --- items -----------------------------------------------------------------------------------------------------------


def _read_items(files: Sequence[Path], kind: str, item_column: str, columns: TableColumns) -> pl.DataFrame:
    named = {
        "title": columns.get("title_column"),
        "brand": columns.get("brand_column"),
        "categories": columns.get("categories_column"),
        "description": columns.get("description_column"),
    }
    wanted = {"item_id": columns.get("item_id_column") or item_column, **{k: v for k, v in named.items() if v}}
    free = [name for name, column in named.items() if column is None]
    read = {"parquet": _parquet_items, "csv": _csv_items, "jsonl": _jsonl_items}[kind]
    parts = [read(path, wanted, free, columns.get("categories_separator", "|")) for path in files]
    table = pl.concat(parts)
    if table.height == 0:
        raise DataError("the table has no items", where=files[0])
    return table


def _parquet_items(path: Path, wanted: dict[str, str], free: Sequence[str], separator: str) -> pl.DataFrame:
    schema = _parquet_schemas([path], list(wanted.values()), {})
    check_id_type(schema[wanted["item_id"]], wanted["item_id"], where=path)
    source = {**{name: name for name in free if name in schema}, **wanted}
    frame = _scan([path], list(dict.fromkeys(source.values()))).collect()
    return _typed_items(frame.with_row_index(LINE, offset=1), source, separator, where=f"{path}: row")


def _csv_items(path: Path, wanted: dict[str, str], free: Sequence[str], separator: str) -> pl.DataFrame:
    header = csv_header(path)
    missing_columns(header, wanted.values(), where=path)
    source = {**{name: name for name in free if name in header}, **wanted}
    names = list(dict.fromkeys(source.values()))
    frame = read_csv(path, names, bad=BadLines(path), exact=True).frame
    return _typed_items(frame, source, separator, where=f"{path}: line")


def _typed_items(frame: pl.DataFrame, source: dict[str, str], separator: str, *, where: str) -> pl.DataFrame:
    parts: list[pl.Expr] = []
    for name, dtype in RAW_ITEMS.items():
        column = source.get(name)
        if column is None or frame.schema[column] == pl.Null:
            value = pl.lit(None, dtype=dtype)
        elif name == "categories":
            value = _categories(column, frame.schema[column], separator, where)
        else:
            value = _text(column, frame.schema[column], where)
        parts.append(value.alias(name))
    table = frame.select(LINE, *parts)
    empty = table.filter(pl.col("item_id").is_null() | (pl.col("item_id").str.strip_chars() == ""))
    if empty.height:
        found = f"{empty.height} such rows" if empty.height > 1 else None
        raise DataError(f"column {source['item_id']!r} is empty", where=f"{where} {empty[LINE][0]}", found=found)
    return table.drop(LINE)


def _text(name: str, dtype: Any, where: str) -> pl.Expr:
    if dtype == pl.List(pl.String):
        return pl.col(name).list.join(" ", ignore_nulls=True)
    if not (dtype == pl.String or dtype.is_numeric() or isinstance(dtype, pl.Categorical | pl.Enum)):
        raise DataError(f"column {name!r} holds no text", where=where.split(": ")[0], found=dtype)
    return pl.col(name).cast(pl.String)


def _categories(name: str, dtype: Any, separator: str, where: str) -> pl.Expr:
    if dtype != pl.String and dtype != pl.List(pl.String):
        expected = "lists of texts, or texts with a separator"
        where = where.split(": ")[0]
        raise DataError(f"column {name!r} holds no categories", where=where, expected=expected, found=dtype)
    parts = pl.col(name).str.split(separator) if dtype == pl.String else pl.col(name)
    kept = parts.list.eval(pl.element().str.strip_chars()).list.eval(pl.element().filter(pl.element() != ""))
    return pl.when(kept.list.len() > 0).then(kept)


def _jsonl_items(path: Path, wanted: dict[str, str], free: Sequence[str], separator: str) -> pl.DataFrame:
    source = {**{name: name for name in free}, **wanted}
    bad = BadLines(path)
    rows = []
    for line, record in read_records(path, bad=bad):
        missing_columns(record, wanted.values(), where=f"{path}:{line}")
        value = {name: record.get(source[name]) for name in RAW_ITEMS}
        if isinstance(value["categories"], str):
            value["categories"] = value["categories"].split(separator)
        try:
            texts = {name: text_of(value[name], source[name]) for name in ("title", "brand", "description")}
            categories = texts_of(value["categories"], source["categories"])
            item_id = as_id(value["item_id"], source["item_id"])
        except BadRecord as error:
            bad.add(line, str(error), found=error.found)
            continue
        rows.append((item_id, texts["title"], texts["brand"], categories, texts["description"]))
    return items_frame(rows)
