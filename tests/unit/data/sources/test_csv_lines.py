"""CSV: Polars where all is well, the standard library where it is not, and the two agree."""

from __future__ import annotations

import csv
import gzip
import io
import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from genrec.data.sources.csv_lines import csv_header, read_csv
from genrec.data.sources.lines import LINE, BadLines
from genrec.errors import ConfigError, DataError


def write(folder: Path, content: bytes, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_a_plain_table_takes_the_fast_path(tmp_path: Path) -> None:
    path = write(tmp_path, b"u,i,t\na,007,1\nc,d,2")
    table = read_csv(path, ("t", "i"), bad=BadLines(path))
    assert not table.is_exact
    assert table.frame.rows() == [(2, "1", "007"), (3, "2", "d")]


def test_tabs_by_name_and_gzip_by_content(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress(b"\xef\xbb\xbfu\ti\r\na\tb,c\r\n"), "a.tsv.gz")
    assert csv_header(path) == ["u", "i"]
    assert read_csv(path, ("u", "i"), bad=BadLines(path)).frame.rows() == [(2, "a", "b,c")]


def test_true_line_numbers_with_blank_lines_and_cells_of_many_lines(tmp_path: Path) -> None:
    path = write(tmp_path, b'u,i\na,"b\nc"\n\nd,"say ""e"""\nf,\n')
    table = read_csv(path, ("u", "i"), bad=BadLines(path))
    assert table.is_exact
    assert table.frame.rows() == [(2, "a", "b\nc"), (5, "d", 'say "e"'), (6, "f", None)]


def test_empty_cells_of_nullable_columns_stay_on_the_fast_path(tmp_path: Path) -> None:
    path = write(tmp_path, b"u,h\na,\nb,x\n")
    table = read_csv(path, ("u", "h"), bad=BadLines(path), nullable=("h",))
    assert (table.is_exact, table.frame.rows()) == (False, [(2, "a", None), (3, "b", "x")])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"u,i,t\na,b,1\nc,d\ne,f,2\n", r"a\.csv:3: wrong number of fields.*\(expected 3 fields, found 2 fields\)"),
        (b"u,i,t\na,b,1\n\nc,d,2,9\n", r"a\.csv:4: wrong number of fields.*found 4 fields"),
        (b"u,i,t\na,b,1\nc,\xff,2\n", r"a\.csv:3: not valid utf-8"),
        (b'u,i,t\na,b,1\nc,"d"x,2\n', r"a\.csv:3: wrong number of fields or quotes"),
    ],
)
def test_bad_lines_are_named_and_can_be_left_out(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=message):
        read_csv(path, ("u", "i", "t"), bad=BadLines(path))
    bad = BadLines(path, skip=True)
    frame = read_csv(path, ("u", "i", "t"), bad=bad).frame
    assert bad.count == 1
    assert frame["u"].to_list() == [row[:1].decode() for row in content.split(b"\n")[1:] if row and row[:1] != b"c"]


@pytest.mark.parametrize("content", [b'u,i\na,"b\nc,d\ne,f\n', b'u,i\na,"b\nc,d\ne,"f\n', b'u,i\na,"b\nc,d\ne,""f\n'])
def test_a_quote_that_is_not_closed_is_never_left_out(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=r"a\.csv:2: a quote is not closed"):
        read_csv(path, ("u", "i"), bad=BadLines(path, skip=True))


@pytest.mark.parametrize("separator", [";", "|", "\\t"])
def test_another_separator_is_offered_and_read(tmp_path: Path, separator: str) -> None:
    char = "\t" if separator == "\\t" else separator
    path = write(
        tmp_path,
        b'\xef\xbb\xbfu,i\n7,"8,5"\n'.replace(b"u,i", f"u{char}i".encode()).replace(b"7,", f"7{char}".encode()),
    )
    with pytest.raises(DataError, match=rf"missing columns 'u', 'i'.*; set source\.separator='{re.escape(separator)}'"):
        read_csv(path, ("u", "i"), bad=BadLines(path))
    for exact in (False, True):
        table = read_csv(path, ("i", "u"), bad=BadLines(path), separator=separator, exact=exact)
        assert table.frame.drop(LINE).rows() == [("8,5", "7")]
    with pytest.raises(ConfigError, match=r"source\.separator: not a separator"):
        csv_header(path, "::")


def test_a_byte_order_mark_is_dropped_on_both_paths(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbfu,i\na,b\n")
    for exact in (False, True):
        assert read_csv(path, ("u", "i"), bad=BadLines(path), exact=exact).frame.rows() == [(2, "a", "b")]


def test_headers(tmp_path: Path) -> None:
    path = write(tmp_path, b"User_ID,item,item\n1,2,3\n")
    with pytest.raises(DataError, match=r"missing column 'user_id'; did you mean 'User_ID'\? \(found columns User_ID"):
        read_csv(path, ("user_id",), bad=BadLines(path))
    with pytest.raises(DataError, match="column 'item' stands twice"):
        read_csv(path, ("item",), bad=BadLines(path))
    with pytest.raises(DataError, match="no lines"):
        csv_header(write(tmp_path, b"\n\n"))
    only = write(tmp_path, b"a,b\n")
    assert read_csv(only, ("a", "b"), bad=BadLines(only)).frame.height == 0


def test_a_damaged_gzip_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress(b"u,i\n" + b"a,b\n" * 50_000, compresslevel=0)[:-2000], "a.csv.gz")
    with pytest.raises(DataError, match="corrupt or truncated gzip"):
        read_csv(path, ("u", "i"), bad=BadLines(path, skip=True))


def test_the_limit_of_the_standard_library_is_put_back(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    path = write(tmp_path, b"u,i\na,\n" + b"b," + b"x" * (before + 10) + b"\n")
    assert read_csv(path, ("u", "i"), bad=BadLines(path)).frame["u"].to_list() == ["a", "b"]
    assert csv.field_size_limit() == before


def test_quotes_are_never_left_to_polars(tmp_path: Path) -> None:
    path = write(tmp_path, b'u,i\na,"b"\n')
    assert read_csv(path, ("u",), bad=BadLines(path)).is_exact
    path = write(tmp_path, b'u,i\na,""b"\n')
    with pytest.raises(DataError, match=r"a\.csv:2: wrong number of fields or quotes"):
        read_csv(path, ("u", "i"), bad=BadLines(path))


CELLS = st.text(alphabet='ab,"\n 1é', max_size=5)


@given(cells=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8))
def test_both_paths_read_what_the_standard_library_wrote(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]
) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([("u", "i"), *cells])
    path = write(tmp_path_factory.mktemp("d"), text.getvalue().encode())
    expected = [tuple(cell or None for cell in row) for row in cells]
    for exact in (False, True):
        frame = read_csv(path, ("u", "i"), bad=BadLines(path), exact=exact).frame.drop(LINE)
        assert [tuple(cell or None for cell in row) for row in frame.rows()] == expected


@given(text=st.text(alphabet="ab,\n\r 1é#'", max_size=20))
def test_a_plain_file_is_split_at_commas(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    assume("\r" not in (text + "\n").replace("\r\n", "\n"))  # lone ones are the standard library's affair
    path = write(tmp_path_factory.mktemp("d"), ("u,i\n" + text + "\n").encode())
    bad = BadLines(path, skip=True)
    table = read_csv(path, ("u", "i"), bad=bad)
    lines = [(number, line.removesuffix("\r").split(",")) for number, line in enumerate(text.split("\n"), 2)]
    good = [(number, *(cell or None for cell in cells)) for number, cells in lines if len(cells) == 2]
    assert table.frame.drop(LINE).rows() == [row[1:] for row in good]
    if table.is_exact:
        assert table.frame.rows() == good
        assert bad.count == sum(len(cells) != 2 and cells != [""] for _, cells in lines)
    else:
        assert bad.count == 0
