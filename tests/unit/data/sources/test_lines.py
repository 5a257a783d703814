"""Files, lines, and the account of bad ones."""

from __future__ import annotations

import errno
import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.sources.lines import (
    LINE,
    BadLines,
    find_file,
    open_binary,
    read_all,
    read_chunks,
    read_fields,
    read_lines,
    readable,
    require_rows,
)
from genrec.errors import DataError, StorageError


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_missing_file_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json: there is no such file; set raw_dir=\.\.\. to"):
        find_file(tmp_path, "a.json")
    with pytest.raises(DataError, match=r"a\.json: there is no such file \(source\.meta\); set raw_dir="):
        find_file(tmp_path, "a.json", "meta")
    with pytest.raises(DataError, match=r"this is a folder \(source\.meta\) \(expected a file\)"):
        find_file(tmp_path.parent, tmp_path.name, "meta")


@pytest.mark.parametrize(("there", "asked"), [("a.json.gz", "a.json"), ("a.json", "a.json.gz"), ("a.json", "a.json")])
def test_a_file_is_found_plain_or_compressed(tmp_path: Path, there: str, asked: str) -> None:
    path = write(tmp_path / there, b"x")
    assert find_file(tmp_path, asked) == path
    assert find_file(Path("elsewhere"), str(tmp_path / asked)) == path


def test_the_file_asked_for_wins_over_its_twin(tmp_path: Path) -> None:
    write(tmp_path / "a.json.gz", b"x")
    assert find_file(tmp_path, "a.json") == tmp_path / "a.json.gz"
    write(tmp_path / "a.json", b"x")
    assert find_file(tmp_path, "a.json") == tmp_path / "a.json"


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.json", b"")
    with pytest.raises(DataError, match=r"a\.json: the file is empty"):
        find_file(tmp_path, "a.json")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "tail"])
def test_a_damaged_gzip_file_is_named(tmp_path: Path, damage: str) -> None:
    content = bytearray(gzip.compress(os.urandom(100_000)))
    if damage == "truncated":
        content = content[:-5000]
    elif damage == "flipped":
        content[50_000] ^= 0xFF
    else:
        content[-6] ^= 0xFF  # the checksum
    path = write(tmp_path / "a.gz", bytes(content))
    with pytest.raises(DataError, match=r"a\.gz: corrupt or truncated gzip"):
        list(read_chunks(path))


def test_a_plain_file_with_a_gzip_name_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gz", b"{}\n")
    with pytest.raises(DataError, match="not a gzip file"):
        list(read_chunks(path))


def test_compressed_content_is_read_whatever_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", gzip.compress(b"one\ntwo"))
    assert [text for _, text in read_lines(path, bad=BadLines(path))] == ["one", "two"]


def test_an_unreadable_file_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read the file"), open_binary(tmp_path):
        pass


@given(
    lines=st.lists(st.text(alphabet="ab \t\r\x85\u2028é", max_size=8), max_size=30),
    chunk=st.integers(1, 40),
    ends_with_newline=st.booleans(),
)
def test_chunks_number_every_line_that_is_not_blank(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], chunk: int, ends_with_newline: bool
) -> None:
    path = write(tmp_path_factory.mktemp("d") / "a", ("\n".join(lines) + "\n" * ends_with_newline).encode())
    expected = [(i, line) for i, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.strip()]
    found = [pair for numbers, texts in read_chunks(path, chunk) for pair in zip(numbers, texts, strict=True)]
    assert found == expected


def test_byte_order_mark_and_line_ends_are_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"\xef\xbb\xbfuser item\r\n\r\n  b c  \r\n")
    assert list(read_lines(path, bad=BadLines(path))) == [(1, "user item"), (3, "b c")]
    assert read_all(path).startswith("user")


def test_bytes_that_are_no_utf8_are_named_by_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"one\ntw\xf6\nthree\n")
    with pytest.raises(
        DataError, match=r"a:2: not valid utf-8; save the file as UTF-8, or set source\.skip_bad_lines=true"
    ):
        list(read_lines(path, bad=BadLines(path)))
    bad = BadLines(path, skip=True)
    assert list(read_lines(path, bad=bad)) == [(1, "one"), (3, "three")]
    assert bad.count == 1
    assert list(read_lines(path, bad=BadLines(path), encoding="latin-1"))[1] == (2, "twö")
    with pytest.raises(DataError, match=r"a:2: not valid utf-8"):
        read_all(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_utf_16_is_named_as_such(tmp_path: Path, encoding: str, compress: Callable[[bytes], bytes]) -> None:
    path = write(tmp_path / "a", compress("user,item\n".encode(encoding)))
    with pytest.raises(DataError, match=r"a: the text is UTF-16; save the file as UTF-8"):
        read_all(path)


def test_too_many_bad_lines_are_an_error(tmp_path: Path) -> None:
    bad = BadLines(tmp_path / "a", skip=True)
    for line in range(3):
        bad.add(line + 5, "not valid JSON")
    require_rows(27, bad)
    require_rows(16, bad)
    with pytest.raises(
        DataError, match=r"a: 12% of the lines are bad.*3 of 26, the first is line 5: not valid JSON.*unit"
    ):
        require_rows(23, bad)
    with pytest.raises(DataError, match="no usable lines"):
        require_rows(0, bad)


def test_a_folder_without_permission_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"a: cannot read: Permission denied; check permissions"), readable(tmp_path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "a"))
    with pytest.raises(StorageError, match="cannot read: File name too long"):
        find_file(tmp_path, "a" * 300)


def test_fields_are_split_by_any_separator(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "1::A: b::x\n\n2::É::y\r\n".encode("latin-1"))
    frame = read_fields(path, "::", ("id", "title", "z"), bad=BadLines(path), encoding="latin-1")
    assert frame.columns == [LINE, "id", "title", "z"]
    assert frame.rows() == [(1, "1", "A: b", "x"), (3, "2", "É", "y")]


def test_lines_with_another_number_of_fields(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"u\ti\n1\t2\n3\n4\t5\t6\n7\t8\n")
    with pytest.raises(DataError, match=r"a:3: wrong number of fields \(expected 2 split by '\\t', found 1\)"):
        read_fields(path, "\t", None, bad=BadLines(path))
    bad = BadLines(path, skip=True)
    frame = read_fields(path, "\t", None, bad=bad)
    assert frame.rows() == [(2, "1", "2"), (5, "7", "8")]
    assert bad.notes == ("a: 2 bad lines left out; the first is line 3: wrong number of fields",)


def test_a_file_of_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"u\ti\n")
    assert read_fields(path, "\t", None, bad=BadLines(path)).rows() == []
