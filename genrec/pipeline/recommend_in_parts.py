"""``genrec recommend bundle=...``: a whole user base, in shards that are there whole or not at all.

A folder holds one job: job.json says which (bundle, users, filters, cut into how many shards) before the first part is
written, summary.json what came of it after the last. A part is written beside its name, synced and renamed, and carries
the digest of its job; so a job that was killed at any point goes on where the first part is missing, does no user
twice, and a folder never mixes two jobs.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import polars as pl

from genrec.artifacts import check_outside_artifacts
from genrec.config.training import RecommendConfig
from genrec.errors import ConfigError, DataError, RunError
from genrec.files import (
    hold_lock,
    pretty_json,
    read_json,
    reading,
    sha256_file,
    sync,
    write_json,
    writing,
    writing_by_others,
)
from genrec.pipeline.serve import packages_of_serving
from genrec.serving.swap import bundle_folder
from genrec.terminal import Outcome, Progress, Table

JOB, SUMMARY, PARTIAL = "job.json", "summary.json", ".partial"
TASK = "recommend"
SCHEMA = {"user_id": pl.String, "rank": pl.UInt32, "item_id": pl.String, "score": pl.Float64}
COUNTS = ("num_users", "num_rows", "num_unknown_items", "num_popular", "num_empty")

logger = logging.getLogger(__name__)


def recommend_in_parts(config: RecommendConfig, *, progress: Progress) -> Outcome:
    """Parts of user_id, rank, item_id, score, model_version and catalogue_version, in the order of the users."""
    assert config.bundle is not None
    assert config.users is not None
    check_outside_artifacts(config.output)
    generator = _load(config)
    users, num_users = _open_users(config.users)
    denied = _read_ids(config.exclude)
    job = {
        "model_version": generator.version.model,
        "catalogue_version": generator.version.catalogue,
        "users_sha256": sha256_file(config.users),
        "num_users": num_users,
        "shards": config.shards,
        "k": config.k,
        "exclude_seen": config.exclude_seen,
        "excluded_sha256": hashlib.sha256("\n".join(denied).encode()).hexdigest(),
        **_tags(config, generator),
    }
    with writing(config.output):
        config.output.mkdir(parents=True, exist_ok=True)
    with hold_lock(config.output / ".lock", what="the folder", where=config.output):
        _begin(config.output, job, overwrite=config.overwrite)
        known = [item for item in denied if generator.knows(item)]
        totals, skipped = Counter[str](), 0
        for shard in range(config.shards):
            path = config.output / f"part-{shard:05d}-of-{config.shards:05d}.parquet"
            digest = hashlib.sha256(pretty_json([job, shard]).encode()).hexdigest()
            first, end = (num_users * at // config.shards for at in (shard, shard + 1))
            counts = _finished(path, digest)
            skipped += counts is not None
            if counts is None:
                rows = users.slice(first, end - first).collect()
                answers = _answers(
                    generator, rows, config, known, lambda done, first=first: progress(TASK, first + done, num_users)
                )
                counts = _write_part(path, digest, generator.version, answers)
            totals.update(counts)
            progress(TASK, end, num_users)
        write_json(config.output / SUMMARY, {**job, **totals})
    return _outcome(config.output, {**job, **{name: totals[name] for name in COUNTS}, "shards_done_before": skipped})


def _load(config: RecommendConfig) -> Any:
    assert config.bundle is not None
    with packages_of_serving():
        from genrec.serving.open_bundle import open_bundle
    generator = open_bundle(bundle_folder(config.bundle).resolve(), num_threads=config.num_threads)
    most = generator.limits.max_candidates
    if config.k > most:
        raise ConfigError(
            "too many items", where="key 'k'", expected=f"at most {most}", found=config.k, fix=f"set k={most}"
        )
    return generator


def _tags(config: RecommendConfig, generator: Any) -> dict[str, Any]:
    """The filters by tags, as facts of the job; a job without any has none.

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


def _open_users(path: Path) -> tuple[pl.LazyFrame, int]:
    """Users with text ids, in the order of the file, and their number.

    Raises:
        DataError: a column is missing, of another type, or has nulls; or a user is there twice.
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
    users = scan.select(pl.col("user_id").cast(pl.String), "history")
    facts = users.select(
        size=pl.len(),
        different=pl.col("user_id").n_unique(),
        nulls=pl.any_horizontal(pl.col("user_id").is_null(), pl.col("history").is_null()).sum(),
    )
    size, different, nulls = facts.collect().row(0)
    if nulls or different != size:
        found = f"{nulls} rows with nulls, {size - different} users twice"
        raise DataError("every user has one row", where=path, expected="no null, no user twice", found=found)
    return users, size


def _read_ids(path: Path | None) -> list[str]:
    if path is None:
        return []
    with reading(path):
        text = path.read_bytes()
    try:
        return sorted({line.strip() for line in text.decode().splitlines() if line.strip()})
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", where=path, found=error) from error


def _begin(folder: Path, job: dict[str, Any], *, overwrite: bool) -> None:
    """Makes the folder this job's: another's parts are refused, or removed if asked for; strangers' files never."""
    if not (folder / JOB).exists():
        strange = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if strange:
            fix = "choose an empty folder as output"
            raise RunError("not a folder of this command", where=folder, found=strange[0], fix=fix)
    with writing(folder):
        for path in folder.glob(f"part-*{PARTIAL}"):
            path.unlink()
        if overwrite:
            for path in (*folder.glob("part-*-of-*.parquet"), folder / SUMMARY, folder / JOB):
                path.unlink(missing_ok=True)
    if not (folder / JOB).exists():
        write_json(folder / JOB, job)
    began = read_json(folder / JOB)
    if began != job:
        different = sorted(name for name in {*began, *job} if began.get(name) != job.get(name))
        fix = "set overwrite=true to begin anew, or another output"
        raise RunError(
            "the folder holds parts of another job", where=folder, found=f"other {', '.join(different)}", fix=fix
        )


def _finished(path: Path, digest: str) -> dict[str, int] | None:
    """What a part that is there counted; None if it has to be written."""
    if not path.exists():
        return None
    try:
        facts = json.loads(pl.read_parquet_metadata(path)["genrec"])
    except (pl.exceptions.PolarsError, KeyError, ValueError):
        facts = {}
    if facts.get("digest") != digest:
        logger.warning("%s is not a whole part of this job, and is written again", path)
        return None
    return facts["counts"]


def _answers(
    generator: Any, rows: pl.DataFrame, config: RecommendConfig, denied: list[str], told: Callable[[int], None]
) -> Iterator[tuple[pl.DataFrame, tuple[int, ...]]]:
    """Table and counts of one search after the other; `told` gets the users that are done."""
    for start in range(0, len(rows), config.search.batch_size):
        batch = rows.slice(start, config.search.batch_size)
        exclude = [denied] * len(batch)
        found = generator.recommend(
            batch["history"].to_list(),
            config.k,
            exclude=exclude,
            exclude_seen=config.exclude_seen,
            allow_tags=[config.allow_tags] * len(batch),
            deny_tags=[config.deny_tags] * len(batch),
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


def _write_part(
    path: Path, digest: str, version: Any, batches: Iterator[tuple[pl.DataFrame, tuple[int, ...]]]
) -> dict[str, int]:
    """One file, whole or not at all, with its counts and the digest of its job in its metadata."""
    tables, numbers = [pl.DataFrame(schema=SCHEMA)], [(0,) * len(COUNTS)]
    for table, counted in batches:
        tables.append(table.select(list(SCHEMA)))
        numbers.append(counted)
    counts = {name: int(sum(column)) for name, column in zip(COUNTS, zip(*numbers, strict=True), strict=True)}
    lineage = {"model_version": pl.lit(version.model), "catalogue_version": pl.lit(version.catalogue)}
    partial = path.with_name(path.name + PARTIAL)
    with writing_by_others(path, inside=path.parent):
        facts = {"genrec": json.dumps({"digest": digest, "counts": counts})}
        pl.concat(tables).with_columns(**lineage).write_parquet(partial, metadata=facts)
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    return counts


def _outcome(folder: Path, summary: dict[str, Any]) -> Outcome:
    labels = {
        "num_users": "users",
        "num_rows": "rows",
        "num_unknown_items": "unknown items, skipped",
        "num_popular": "users without a known history, served by popularity",
        "num_empty": "users who got nothing",
        "shards": "parts",
        "shards_done_before": "of them done before",
    }
    rows = tuple((label, f"{summary[name]:,}") for name, label in labels.items())
    rows += tuple((name.replace("_", " "), summary[name][:12]) for name in ("model_version", "catalogue_version"))
    return Outcome({"output": str(folder), **summary}, (Table(str(folder), ("what", "value"), rows, left=("what",)),))
