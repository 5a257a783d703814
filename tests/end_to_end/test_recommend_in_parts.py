"""``genrec recommend bundle=...``: every user once, whatever happened on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from command_line import fails, works

from oracles.table_bundle import expected, write

NUM_USERS = 100


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with bundle b, users u.parquet and a list of excluded items x.txt."""
    folder = tmp_path_factory.mktemp("road")
    write(folder / "b", model="m1", catalogue="c1")
    write_users(folder / "u.parquet", NUM_USERS)
    (folder / "x.txt").write_text("i5\n\nnobody\n i9 \n")
    return folder


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


@pytest.mark.parametrize("shards", [1, 7, 101])
def test_the_parts_together_are_the_answers_of_all_users_in_order(road: Path, tmp_path: Path, shards: int) -> None:
    summary = works(*words(road, tmp_path / "o", f"shards={shards}", "k=5", f"exclude={road}/x.txt"))
    assert rows(tmp_path / "o") == told(NUM_USERS, k=5, denied=("i5", "i9"))
    assert len(list((tmp_path / "o").glob("part-*"))) == shards
    unknown = sum(item in ("i50", "i51", "i52") for user in range(NUM_USERS) for item in history(user))
    known = [any(item not in ("i50", "i51", "i52") for item in history(user)) for user in range(NUM_USERS)]
    assert (summary["num_users"], summary["num_rows"]) == (NUM_USERS, 5 * NUM_USERS)
    assert (summary["num_unknown_items"], summary["num_popular"]) == (unknown, known.count(False))
    assert summary["shards_done_before"] == 0
    written = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert {name: summary[name] for name in written} == written


def test_finished_parts_are_skipped_and_others_redone(road: Path, tmp_path: Path) -> None:
    output, again = tmp_path / "o", words(road, tmp_path / "o", "shards=4", "exclude_seen=false")
    whole = works(*again)
    parts = sorted(output.glob("part-*"))
    kept = parts[0].stat().st_mtime_ns
    parts[1].unlink()
    parts[2].write_bytes(parts[2].read_bytes()[:-20])
    parts[3].with_name(parts[3].name + ".partial").write_bytes(b"half")
    (output / "summary.json").unlink()
    second = works(*again)
    assert second["shards_done_before"] == 2
    assert parts[0].stat().st_mtime_ns == kept
    assert rows(output) == told(NUM_USERS, seen=True)
    assert {**second, "shards_done_before": 0} == whole
    assert sorted(path.name for path in output.iterdir()) == [
        *(p.name for p in parts[:0]),
        "job.json",
        *(p.name for p in parts),
        "summary.json",
    ]


def test_another_job_does_not_mix_into_a_folder(road: Path, tmp_path: Path) -> None:
    output = tmp_path / "o"
    works(*words(road, output, "shards=2"))
    line = fails(*words(road, output, "shards=3", "k=4"), code=2)
    assert "another job (found other k, shards); set overwrite=true" in line
    assert works(*words(road, output, "shards=3", "k=4", "overwrite=true"))["shards_done_before"] == 0
    assert len(list(output.glob("part-*"))) == 3
    (tmp_path / "mine").mkdir()
    mine = [tmp_path / "mine" / name for name in ("notes.txt", "part-00000-of-00002.parquet", "part-1.partial")]
    for path in mine:
        path.write_text("mine")
    for more in ((), ("overwrite=true",)):
        assert "not a folder of this command (found notes.txt)" in fails(*words(road, tmp_path / "mine", *more), code=2)
    assert all(path.read_text() == "mine" for path in mine)


def test_wrong_users_and_words_are_one_line(road: Path, tmp_path: Path) -> None:
    users = pl.read_parquet(road / "u.parquet")
    bad = {
        "1 users twice": pl.concat([users, users[:1]]),
        "1 rows with nulls": users.with_columns(pl.when(pl.col("user_id") > 0).then("user_id")),
        "wrong columns": users.rename({"history": "items"}),
        "wrong columns ": users.with_columns(history=pl.col("user_id")),
    }
    for line, table in bad.items():
        table.write_parquet(tmp_path / "u.parquet")
        said = fails("recommend", f"bundle={road}/b", f"users={tmp_path}/u.parquet", f"output={tmp_path}/o", code=3)
        assert line.strip() in said
    (tmp_path / "u.parquet").write_text("user_id,history")
    assert "not Parquet" in fails(
        "recommend", f"bundle={road}/b", f"users={tmp_path}/u.parquet", f"output={tmp_path}/o", code=3
    )
    assert "expected at most 20, found 21" in fails(*words(road, tmp_path / "o", "k=21"), code=2)
    assert "dataset, search: a bundle has all this" in fails(
        *words(road, tmp_path / "o", "dataset=d", "search.beam_width=9"), code=2
    )
    assert "users, shards: only a bundle" in fails(
        "recommend", "dataset=d", "recommender=r", "output=o", "users=u", "shards=2", code=2
    )
    assert "missing values: dataset" in fails("recommend", "recommender=r", "output=o", code=2)
    assert "missing values: users" in fails("recommend", "bundle=b", "output=o", code=2)


def test_tags_filter_the_items_of_all_users(road: Path, tmp_path: Path) -> None:
    tags = {"allow_tags": ["digit=1", "digit=2", "parity=odd"], "deny_tags": ["digit=3"]}
    more = [f"{name}={json.dumps(words)}" for name, words in tags.items()]
    works(*words(road, tmp_path / "o", *more, "exclude_seen=false"))
    found = [(user, item) for user, _, item, *_ in rows(tmp_path / "o")]
    assert found == [(str(user), item) for user in range(NUM_USERS) for item, _ in expected(history(user), 10, **tags)]
    assert "found other allow_tags, exclude_seen" in fails(*words(road, tmp_path / "o", *more[1:]), code=2)
    line = fails(*words(road, tmp_path / "x", "deny_tags=[digit=1,parity=evn]"), code=2)
    assert "key 'deny_tags': no item has this tag (expected 'parity=even'" in line
    assert "deny_tags: only a bundle" in fails("recommend", "dataset=d", "recommender=r", "output=o", more[1], code=2)
    write(tmp_path / "b", model="m1", catalogue="c1", tagged=False)
    bare = [f"bundle={tmp_path}/b", f"users={road}/u.parquet", f"output={tmp_path}/x", more[0]]
    assert "the bundle has no tags; export" in fails("recommend", *bare, code=2)


def test_no_users_are_an_empty_table(road: Path, tmp_path: Path) -> None:
    write_users(tmp_path / "none.parquet", 0)
    works("recommend", f"bundle={road}/b", f"users={tmp_path}/none.parquet", f"output={tmp_path}/o")
    (part,) = (tmp_path / "o").glob("part-*")
    table = pl.read_parquet(part)
    assert table.columns == ["user_id", "rank", "item_id", "score", "model_version", "catalogue_version"]
    assert len(table) == 0


@pytest.mark.slow
def test_a_job_that_is_killed_again_and_again_loses_nothing_and_does_nothing_twice(road: Path, tmp_path: Path) -> None:
    number, output = 60_000, tmp_path / "o"
    write_users(tmp_path / "u.parquet", number)
    job = ["recommend", f"bundle={road}/b", f"users={tmp_path}/u.parquet", f"output={output}", "shards=40", "--json"]
    killed = 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-m", "genrec", *job], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        done = len(list(output.glob("part-*.parquet")))
        while process.poll() is None and len(list(output.glob("part-*.parquet"))) < done + 6:
            time.sleep(0.002)
        if killed < 5 and process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
            process.communicate()
            continue
        out, said = process.communicate()
        assert process.returncode == 0, said
        break
    assert killed == 5
    assert json.loads(out)["shards_done_before"] >= 20
    assert rows(output) == told(number)
    assert not list(output.glob("*.partial"))
