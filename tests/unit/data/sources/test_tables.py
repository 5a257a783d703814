"""The user's own tables in every format: same rows, same errors with file and line or row."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec.data.item_table import assemble_text
from genrec.data.schema import RAW_ITEMS, RAW_REQUIRED, SPLIT_DTYPE, RawData, check_frame
from genrec.data.sources.tables import find_tables, read_table
from genrec.errors import ConfigError, DataError

FORMATS = ("parquet", "csv", "tsv", "jsonl", "csv.gz", "jsonl.gz")
EVENTS = pl.DataFrame(
    {
        "user": ["b", "a", "b"],
        "item": ["1", "x", "1"],
        "time": [1_400_000_000, 1_500_000_000, None],
        "stars": [5.0, 3.5, 1.0],
        "more": ["é", "", None],
    }
)
EXPECTED = [
    ("b", "1", 1_400_000_000_000, 5.0),
    ("a", "x", 1_500_000_000_000, 3.5),
    ("b", "1", None, 1.0),
]
NAMES: dict[str, Any] = {
    "user_column": "user",
    "item_column": "item",
    "timestamp_column": "time",
    "rating_column": "stars",
}


def write(folder: Path, frame: pl.DataFrame, ending: str, stem: str = "t") -> str:
    kind = ending.removesuffix(".gz")
    path = folder / f"{stem}.{kind}"
    if kind == "parquet":
        frame.write_parquet(path)
    elif kind == "jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_csv(path, separator="\t" if kind == "tsv" else ",")
    if ending.endswith(".gz"):
        path.with_name(f"{stem}.{ending}").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return f"{stem}.{ending}"


def read(folder: Path, name: str, **options: Any) -> RawData:
    return read_table(folder, interactions=name, **{**NAMES, **options})


def rows(raw: RawData) -> list[tuple[Any, ...]]:
    return raw.interactions.collect().rows()


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    raw = read(tmp_path, write(tmp_path, EVENTS, ending))
    assert rows(raw) == EXPECTED
    assert raw.notes == (
        "column 'time' is read in unit s (auto: 1400000000 to 1500000000)",
        "1 values of column 'time' are missing",
    )
    assert raw.num_bad_lines == 0
    place = {"parquet": ": row 3", "jsonl": ":3", "jsonl.gz": ":3"}.get(ending, ":4")
    assert raw.first_untimed == f"{tmp_path}/t.{ending}{place}"
    skipped = read(tmp_path, f"t.{ending}", skip_bad_lines=True)
    assert rows(skipped) == EXPECTED[:2]
    assert (skipped.num_bad_lines, skipped.first_untimed) == (1, None)
    assert any("column 'time' is empty" in note for note in skipped.notes)


@pytest.mark.parametrize("ending", FORMATS)
def test_without_a_clock(tmp_path: Path, ending: str) -> None:
    raw = read(tmp_path, write(tmp_path, EVENTS, ending), timestamp_column=None, rating_column=None)
    assert raw.interactions.collect_schema().names() == ["user_id", "item_id"]
    assert rows(raw) == [row[:2] for row in EXPECTED]
    assert raw.notes == ()


@pytest.mark.parametrize("ending", FORMATS)
def test_a_wrong_column_name_suggests_the_nearest(tmp_path: Path, ending: str) -> None:
    name = write(tmp_path, EVENTS, ending)
    with pytest.raises(DataError, match=r"missing column 'users'; did you mean 'user'\? \(found columns user, item"):
        read(tmp_path, name, user_column="users")
    with pytest.raises(
        DataError, match=r"missing column 'timestamp'.*or source\.timestamp_column=null order\.by=file if there"
    ):
        read(tmp_path, name, timestamp_column="timestamp")


def spoil(column: str, values: list[Any]) -> pl.DataFrame:
    return EVENTS.with_columns(pl.Series(column, values))


BAD = {
    "null user": (spoil("user", ["b", None, None]), "column 'user' is empty", True),
    "null item": (spoil("item", ["1", "x", None]), "column 'item' is empty", False),
    "time": (
        spoil("time", ["1400000000", "1400000001", "noon"]),
        "column 'time' holds no time of unit s .*'noon'",
        False,
    ),
    "rating": (spoil("stars", ["5", "good", "1"]), "column 'stars' holds no finite number: 'good'", False),
}


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize(("frame", "message", "is_twice"), BAD.values(), ids=BAD)
def test_a_bad_row_is_named(tmp_path: Path, ending: str, frame: pl.DataFrame, message: str, is_twice: bool) -> None:
    name = write(tmp_path, frame, ending)
    row = 2 if "null user" in message or "'user'" in message or "good" in message else 3
    header = 0 if "json" in ending else 1
    where = rf"t\.parquet: row {row}: " if ending == "parquet" else rf"t\.{ending}:{row + header}: "
    if "json" in ending and "is empty" in message:
        message = message.replace("column", "field").replace("is empty", "is null")
    with pytest.raises(DataError, match=where + message) as caught:
        read(tmp_path, name)
    if is_twice and "json" not in ending:
        assert "2 such" in str(caught.value)
    raw = read(tmp_path, name, skip_bad_lines=True)
    without_time = frame["time"].null_count() if row == 2 and not is_twice else 0
    assert raw.num_bad_lines == 1 + is_twice + without_time
    assert len(rows(raw)) == 2 - is_twice - without_time
    assert any("left out" in note for note in raw.notes)


def test_a_short_row_is_not_taken_for_a_missing_time(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("user,item,time\na,1,1400000000\nb,2\nc,3,\n")
    with pytest.raises(DataError, match=r"t\.csv:3: wrong number of fields"):
        read(tmp_path, "t.csv", rating_column=None)
    raw = read(tmp_path, "t.csv", rating_column=None, skip_bad_lines=True)
    assert rows(raw) == [("a", "1", 1_400_000_000_000)]
    assert raw.num_bad_lines == 2


def test_lines_are_true_below_cells_of_many_lines(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('user,item,time,note\na,1,1400000000,"x\ny"\nb,2,soon,z\n')
    with pytest.raises(DataError, match=r"t\.csv:4: column 'time' holds no time"):
        read(tmp_path, "t.csv", rating_column=None)


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize(
    ("unit", "raw", "expected"),
    [
        ("ms", 1_400_000_000_123, 1_400_000_000_123),
        ("auto", 1_400_000_000_123, 1_400_000_000_123),
        ("s", 77, 77_000),
        ("iso", "2014-05-13T16:53:20+00:00", 1_400_000_000_000),
        ("auto", "2014-05-13 16:53:20", 1_400_000_000_000),
        ("auto", datetime(2014, 5, 13, 16, 53, 20, tzinfo=UTC), 1_400_000_000_000),
    ],
)
def test_units(tmp_path: Path, ending: str, unit: str, raw: Any, expected: int) -> None:
    if isinstance(raw, datetime) and ending != "parquet":
        raw = raw.isoformat()
    frame = EVENTS.with_columns(time=pl.Series([raw] * 3))
    found = read(tmp_path, write(tmp_path, frame, ending), timestamp_unit=unit)
    assert [row[2] for row in rows(found)] == [expected] * 3


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_an_ambiguous_unit_is_an_error(tmp_path: Path, ending: str) -> None:
    name = write(tmp_path, spoil("time", [1, 2, 3]), ending)
    with pytest.raises(DataError, match=r"cannot tell the unit.*found 1 to 3\); set source\.timestamp_unit=s"):
        read(tmp_path, name)


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt64, pl.Categorical, pl.Enum(["1", "2", "7"])])
def test_integer_and_categorical_ids_become_text(tmp_path: Path, dtype: Any) -> None:
    users = pl.Series("user", [1, 7, 2]) if dtype in (pl.Int8, pl.UInt64) else pl.Series("user", ["1", "7", "2"])
    name = write(tmp_path, EVENTS.with_columns(users.cast(dtype)), "parquet")
    assert [row[0] for row in rows(read(tmp_path, name))] == ["1", "7", "2"]


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0], [True, False, True], [[1], [2], [3]]])
def test_ids_of_other_types_are_refused(tmp_path: Path, values: list[Any]) -> None:
    name = write(tmp_path, spoil("item", values), "parquet")
    with pytest.raises(DataError, match="column 'item' holds no ids"):
        read(tmp_path, name)


def test_leading_zeros_survive(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("user,item,time,stars\n007,0x1,1400000000,5\n")
    assert rows(read(tmp_path, "t.csv"))[0][:2] == ("007", "0x1")


def test_numbers_in_json_lines_become_ids(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"user": 7, "item": "08", "time": "1400000000", "stars": "4.5"}\n')
    assert rows(read(tmp_path, "t.jsonl")) == [("7", "08", 1_400_000_000_000, 4.5)]


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl.gz"])
def test_globs_and_folders_keep_the_order_of_names(tmp_path: Path, ending: str) -> None:
    (tmp_path / "parts").mkdir()
    for stem, part in (("p2", EVENTS[1:2]), ("p1", EVENTS[0:1]), ("p10", EVENTS[2:3])):
        write(tmp_path / "parts", part, ending, stem)
    raw = read(tmp_path, f"parts/p*.{ending}")
    assert [path.name for path in raw.files] == [f"p1.{ending}", f"p10.{ending}", f"p2.{ending}"]
    assert rows(raw) == [EXPECTED[0], EXPECTED[2], EXPECTED[1]]
    assert rows(read(Path("elsewhere"), f"{tmp_path}/parts/p*.{ending}")) == rows(raw)
    if ending == "parquet":
        assert rows(read(tmp_path, "parts")) == rows(raw)


def test_bad_rows_are_named_in_the_right_file(tmp_path: Path) -> None:
    write(tmp_path, EVENTS, "parquet", "p1")
    write(tmp_path, spoil("user", ["a", None, "b"]), "parquet", "p2")
    with pytest.raises(DataError, match=r"p2\.parquet: row 2: column 'user' is empty"):
        read(tmp_path, "p*.parquet")


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    write(tmp_path, EVENTS, "parquet", "p1")
    write(tmp_path, EVENTS.with_columns(pl.col("time").cast(pl.String), extra=1), "parquet", "p2")
    with pytest.raises(DataError, match=r"p2\.parquet: column 'time' has another type than in p1\.parquet"):
        read(tmp_path, "p*.parquet")
    assert len(rows(read(tmp_path, "p*.parquet", timestamp_column=None))) == 6
    write(tmp_path, EVENTS.drop("item"), "parquet", "p2")
    with pytest.raises(DataError, match=r"p2\.parquet: missing column 'item'"):
        read(tmp_path, "p*.parquet")
    write(tmp_path, EVENTS, "csv", "p3")
    with pytest.raises(DataError, match="more than one format"):
        find_tables(tmp_path, "p*")


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match=r"t\.parquet: not a readable Parquet file"):
        read(tmp_path, "t.parquet")
    with pytest.raises(DataError, match="there is no such file"):
        read(tmp_path, "x*.csv")
    with pytest.raises(DataError, match="there is no such file"):
        read(tmp_path, "x.csv")
    (tmp_path / "t.xlsx").write_bytes(b"x")
    with pytest.raises(DataError, match=r"unknown kind of table \(expected a name that ends in one of \.parquet"):
        read(tmp_path, "t.xlsx")


def test_a_flipped_page_of_a_parquet_file_is_a_data_error(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": [str(i) for i in range(5000)], "item": ["x"] * 5000, "time": [1_400_000_000] * 5000})
    path = tmp_path / write(tmp_path, frame, "parquet")
    content = bytearray(path.read_bytes())
    content[4:2000] = b"\xff" * 1996
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"t\.parquet: not a readable Parquet file"):
        read(tmp_path, "t.parquet", rating_column=None)


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_no_rows(tmp_path: Path, ending: str) -> None:
    name = write(tmp_path, EVENTS.head(0), ending)
    with pytest.raises(DataError, match=r"no usable|no rows|the file is empty"):
        read(tmp_path, name)
    name = write(tmp_path, spoil("user", [None] * 3).with_columns(pl.col("user").cast(pl.String)), ending)
    with pytest.raises(DataError, match="no usable"):
        read(tmp_path, name, skip_bad_lines=True)


PARTS = [" Train", "valid", "VAL", "dev", "validation", "TEST"]


@pytest.mark.parametrize("ending", FORMATS)
def test_a_column_of_splits(tmp_path: Path, ending: str) -> None:
    frame = pl.DataFrame({"user": ["u"] * 6, "item": ["i"] * 6, "time": [1_400_000_000] * 6, "part": PARTS})
    options = {"split_column": "part", "rating_column": None}
    events = read(tmp_path, write(tmp_path, frame, ending), **options).interactions.collect()
    check_frame(events, {**RAW_REQUIRED, "split": SPLIT_DTYPE}, where="t")
    assert events["split"].to_list() == ["train", *["validation"] * 4, "test"]
    for value in ("holdout", None):
        name = write(tmp_path, frame.with_columns(part=pl.Series([*PARTS[:5], value])), ending)
        with pytest.raises(DataError, match=rf"column 'part' holds none of train, .*, test: {value and repr(value)}"):
            read(tmp_path, name, **options)
        raw = read(tmp_path, name, **options, skip_bad_lines=True)
        assert (raw.num_bad_lines, len(rows(raw))) == (1, 5)


def test_splits_are_text(tmp_path: Path) -> None:
    name = write(tmp_path, EVENTS, "parquet")
    with pytest.raises(DataError, match="column 'stars' holds no splits"):
        read(tmp_path, name, split_column="stars")


def test_another_separator(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("user;item;time;stars\na;x;1400000000;5\n")
    (tmp_path / "i.csv").write_text("item;title\nx;A, B\n")
    with pytest.raises(DataError, match=r"t\.csv: missing column 'user'.*set source\.separator=';'"):
        read(tmp_path, "t.csv")
    raw = read(tmp_path, "t.csv", separator=";", items="i.csv")
    assert rows(raw) == [("a", "x", 1_400_000_000_000, 5.0)]
    assert raw.items is not None
    assert raw.items["title"].to_list() == ["A, B"]
    (tmp_path / "u.csv").write_text("user,item,time,stars\na,x,1400000000,5\n")
    with pytest.raises(DataError, match=r"i\.csv: missing column 'item'.*set source\.separator=';'"):
        read(tmp_path, "u.csv", items="i.csv")


@pytest.mark.parametrize("ending", FORMATS)
def test_too_many_bad_rows_are_never_left_out(tmp_path: Path, ending: str) -> None:
    times = [str(1_400_000_000 + i) for i in range(40)]
    for num_bad, is_error in ((4, False), (5, True)):
        frame = pl.DataFrame({"user": ["u"] * 40, "item": ["i"] * 40, "time": [*["soon"] * num_bad, *times[num_bad:]]})
        name = write(tmp_path, frame, ending)
        if is_error:
            with pytest.raises(DataError, match=r"12% of the lines are bad.*5 of 40, the first is .*'soon'.*the unit"):
                read(tmp_path, name, rating_column=None, skip_bad_lines=True)
        else:
            raw = read(tmp_path, name, rating_column=None, skip_bad_lines=True)
            assert (raw.num_bad_lines, len(rows(raw))) == (4, 36)


def test_a_folder_of_another_kind_of_files(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    with pytest.raises(DataError, match=r"no tables in the folder \(source\.interactions\).*found no files"):
        read(tmp_path, "events")
    write(tmp_path / "events", EVENTS, "csv.gz")
    fix = r"found 1 files, the first is t\.csv\.gz\); set source\.interactions='events/\*\.csv\.gz'"
    with pytest.raises(DataError, match=fix):
        read(tmp_path, "events")
    assert rows(read(tmp_path, "events/*.csv.gz")) == EXPECTED


def test_an_unknown_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown option 'user' of source table"):
        read(tmp_path, "t.csv", user="x")


def test_parquet_stays_lazy_and_reads_no_other_column(tmp_path: Path) -> None:
    raw = read(tmp_path, write(tmp_path, EVENTS, "parquet"), skip_bad_lines=True)
    plan = raw.interactions.explain()
    assert "Parquet SCAN" in plan
    assert "PROJECT 4/5" in plan


# --- items -----------------------------------------------------------------------------------------------------------

ITEMS = [
    {"item": "1", "title": "A", "brand": "B", "categories": ["c", "d"], "description": "e", "more": 1},
    {"item": "x", "title": None, "brand": None, "categories": None, "description": "Ü", "more": None},
]
ITEM_ROWS = [("1", "A", "B", ["c", "d"], "e"), ("x", None, None, None, "Ü")]


def write_items(folder: Path, ending: str, items: list[dict[str, Any]]) -> str:
    if ending == "jsonl":
        (folder / "i.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        return "i.jsonl"
    frame = pl.DataFrame(items, infer_schema_length=None)
    if ending != "parquet":
        for name, dtype in frame.schema.items():
            if isinstance(dtype, pl.List):
                frame = frame.with_columns(pl.col(name).list.join("|"))
    return write(folder, frame, ending, "i")


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv", "jsonl"])
def test_items_of_every_format(tmp_path: Path, ending: str) -> None:
    raw = read(tmp_path, write(tmp_path, EVENTS, "csv"), items=write_items(tmp_path, ending, ITEMS))
    assert raw.items is not None
    check_frame(raw.items, RAW_ITEMS, where="items")
    assert raw.items.rows() == ITEM_ROWS
    assert [path.name for path in raw.files] == ["t.csv", f"i.{ending}"]
    assert raw.items_file == raw.files[1]


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv", "jsonl"])
def test_item_texts_are_cleaned_once_in_every_format(tmp_path: Path, ending: str) -> None:
    item = {"title": "A &amp;amp; <b>B</b>", "brand": "C\n &amp; D", "description": "&lt;br&gt; x < y"}
    raw_item = {"item": "&amp;", **item, "categories": ["E &amp; F", " ", "E &amp; F", "<i>G</i>"]}
    raw = read(tmp_path, write(tmp_path, EVENTS, "csv"), items=write_items(tmp_path, ending, [raw_item]))
    assert raw.items is not None
    assert raw.items.rows() == [("&amp;", "A &amp; B", "C & D", ["E & F", "G"], "x < y")]
    assert assemble_text(raw.items).to_list() == ["A &amp; B. C & D. E & F, G. x < y"]


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_items_with_other_names(tmp_path: Path, ending: str) -> None:
    events = write(tmp_path, EVENTS, "csv")
    items = write_items(tmp_path, ending, [{"sku": 1, "name": "A", "tags": "c; d", "title": "no"}])
    raw = read(
        tmp_path,
        events,
        items=items,
        item_id_column="sku",
        title_column="name",
        categories_column="tags",
        categories_separator=";",
    )
    assert raw.items is not None
    assert raw.items.rows() == [("1", "A", None, ["c", "d"], None)]
    with pytest.raises(DataError, match="missing column 'namme'; did you mean 'name'"):
        read(tmp_path, events, items=items, item_id_column="sku", title_column="namme")
    with pytest.raises(DataError, match="missing column 'item'"):
        read(tmp_path, events, items=items)


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_an_item_without_an_id_is_named(tmp_path: Path, ending: str) -> None:
    items = write_items(tmp_path, ending, [ITEMS[0], {**ITEMS[1], "item": None}])
    where = {"parquet": "row 2", "csv": "line 3", "jsonl": r"i\.jsonl:2"}[ending]
    with pytest.raises(DataError, match=where):
        read(tmp_path, write(tmp_path, EVENTS, "csv"), items=items)


def test_item_columns_of_a_wrong_type(tmp_path: Path) -> None:
    events = write(tmp_path, EVENTS, "csv")
    for item, message in (({"item": 1.5}, "holds no ids"), ({"item": 1, "categories": 3}, "holds no categories")):
        with pytest.raises(DataError, match=message):
            read(tmp_path, events, items=write_items(tmp_path, "parquet", [item]))
    items = write_items(tmp_path, "parquet", [{"item": 1, "title": {"a": 1}}])
    with pytest.raises(DataError, match="holds no text"):
        read(tmp_path, events, items=items)
