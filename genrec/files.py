"""Files that are whole or absent: atomic writing, strict JSON, hashes, locks, and what a full disk looks like.

Knows nothing of artifacts or runs, and must not import torch or Polars.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from genrec.errors import ArtifactError, GenrecError, RunError, StorageError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP}
_REMEDIES = {
    **dict.fromkeys((None, *_NO_SPACE), "check free space, quota and file-size limit"),
    **dict.fromkeys(_NO_ACCESS, "check permissions"),
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "check the path: a folder of it is not there",
    errno.EISDIR: "choose another name: there is a folder of this name",
    errno.ENOTDIR: "choose another path: a part of this one is a file and no folder",
    errno.EEXIST: "choose another path: something else has this name",
    errno.ENOTEMPTY: "choose another name: there is a folder of this name",
}


def write_json(path: Path | str, value: object) -> None:
    """Writes JSON (indent 2, ASCII, keys in their order, no NaN) atomically: readers see the old file or the new one.

    Raises:
        StorageError: the file cannot be written; what was there stays.
        ValueError, TypeError: the value is not JSON.
    """
    write_text(path, pretty_json(value))


def write_text(path: Path | str, text: str) -> None:
    """Writes UTF-8 text atomically (see `write_json`)."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with writing(path):
        try:
            with partial.open("x", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def pretty_json(value: object) -> str:
    """The text that `write_json` writes."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def read_json(path: Path | str) -> Any:
    """Reads strict JSON (no NaN, no infinities).

    Raises:
        ArtifactError: no such file, or not JSON (the line is named).
        StorageError: the file cannot be read.
    """
    path = Path(path)
    with reading(path):
        data = path.read_bytes()
    return parse_json(data, where=path)


def parse_json(data: bytes, *, where: object, first_line: int = 1) -> Any:
    """Parses strict JSON in UTF-8; the ArtifactError names `where` and the line, counted from `first_line`.

    >>> parse_json(b'{"a": 1', where="x.json")
    Traceback (most recent call last):
    genrec.errors.ArtifactError: x.json:1: not JSON: Expecting ',' delimiter at column 8
    """

    def refuse(constant: str) -> None:
        raise ArtifactError(f"{constant} is not JSON", where=where)

    try:
        return json.loads(data.decode(), parse_constant=refuse)
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        raise ArtifactError("not UTF-8 text", where=f"{where}:{line}") from error
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise ArtifactError(f"not JSON: {error.msg} at column {error.colno}", where=f"{where}:{line}") from error


def plain_json(value: object, *, where: str) -> Any:
    """A copy of `value` in JSON's own types (tuples become lists).

    Raises:
        ArtifactError: something JSON cannot hold without loss: another type, a key that is not a string, NaN, infinity.

    >>> plain_json({"levels": (256, 256), "seed": None}, where="facts")
    {'levels': [256, 256], 'seed': None}
    """
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ArtifactError("a key has to be a string", where=where, found=repr(key))
        return {str.__str__(key): plain_json(item, where=f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item, where=f"{where}[{number}]") for number, item in enumerate(value)]
    return _plain_scalar(value, where=where)


def _plain_scalar(value: object, *, where: str) -> bool | int | float | str | None:
    if value is None or isinstance(value, bool):
        return value
    # Subclasses (enumerations, NumPy's float64) become what JSON would give back.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise ArtifactError(
        "not a JSON value",
        where=where,
        expected="string, integer, finite number, boolean, None, list or mapping",
        found=f"{type(value).__name__} {value!r}",
    )


def sha256_file(path: Path | str) -> str:
    """Hex sha256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_debris(name: str) -> bool:
    """Whether desktops and network file systems leave files of this name behind, which belong to nobody.

    >>> [is_debris(name) for name in (".DS_Store", "Thumbs.db", ".nfs000000001", "items.parquet")]
    [True, True, True, False]
    """
    return name in (".DS_Store", "Thumbs.db") or name.startswith(".nfs")


def utc_now() -> str:
    """The time now, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a folder; a file that does not sync is an error anywhere.
        if not (path.is_dir() and error.errno in _NO_FOLDER_SYNC):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def hold_lock(path: Path, *, what: str, where: Path) -> Iterator[None]:
    """Holds the lock file `path`, which is there as long as the lock is held, or after its holder was killed.

    Args:
        path: lock file; its text says who holds it.
        what: the thing that is locked, for the message.
        where: its path, for the message.

    Raises:
        RunError: another process, or another part of this one, holds it.
    """
    lock = FileLock(path)
    with writing(where):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            fix = "wait until it has ended, or choose another folder"
            raise RunError(f"{what} is in use", where=where, found=_holder(path), fix=fix) from None
    try:
        with writing(where):
            path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": utc_now()}))
        yield
    finally:
        # The name goes while the lock is held, so that one who comes later locks a new file, never this one.
        try:
            with writing(where):
                path.unlink(missing_ok=True)
        finally:
            lock.release()


def _holder(path: Path) -> str:
    """Who holds a lock, as far as its file says: it is empty for an instant, and gone if the holder just ended."""
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "an unknown process"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns OSErrors of reading `path` or below it into ArtifactError (no such file) or StorageError."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactError("no such file", where=error.filename or path) from error
    except OSError as error:
        reason = error.strerror or str(error)
        fix = "check the path" if error.errno in (errno.EISDIR, errno.ENOTDIR) else "check permissions"
        raise StorageError(f"cannot read: {reason}", where=error.filename or path, fix=fix) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns every OSError of our own writing to `path` into a StorageError."""
    try:
        yield
    except OSError as error:
        raise _storage_error(error, error.errno, path) from error


@contextmanager
def writing_by_others(path: Path, *, inside: Path) -> Iterator[None]:
    """Turns failed writing by any library, in a block that also does other things, into a StorageError for `path`.

    Full disks raise, from Python, an OSError with its number; from NumPy's `save` an OSError without one ("N requested
    and M written"); from Polars an OSError without one, or for Parquet its ComputeError; from safetensors its own
    error; the last three with "(os error N)" in the text. Those classes cannot be named without importing them, so the
    text decides. All other exceptions pass. A memory map that is filled on a full disk kills the process (SIGBUS), as
    nothing can be raised there: write large arrays through a file.

    Args:
        path: what was to be written.
        inside: folder that the block writes to. Missing permissions elsewhere are not ours to explain; a full disk is.
    """
    try:
        yield
    except GenrecError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        if number is None and (match := re.search(r"\(os error (\d+)\)", str(error))):
            number = int(match[1])
        short = isinstance(error, OSError) and re.fullmatch(r"\d+ requested and \d+ written", str(error))
        places = (getattr(error, "filename", None), getattr(error, "filename2", None), error)
        ours = any(str(inside) in str(place) for place in places)
        if short or number in _NO_SPACE or (number in _NO_ACCESS and ours):
            raise _storage_error(error, number, path) from error
        raise


def _storage_error(error: Exception, number: int | None, path: Path) -> StorageError:
    reason = os.strerror(number) if number else str(error)
    place = getattr(error, "filename", None)
    if place and not str(place).startswith(str(path.parent)):
        reason += f" at {place}"
    fix = _REMEDIES.get(number, "check the path and its file system")
    return StorageError(f"cannot write: {reason}", where=path, fix=f"{fix}, and run it again")
