"""What every source of raw data promises, on small files in its own words."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec.data.schema import RAW_ITEMS, RAW_OPTIONAL, RAW_REQUIRED, RawData, check_frame
from genrec.data.sources.registry import SOURCES, read_source
from genrec.errors import DataError

# The same events for every source, out of any order: user, item, time in s, rating.
EVENTS = [
    ("20", "7", 1_400_000_300, 5.0),
    ("3", "11", 1_400_000_100, 1.0),
    ("20", "7", 1_400_000_200, 4.0),
    ("3", "7", 1_400_000_100, 2.0),
]
GROUPED = [EVENTS[0], EVENTS[2], EVENTS[1], EVENTS[3]]  # for files that hold whole histories


@dataclass(frozen=True)
class Case:
    """How to write the events in one format.

    Attributes:
        source: name of the source.
        main: file that holds the events, and the option that names it.
        lines: its lines.
        options: the other options.
        others: further files and their lines.
        bad_line: a line that cannot be used, or None where one bad spot spoils the whole file.
        without_column: the lines with a required column or field left out, or None where there are no names.
        expected: rows of user_id, item_id, timestamp (ms), rating.
    """

    source: str
    main: tuple[str, str]
    lines: list[str]
    options: dict[str, Any] = field(default_factory=dict)
    others: dict[str, list[str]] = field(default_factory=dict)
    bad_line: str | None = None
    without_column: list[str] | None = None
    expected: list[tuple[Any, ...]] = field(default_factory=list)


def jsonl(names: tuple[str, str, str, str], factor: int = 1) -> list[str]:
    return [json.dumps(dict(zip(names, (u, i, t * factor, r), strict=True))) for u, i, t, r in EVENTS]


def timed(events: list[tuple[str, str, int, float]] = EVENTS, width: int = 4) -> list[tuple[Any, ...]]:
    return [(u, i, t * 1000, r)[:width] for u, i, t, r in events]


def drop(lines: list[str], name: str) -> list[str]:
    return [json.dumps({k: v for k, v in json.loads(line).items() if k != name}) for line in lines]


AMAZON = ("reviewerID", "asin", "unixReviewTime", "overall")
AMAZON_2023 = ("user_id", "parent_asin", "timestamp", "rating")
SPLIT_HEADER = "user_id,parent_asin,rating,timestamp"
SPLIT_LINES = [f"{u},{i},{r},{t}000" for u, i, t, r in EVENTS]
TABLE_LINES = [f"{u},{i},{t},{r}" for u, i, t, r in EVENTS]
LETTER = json.dumps({"20": [7, 7], "3": [11, 7]}, indent=0).split("\n")

CASES = [
    Case(
        "amazon_2014",
        ("r.json", "reviews"),
        jsonl(AMAZON),
        {"meta": "m.json"},
        {"m.json": ["{'asin': '7', 'title': \"L'eau\"}"]},
        "{'reviewerID': ",
        drop(jsonl(AMAZON), "asin"),
        timed(),
    ),
    Case(
        "amazon_2018",
        ("r.json", "reviews"),
        jsonl(AMAZON),
        {"meta": "m.json"},
        {"m.json": ['{"asin": "7", "title": "TITLE", "category": ["a"]}']},
        "{",
        drop(jsonl(AMAZON), "overall"),
        timed(),
    ),
    Case(
        "amazon_2023",
        ("r.jsonl", "reviews"),
        jsonl(AMAZON_2023, 1000),
        {"meta": "m.jsonl"},
        {"m.jsonl": ['{"parent_asin": "7", "title": "TITLE", "store": "s"}']},
        '"text"',
        drop(jsonl(AMAZON_2023, 1000), "timestamp"),
        timed(),
    ),
    Case(
        "amazon_2023_splits",
        ("train.csv", "train"),
        [SPLIT_HEADER, *SPLIT_LINES],
        {"validation": "v.csv", "test": "t.csv", "meta": "m.csv"},
        {
            "v.csv": [SPLIT_HEADER, SPLIT_LINES[0]],
            "t.csv": [SPLIT_HEADER, SPLIT_LINES[1]],
            "m.csv": ["parent_asin,title", "7,TITLE"],
        },
        "20,7,5.0",
        [line.rsplit(",", 1)[0] for line in [SPLIT_HEADER, *SPLIT_LINES]],
        [*timed(), *timed(EVENTS[:1]), *timed(EVENTS[1:2])],
    ),
    Case(
        "movielens_100k",
        ("u.data", "ratings"),
        [f"{u}\t{i}\t{r:.0f}\t{t}" for u, i, t, r in EVENTS],
        {},
        {"u.genre": ["unknown|0", "Drama|1"], "u.item": ["7|TITLE|||u|0|1"]},
        "20\t7",
        None,
        timed(),
    ),
    Case(
        "movielens_1m",
        ("ratings.dat", "ratings"),
        [f"{u}::{i}::{r:.0f}::{t}" for u, i, t, r in EVENTS],
        {},
        {"movies.dat": ["7::TITLE::Drama"]},
        "20::7::x::1400000000",
        None,
        timed(),
    ),
    Case(
        "sasrec",
        ("s.txt", "interactions"),
        ["20 7 7", "3 11 7"],
        {"items": "i.jsonl", "codes": "c.json"},
        {"i.jsonl": ['{"item_id": "7", "title": "TITLE"}'], "c.json": ['{"7": ["<a_1>"]}']},
        "30",
        None,
        [row[:2] for row in GROUPED],
    ),
    Case(
        "sequences_jsonl",
        ("s.jsonl", "interactions"),
        [
            '{"user": "20", "items": [7, 7], "timestamps": [1400000300, 1400000200]}',
            '{"user": 3, "items": ["11", "7"], "timestamps": [1400000100, 1400000100]}',
        ],
        {"items": "i.jsonl"},
        {"i.jsonl": ['{"asin": "7", "title": "TITLE"}']},
        '{"user": "9", "items": 5}',
        ['{"user": "20", "timestamps": [1]}'],
        timed(GROUPED, 3),
    ),
    Case(
        "letter",
        ("x.inter.json", "interactions"),
        LETTER,
        {"items": "x.item.json", "codes": "x.index.json"},
        {"x.item.json": ['{"7": {"title": "TITLE"}}'], "x.index.json": ['{"7": ["<a_1>", "<b_2>"]}']},
        None,
        None,
        [row[:2] for row in GROUPED],
    ),
    Case(
        "table",
        ("t.csv", "interactions"),
        ["user_id,item_id,timestamp,stars", *TABLE_LINES],
        {"rating_column": "stars", "items": "i.csv"},
        {"i.csv": ["item_id,title", "7,TITLE"]},
        "20,7,noon,5",
        ["user_id,timestamp,stars", *TABLE_LINES],
        timed(),
    ),
]
BY_NAME = {case.source: case for case in CASES}


def write(folder: Path, case: Case, lines: list[str] | None = None, *, compress: bool = False) -> Path:
    for name, content in {**case.others, case.main[0]: case.lines if lines is None else lines}.items():
        text = ("\n".join(content) + "\n").encode() if content else b""
        path = folder / name
        if compress:
            path.with_name(name + ".gz").write_bytes(gzip.compress(text))
        else:
            path.write_bytes(text)
    return folder / case.main[0]


def read(folder: Path, case: Case, **options: Any) -> RawData:
    return read_source(case.source, folder, **{case.main[1]: case.main[0], **case.options, **options})


def rows(raw: RawData) -> list[tuple[Any, ...]]:
    return raw.interactions.select(pl.exclude("split")).collect().rows()


def test_every_source_of_files_is_here() -> None:
    assert set(BY_NAME) == set(SOURCES) - {"synthetic"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.source)
class TestSource:
    """The contract."""

    def test_columns_and_their_types(self, case: Case, tmp_path: Path) -> None:
        write(tmp_path, case)
        raw = read(tmp_path, case)
        events = raw.interactions.collect()
        check_frame(events, RAW_REQUIRED, RAW_OPTIONAL, where=case.source)
        assert set(events.columns) <= {*RAW_REQUIRED, *RAW_OPTIONAL}
        assert events.null_count().sum_horizontal().item() == 0
        assert raw.items is not None
        check_frame(raw.items, RAW_ITEMS, where=case.source)
        assert raw.items["item_id"].to_list() == ["7"]
        if raw.item_codes is not None:
            assert raw.item_codes.schema == pl.Schema({"item_id": pl.String, "codes": pl.List(pl.Int32)})

    def test_rows_in_the_order_of_the_file(self, case: Case, tmp_path: Path) -> None:
        write(tmp_path, case)
        assert rows(read(tmp_path, case)) == case.expected

    def test_compressed_and_plain_files_are_the_same(self, case: Case, tmp_path: Path) -> None:
        write(tmp_path, case, compress=True)
        raw = read(tmp_path, case)
        assert rows(raw) == case.expected
        assert {path.name for path in raw.files} == {f"{name}.gz" for name in (case.main[0], *case.others)}

    def test_absolute_names(self, case: Case, tmp_path: Path) -> None:
        path = write(tmp_path, case)
        assert rows(read(tmp_path, case, **{case.main[1]: str(path)})) == case.expected

    @pytest.mark.parametrize("which", range(4))
    def test_a_missing_file_is_named(self, case: Case, tmp_path: Path, which: int) -> None:
        write(tmp_path, case)
        names = [case.main[0], *case.others]
        name = names[which % len(names)]
        (tmp_path / name).unlink()
        keys = {case.main[0]: case.main[1]} | {"u.genre": "genres", "u.item": "items", "movies.dat": "items"}
        keys |= {file: option for option, file in case.options.items()}
        with pytest.raises(DataError, match=rf"{name}: there is no such file \(source\.{keys[name]}\); set raw_dir="):
            read(tmp_path, case)

    def test_an_empty_file_is_an_error(self, case: Case, tmp_path: Path) -> None:
        write(tmp_path, case, [])
        with pytest.raises(DataError, match=f"{case.main[0]}: the file is empty"):
            read(tmp_path, case)

    def test_a_file_without_rows_is_an_error(self, case: Case, tmp_path: Path) -> None:
        write(tmp_path, case, ["", "  ", ""])
        with pytest.raises(DataError, match=case.main[0]):
            read(tmp_path, case)

    def test_a_truncated_gzip_file_is_named(self, case: Case, tmp_path: Path) -> None:
        path = write(tmp_path, case, compress=True)
        path = path.with_name(path.name + ".gz")
        path.write_bytes(path.read_bytes()[:-6])
        with pytest.raises(DataError, match=f"{case.main[0]}.gz: corrupt or truncated gzip"):
            read(tmp_path, case)

    def test_a_missing_column_shows_what_is_there(self, case: Case, tmp_path: Path) -> None:
        if case.without_column is None:
            pytest.skip("the format names no columns")
        write(tmp_path, case, case.without_column)
        with pytest.raises(DataError, match=r"missing (column|field) '.*found (columns|fields) \w+"):
            read(tmp_path, case)

    @pytest.mark.parametrize("place", [-1, 2])
    def test_a_bad_line_is_named_or_counted(self, case: Case, tmp_path: Path, place: int) -> None:
        if case.bad_line is None:
            pytest.skip("the format has no lines")
        at = len(case.lines) if place < 0 else min(place, len(case.lines))
        write(tmp_path, case, [*case.lines[:at], case.bad_line, *case.lines[at:]])
        with pytest.raises(DataError, match=rf"{case.main[0]}:{at + 1}: .*source\.skip_bad_lines=true") as caught:
            read(tmp_path, case)
        assert "\n" not in str(caught.value)
        raw = read(tmp_path, case, skip_bad_lines=True)
        assert rows(raw) == case.expected
        assert raw.num_bad_lines == 1
        assert any(f"{case.main[0]}: 1 bad line left out; the first is line {at + 1}" in note for note in raw.notes)

    def test_only_bad_lines_are_an_error_even_so(self, case: Case, tmp_path: Path) -> None:
        if case.bad_line is None:
            pytest.skip("the format has no lines")
        header = case.lines[:1] if case.main[0].endswith(".csv") else []
        write(tmp_path, case, [*header, case.bad_line])
        with pytest.raises(DataError):
            read(tmp_path, case, skip_bad_lines=True)

    def test_texts_are_cleaned_once(self, case: Case, tmp_path: Path) -> None:
        write(tmp_path, case)
        for name, lines in case.others.items():
            text = (
                "\n".join(lines).replace("TITLE", "Salt &amp;amp; <b>Pepper</b> &eacute;").replace("L'eau", "L&#39;eau")
            )
            (tmp_path / name).write_text(text)
        raw = read(tmp_path, case)
        assert raw.items is not None
        assert raw.items["title"].to_list() in (["Salt &amp; Pepper é"], ["L'eau"])
        assert raw.items_file is not None
        assert raw.items_file.name in case.others

    def test_too_many_bad_lines_are_an_error(self, case: Case, tmp_path: Path) -> None:
        if case.bad_line is None:
            pytest.skip("the format has no lines")
        header = case.lines[:1] if case.main[0].endswith(".csv") else []
        lines = [line.replace("20", f"{i}", 1) for i in range(30, 60) for line in case.lines[len(header) :][:1]]
        write(tmp_path, case, [*header, *lines, *[case.bad_line] * 4])
        with pytest.raises(DataError, match=rf"{case.main[0]}: 12% of the lines are bad.*found 4 of 34"):
            read(tmp_path, case, skip_bad_lines=True)
        write(tmp_path, case, [*header, *lines, *[case.bad_line] * 3])
        assert read(tmp_path, case, skip_bad_lines=True).num_bad_lines == 3

    def test_reading_twice_gives_the_same(self, case: Case, tmp_path: Path) -> None:
        write(tmp_path, case)
        first, second = read(tmp_path, case), read(tmp_path, case)
        assert rows(first) == rows(second)
        assert first.files == second.files
        assert first.notes == second.notes


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"\xff\xe9" + b], ids=["cut", "no utf-8"])
def test_a_damaged_letter_file_is_named(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = write(tmp_path, BY_NAME["letter"])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"x\.inter\.json:\d+: not valid"):
        read(tmp_path, BY_NAME["letter"])
