"""MovieLens 100K and 1M as GroupLens ships them; file order is kept, for it is the tie rule of the 1M benchmark.

The files are latin-1. An item's categories are its genres.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from genrec.data.schema import RawData
from genrec.data.sources.events import EventColumns, checked_events
from genrec.data.sources.lines import LINE, BadLines, find_file, read_fields, read_lines, require_rows
from genrec.data.sources.names import missing_columns
from genrec.data.sources.texts import clean_text, items_frame, texts_of
from genrec.errors import DataError

ENCODING = "latin-1"
RATINGS = ("user_id", "movie_id", "rating", "timestamp")
ITEM_FIELDS_100K = ("movie_id", "title", "release_date", "video_release_date", "url")


def read_movielens_100k(
    raw_dir: Path,
    *,
    ratings: str = "u.data",
    items: str | None = "u.item",
    genres: str | None = "u.genre",
    skip_bad_lines: bool = False,
) -> RawData:
    """MovieLens 100K.

    Args:
        raw_dir: folder of the files (each plain or .gz).
        ratings: tab-separated user, movie, rating, time (s), without a header.
        items: movie, title, release date, video release date, URL and one flag a genre, split by ``|``; or None.
        genres: ``name|number`` lines that name the flags; None: no categories.
        skip_bad_lines: leave out and count lines that cannot be used.

    Returns:
        Events in file order with timestamp and rating; items with title and genres.

    Raises:
        DataError: a file is missing, empty or corrupt; a line cannot be used.
    """
    accounts = [BadLines(find_file(raw_dir, ratings, "ratings"), skip_bad_lines)]
    interactions = _events(read_fields(accounts[0].path, "\t", RATINGS, bad=accounts[0]), accounts[0])
    table = None
    if items is not None:
        names: list[str] | None = None
        if genres is not None:
            accounts.append(BadLines(find_file(raw_dir, genres, "genres"), skip_bad_lines))
            names = _genre_names(accounts[-1])
        accounts.append(BadLines(find_file(raw_dir, items, "items"), skip_bad_lines))
        table = _items_100k(accounts[-1], names)
    return _raw_data(interactions, table, accounts)


def read_movielens_1m(
    raw_dir: Path, *, ratings: str = "ratings.dat", items: str | None = "movies.dat", skip_bad_lines: bool = False
) -> RawData:
    """MovieLens 1M.

    Args:
        raw_dir: folder of the files (each plain or .gz).
        ratings: ``user::movie::rating::time`` lines (s); or a tab-separated table whose header has user_id, movie_id,
            timestamp and perhaps rating.
        items: ``movie::title::genre|genre`` lines; or None.
        skip_bad_lines: leave out and count lines that cannot be used.

    Returns:
        Events in file order with timestamp and, where given, rating; items with title and genres.

    Raises:
        DataError: a file is missing, empty or corrupt; a line cannot be used.
    """
    bad = BadLines(find_file(raw_dir, ratings, "ratings"), skip_bad_lines)
    accounts = [bad]
    first = next((text for _, text in read_lines(bad.path, bad=BadLines(bad.path, skip=True))), "")
    if "::" in first:
        frame = read_fields(bad.path, "::", RATINGS, bad=bad)
    else:
        header = tuple(first.split("\t"))
        wanted = ("user_id", "movie_id", "timestamp")
        missing_columns(header, wanted, where=bad.path, fix="give ratings.dat ('::' between fields) or a TSV with them")
        frame = read_fields(bad.path, "\t", None, bad=bad)
    interactions = _events(frame, bad)
    table = None
    if items is not None:
        accounts.append(BadLines(find_file(raw_dir, items, "items"), skip_bad_lines))
        table = _items_1m(accounts[-1])
    return _raw_data(interactions, table, accounts)


def _events(frame: pl.DataFrame, bad: BadLines) -> pl.DataFrame:
    columns = EventColumns("user_id", "movie_id", "timestamp", "rating" if "rating" in frame.columns else None)
    events = checked_events(frame, columns, "s", bad=bad)
    require_rows(events.height, bad)
    return events


def _genre_names(bad: BadLines) -> list[str]:
    """Names in the order of their numbers, which have to be 0, 1, 2, ..."""
    frame = read_fields(bad.path, "|", ("name", "number"), bad=bad, encoding=ENCODING)
    numbers = frame["number"].str.strip_chars().to_list()
    for place, (line, number) in enumerate(zip(frame[LINE], numbers, strict=True)):
        if number != str(place):
            raise DataError("genre numbers have to be 0, 1, 2, ...", where=f"{bad.path}:{line}", found=repr(number))
    return frame["name"].to_list()


def _items_100k(bad: BadLines, genres: list[str] | None) -> pl.DataFrame:
    flags = tuple(f"flag {number}" for number in range(19 if genres is None else len(genres)))
    frame = read_fields(bad.path, "|", (*ITEM_FIELDS_100K, *flags), bad=bad, encoding=ENCODING)
    rows = []
    for row in frame.iter_rows(named=True):
        values = [row[flag] for flag in flags]
        if not row["movie_id"] or set(values) - {"0", "1"}:
            bad.add(row[LINE], "expected a movie id and flags that are 0 or 1")
            continue
        categories = [name for name, value in zip(genres or (), values, strict=False) if value == "1"]
        rows.append((row["movie_id"], clean_text(row["title"]), None, texts_of(categories, "genres"), None))
    table = items_frame(rows)
    require_rows(table.height, bad)
    return table


def _items_1m(bad: BadLines) -> pl.DataFrame:
    frame = read_fields(bad.path, "::", ("movie_id", "title", "genres"), bad=bad, encoding=ENCODING)
    rows = []
    for line, movie, title, genres in frame.iter_rows():
        if not movie:
            bad.add(line, "expected a movie id")
            continue
        rows.append((movie, clean_text(title), None, texts_of(genres.split("|"), "genres"), None))
    table = items_frame(rows)
    require_rows(table.height, bad)
    return table


def _raw_data(interactions: pl.DataFrame, items: pl.DataFrame | None, accounts: list[BadLines]) -> RawData:
    return RawData(
        interactions.lazy(),
        items=items,
        items_file=None if items is None else accounts[-1].path,
        files=tuple(bad.path for bad in accounts),
        num_bad_lines=sum(bad.count for bad in accounts),
        notes=tuple(note for bad in accounts for note in bad.notes),
    )
