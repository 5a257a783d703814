"""One part of a batch job: a range of users, what they get, and the file of it, which is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import polars as pl

from genrec.config.training import RecommendConfig
from genrec.errors import ConfigError, DataError
from genrec.files import reading, sha256_file, sync, writing_by_others
from genrec.pipeline.serve import packages_of_serving

PARTIAL = ".partial"
SCHEMA = {"user_id": pl.String, "rank": pl.UInt32, "item_id": pl.String, "score": pl.Float64}
COUNTS: tuple[str, ...] = ("num_users", "num_rows", "num_unknown_items", "num_popular", "num_empty")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Users `first` to `end` (exclusive) of a job.

    Attributes:
        path: of the file.
        digest: of the job and the number of the part, which the file carries.
    """

    path: Path
    digest: str
    first: int
    end: int

    @property
    def num_users(self) -> int:
        """How many they are."""
        return self.end - self.first

    def counts(self) -> dict[str, int] | None:
        """What the file counted; None if it has to be written."""
        if not self.path.exists():
            return None
        try:
            facts = json.loads(pl.read_parquet_metadata(self.path)["genrec"])
        except (pl.exceptions.PolarsError, KeyError, ValueError):
            facts = {}
        if facts.get("digest") != self.digest:
            logger.warning("%s is not a whole part of this job, and is written again", self.path)
            return None
        return facts["counts"]

    def partial(self, writer: str = "") -> Path:
        """What `writer` writes, before it is renamed."""
        return self.path.with_name(f"{self.path.name}{writer and '.'}{writer}{PARTIAL}")


@dataclass(frozen=True, kw_only=True)
class Maker:
    """What makes parts, opened once by each process that does.

    Attributes:
        generator: the bundle.
        users: user_id and history.
        denied: known items that nobody gets.
        tags: those that items need (`allow_tags`) and must not have (`deny_tags`), where the job names any.
        read: versions and hashes of all that a job reads.
    """

    generator: Any
    users: pl.LazyFrame
    denied: list[str]
    tags: dict[str, list[str]]
    k: int
    exclude_seen: bool
    batch_size: int
    read: dict[str, str]

    @classmethod
    def open(cls, config: RecommendConfig) -> Maker:
        """Opens the bundle, the users (see `scan_users`) and the list of excluded items.

        Raises:
            ArtifactError: the bundle is not whole, or does not answer as the recommender did.
            ConfigError: it was exported for fewer than k items, or does not have a tag.
            DataError: the users or the excluded items are not what they have to be.
        """
        assert config.bundle is not None
        assert config.users is not None
        with packages_of_serving():
            from genrec.serving.open_bundle import open_bundle
        generator = open_bundle(config.bundle, num_threads=config.num_threads)
        most = generator.limits.max_candidates
        if config.k > most:
            raise ConfigError(
                "too many items", where="key 'k'", expected=f"at most {most}", found=config.k, fix=f"set k={most}"
            )
        denied = _read_ids(config.exclude)
        return cls(
            generator=generator,
            users=scan_users(config.users),
            denied=[item for item in denied if generator.knows(item)],
            tags=_read_tags(config, generator),
            k=config.k,
            exclude_seen=config.exclude_seen,
            batch_size=config.search.batch_size,
            read={
                "model_version": generator.version.model,
                "catalogue_version": generator.version.catalogue,
                "users_sha256": sha256_file(config.users),
                "excluded_sha256": hashlib.sha256("\n".join(denied).encode()).hexdigest(),
            },
        )

    def make(self, part: Part, told: Callable[[int], None] = lambda users: None, *, writer: str = "") -> dict[str, int]:
        """Writes the part; `told` gets its users that are done.

        The partial file is there from the beginning: who removes it has made sure that this part will never be renamed
        into place, even if its writer lives on where nobody reaches it.

        Returns:
            The numbers of COUNTS.
        """
        tables, numbers = [pl.DataFrame(schema=SCHEMA)], [(0,) * len(COUNTS)]
        rows = self.users.slice(part.first, part.num_users).collect()
        version = self.generator.version
        lineage = {"model_version": pl.lit(version.model), "catalogue_version": pl.lit(version.catalogue)}
        partial = part.partial(writer)
        with writing_by_others(part.path, inside=part.path.parent):
            with partial.open("wb") as file:
                for table, counted in self._answers(rows, told):
                    tables.append(table.select(list(SCHEMA)))
                    numbers.append(counted)
                sums = [int(sum(column)) for column in zip(*numbers, strict=True)]
                counts = dict(zip(COUNTS, sums, strict=True))
                facts = {"genrec": json.dumps({"digest": part.digest, "counts": counts})}
                pl.concat(tables).with_columns(**lineage).write_parquet(file, metadata=facts)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(part.path)
            sync(part.path.parent)
        return counts

    def _answers(
        self, rows: pl.DataFrame, told: Callable[[int], None]
    ) -> Iterator[tuple[pl.DataFrame, tuple[int, ...]]]:
        """Table and counts of one search after the other."""
        for start in range(0, len(rows), self.batch_size):
            batch = rows.slice(start, self.batch_size)
            found = self.generator.recommend(
                batch["history"].to_list(),
                self.k,
                exclude=[self.denied] * len(batch),
                exclude_seen=self.exclude_seen,
                **{name: [tags] * len(batch) for name, tags in self.tags.items()},
            )
            lists = pl.DataFrame(
                {"user_id": batch["user_id"], "item_id": found.item_ids, "score": found.scores},
                schema={"user_id": pl.String, "item_id": pl.List(pl.String), "score": pl.List(pl.Float64)},
            )
            table = lists.with_columns(rank=pl.int_ranges(1, pl.col("item_id").list.len() + 1, dtype=pl.UInt32))
            table = table.explode("rank", "item_id", "score").drop_nulls("item_id")
            told(start + len(batch))
            num_empty = sum(not items for items in found.item_ids)
            yield table, (len(batch), len(table), sum(found.num_unknown), sum(found.is_popular), num_empty)


def scan_users(path: Path) -> pl.LazyFrame:
    """user_id (text) and history, in the order of the file.

    Raises:
        DataError: not Parquet, or a column is missing or of another type.
    """
    with reading(path):
        path.open("rb").close()
    expected = "Parquet with user_id (text or integers) and history (lists of text)"
    try:
        scan = pl.scan_parquet(path, glob=False)
        schema = scan.collect_schema()
    except pl.exceptions.PolarsError as error:
        raise DataError("not Parquet", where=path, expected=expected, found=error) from error
    user = schema.get("user_id", pl.Null())
    if not (user == pl.String or user.is_integer()) or schema.get("history") != pl.List(pl.String):
        raise DataError("wrong columns", where=path, expected=expected, found=dict(schema))
    return scan.select(pl.col("user_id").cast(pl.String), "history")


def count_users(users: pl.LazyFrame, path: Path) -> int:
    """How many there are in `path`.

    Raises:
        DataError: one has nulls, or is there twice.
    """
    facts = users.select(
        size=pl.len(),
        different=pl.col("user_id").n_unique(),
        nulls=pl.any_horizontal(pl.col("user_id").is_null(), pl.col("history").is_null()).sum(),
    )
    size, different, nulls = facts.collect().row(0)
    if nulls or different != size:
        found = f"{nulls} rows with nulls, {size - different} users twice"
        raise DataError("every user has one row", where=path, expected="no null, no user twice", found=found)
    return size


def _read_ids(path: Path | None) -> list[str]:
    if path is None:
        return []
    with reading(path):
        text = path.read_bytes()
    try:
        return sorted({line.strip() for line in text.decode().splitlines() if line.strip()})
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", where=path, found=error) from error


def _read_tags(config: RecommendConfig, generator: Any) -> dict[str, list[str]]:
    """The filters by tags that a job has.

    Raises:
        ConfigError: a tag that no item has, or a bundle without tags: the lists of all users would be wrong.
    """
    keys = {"allow_tags": config.allow_tags, "deny_tags": config.deny_tags or None}
    given = {name: list(tags) for name, tags in keys.items() if tags is not None}
    for name, tags in given.items():
        if generator.tags is None:
            fix = "export the bundle with tags=[brand,categories]"
            raise ConfigError("the bundle has no tags", where=f"key {name!r}", fix=fix)
        unknown = [tag for tag in tags if tag not in generator.tags]
        if unknown:
            near = get_close_matches(unknown[0], generator.tags, n=3)
            expected = " or ".join(map(repr, near)) or "column=value"
            raise ConfigError("no item has this tag", where=f"key {name!r}", expected=expected, found=repr(unknown[0]))
    return given
