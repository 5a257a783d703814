"""Files, lines and bad lines: what every text format shares.

Opens plain and gzip files alike, hands out chunks of numbered lines, and keeps account of the lines that cannot be
used. Knows bytes and text; nothing of JSON, of columns or of any data set.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import polars as pl

from genrec.errors import DataError, MissingFileError, StorageError

LINE = "__line__"  # helper column with the 1-based line number; like the next it never leaves the sources
PROBLEM = "__problem__"  # helper column with what is wrong with the row, 0 for nothing
CHUNK_BYTES = 1 << 24
GZIP_MAGIC = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
MAX_BAD_SHARE = 0.1  # of the lines of a file; with more, the file is not what it is taken for
MIN_LINES = 20  # of which a share says something
NOT_UTF8 = "not valid utf-8"
MISSING_FIX = "set raw_dir=... to the folder that has it"
SKIP_FIX = "mend it, or set source.skip_bad_lines=true to leave such lines out"
UTF8_FIX = "save the file as UTF-8, or set source.skip_bad_lines=true to leave such lines out"


@dataclass
class BadLines:
    """Account of the lines of one file that cannot be used: the first is an error, unless they are to be left out.

    Attributes:
        path: the file.
        skip: leave bad lines out and count them.
        count: lines left out so far.
        first: the first of them, for the note.

    >>> bad = BadLines(Path("a.jsonl"), skip=True)
    >>> bad.add(7, "not valid JSON")
    >>> bad.count, bad.notes
    (1, ('a.jsonl: 1 bad line left out; the first is line 7: not valid JSON',))
    """

    path: Path
    skip: bool = False
    count: int = 0
    first: str = ""

    def add(self, line: int, what: str, *, expected: object = None, found: object = None) -> None:
        """Counts line number `line`; DataError ``file:line`` if lines are not to be left out."""
        if not self.skip:
            fix = UTF8_FIX if what == NOT_UTF8 else SKIP_FIX
            raise DataError(what, where=f"{self.path}:{line}", expected=expected, found=found, fix=fix)
        if not self.count:
            self.first = f"line {line}: {what}"
        self.count += 1

    @property
    def notes(self) -> tuple[str, ...]:
        """One remark for the user, or none."""
        if not self.count:
            return ()
        lines = "line" if self.count == 1 else "lines"
        return (f"{self.path.name}: {self.count} bad {lines} left out; the first is {self.first}",)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """StorageError for what the system says while `path` is looked for or at, a missing permission for instance."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        fix = "check permissions" if isinstance(error, PermissionError) else "check the path"
        raise StorageError(f"cannot read: {reason}", where=error.filename or path, fix=fix) from error


def find_file(raw_dir: Path, name: str, option: str = "") -> Path:
    """The file `name` in `raw_dir` (an absolute name stands for itself), plain or with ``.gz`` whichever is there.

    Args:
        raw_dir: folder.
        name: of the file.
        option: key of the section ``source`` that holds the name, for the message.

    Raises:
        DataError: no such file, or it is empty.
        StorageError: it may not be looked at.
    """
    path = Path(raw_dir) / name
    what = f" (source.{option})" if option else ""
    if not path.name:
        raise DataError(f"a file needs a name{what}", found=repr(name))
    twin = path.with_suffix("") if path.suffix == ".gz" else path.with_name(path.name + ".gz")
    with readable(path):
        found = next((candidate for candidate in (path, twin) if candidate.is_file()), None)
        if found is None and path.is_dir():
            raise DataError(f"this is a folder{what}", where=path, expected="a file")
        if found is None:
            raise MissingFileError(f"there is no such file{what}", where=path, fix=MISSING_FIX)
        if found.stat().st_size == 0:
            raise DataError(f"the file is empty{what}", where=found, fix="fill it, or get it again")
    return found


@contextmanager
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    """The file's content, decompressed if it is gzip.

    Raises:
        DataError: corrupt or truncated gzip, also in the middle of reading; UTF-16.
        StorageError: the file cannot be read.
    """
    try:
        with path.open("rb") as raw:
            is_gzip = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            if is_gzip:
                with gzip.GzipFile(fileobj=raw) as stream:
                    _refuse_utf_16(stream.peek(4), path)
                    yield stream  # pyright: ignore[reportReturnType]
            elif path.suffix == ".gz":
                raise DataError("not a gzip file, in spite of its name", where=path, fix="get it again, or rename it")
            else:
                _refuse_utf_16(raw.peek(4), path)
                yield raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            "corrupt or truncated gzip file", where=path, found=str(error), fix="replace it, or get it again"
        ) from error
    except OSError as error:
        raise StorageError(f"cannot read the file: {error.strerror or error}", where=path) from error


def _refuse_utf_16(start: bytes, path: Path) -> None:
    """UTF-16 has a zero byte beside every ASCII character, and most often a mark before them."""
    is_zero = [byte == 0 for byte in start[:4]]
    if start.startswith(UTF_16_MARKS) or is_zero in ([True, False, True, False], [False, True, False, True]):
        raise DataError("the text is UTF-16", where=path, fix="save the file as UTF-8")


def read_all(path: Path, encoding: str = "utf-8") -> str:
    """The whole file as text, without a byte order mark."""
    with open_binary(path) as stream:
        content = stream.read().removeprefix(BYTE_ORDER_MARK)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"not valid {encoding}", where=f"{path}:{line}", fix="save the file as UTF-8") from error


def read_chunks(path: Path, chunk_bytes: int = CHUNK_BYTES) -> Iterator[tuple[list[int], list[bytes]]]:
    """The lines that are not blank, some thousands at a time, with their 1-based numbers and without their ends."""
    with open_binary(path) as stream:
        number, rest = 1, b""
        while block := stream.read(chunk_bytes):
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            yield from _numbered(lines, number)
            number += len(lines)
        yield from _numbered([rest], number)


def _numbered(lines: list[bytes], first: int) -> Iterator[tuple[list[int], list[bytes]]]:
    if first == 1 and lines:
        lines[0] = lines[0].removeprefix(BYTE_ORDER_MARK)
    kept = [(number, line) for number, line in enumerate(lines, first) if line and not line.isspace()]
    if kept:
        yield [number for number, _ in kept], [line for _, line in kept]


def read_lines(path: Path, *, bad: BadLines, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """(number, text) of every line that is not blank, without surrounding white space."""
    for numbers, lines in read_chunks(path):
        for number, text in zip(*_decode(numbers, lines, encoding, bad), strict=True):
            yield number, text.strip()


def _decode(numbers: list[int], lines: list[bytes], encoding: str, bad: BadLines) -> tuple[list[int], list[str]]:
    try:
        return numbers, [line.decode(encoding).rstrip("\r") for line in lines]
    except UnicodeDecodeError:
        pass  # look for the lines that are to blame
    good: list[tuple[int, str]] = []
    for number, line in zip(numbers, lines, strict=True):
        try:
            good.append((number, line.decode(encoding).rstrip("\r")))
        except UnicodeDecodeError:
            bad.add(number, f"not valid {encoding}")
    return [number for number, _ in good], [text for _, text in good]


def read_fields(
    path: Path, separator: str, names: tuple[str, ...] | None, *, bad: BadLines, encoding: str = "utf-8"
) -> pl.DataFrame:
    """A table whose lines are split at `separator`, without any quoting.

    Args:
        path: plain or gzip file.
        separator: one or more characters.
        names: the fields of a line; None if the first line names them.
        bad: account of the lines with another number of fields.
        encoding: of the text.

    Returns:
        `LINE` and one String column a name, in file order.
    """
    frames: list[pl.DataFrame] = []
    fields = pl.col("fields")
    for raw_numbers, lines in read_chunks(path):
        numbers, texts = _decode(raw_numbers, lines, encoding, bad)
        if names is None and texts:
            names, numbers, texts = tuple(texts[0].split(separator)), numbers[1:], texts[1:]
        if not texts or names is None:
            continue
        frame = pl.DataFrame({LINE: numbers, "text": texts}, schema={LINE: pl.UInt32, "text": pl.String})
        frame = frame.select(LINE, fields=pl.col("text").str.split(separator))
        is_good = fields.list.len() == len(names)
        for number, found in frame.filter(~is_good).select(LINE, fields.list.len()).iter_rows():
            bad.add(number, "wrong number of fields", expected=f"{len(names)} split by {separator!r}", found=found)
        frames.append(frame.filter(is_good).select(LINE, *(fields.list.get(i).alias(n) for i, n in enumerate(names))))
    schema = {LINE: pl.UInt32, **dict.fromkeys(names or (), pl.String)}
    return pl.concat(frames) if frames else pl.DataFrame(schema=schema)


def report_problems(frame: pl.DataFrame, messages: Mapping[int, tuple[str, str | None]], bad: BadLines) -> pl.DataFrame:
    """The rows whose `PROBLEM` is 0, without that column; the others go to `bad`.

    Args:
        frame: `LINE`, `PROBLEM` (a key of `messages`, 0 for a good row) and any others.
        messages: what is wrong, and the column whose value is to be shown.
        bad: account of bad lines; an error also says how many lines have the same problem.
    """
    flagged = frame.filter(pl.col(PROBLEM) > 0)
    for row in flagged.iter_rows(named=True):
        same = 1 if bad.skip else flagged.filter(pl.col(PROBLEM) == row[PROBLEM]).height
        what, column = messages[row[PROBLEM]]
        shown = "" if column is None else f" {_short(row[column])}"
        bad.add(row[LINE], what + shown, found=None if same == 1 else f"{same} such lines")
    return frame.filter(pl.col(PROBLEM) == 0).drop(PROBLEM)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def require_rows(num_good: int, bad: BadLines) -> None:
    """DataError if nothing usable was read from a file, or too much of it is bad.

    Args:
        num_good: lines that can be used.
        bad: the others.
    """
    if num_good == 0:
        found = f"{bad.count} bad, the first is {bad.first}" if bad.count else None
        raise DataError("the file has no usable lines", where=bad.path, found=found)
    require_good_share(num_good, bad.count, bad.first, where=bad.path)


def is_too_bad(num_bad: int, num_lines: int) -> bool:
    """Whether so many bad lines cannot be chance.

    >>> is_too_bad(2, 20), is_too_bad(3, 20), is_too_bad(18, 19)
    (False, True, False)
    """
    return num_lines >= MIN_LINES and num_bad > MAX_BAD_SHARE * num_lines


def require_good_share(num_good: int, num_bad: int, first: str, *, where: object) -> None:
    """DataError if more than `MAX_BAD_SHARE` of the lines are bad, even where bad lines are to be left out."""
    lines = num_good + num_bad
    if is_too_bad(num_bad, lines):
        raise DataError(
            f"{num_bad / lines:.0%} of the lines are bad, too many to leave out",
            where=where,
            expected=f"at most {MAX_BAD_SHARE:.0%}",
            found=f"{num_bad} of {lines}, the first is {first}",
            fix="the format or the unit of the times is probably wrong: check the keys under source",
        )
