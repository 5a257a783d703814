"""The user's own vectors: order of item_index, casts, and every way a file can be wrong."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec.embeddings.precomputed import read_precomputed
from genrec.errors import ConfigError, DataError, StorageError
from genrec.seeding import generator

ITEMS = ["a", "b", "c", "d"]
FILE_IDS = ["d", "x", "a", "c", "b", "y"]
ROWS = [2, 4, 3, 0]  # of the file, by item_index
VECTORS = generator(0).standard_normal((6, 3)).astype(np.float32)


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_npy_by_index(tmp_path: Path, dtype: str) -> None:
    path = save(tmp_path / "v.npy", VECTORS[:4].astype(dtype))
    result = read_precomputed(path, ITEMS)
    assert result.vectors.dtype == np.float32
    assert np.array_equal(result.vectors, VECTORS[:4].astype(dtype).astype(np.float32))
    assert result.num_dropped == 0


def test_npy_in_column_order(tmp_path: Path) -> None:
    path = save(tmp_path / "v.npy", np.asfortranarray(VECTORS[:4]))
    assert np.array_equal(read_precomputed(path, ITEMS).vectors, VECTORS[:4])


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
def test_npy_with_ids_a_line(tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "v.npy", VECTORS)
    ids = tmp_path / "ids.txt"
    ids.write_bytes(((ending or "\n").join(FILE_IDS) + ending).encode())
    with caplog.at_level(logging.WARNING):
        result = read_precomputed(path, ITEMS, ids=ids)
    assert np.array_equal(result.vectors, VECTORS[ROWS])
    assert result.num_dropped == 2
    assert "2 of 6 rows belong to no item" in caplog.text


def test_a_byte_order_mark_is_no_part_of_an_id(tmp_path: Path) -> None:
    path = save(tmp_path / "v.npy", VECTORS)
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(FILE_IDS), encoding="utf-8-sig")
    assert np.array_equal(read_precomputed(path, ITEMS, ids=ids).vectors, VECTORS[ROWS])


def test_npy_with_ids_npy(tmp_path: Path) -> None:
    path = save(tmp_path / "v.npy", VECTORS)
    ids = save(tmp_path / "ids.npy", np.array(FILE_IDS))
    assert np.array_equal(read_precomputed(path, ITEMS, ids=ids).vectors, VECTORS[ROWS])
    numbers = save(tmp_path / "numbers.npy", np.array([3, 9, 0, 2, 1, 8]))
    assert np.array_equal(read_precomputed(path, ["0", "1", "2", "3"], ids=numbers).vectors, VECTORS[ROWS])


def parquet_frames() -> dict[str, pl.DataFrame]:
    ids = pl.Series("item_id", FILE_IDS)
    lists = pl.Series("vector", VECTORS.tolist(), dtype=pl.List(pl.Float32))
    floats = pl.DataFrame(VECTORS, schema=["e0", "e1", "e2"])
    note = pl.Series("note", ["?"] * 6)
    return {
        "list": pl.DataFrame([lists, ids]),
        "array": pl.DataFrame([ids, lists.cast(pl.Array(pl.Float32, 3))]),
        "another name": pl.DataFrame([ids, note, lists.rename("embedding")]),
        "beside others": pl.DataFrame([ids, lists, pl.Series("price", [1.0] * 6), lists.rename("tags")]),
        "columns": floats.with_columns(ids, note, pl.Series("count", [1] * 6)),
        "double": floats.cast(pl.Float64).insert_column(0, ids),
    }


@pytest.mark.parametrize("layout", list(parquet_frames()))
def test_parquet(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "v.parquet"
    parquet_frames()[layout].write_parquet(path)
    result = read_precomputed(path, ITEMS)
    assert result.vectors.dtype == np.float32
    assert np.array_equal(result.vectors, VECTORS[ROWS])
    assert result.num_dropped == 2


def test_parquet_with_integer_ids(tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    pl.DataFrame({"item_id": [2, 1], "vector": [[1.0], [2.0]]}).write_parquet(path)
    assert read_precomputed(path, ["1", "2"]).vectors.tolist() == [[2.0], [1.0]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            VECTORS[:3],
            r"one row an item of the dataset \(expected 4 rows, found 3\); set embedding.ids=... to the file",
        ),
        (VECTORS, r"expected 4 rows, found 6"),
        (VECTORS[0], r"wrong shape \(expected \[items, width\], found \[3\]\)"),
        (VECTORS[:4, :, None], r"found \[4, 3, 1\]"),
        (VECTORS[:4, :0], r"found \[4, 0\]"),
        (np.ones((4, 3), dtype=np.int8), r"wrong type \(expected float16, float32 or float64, found int8\)"),
        (np.ones((4, 3), dtype=np.complex64), "found complex64"),
        (np.array([["1.0"]] * 4), "wrong type .*found <U3"),
    ],
)
def test_wrong_arrays(tmp_path: Path, array: np.ndarray, message: str) -> None:
    path = save(tmp_path / "v.npy", array)
    with pytest.raises(DataError, match=rf"v\.npy: .*{message}"):
        read_precomputed(path, ITEMS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"is not finite in row 3 \(item 'c'\) \(found nan\)"),
        (-np.inf, r"is not finite in row 3 \(item 'c'\) \(found -inf\)"),
        (1e39, r"exceeds float32 in row 3 \(item 'c'\) \(found 1e\+39\)"),
    ],
)
def test_bad_numbers_name_row_and_item(tmp_path: Path, value: float, message: str) -> None:
    vectors = VECTORS.astype(np.float64)
    vectors[3, 1] = value
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(FILE_IDS))
    with pytest.raises(DataError, match=message):
        read_precomputed(save(tmp_path / "v.npy", vectors), ITEMS, ids=ids)
    frame = pl.DataFrame({"item_id": FILE_IDS, "vector": vectors.tolist()})
    frame.write_parquet(tmp_path / "v.parquet")
    with pytest.raises(DataError, match=message):
        read_precomputed(tmp_path / "v.parquet", ITEMS)


def test_bad_numbers_of_other_items_are_no_matter(tmp_path: Path) -> None:
    frame = parquet_frames()["columns"].with_columns(
        e0=pl.when(pl.col("item_id") == "x").then(float("nan")).otherwise("e0")
    )
    frame.write_parquet(tmp_path / "v.parquet")
    assert np.isfinite(read_precomputed(tmp_path / "v.parquet", ITEMS).vectors).all()


@pytest.mark.parametrize(
    ("file_ids", "message"),
    [
        (["a", "b", "c", "d", "b", "a"], r"duplicate item ids \(found 'a', 'b', the first in rows 0 and 5\)"),
        (["a", "x", "y", "z", "u", "v"], r"3 of 4 items of the dataset have no vector \(found 'b', 'c', 'd'\)"),
        (["p", "x", "y", "z", "u", "v"], r"4 of 4 .*'a', 'b', 'c' and 1 more"),
        (["a", "b", "c"], r"differ in number \(expected 6, found 3\)"),
        (["a", "b", "", "c", "d", "e"], r"ids\.txt:3: empty item id"),
    ],
)
def test_wrong_ids(tmp_path: Path, file_ids: list[str], message: str) -> None:
    path = save(tmp_path / "v.npy", VECTORS)
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(file_ids) + "\n")
    with pytest.raises(DataError, match=message):
        read_precomputed(path, ITEMS, ids=ids)


def test_wrong_id_files(tmp_path: Path) -> None:
    path = save(tmp_path / "v.npy", VECTORS)
    with pytest.raises(DataError, match=r"item ids have the wrong type .*found float32 \[6, 3\]"):
        read_precomputed(path, ITEMS, ids=path)
    latin = tmp_path / "latin.txt"
    latin.write_bytes("é\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.txt: item ids are not UTF-8: .*at byte 0"):
        read_precomputed(path, ITEMS, ids=latin)
    with pytest.raises(StorageError, match=r"none\.txt: cannot read the file: No such file"):
        read_precomputed(path, ITEMS, ids=tmp_path / "none.txt")
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array(FILE_IDS, dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"objects\.npy: cannot read the array"):
        read_precomputed(path, ITEMS, ids=objects)


class Explosive:
    """Unpickling it would leave a trace."""

    def __reduce__(self) -> tuple:
        return Path.write_text, (Path("unpickled"), "boom")


def test_pickles_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "objects.npy", np.array([Explosive()] * 4, dtype=object), allow_pickle=True)
    (tmp_path / "plain.npy").write_bytes(pickle.dumps(Explosive()))
    np.savez(tmp_path / "zip.npz", VECTORS)
    (tmp_path / "zip.npz").rename(tmp_path / "zip.npy")
    with pytest.raises(DataError, match=r"objects\.npy: cannot read the array: .*write it with numpy\.save"):
        read_precomputed(tmp_path / "objects.npy", ITEMS)
    for name in ("plain.npy", "zip.npy"):
        with pytest.raises(DataError, match=f"{name}: not an .npy file; write it with numpy.save"):
            read_precomputed(tmp_path / name, ITEMS)
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("length", [0, 7, 40, 150])
def test_npy_that_was_cut_off(tmp_path: Path, length: int) -> None:
    path = save(tmp_path / "v.npy", VECTORS[:4])
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"v\.npy: (cannot read the array|not an \.npy file)"):
        read_precomputed(path, ITEMS)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pl.DataFrame({"asin": ["a"], "vector": [[1.0]]}), r"missing column 'item_id' \(found columns asin, vector\)"),
        (pl.DataFrame({"item_id": [1.5], "vector": [[1.0]]}), "'item_id' has the wrong type .*found Float64"),
        (pl.DataFrame({"item_id": ["a", None], "vector": [[1.0], [2.0]]}), "item_id is null in row 1"),
        (pl.DataFrame({"item_id": ["a"], "u": [[1.0]], "v": [[1.0]]}), "cannot tell which columns are the vectors"),
        (pl.DataFrame({"item_id": ["a"], "u": [[1.0]], "price": [1.0]}), "cannot tell .*item_id, u, price"),
        (pl.DataFrame({"item_id": ["a"], "n": [1]}), "cannot tell"),
        (pl.DataFrame({"item_id": list("abcd"), "vector": [[1.0], [2.0], [1.0, 2.0], [1.0]]}), "first in row 2"),
        (pl.DataFrame({"item_id": list("abcd"), "vector": [[1.0], None, [2.0], [3.0]]}), r"row 1 \(item 'b'\)"),
        (pl.DataFrame({"item_id": list("abcd"), "vector": [[1.0], [2.0], [None], [3.0]]}), r"row 2 \(item 'c'\)"),
        (pl.DataFrame({"item_id": list("abcd"), "e": [1.0, None, 2.0, 3.0]}), r"row 1 \(item 'b'\)"),
        (pl.DataFrame({"item_id": list("abcd"), "vector": [[]] * 4}, schema_overrides={"vector": pl.List(pl.Float32)}),
         r"wrong shape .*found \[4, 0\]"),
        (pl.DataFrame({"item_id": list("abcd"), "vector": [[1], [2], [3], [4]]}), "wrong type .*found int64"),
        (pl.DataFrame({"item_id": list("abcd"), "vector": [["1"], ["2"], ["3"], ["4"]]}), "wrong type .*found object"),
        (pl.DataFrame({"item_id": ["a", "b", "a", "c", "d"], "vector": [[1.0]] * 5}), "duplicate item ids"),
        (pl.DataFrame({"item_id": [], "vector": []}, schema={"item_id": pl.String, "vector": pl.List(pl.Float32)}),
         "wrong shape"),
    ],
)  # fmt: skip
def test_wrong_parquet(tmp_path: Path, frame: pl.DataFrame, message: str) -> None:
    path = tmp_path / "v.parquet"
    frame.write_parquet(path)
    with pytest.raises(DataError, match=rf"v\.parquet: .*{message}"):
        read_precomputed(path, ITEMS)


def test_wrong_files(tmp_path: Path) -> None:
    for name in ("none.npy", "none.parquet"):
        with pytest.raises(StorageError, match=f"{name}: cannot read the file"):
            read_precomputed(tmp_path / name, ITEMS)
    (tmp_path / "text.parquet").write_text("not Parquet")
    with pytest.raises(DataError, match=r"text\.parquet: cannot read the Parquet file"):
        read_precomputed(tmp_path / "text.parquet", ITEMS)
    with pytest.raises(ConfigError, match=r"expected \.npy or \.parquet, found \.pt"):
        read_precomputed(tmp_path / "v.pt", ITEMS)
    with pytest.raises(ConfigError, match=r"ids go with \.npy vectors"):
        read_precomputed(tmp_path / "v.parquet", ITEMS, ids=tmp_path / "ids.txt")
