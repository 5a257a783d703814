"""Getting public files: resumed where they were interrupted, checked against size and checksum, never half there.

A file grows as ``NAME.partial`` beside its place and takes its name only when it is complete and right. Standard
library only; knows nothing of data sets.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import re
import socket
import ssl
import stat
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from genrec.errors import DataError, StorageError

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int | None], None]  # (name, bytes so far, bytes in all if known)
BLOCK_BYTES = 1 << 18
USER_AGENT = "genrec"
PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers worth another attempt


@dataclass(frozen=True)
class RemoteFile:
    """One file to get.

    Attributes:
        name: its name in the folder.
        url: http or https address; None if it can only be got by hand.
        sha256: hexadecimal, None if unknown.
        size: bytes, None if unknown.
        unpack: also extract it, a zip archive, into the folder, without the one folder that holds all its members.
        homepage: page that tells where to get it by hand.
    """

    name: str
    url: str | None = None
    sha256: str | None = None
    size: int | None = None
    unpack: bool = False
    homepage: str | None = None


@dataclass(frozen=True)
class Patience:
    """How often and how long to try.

    Attributes:
        attempts: attempts in a row that bring no byte before giving up.
        backoff_seconds: pause after the first such attempt; it doubles with each.
        timeout_seconds: silence of the server that counts as a dropped connection.
    """

    attempts: int = 5
    backoff_seconds: float = 1.0
    timeout_seconds: float = 30.0


def download(
    files: Sequence[RemoteFile], folder: Path, *, progress: Progress | None = None, patience: Patience | None = None
) -> tuple[Path, ...]:
    """Gets `files` into `folder`; what is there already, complete and right, is left alone.

    If it fails before anything has come, the folders that it made are gone again.

    Args:
        files: what to get.
        folder: where to; it is created.
        progress: called after every block.
        patience: when to give up.

    Returns:
        The paths of the files, and after each archive those of its members.

    Raises:
        StorageError: no network, no such page, dropped too often, disk full; with the address and what to do.
        DataError: size or checksum is wrong (what came is deleted), an archive is corrupt or unsafe, or another file
            is in the way.
    """
    paths: list[Path] = []
    made = [place for place in (folder, *folder.parents) if not os.path.exists(place)]
    try:
        for file in files:
            target = folder / _plain_name(file.name)
            if os.path.exists(target):
                check_file(target, file, fix="delete it to get it again")
            else:
                _get(file, target, progress, patience or Patience())
            paths.append(target)
            if file.unpack:
                paths.extend(unpack(target, folder))
    finally:
        for place in made:  # the inner ones first; one that holds something stays
            with suppress(OSError):
                place.rmdir()
    return tuple(paths)


def check_file(path: Path, file: RemoteFile, *, fix: str | None = None) -> None:
    """DataError if `path` has not the size or checksum of `file`, as far as those are known."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        raise DataError("wrong size", where=path, expected=f"{file.size} bytes", found=f"{size} bytes", fix=fix)
    if file.sha256 is not None:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != file.sha256.lower():
            raise DataError("wrong checksum", where=path, expected=f"sha256 {file.sha256}", found=found, fix=fix)


def _plain_name(name: str) -> str:
    if not name or name != Path(name).name or name in (".", ".."):
        raise DataError("a file to download needs a plain name", found=repr(name))
    return name


# --- one file --------------------------------------------------------------------------------------------------------


@dataclass
class _Partial:
    """The unfinished file, and a note beside it of which version of the remote file it is a part of."""

    path: Path

    @property
    def note(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def validator(self, url: str) -> str | None:
        try:
            content = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content.get("validator") if isinstance(content, dict) and content.get("url") == url else None

    def remember(self, url: str, validator: str | None) -> None:
        self.note.write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


class _Dropped(Exception):
    """The connection or the server failed in a way that another attempt may mend."""


def _get(file: RemoteFile, target: Path, progress: Progress | None, patience: Patience) -> None:
    page = f" (see {file.homepage})" if file.homepage else ""
    by_hand = f"get it by hand from {file.url or 'its authors'}{page} into {target.parent}"
    if file.url is None:
        raise StorageError(f"{file.name} has no address to download from", fix=by_hand)
    if urllib.parse.urlsplit(file.url).scheme not in ("http", "https"):
        raise StorageError("only http and https addresses can be downloaded", found=file.url)
    partial = _Partial(target.with_name(target.name + ".partial"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(file, file.url, partial, progress, patience, by_hand)
        try:
            check_file(partial.path, file, fix=f"try again; if it stays wrong, {by_hand}")
        except DataError:
            partial.remove()
            raise
        os.replace(partial.path, target)
        partial.note.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write the download: {error.strerror or error}", where=target) from error


def _fetch(
    file: RemoteFile, url: str, partial: _Partial, progress: Progress | None, patience: Patience, by_hand: str
) -> None:
    """Attempts until the partial file is complete; only attempts in a row that bring nothing are counted."""
    failures = 0
    while True:
        before = partial.size
        try:
            _attempt(file, url, partial, progress, patience)
            return
        except _Dropped as error:
            failures = failures + 1 if partial.size <= before else 1
            if failures >= patience.attempts:
                raise StorageError(
                    f"the download of {url} failed {failures} times: {error}", fix=f"try again later, or {by_hand}"
                ) from error
            log.warning("download of %s interrupted (%s); going on at byte %d", file.name, error, partial.size)
            time.sleep(patience.backoff_seconds * 2 ** (failures - 1))
        except urllib.error.HTTPError as error:
            raise StorageError(f"{url} answers {error.code} {error.reason}", fix=by_hand) from error
        except urllib.error.URLError as error:
            raise StorageError(f"cannot reach {url}: {error.reason}", fix=f"check the network, or {by_hand}") from error


def _attempt(file: RemoteFile, url: str, partial: _Partial, progress: Progress | None, patience: Patience) -> None:
    offset, headers = _resume_headers(file, url, partial)
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=patience.timeout_seconds)
    except urllib.error.HTTPError as error:
        _after_http_error(error, offset, partial)
        return
    except urllib.error.URLError as error:
        if _is_passing(error.reason):
            raise _Dropped(str(error.reason)) from error
        raise
    except (http.client.HTTPException, OSError) as error:
        raise _Dropped(str(error) or type(error).__name__) from error
    with response:
        start, total = _extent(response, offset)
        if start != offset and start != 0:
            partial.remove()
            raise _Dropped("the server sent another part than was asked for")
        partial.remember(url, _validator(response))
        _receive(response, file.name, partial, start, total, progress)


def _resume_headers(file: RemoteFile, url: str, partial: _Partial) -> tuple[int, dict[str, str]]:
    """Where to go on, and the headers that ask for it; from 0 if nothing would show that the file has changed."""
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    offset, validator = partial.size, partial.validator(url)
    if not offset or (validator is None and file.sha256 is None) or (file.size is not None and offset > file.size):
        return 0, headers
    headers["Range"] = f"bytes={offset}-"
    if validator is not None:
        headers["If-Range"] = validator
    return offset, headers


def _after_http_error(error: urllib.error.HTTPError, offset: int, partial: _Partial) -> None:
    """Returns if the partial file is complete; else raises."""
    with error:
        if error.code == 416 and offset:  # nothing after offset: complete, or not a part of this file
            total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
            if total is not None and int(total[1]) == offset:
                return
            partial.remove()
            raise _Dropped("the file on the server has become shorter")
        if error.code in PASSING:
            raise _Dropped(f"{error.code} {error.reason}")
        raise error


def _is_passing(reason: Any) -> bool:
    """Whether another attempt may mend what kept the connection from being made; a wrong name or closed port stays."""
    if isinstance(reason, socket.gaierror | ConnectionRefusedError | ssl.SSLCertVerificationError):
        return False
    return isinstance(reason, ConnectionError | TimeoutError | ssl.SSLError)


def _extent(response: Any, offset: int) -> tuple[int, int | None]:
    """First byte of the body in the whole file, and the size of the whole file if the server says."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None:
            return -1, None
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    if offset:
        log.warning("the server starts the download anew")
    return 0, int(length) if length.isdigit() else None


def _validator(response: Any) -> str | None:
    """What If-Range takes: a strong ETag, or else the date of the last change."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _receive(
    response: Any, name: str, partial: _Partial, start: int, total: int | None, progress: Progress | None
) -> None:
    done = start
    with partial.path.open("r+b" if start else "wb") as stream:
        stream.seek(start)
        while True:
            try:
                block = response.read(BLOCK_BYTES)
            except (http.client.HTTPException, OSError) as error:
                raise _Dropped(str(error) or type(error).__name__) from error
            if not block:
                break
            stream.write(block)
            done += len(block)
            if progress is not None:
                progress(name, done, total)
        stream.flush()
        os.fsync(stream.fileno())
    if total is not None and done < total:
        raise _Dropped(f"the connection ended after {done} of {total} bytes")


# --- archives --------------------------------------------------------------------------------------------------------


def unpack(archive: Path, folder: Path) -> tuple[Path, ...]:
    """Extracts a zip archive into `folder`, without the one folder that holds all its members, if there is one.

    A member that is there with the right size is left alone.

    Raises:
        DataError: not a zip archive, a corrupt member, one that would land outside `folder`, a link, or another file
            in a member's place.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            members = [member for member in content.infolist() if not member.is_dir()]
            parts = [_safe_parts(member, archive) for member in members]
            tops = {part[0] for part in parts if len(part) > 1}
            skip = 1 if len(tops) == 1 and all(len(part) > 1 for part in parts) else 0
            return tuple(
                _extract(content, member, folder.joinpath(*part[skip:]))
                for member, part in zip(members, parts, strict=True)
            )
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError("cannot unpack the archive", where=archive, found=str(error), fix="delete it") from error
    except OSError as error:
        raise StorageError(f"cannot unpack the archive: {error.strerror or error}", where=archive) from error


def _safe_parts(member: zipfile.ZipInfo, archive: Path) -> tuple[str, ...]:
    path = PurePosixPath(member.filename)
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or re.search(r"[\\:\0]", member.filename) or is_link or not path.parts:
        raise DataError("the archive holds an unsafe member", where=archive, found=repr(member.filename))
    return path.parts


def _extract(content: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> Path:
    if target.exists():
        if not target.is_file() or target.stat().st_size != member.file_size:
            raise DataError("another file is in the place of an archive's member", where=target, fix="delete it")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    with content.open(member) as source, partial.open("wb") as stream:
        while block := source.read(BLOCK_BYTES):
            stream.write(block)
    os.replace(partial, target)
    return target
