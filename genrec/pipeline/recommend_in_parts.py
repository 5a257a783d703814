"""``genrec recommend bundle=...``: a whole user base, in shards that are there whole or not at all.

A folder holds one job: job.json says which (bundle, users, filters, cut into how many shards) before the first part is
written, summary.json what came of it after the last. A part is written beside its name, synced and renamed, and carries
the digest of its job; so a job that was killed at any point goes on where the first part is missing, does no user
twice, and a folder never mixes two jobs. Who makes the parts, this process or a cluster, is not a matter of the job:
the files are the same, and one may go on with what the other began.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from genrec.artifacts import check_outside_artifacts
from genrec.config.batch import RayEngine
from genrec.config.training import RecommendConfig
from genrec.errors import RunError
from genrec.files import hold_lock, pretty_json, read_json, write_json, writing
from genrec.pipeline.recommend_part import COUNTS, PARTIAL, Maker, Part, count_users
from genrec.serving.swap import bundle_folder
from genrec.terminal import Outcome, Progress, Table

JOB, SUMMARY = "job.json", "summary.json"
TASK = "recommend"


def recommend_in_parts(config: RecommendConfig, *, progress: Progress) -> Outcome:
    """Parts of user_id, rank, item_id, score, model_version and catalogue_version, in the order of the users."""
    assert config.bundle is not None
    check_outside_artifacts(config.output)
    config = replace(config, bundle=bundle_folder(config.bundle).resolve())  # whatever is published while it runs
    assert config.users is not None
    maker = Maker.open(config)
    num_users = count_users(maker.users, config.users)
    size = {"num_users": num_users, "shards": config.shards}
    job = {**maker.read, **size, "k": config.k, "exclude_seen": config.exclude_seen, **maker.tags}
    with writing(config.output):
        config.output.mkdir(parents=True, exist_ok=True)
    with hold_lock(config.output / ".lock", what="the folder", where=config.output):
        _begin(config.output, job, overwrite=config.overwrite)
        totals, missing = Counter[str](), []
        for part in _parts(config.output.resolve(), job):
            counts = part.counts()
            totals.update(counts or {})
            missing += [part] if counts is None else []
        before = num_users - sum(part.num_users for part in missing)
        progress(TASK, before, num_users)
        for counts in _make(config, maker, missing, lambda users: progress(TASK, before + users, num_users)):
            totals.update(counts)
        _remove_partials(config.output)
        write_json(config.output / SUMMARY, {**job, **totals})
    skipped = config.shards - len(missing)
    return _outcome(config.output, {**job, **{name: totals[name] for name in COUNTS}, "shards_done_before": skipped})


def _parts(folder: Path, job: dict[str, Any]) -> Iterator[Part]:
    shards, num_users = job["shards"], job["num_users"]
    for shard in range(shards):
        yield Part(
            path=folder / f"part-{shard:05d}-of-{shards:05d}.parquet",
            digest=hashlib.sha256(pretty_json([job, shard]).encode()).hexdigest(),
            first=num_users * shard // shards,
            end=num_users * (shard + 1) // shards,
        )


def _make(
    config: RecommendConfig, maker: Maker, parts: Sequence[Part], told: Callable[[int], None]
) -> Iterator[dict[str, int]]:
    """Counts of the parts as they are made; `told` gets the users that are done."""
    if isinstance(config.engine, RayEngine):
        from genrec.pipeline.recommend_on_ray import make_on_ray

        yield from make_on_ray(config, config.engine, maker.read, parts, told)
        return
    done = 0
    for part in parts:
        yield maker.make(part, lambda users, done=done: told(done + users))
        done += part.num_users


def _begin(folder: Path, job: dict[str, Any], *, overwrite: bool) -> None:
    """Makes the folder this job's: another's parts are refused, or removed if asked for; strangers' files never."""
    if not (folder / JOB).exists():
        strange = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if strange:
            fix = "choose an empty folder as output"
            raise RunError("not a folder of this command", where=folder, found=strange[0], fix=fix)
    _remove_partials(folder)
    with writing(folder):
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


def _remove_partials(folder: Path) -> None:
    with writing(folder):
        for path in folder.glob(f"part-*{PARTIAL}"):
            path.unlink(missing_ok=True)


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
