"""The formats of raw files: the ``source`` section of ``prepare``. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genrec.config.fields import key

SKIP = "leave out lines that cannot be parsed, and count them"


@dataclass(frozen=True, kw_only=True)
class Amazon2014Source:
    """Amazon reviews, release of 2014: JSON lines or python-dict lines, optionally .gz."""

    name: Literal["amazon_2014"] = "amazon_2014"
    reviews: str = key("file of reviews (reviewerID, asin, overall, unixReviewTime)")
    meta: str | None = key("file of item descriptions", None)
    skip_bad_lines: bool = key(SKIP, False)


@dataclass(frozen=True, kw_only=True)
class Amazon2018Source:
    """Amazon reviews, release of 2018: JSON lines, optionally .gz."""

    name: Literal["amazon_2018"] = "amazon_2018"
    reviews: str = key("file of reviews (reviewerID, asin, overall, unixReviewTime)")
    meta: str | None = key("file of item descriptions", None)
    skip_bad_lines: bool = key(SKIP, False)


@dataclass(frozen=True, kw_only=True)
class Amazon2023Source:
    """Amazon reviews, release of 2023: JSON lines, optionally .gz."""

    name: Literal["amazon_2023"] = "amazon_2023"
    reviews: str = key("file of reviews (user_id, parent_asin, rating, timestamp in ms)")
    meta: str | None = key("file of item descriptions", None)
    skip_bad_lines: bool = key(SKIP, False)


@dataclass(frozen=True, kw_only=True)
class Amazon2023SplitsSource:
    """Amazon reviews, release of 2023: the official train, validation and test CSVs."""

    name: Literal["amazon_2023_splits"] = "amazon_2023_splits"
    train: str = key("CSV of the training part (user_id, parent_asin, rating, timestamp, history)")
    validation: str = key("CSV of the validation part")
    test: str = key("CSV of the test part")
    meta: str | None = key("CSV or JSON lines of item descriptions", None)
    skip_bad_lines: bool = key(SKIP, False)


@dataclass(frozen=True, kw_only=True)
class MovieLens100KSource:
    """MovieLens 100K: u.data and u.item (latin-1)."""

    name: Literal["movielens_100k"] = "movielens_100k"
    ratings: str = key("tab-separated file: user, item, rating, timestamp", "u.data")
    items: str | None = key("file of titles and genres", "u.item")
    genres: str | None = key("file of genre names", "u.genre")
    skip_bad_lines: bool = key(SKIP, False)


@dataclass(frozen=True, kw_only=True)
class MovieLens1MSource:
    """MovieLens 1M: ratings.dat and movies.dat (latin-1), or a tab-separated table with a header."""

    name: Literal["movielens_1m"] = "movielens_1m"
    ratings: str = key("`::`-separated ratings, or a TSV with columns user_id, movie_id, timestamp", "ratings.dat")
    items: str | None = key("file of titles and genres", "movies.dat")
    skip_bad_lines: bool = key(SKIP, False)


@dataclass(frozen=True, kw_only=True)
class SasrecSource:
    """Benchmark text files: a user and the items in order on a line, or a pair a line."""

    name: Literal["sasrec"] = "sasrec"
    interactions: str = key("text file")
    layout: Literal["sequence", "pairs", "auto"] = key("`user item item ...` or `user item` a line", "sequence")
    items: str | None = key("JSON lines of item descriptions", None)
    item_id_field: str | None = key("field of the item id in `items`; null: found in its first line", None)
    codes: str | None = key("JSON of imported semantic IDs {item: [token, ...]}", None)
    codes_offset: int = key("added to the integer item ids of `codes`", 0)
    skip_bad_lines: bool = key(SKIP, False)


@dataclass(frozen=True, kw_only=True)
class SequencesJsonlSource:
    """JSON lines, one user each: {user, items, timestamps}."""

    name: Literal["sequences_jsonl"] = "sequences_jsonl"
    interactions: str = key("JSON lines, one user each")
    items: str | None = key("JSON lines of item descriptions", None)
    item_id_field: str | None = key("field of the item id in `items`; null: found in its first line", None)
    timestamp_unit: Literal["s", "ms"] = key("unit of the times", "s")
    skip_bad_lines: bool = key(SKIP, False)


@dataclass(frozen=True, kw_only=True)
class LetterSource:
    """The JSON layout of LETTER and APAO: {user: [item, ...]}, {item: {title, ...}}, {item: [token, ...]}."""

    name: Literal["letter"] = "letter"
    interactions: str = key("JSON of users and their items, oldest first")
    items: str | None = key("JSON of item descriptions", None)
    codes: str | None = key("JSON of imported semantic IDs", None)


@dataclass(frozen=True, kw_only=True)
class TableSource:
    """Your own tables: Parquet, CSV, TSV or JSON lines."""

    name: Literal["table"] = "table"
    interactions: str = key("file, folder of Parquet files, or glob; one row an event")
    items: str | None = key("the same, one row an item", None)
    user_column: str = key("column of the user id", "user_id")
    item_column: str = key("column of the item id", "item_id")
    timestamp_column: str | None = key("column of the time; null: none (set order.by=file)", "timestamp")
    timestamp_unit: Literal["auto", "s", "ms", "iso"] = key("unit of the time", "auto")
    rating_column: str | None = key("column of a rating, for filter.min_rating", None)
    split_column: str | None = key("column of train, validation or test, for split=provided", None)
    separator: str | None = key("between the cells of a CSV, one character; null: comma, of .tsv tab", None)
    item_id_column: str | None = key("column of the id in `items`; null: as item_column", None)
    title_column: str | None = key("column of the title; null: `title` if there is one", None)
    brand_column: str | None = key("column of the brand; null: `brand` if there is one", None)
    categories_column: str | None = key("column of the categories; null: `categories` if there is one", None)
    categories_separator: str = key("between the categories of a text", "|")
    description_column: str | None = key("column of the description; null: `description` if there is one", None)
    skip_bad_lines: bool = key(SKIP, False)


@dataclass(frozen=True, kw_only=True)
class ItemColumnsSection:
    """Where a table of items has what; the keys of `TableSource`."""

    item_id_column: str = key("column of the item id", "item_id")
    separator: str | None = key("between the cells of a CSV, one character; null: comma, of .tsv tab", None)
    title_column: str | None = key("column of the title; null: `title` if there is one", None)
    brand_column: str | None = key("column of the brand; null: `brand` if there is one", None)
    categories_column: str | None = key("column of the categories; null: `categories` if there is one", None)
    categories_separator: str = key("between the categories of a text", "|")
    description_column: str | None = key("column of the description; null: `description` if there is one", None)


@dataclass(frozen=True, kw_only=True)
class SyntheticSource:
    """A planted catalogue: text, categories, Zipf popularity, sequential structure, known optimum."""

    name: Literal["synthetic"] = "synthetic"
    num_users: int = key("users", 2000, minimum=3)
    num_items: int = key("items", 500, minimum=10)
    num_categories: int = key("categories of the catalogue", 12, minimum=1)
    min_length: int = key("shortest history", 5, minimum=3)
    max_length: int = key("longest history", 20, minimum=3)
    immediate_repeats: bool = key("whether an item may follow itself", False)
    seed: int = key("seed of catalogue and histories", 0, minimum=0)


Source = (
    Amazon2014Source
    | Amazon2018Source
    | Amazon2023Source
    | Amazon2023SplitsSource
    | MovieLens100KSource
    | MovieLens1MSource
    | SasrecSource
    | SequencesJsonlSource
    | LetterSource
    | TableSource
    | SyntheticSource
)
