"""Files are whole or absent, JSON is strict, locks exclude, and storage failures are one line."""

from __future__ import annotations

import enum
import errno
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import genrec
from genrec.errors import ArtifactError, DataError, RunError, StorageError
from genrec.files import (
    hold_lock,
    plain_json,
    read_json,
    reading,
    sha256_file,
    write_json,
    write_text,
    writing,
    writing_by_others,
)

PROJECT = Path(genrec.__file__).parents[1]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("module", ["errors", "seeding", "files", "artifacts", "runs", "config.schema", "config.load"])
def test_the_lowest_layers_import_neither_torch_nor_polars(module: str) -> None:
    code = f"import sys, genrec.{module}; print(sorted({{'torch', 'polars', 'lightning'}} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


# --- JSON ---


@given(json_values)
def test_plain_json_changes_no_json_value(value: object) -> None:
    assert json.dumps(plain_json(value, where="x")) == json.dumps(value)


def test_write_and_read_json(tmp_path: Path) -> None:
    value = {"z": 1, "a": [0.1, None, True], "text": "naïve \udcff"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert list(read_json(tmp_path / "x.json")) == ["z", "a", "text"]  # the order is kept
    assert (tmp_path / "x.json").read_text("ascii").startswith('{\n  "z": 1,\n  "a": [')
    assert os.listdir(tmp_path) == ["x.json"]


def test_what_json_would_change_in_silence_is_refused_or_made_plain() -> None:
    class Colour(str, enum.Enum):  # noqa: UP042 - the kind that str() would turn into "Colour.RED"
        RED = "red"

    plain = plain_json({"a": (1, np.float64(0.5)), "b": Colour.RED, "c": enum.IntEnum("E", "X").X}, where="facts")  # pyright: ignore[reportAttributeAccessIssue]
    assert plain == {"a": [1, 0.5], "b": "red", "c": 1}
    assert [type(item) for item in (*plain["a"], plain["b"], plain["c"])] == [int, float, str, int]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"loss": {"ce": float("nan")}}, "facts.loss.ce: not a JSON value"),
        ({"sizes": [1, float("inf")]}, "facts.sizes[1]: not a JSON value"),
        ({"n": np.int64(3)}, "found int64 np.int64(3)"),
        ({"path": Path("x")}, "facts.path: not a JSON value"),
        ({"by_level": {1: "a"}}, "facts.by_level: a key has to be a string (found 1)"),
        ({"codes": {3}}, "facts.codes: not a JSON value"),
    ],
)
def test_not_json(value: object, words: str) -> None:
    with pytest.raises(ArtifactError) as raised:
        plain_json(value, where="facts")
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{\n  "a": 1,\n  "b" 2\n}', "x.json:3: not JSON: Expecting ':' delimiter at column 7"),
        (b"", "x.json:1: not JSON"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a":\n-Infinity}', "-Infinity is not JSON"),
        (b'{"a":\n\n"\xff"}', "x.json:3: not UTF-8 text"),
    ],
)
def test_bad_json_names_file_and_line(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(ArtifactError) as raised:
        read_json(tmp_path / "x.json")
    assert words in str(raised.value)
    assert str(tmp_path / "x.json") in str(raised.value)
    assert raised.value.exit_code == 3


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"absent\.json: no such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(StorageError, match="cannot read: Is a directory"):
        read_json(tmp_path)


# --- writing ---


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "x.json", {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"new": float("nan")})

    def broken_sync(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken_sync)
    with pytest.raises(StorageError) as raised:
        write_json(tmp_path / "x.json", {"new": 1})
    assert str(raised.value) == (
        f"{tmp_path / 'x.json'}: cannot write: Input/output error; check permissions, and run it again"
    )
    assert read_json(tmp_path / "x.json") == {"old": 1}
    assert os.listdir(tmp_path) == ["x.json"]


def test_writing_into_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write: No such file or directory"):
        write_text(tmp_path / "absent" / "x.txt", "text")


@pytest.mark.parametrize(
    ("target", "remedy"),
    [
        ("absent/x", "No such file or directory; check the path: a folder of it is not there"),
        ("file/x", "Not a directory; choose another path: a part of this one is a file"),
        ("folder", "Is a directory; choose another name: there is a folder of this name"),
        ("x" * 250, "File name too long; choose a shorter name"),
    ],
)
def test_the_remedy_fits_the_failure(tmp_path: Path, target: str, remedy: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError) as raised:
        write_text(tmp_path / target, "text")
    assert f"{tmp_path / target}: cannot write: {remedy}" in str(raised.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_the_remedy_for_reading_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot read: Is a directory; check the path$"):
        read_json(tmp_path)


def test_text_is_written_as_it_is(tmp_path: Path) -> None:
    write_text(tmp_path / "x.txt", "ä\r\nb\n")
    assert (tmp_path / "x.txt").read_bytes() == "ä\r\nb\n".encode()


@given(st.binary(max_size=300))
def test_sha256_file(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x")
        path.write_bytes(data)
        assert sha256_file(path) == hashlib.sha256(data).hexdigest()


class PolarsLikeError(Exception):
    """Stands for error classes of libraries, which are recognised by their text."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.EDQUOT, "x", "/tmp/spill"), "Disk quota exceeded at /tmp/spill"),
        (OSError(errno.EFBIG, "x"), "File too large"),
        (OSError("200000 requested and 24984 written"), "200000 requested and 24984 written"),
        (OSError("No space left on device (os error 28)"), "No space left on device"),
        (PolarsLikeError("parquet: underlying IO error: File too large (os error 27)"), "File too large"),
        (PermissionError(errno.EACCES, "x", "/a/.b.partial-1/c"), "Permission denied"),
        (OSError(errno.EROFS, "x", "/other/source", None, "/a/.b.partial-1/c"), "Read-only file system"),
        (PolarsLikeError("Permission denied (os error 13): /a/.b.partial-1/c"), "Permission denied"),
    ],
)
def test_storage_failures_of_libraries(error: Exception, reason: str) -> None:
    with pytest.raises(StorageError) as raised:  # noqa: SIM117
        with writing_by_others(Path("/a/b"), inside=Path("/a/.b.partial-1")):
            raise error
    assert f"/a/b: cannot write: {reason}" in str(raised.value)
    assert raised.value.__cause__ is error
    assert raised.value.exit_code == 3


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "x", "/raw/reviews.json"),  # reading, elsewhere
        FileNotFoundError(errno.ENOENT, "x", "/raw/reviews.json"),
        PolarsLikeError("Permission denied (os error 13): /raw/reviews.csv"),
        PolarsLikeError("No such file or directory (os error 2): /raw/reviews.csv"),
        ValueError("24 requested and 3 written"),
        DataError("(os error 28)"),
        KeyboardInterrupt(),
    ],
)
def test_other_failures_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, writing_by_others(Path("/a/b"), inside=Path("/a/.b.partial-1")):
        raise error
    assert raised.value is error


def test_reading_and_writing_translate_operating_system_errors_only() -> None:
    for guard in (reading, writing):
        with pytest.raises(ZeroDivisionError), guard(Path("x")):
            raise ZeroDivisionError
    with pytest.raises(StorageError, match=r"^y: cannot read: Permission denied"), reading(Path("x")):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "y")


# --- locks ---


def test_a_lock_excludes_and_leaves_nothing(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with hold_lock(lock, what="the thing", where=tmp_path):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
        for _ in range(2):  # a refused one must not break the lock of the holder
            with pytest.raises(RunError) as raised:  # noqa: SIM117
                with hold_lock(lock, what="the thing", where=tmp_path):
                    raise AssertionError("two holders")
            assert f"{tmp_path}: the thing is in use (found process {os.getpid()} on " in str(raised.value)
    assert os.listdir(tmp_path) == []
    with hold_lock(lock, what="the thing", where=tmp_path):
        assert lock.exists()


def test_a_lock_is_released_by_an_exception(tmp_path: Path) -> None:
    with pytest.raises(KeyError), hold_lock(tmp_path / ".lock", what="the thing", where=tmp_path):
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_a_dead_holders_lock_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text('{"pid": 1, "host": "gone", "since": "2020-01-01T00:00:00+00:00"}')
    with hold_lock(tmp_path / ".lock", what="the thing", where=tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("text", ["", "[]", "{}", "\x00"])
def test_a_holder_that_cannot_be_told(tmp_path: Path, text: str) -> None:
    lock = tmp_path / ".lock"
    with hold_lock(lock, what="the thing", where=tmp_path):
        lock.write_text(text)
        with (
            pytest.raises(RunError, match=r"in use \(found an unknown process\)"),
            hold_lock(lock, what="the thing", where=tmp_path),
        ):
            raise AssertionError("two holders")


def test_a_lock_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match="cannot write"),
        hold_lock(tmp_path / "file" / ".lock", what="the thing", where=tmp_path),
    ):
        raise AssertionError("no lock was taken")
