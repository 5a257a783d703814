"""A batch job over the table bundle: its users, the words of its command, and the rows that there have to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from oracles.table_bundle import expected


def history(user: int) -> list[str]:
    return [f"i{(user * step) % 53}" for step in range(user % 4)]  # some empty, some with items that are unknown


def write_users(path: Path, number: int) -> None:
    users = range(number)
    schema = {"user_id": pl.Int64, "history": pl.List(pl.String)}
    pl.DataFrame({"user_id": users, "history": [history(user) for user in users]}, schema=schema).write_parquet(path)


def words(road: Path, output: Path, *more: str) -> list[str]:
    return [
        "recommend",
        f"bundle={road}/b",
        f"users={road}/u.parquet",
        f"output={output}",
        "search.batch_size=16",
        *more,
    ]


def rows(output: Path) -> list[tuple[Any, ...]]:
    parts = sorted(output.glob("part-*.parquet"))
    return pl.concat([pl.read_parquet(part) for part in parts]).rows()


def told(number: int, *, k: int = 10, denied: tuple[str, ...] = (), seen: bool = False) -> list[tuple[Any, ...]]:
    """The rows that there have to be."""
    found = []
    for user in range(number):
        hidden = denied if seen else (*denied, *history(user))
        items = expected(history(user), k, exclude=hidden)
        found += [(str(user), rank, *pair, "m1", "c1") for rank, pair in enumerate(items, start=1)]
    return found
