"""The user's own tables: Parquet, CSV, TSV and JSON lines, one file, a folder or a glob, with a column map.

Parquet stays lazy: it is scanned once for its unit of time and its bad rows, and streams from then on. Text is read
whole, since its errors name lines. Knows nothing of any public data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import polars as pl

from genrec.data.schema import RAW_ITEMS, RawData
from genrec.data.sources.csv_lines import CsvTable, csv_header, csv_separator, read_csv, separator_fix
from genrec.data.sources.events import (
    EventColumns,
    check_event_types,
    check_id_type,
    checked_events,
    event_columns,
    event_messages,
    event_problem,
    is_untimed,
)
from genrec.data.sources.json_lines import BadRecord, Fields, as_id, read_json_lines, read_records
from genrec.data.sources.lines import (
    LINE,
    MISSING_FIX,
    BadLines,
    find_file,
    readable,
    require_good_share,
    require_rows,
)
from genrec.data.sources.names import missing_columns, nearest
from genrec.data.sources.texts import clean_items, items_frame, text_of, texts_of
from genrec.data.sources.timestamps import choose_unit
from genrec.errors import ConfigError, DataError, StorageError

FORMATS = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".tsv", ".tab"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
}
NO_CLOCK_FIX = "set source.timestamp_column=..., or source.timestamp_column=null order.by=file if there are no times"


@dataclass(frozen=True)
class Separators:
    """What stands between the categories of a text, and between the cells of a line (None: the file's name says it)."""

    categories: str
    cells: str | None


class TableColumns(TypedDict, total=False):
    """The column map of `read_table`; what is left out has the default that stands there."""

    user_column: str
    item_column: str
    timestamp_column: str | None
    timestamp_unit: Literal["auto", "s", "ms", "iso"]
    rating_column: str | None
    split_column: str | None
    separator: str | None
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
            names, in quotes on a command line); text files may be .gz.
        items: one row an item, likewise, or None.
        skip_bad_lines: leave out and count rows without ids or without a time, or whose time, rating or split cannot
            be read.
        **columns: the column map.
            ``user_column="user_id"``, ``item_column="item_id"``: texts, integers or categories.
            ``timestamp_column="timestamp"``: dates, numbers or texts; None: the data have no times.
            ``timestamp_unit="auto"``: ``s``, ``ms``, ``iso``; dates need none. ``auto`` decides once for the whole
            column, by type and size, and a note says how; where that is ambiguous it is an error.
            ``rating_column=None``: no rating.
            ``split_column=None``: no split; else train, validation (valid, val, dev) or test in every row, in any case.
            ``separator=None``: of .csv files comma, of .tsv files tab; or one character, for `items` too.
            ``item_id_column=None``: the id in `items`, by default `item_column`.
            ``title_column``, ``brand_column``, ``categories_column``, ``description_column``: columns of `items`; None
            (the default): title, brand, categories, description, where there are such columns.
            ``categories_separator="|"``: between the categories of a text.

    Returns:
        Events in file order: user_id, item_id, and timestamp (ms UTC; null where it is empty, which a note counts),
        rating and split where named. Lazy if they are Parquet. Items with cleaned texts.

    Raises:
        ConfigError: unknown option or unit.
        DataError: no such file; a column is missing (with the nearest match) or of a wrong type; a time, rating or id
            that cannot be used, with file and line (Parquet: row) and the number of such rows; an ambiguous unit; more
            bad rows than chance explains, even with `skip_bad_lines`.
        StorageError: a file may not be read.
    """
    unknown = [name for name in columns if name not in TableColumns.__annotations__]
    if unknown:
        raise ConfigError(
            f"unknown option {unknown[0]!r} of source table{nearest(unknown[0], TableColumns.__annotations__)}"
        )
    wanted = EventColumns(
        columns.get("user_column", "user_id"),
        columns.get("item_column", "item_id"),
        columns.get("timestamp_column", "timestamp"),
        columns.get("rating_column"),
        columns.get("split_column"),
        needs_time=skip_bad_lines,
        needs_rating=False,
    )
    files, kind = find_tables(raw_dir, interactions, "interactions")
    unit = columns.get("timestamp_unit", "auto")
    if kind == "parquet":
        raw = _read_parquet(files, wanted, unit, skip_bad_lines)
    else:
        raw = _read_text(files, kind, wanted, unit, skip_bad_lines, columns.get("separator"))
    if items is None:
        return raw
    item_files, item_kind = find_tables(raw_dir, items, "items")
    table = _read_items(item_files, item_kind, wanted.item, columns)
    return replace(raw, items=table, files=(*files, *item_files), items_file=item_files[0])


def read_items(path: Path, **columns: Unpack[TableColumns]) -> pl.DataFrame:
    """Items alone, from a table of any of the kinds that `read_table` reads: columns `RAW_ITEMS`, texts cleaned.

    Args:
        path: file, folder of Parquet files, or glob.
        **columns: the column map of `read_table`, of which the item's columns count.

    Raises:
        DataError, StorageError: as `read_table`.
    """
    files, kind = find_tables(path.parent, path.name, "items")
    return _read_items(files, kind, columns.get("item_column", "item_id"), columns)


def find_tables(raw_dir: Path, name: str, option: str = "interactions") -> tuple[tuple[Path, ...], str]:
    """The files that `name` (a file, a folder or a glob) stands for, in the order of their names, and their format.

    Args:
        raw_dir: folder.
        name: of a file in it, of a folder of Parquet files, or a glob.
        option: key of the section ``source`` that holds the name, for messages.

    Raises:
        DataError: none, an empty one, an unknown ending, or more than one format.
        StorageError: one may not be looked at.
    """
    path = Path(raw_dir) / name
    with readable(path):
        if path.is_dir():
            files = sorted(file for suffix in FORMATS["parquet"] for file in path.rglob(f"*{suffix}"))
            if not files:
                raise _no_parquet(path, name, option)
        elif any(char in name for char in "*?[") and not path.exists():
            root = Path(path.anchor) if Path(name).is_absolute() else Path(raw_dir)
            files = sorted(file for file in root.glob(str(path.relative_to(root))) if file.is_file())
            if not files:
                what = f"there is no such file (source.{option})"
                raise DataError(what, where=path, expected="files that match", fix=MISSING_FIX)
        else:
            files = [find_file(raw_dir, name, option)]
    kinds = {_format(file) for file in files}
    if len(kinds) > 1:
        raise DataError("files of more than one format", where=path, found=", ".join(sorted(kinds)))
    return tuple(files), kinds.pop()


def _no_parquet(folder: Path, name: str, option: str) -> DataError:
    """What to do about a folder without Parquet files: most often its files are of another kind."""
    endings = [suffix for suffixes in FORMATS.values() for suffix in suffixes]
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    there = [(file, ending) for file in names for ending in endings if file.removesuffix(".gz").endswith(ending)]
    fix = MISSING_FIX
    if there:
        file, ending = there[0]
        pattern = f"*{ending}.gz" if file.endswith(".gz") else f"*{ending}"
        fix = f"set source.{option}='{Path(name) / pattern}'"
    found = f"{len(names)} files, the first is {names[0]}" if names else "no files"
    expected = "Parquet files, or a glob in place of the folder"
    return DataError(
        f"no tables in the folder (source.{option})", where=folder, expected=expected, found=found, fix=fix
    )


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
            raise _unreadable(error, path) from error
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


def _unreadable(error: Exception, path: Path) -> DataError | StorageError:
    if isinstance(error, PermissionError):
        return StorageError("cannot read: no permission", where=path, fix="check permissions")
    return DataError("not a readable Parquet file", where=path, found=str(error).split("\n")[0])


def _scan(files: Sequence[Path], names: Sequence[str]) -> pl.LazyFrame:
    scan = pl.scan_parquet(list(files), hive_partitioning=False, extra_columns="ignore", missing_columns="raise")
    return scan.select(names)


def _read_parquet(files: Sequence[Path], columns: EventColumns, unit: str, skip_bad_lines: bool) -> RawData:
    schema = _parquet_schemas(files, columns.names, _fixes(columns))
    check_event_types(schema, columns, where=files[0])
    notes: tuple[str, ...] = ()
    chosen: str | None = None
    scan = _scan(files, columns.names)
    try:
        if not scan.select(pl.len()).collect(engine="streaming").item():
            raise DataError("the table has no rows", where=files[0])
        if columns.timestamp is not None:
            chosen, note = choose_unit(scan, columns.timestamp, unit, where=files[0])
            notes = (note,)
        problem = event_problem(schema, columns, chosen)
        is_null = is_untimed(schema, columns) & (problem == 0)
        counts = scan.select(rows=pl.len(), bad=(problem > 0).sum(), null=is_null.sum())
        rows = counts.collect(engine="streaming").row(0, named=True)
        if rows["bad"]:
            notes = (*notes, _report_bad_rows(files, columns, chosen, problem, rows, skip_bad_lines))
            scan = scan.filter(problem == 0)
        first = _first_row(files, columns, is_null) if rows["null"] else None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(error, files[0]) from error
    return RawData(
        scan.select(event_columns(schema, columns, chosen)),
        files=tuple(files),
        num_bad_lines=rows["bad"],
        notes=(*notes, *_null_note(columns, rows["null"])),
        first_untimed=None if first is None else first[0],
    )


def _report_bad_rows(
    files: Sequence[Path],
    columns: EventColumns,
    unit: str | None,
    problem: pl.Expr,
    rows: Mapping[str, int],
    skip_bad_lines: bool,
) -> str:
    """The note on bad rows; DataError that names the first, unless they are to be left out and are not too many."""
    found = _first_row(files, columns, problem > 0)
    assert found is not None  # there is at least one
    where, row, frame = found
    code = frame.select(problem).item()
    what, column = event_messages(columns, unit)[code]
    what += "" if column is None else f" {row[column]!r}"
    if not skip_bad_lines:
        counted = _scan(files, columns.names).select((problem == code).sum())
        same = counted.collect(engine="streaming").item()
        raise DataError(
            what,
            where=where,
            found=f"{same} such rows" if same > 1 else None,
            fix="mend the table, or set source.skip_bad_lines=true to leave such rows out",
        )
    first = f"{where}: {what}"
    if rows["rows"] == rows["bad"]:
        raise DataError(
            "the table has no usable rows", where=files[0], found=f"{rows['bad']} bad, the first is {first}"
        )
    require_good_share(rows["rows"] - rows["bad"], rows["bad"], first, where=files[0])
    return f"{rows['bad']} bad rows left out; the first is {first}"


def _first_row(
    files: Sequence[Path], columns: EventColumns, is_meant: pl.Expr
) -> tuple[str, dict[str, Any], pl.DataFrame] | None:
    """Place, values and table of the first row that is meant, or None."""
    for path in files:
        rows = _scan([path], columns.names).with_row_index(LINE, offset=1).filter(is_meant).head(1)
        frame = rows.collect(engine="streaming")
        if frame.height:
            row = frame.row(0, named=True)
            return f"{path}: row {row[LINE]}", row, frame
    return None


def _fixes(columns: EventColumns) -> dict[str, str]:
    return {columns.timestamp: NO_CLOCK_FIX} if columns.timestamp is not None else {}


def _null_note(columns: EventColumns, count: int) -> tuple[str, ...]:
    return (f"{count} values of column {columns.timestamp!r} are missing",) if count else ()


# --- text ------------------------------------------------------------------------------------------------------------


def _read_text(
    files: Sequence[Path],
    kind: str,
    columns: EventColumns,
    unit: str,
    skip_bad_lines: bool,
    separator: str | None,
) -> RawData:
    def read(bad: BadLines, exact: bool) -> CsvTable:
        return _csv_events(bad, columns, exact, separator) if kind == "csv" else _jsonl_events(bad, columns)

    accounts = [BadLines(path, skip_bad_lines) for path in files]
    tables = [read(bad, False) for bad in accounts]
    notes: tuple[str, ...] = ()
    chosen: str | None = None
    if columns.timestamp is not None and any(table.frame.height for table in tables):
        raw = pl.concat([table.frame.select(columns.timestamp) for table in tables]).lazy()
        chosen, note = choose_unit(raw, columns.timestamp, unit, where=files[0])
        notes = (note,)
    parts: list[pl.DataFrame] = []
    for bad, table in zip(accounts, tables, strict=True):
        reread = None if table.is_exact else lambda bad=bad: read(bad, True).frame
        parts.append(checked_events(table.frame, columns, chosen, bad=bad, reread=reread))
        require_good_share(parts[-1].height, bad.count, bad.first, where=bad.path)
    events = pl.concat(parts)
    require_rows(events.height, accounts[0])
    missing = events["timestamp"].null_count() if chosen is not None else 0
    return RawData(
        events.lazy(),
        files=tuple(files),
        num_bad_lines=sum(bad.count for bad in accounts),
        notes=(*notes, *_null_note(columns, missing), *(note for bad in accounts for note in bad.notes)),
        first_untimed=_first_untimed(files, tables, columns) if missing else None,
    )


def _first_untimed(files: Sequence[Path], tables: Sequence[CsvTable], columns: EventColumns) -> str:
    """Where the first row without a time stands; only where line numbers are true, which they are for empty cells."""
    for path, table in zip(files, tables, strict=True):
        lines = table.frame.filter(is_untimed(table.frame.schema, columns))[LINE]
        if len(lines):
            return f"{path}:{lines[0]}" if table.is_exact else str(path)
    raise AssertionError("no row without a time")


def _csv_events(bad: BadLines, columns: EventColumns, exact: bool, separator: str | None) -> CsvTable:
    header = csv_header(bad.path, separator)
    other = separator_fix(header, csv_separator(bad.path, separator))
    for name in columns.names:
        missing_columns(header, [name], where=bad.path, fix=other or _fixes(columns).get(name))
    return read_csv(bad.path, columns.names, bad=bad, exact=exact, separator=separator)


def _jsonl_events(bad: BadLines, columns: EventColumns) -> CsvTable:
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
    texts = Separators(columns.get("categories_separator", "|"), columns.get("separator"))
    parts = [read(path, wanted, free, texts) for path in files]
    table = pl.concat(parts)
    if table.height == 0:
        raise DataError("the table has no items", where=files[0])
    return table


def _parquet_items(path: Path, wanted: dict[str, str], free: Sequence[str], separators: Separators) -> pl.DataFrame:
    schema = _parquet_schemas([path], list(wanted.values()), {})
    check_id_type(schema[wanted["item_id"]], wanted["item_id"], where=path)
    source = {**{name: name for name in free if name in schema}, **wanted}
    frame = _scan([path], list(dict.fromkeys(source.values()))).collect()
    return _typed_items(frame.with_row_index(LINE, offset=1), source, separators.categories, where=f"{path}: row")


def _csv_items(path: Path, wanted: dict[str, str], free: Sequence[str], separators: Separators) -> pl.DataFrame:
    separator = csv_separator(path, separators.cells)
    header = csv_header(path, separator)
    missing_columns(header, wanted.values(), where=path, fix=separator_fix(header, separator))
    source = {**{name: name for name in free if name in header}, **wanted}
    names = list(dict.fromkeys(source.values()))
    frame = read_csv(path, names, bad=BadLines(path), exact=True, separator=separator).frame
    return _typed_items(frame, source, separators.categories, where=f"{path}: line")


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
    return clean_items(table)


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
    return parts


def _jsonl_items(path: Path, wanted: dict[str, str], free: Sequence[str], separators: Separators) -> pl.DataFrame:
    source = {**{name: name for name in free}, **wanted}
    bad = BadLines(path)
    rows = []
    for line, record in read_records(path, bad=bad):
        missing_columns(record, wanted.values(), where=f"{path}:{line}")
        value = {name: record.get(source[name]) for name in RAW_ITEMS}
        if isinstance(value["categories"], str):
            value["categories"] = value["categories"].split(separators.categories)
        try:
            texts = {name: text_of(value[name], source[name]) for name in ("title", "brand", "description")}
            categories = texts_of(value["categories"], source["categories"])
            item_id = as_id(value["item_id"], source["item_id"])
        except BadRecord as error:
            bad.add(line, str(error), found=error.found)
            continue
        rows.append((item_id, texts["title"], texts["brand"], categories, texts["description"]))
    return items_frame(rows)
