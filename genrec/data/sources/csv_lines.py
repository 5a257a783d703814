"""CSV and TSV with a header, all columns as text.

Polars reads the file if it is plain: no quotes at all, since Polars forgives malformed ones, and may then swallow
lines. Whenever there are quotes, or something else is unusual (a row of another length, an empty cell where none should
be, bytes that are no utf-8), the standard library reads it, which knows the line each row begins on. Knows nothing of
any data set's columns.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import polars as pl

from genrec.data.sources.lines import BYTE_ORDER_MARK, CHUNK_BYTES, LINE, NOT_UTF8, BadLines, open_binary
from genrec.data.sources.names import missing_columns
from genrec.errors import ConfigError, DataError

BATCH_ROWS = 100_000


@dataclass(frozen=True)
class CsvTable:
    """Columns of a CSV file.

    Attributes:
        frame: `LINE` and String columns; an empty cell is null.
        is_exact: `LINE` holds true line numbers; otherwise the table has to be read again before one is shown.
    """

    frame: pl.DataFrame
    is_exact: bool


def csv_separator(path: Path, separator: str | None = None) -> str:
    """The separator that is set, or else the one that the file's name stands for.

    >>> csv_separator(Path("a.tsv.gz")), csv_separator(Path("a.csv")), csv_separator(Path("a.csv"), ";")
    ('\\t', ',', ';')
    """
    if separator is not None:
        if separator == "\\t":  # as a command line writes it
            return "\t"
        if len(separator) != 1 or not separator.isascii() or separator in '"\r\n':
            raise ConfigError(
                "not a separator", where="source.separator", expected="one character", found=repr(separator)
            )
        return separator
    return "\t" if path.name.removesuffix(".gz").endswith((".tsv", ".tab")) else ","


def csv_header(path: Path, separator: str | None = None) -> list[str]:
    """The names in the first line."""
    bad = BadLines(path)
    for row in csv.reader(_texts(path, bad), delimiter=csv_separator(path, separator)):
        if row:
            return row
    raise DataError("the file has no lines", where=path)


def separator_fix(header: Sequence[str], separator: str) -> str | None:
    """What to do if the names of a header hold another separator, for the error of a column that is not found.

    >>> separator_fix(["user;item"], ","), separator_fix(["user", "item"], ",")
    ("set source.separator=';'", None)
    """
    for other, written in ((";", ";"), ("\t", "\\t"), ("|", "|"), (",", ",")):
        if other != separator and any(other in name for name in header):
            return f"set source.separator='{written}'"
    return None


def read_csv(
    path: Path,
    names: Sequence[str],
    *,
    bad: BadLines,
    nullable: Collection[str] = (),
    exact: bool = False,
    separator: str | None = None,
) -> CsvTable:
    """The columns `names` of a CSV or TSV file, plain or gzip.

    Args:
        path: file with a header.
        names: wanted columns.
        bad: account of rows with another number of fields than the header, and of lines that are no utf-8.
        nullable: wanted columns whose cells may be empty without raising any suspicion.
        exact: read by the standard library, for true line numbers.
        separator: one character; None: tab if the name ends in .tsv or .tab, else comma.

    Raises:
        DataError: a column is missing or stands twice; a quote is not closed.
    """
    separator = csv_separator(path, separator)
    header = csv_header(path, separator)
    missing_columns(header, names, where=path, fix=separator_fix(header, separator))
    twice = [name for name in names if header.count(name) > 1]
    if twice:
        raise DataError(f"column {twice[0]!r} stands twice in the header", where=path)
    if not exact:
        frame = _read_fast(path, names, [name for name in names if name not in nullable], separator)
        if frame is not None:
            return CsvTable(frame, is_exact=False)
    return CsvTable(_read_slowly(path, header, names, bad, separator), is_exact=True)


def _read_fast(path: Path, names: Sequence[str], never_null: Sequence[str], separator: str) -> pl.DataFrame | None:
    if not _is_plain(path):
        return None
    try:
        frame = pl.read_csv(path, infer_schema=False, separator=separator, quote_char=None, columns=list(names))
    except (pl.exceptions.PolarsError, OSError):
        return None
    if any(frame[name].null_count() for name in never_null):
        return None
    return frame.select(names).with_row_index(LINE, offset=2)


def _is_plain(path: Path) -> bool:
    """No quotes, and no carriage return but at the ends of lines."""
    with open_binary(path) as stream:
        while block := stream.read(CHUNK_BYTES):
            if b'"' in block or block.count(b"\r") != block.count(b"\r\n"):
                return False
    return True


def _read_slowly(
    path: Path, header: Sequence[str], names: Sequence[str], bad: BadLines, separator: str
) -> pl.DataFrame:
    schema = {LINE: pl.UInt32, **dict.fromkeys(names, pl.String)}
    places = [header.index(name) for name in names]
    rows = ((line, *(row[place] or None for place in places)) for line, row in _rows(path, len(header), bad, separator))
    frames = [pl.DataFrame(schema=schema)]
    while batch := list(islice(rows, BATCH_ROWS)):
        frames.append(pl.DataFrame(batch, schema=schema, orient="row"))
    return pl.concat(frames)


def _rows(path: Path, width: int, bad: BadLines, separator: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every row below the header."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        reader = csv.reader(_texts(path, bad), delimiter=separator, strict=True)
        is_header = True
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader, None)
                problem = None if row is None or len(row) in (0, width) else f"{len(row)} fields"
            except csv.Error as error:
                row, problem = [], str(error)
            if row is None:
                return
            if problem is not None:
                _refuse(line, reader.line_num, problem, width, bad)
            elif row and is_header:
                is_header = False
            elif row:
                yield line, row
    finally:
        csv.field_size_limit(limit)


def _refuse(first: int, last: int, problem: str, width: int, bad: BadLines) -> None:
    if last > first:  # never skipped: it may have swallowed any number of good rows
        raise DataError("a quote is not closed", where=f"{bad.path}:{first}", found=f"{problem} up to line {last}")
    bad.add(first, "wrong number of fields or quotes", expected=f"{width} fields", found=problem)


def _texts(path: Path, bad: BadLines) -> Iterator[str]:
    """Lines with their ends; one that is no utf-8 goes to `bad` and is handed out blank, so that numbers stay right."""
    with open_binary(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).decode("utf-8")
            except UnicodeDecodeError:
                bad.add(number, NOT_UTF8)
                yield "\n"
