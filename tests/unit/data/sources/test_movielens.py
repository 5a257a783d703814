"""MovieLens layouts, latin-1 titles, and the order of the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from genrec.data.sources.movielens import read_movielens_1m, read_movielens_100k
from genrec.errors import DataError


def write_100k(folder: Path) -> None:
    (folder / "u.data").write_text("9\t2\t3\t881250949\n10\t1\t5\t881250949\n9\t1\t1\t881250940\n")
    (folder / "u.genre").write_text("unknown|0\nAction|1\n\n")
    (folder / "u.item").write_bytes("1|Le Bossu, été (1997)|01-Jan-1997||http://x|0|1\n2|B||||1|1\n".encode("latin-1"))


def test_100k(tmp_path: Path) -> None:
    write_100k(tmp_path)
    raw = read_movielens_100k(tmp_path)
    assert raw.interactions.collect().rows() == [
        ("9", "2", 881250949000, 3.0),
        ("10", "1", 881250949000, 5.0),
        ("9", "1", 881250940000, 1.0),
    ]
    assert raw.items is not None
    assert raw.items.rows() == [
        ("1", "Le Bossu, été (1997)", None, ["Action"], None),
        ("2", "B", None, ["unknown", "Action"], None),
    ]
    assert [path.name for path in raw.files] == ["u.data", "u.genre", "u.item"]
    assert read_movielens_100k(tmp_path, items=None).items is None


def test_100k_bad_lines(tmp_path: Path) -> None:
    write_100k(tmp_path)
    with (tmp_path / "u.data").open("a") as file:
        file.write("9\t1\t1\n9\t1\tx\t5\n\t1\t1\t5\n")
    with (tmp_path / "u.item").open("a") as file:
        file.write("3|C||||2|0\n")
    with pytest.raises(DataError, match=r"u\.data:4: wrong number of fields"):
        read_movielens_100k(tmp_path)
    raw = read_movielens_100k(tmp_path, skip_bad_lines=True)
    assert raw.num_bad_lines == 4
    assert raw.interactions.collect().height == 3
    (tmp_path / "u.genre").write_text("unknown|0\nAction|2\n")
    with pytest.raises(DataError, match=r"u\.genre:2: genre numbers have to be 0, 1, 2"):
        read_movielens_100k(tmp_path, skip_bad_lines=True)


def test_1m(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text("1::1193::5::978300760\n1::661::3::978300760\n2::1193::4::978300001\n")
    (tmp_path / "movies.dat").write_bytes("661::Bêtes: la fin (1996)::Drama|Film-Noir\n1193::C::\n".encode("latin-1"))
    raw = read_movielens_1m(tmp_path)
    assert raw.interactions.collect().rows() == [
        ("1", "1193", 978300760000, 5.0),
        ("1", "661", 978300760000, 3.0),
        ("2", "1193", 978300001000, 4.0),
    ]
    assert raw.items is not None
    assert raw.items.rows() == [
        ("661", "Bêtes: la fin (1996)", None, ["Drama", "Film-Noir"], None),
        ("1193", "C", None, None, None),
    ]


def test_1m_as_a_table_without_ratings(tmp_path: Path) -> None:
    (tmp_path / "r.tsv").write_text("user_id\tmovie_id\ttimestamp\n1\t3186\t978300019\n1\t1270\t978300019\n")
    raw = read_movielens_1m(tmp_path, ratings="r.tsv", items=None)
    assert raw.interactions.collect().rows() == [("1", "3186", 978300019000), ("1", "1270", 978300019000)]
    (tmp_path / "r.tsv").write_text("user\tmovie_id\ttimestamp\n1\t3186\t978300019\n")
    with pytest.raises(DataError, match=r"missing column 'user_id'; did you mean 'user'\?.*give ratings\.dat"):
        read_movielens_1m(tmp_path, ratings="r.tsv", items=None)
