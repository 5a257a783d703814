"""What users get wrong, through the command line: one line that says what, where and how to mend it; an exit code."""

from __future__ import annotations

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import RUNNER, works

from genrec.cli import app

SYNTHETIC = ["prepare", "synthetic", "source.num_users=80", "source.num_items=40", "source.num_categories=4"]


def fails(*words: str, code: int) -> str:
    """Runs a command that must fail, and returns its one line."""
    result = RUNNER.invoke(app, list(words))
    assert result.exit_code == code, result.output + repr(result.exception)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ")
    return result.stderr


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(".") and ".partial" in path.name)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad") / "dataset"
    works(*SYNTHETIC, f"output={folder}")
    return folder


def table(folder: Path, text: str, *more: str) -> list[str]:
    """`prepare` of a CSV with this content."""
    (folder / "events.csv").write_text(text, encoding="utf-8")
    words = [f"raw_dir={folder}", "source=table", "source.interactions=events.csv", f"output={folder}/out"]
    words.append("source.timestamp_unit=s")
    return ["prepare", *words, *more]


def test_missing_column(tmp_path: Path) -> None:
    line = fails(*table(tmp_path, "user_id,product,timestamp\na,b,1\n"), code=3)
    assert "events.csv" in line
    assert "'item_id'" in line
    assert "product" in line


def test_unparsable_line_names_file_and_number_and_can_be_skipped(tmp_path: Path) -> None:
    rows = [
        json.dumps({"reviewerID": f"u{u}", "asin": f"i{i}", "overall": 5.0, "unixReviewTime": 100 * u + i})
        for u in range(6)
        for i in range(6)
    ]
    rows.insert(7, '{"reviewerID": "u1", "asin":')
    with gzip.open(tmp_path / "reviews.json.gz", "wt") as file:
        file.write("\n".join(rows) + "\n")
    words = ["prepare", "source=amazon_2018", "source.reviews=reviews.json.gz", f"raw_dir={tmp_path}"]
    words.append(f"output={tmp_path}/out")
    line = fails(*words, code=3)
    assert "reviews.json.gz:8" in line
    assert "skip_bad_lines=true" in line
    assert not (tmp_path / "out").exists()
    found = works(*words, "source.skip_bad_lines=true")
    assert found["interactions"] == 36
    facts = json.loads((tmp_path / "out" / "manifest.json").read_text())["facts"]
    assert facts["bad_lines"] == 1


def test_absent_raw_file(tmp_path: Path) -> None:
    line = fails("prepare", "giftcards", f"raw_dir={tmp_path}", f"output={tmp_path}/out", code=3)
    assert "Gift_Cards_5.json.gz" in line
    assert "download=true" in line


def test_unparsable_time(tmp_path: Path) -> None:
    line = fails(*table(tmp_path, "user_id,item_id,timestamp\na,b,1\na,c,soon\n"), code=3)
    assert "events.csv:3" in line
    assert "soon" in line


def test_no_timestamps_for_a_temporal_split(tmp_path: Path) -> None:
    text = "user_id,item_id\n" + "".join(f"u{u},i{i}\n" for u in range(6) for i in range(6))
    line = fails(*table(tmp_path, text, "source.timestamp_column=null", "split=temporal", "order.by=file"), code=3)
    assert "needs a timestamp" in line
    line = fails(*table(tmp_path, text, "source.timestamp_column=null"), code=3)
    assert "set order.by=file" in line


def test_empty_split_after_k_core_states_the_counts(tmp_path: Path) -> None:
    line = fails(*table(tmp_path, "user_id,item_id,timestamp\na,b,1\na,c,2\nb,b,3\n"), code=3)
    assert "min_user_interactions" in line
    assert "3" in line
    assert not (tmp_path / "out").exists()


def test_duplicate_item_ids(tmp_path: Path) -> None:
    text = "user_id,item_id,timestamp\n" + "".join(f"u{u},i{i},{u + i}\n" for u in range(6) for i in range(6))
    (tmp_path / "items.csv").write_text("item_id,title\ni1,one\ni2,two\ni1,uno\n", encoding="utf-8")
    line = fails(*table(tmp_path, text, "source.items=items.csv"), code=3)
    assert "i1" in line
    assert "text.duplicates=first" in line
    assert works(*table(tmp_path, text, "source.items=items.csv", "text.duplicates=first"))["items"] == 6


@pytest.mark.parametrize("problem", ["nan", "shape", "ids"])
def test_bad_embeddings(problem: str, dataset: Path, tmp_path: Path) -> None:
    num_items = json.loads((dataset / "manifest.json").read_text())["facts"]["num_items"]
    vectors = np.ones((num_items, 4), dtype=np.float32)
    words = ["embed", f"dataset={dataset}", f"output={tmp_path}/out", "embedding=precomputed"]
    if problem == "nan":
        vectors[3, 1] = np.nan
        expected = "row 3"
    elif problem == "shape":
        vectors, expected = vectors[:-1], str(num_items)
    else:
        (tmp_path / "ids.txt").write_text("\n".join(["item-0001"] * num_items) + "\n", encoding="utf-8")
        words.append(f"embedding.ids={tmp_path}/ids.txt")
        expected = "item-0001"
    np.save(tmp_path / "vectors.npy", vectors)
    line = fails(*words, f"embedding.path={tmp_path}/vectors.npy", code=3)
    assert expected in line
    assert not (tmp_path / "out").exists()


def test_configuration_errors(tmp_path: Path) -> None:
    assert "did you mean 'dimensions'" in fails("embed", "embedding=tfidf", "embedding.dimension=3", code=2)
    assert "expected integer" in fails(*SYNTHETIC, "filter.min_user_interactions=five", f"output={tmp_path}/o", code=2)
    assert "missing values: dataset (path), output (path)" in fails("evaluate", code=2)


def test_counts_that_differ_from_the_expected_ones_fail_the_gate(tmp_path: Path) -> None:
    words = ["expect.users=81", "expect.items=40", "expect.interactions=1", f"output={tmp_path}/o"]
    line = fails(*SYNTHETIC, *words, code=4)
    assert "expected 81 / 40 / 1" in line
    assert not (tmp_path / "o").exists()


def test_existing_output_is_kept(dataset: Path) -> None:
    before = (dataset / "manifest.json").read_bytes()
    line = fails(*SYNTHETIC, f"output={dataset}", "source.seed=9", code=2)
    assert "overwrite=true" in line
    assert (dataset / "manifest.json").read_bytes() == before


def test_an_artifact_is_not_replaced_by_another_kind_nor_written_into(tmp_path: Path) -> None:
    works(*SYNTHETIC, f"output={tmp_path}/d")
    before = (tmp_path / "d" / "manifest.json").read_bytes()
    words = ["embed", f"dataset={tmp_path}/d", "embedding=tfidf", "embedding.dimensions=8"]
    assert "choose another output" in fails(*words, f"output={tmp_path}/d", "overwrite=true", code=2)
    works(*words, f"output={tmp_path}/e")
    line = fails(*SYNTHETIC, f"output={tmp_path}/e", "overwrite=true", code=2)
    assert "another kind of artifact" in line
    for output in ("d/inside", "d/report.json"):
        command = "evaluate" if output == "d/inside" else "audit"
        fails(command, f"dataset={tmp_path}/d", f"output={tmp_path}/{output}", code=2)
    assert "inside of an artifact" in fails("sweep", f"dataset={tmp_path}/d", f"run={tmp_path}/d/run", code=2)
    assert (tmp_path / "d" / "manifest.json").read_bytes() == before
    works("audit", f"dataset={tmp_path}/d")
    (tmp_path / "mine.json").write_text("precious")
    assert "overwrite=true" in fails("audit", f"dataset={tmp_path}/d", f"output={tmp_path}/mine.json", code=2)
    assert (tmp_path / "mine.json").read_text() == "precious"


def test_one_flipped_byte(dataset: Path, tmp_path: Path) -> None:
    works(*SYNTHETIC, f"output={tmp_path}/d")
    file = tmp_path / "d" / "interactions.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    line = fails("audit", f"dataset={tmp_path}/d", code=3)
    assert "interactions.parquet" in line


def test_not_an_artifact(tmp_path: Path) -> None:
    assert "manifest" in fails("audit", f"dataset={tmp_path}", code=3)
    assert str(tmp_path / "none") in fails("audit", f"dataset={tmp_path}/none", code=3)


def test_artifacts_of_different_parents(dataset: Path, tmp_path: Path) -> None:
    from genrec.data.dataset import Dataset
    from genrec.embeddings.store import load_embeddings
    from genrec.errors import LineageError

    works(*SYNTHETIC, "source.seed=5", f"output={tmp_path}/other")
    works("embed", f"dataset={dataset}", f"output={tmp_path}/e", "embedding=tfidf", "embedding.dimensions=8")
    other = Dataset.load(tmp_path / "other")
    with pytest.raises(LineageError) as caught:
        load_embeddings(tmp_path / "e", other.artifact)
    assert caught.value.exit_code == 5
    assert str(tmp_path / "other") in str(caught.value)


def test_runs_are_not_mixed_up(dataset: Path, tmp_path: Path) -> None:
    words = ["sweep", f"dataset={dataset}", f"run={tmp_path}/run", "num_trials=3", "num_random=2"]
    first = works(*words)
    assert first["trials"] == 3
    assert "--resume" in fails(*words, code=2)
    assert "num_trials" in fails(*words, "num_trials=4", "--resume", code=2)
    assert works(*words, "--resume")["item_knn"] == first["item_knn"]


def test_a_run_does_not_go_on_with_other_data(tmp_path: Path) -> None:
    works(*SYNTHETIC, f"output={tmp_path}/d")
    words = ["sweep", f"dataset={tmp_path}/d", f"run={tmp_path}/run", "num_trials=2", "num_random=1"]
    works(*words)
    works(*SYNTHETIC, "source.seed=3", f"output={tmp_path}/d", "overwrite=true")
    line = fails(*words, "--resume", code=5)
    assert f"{tmp_path}/d" in line


def start(*words: str, limit_bytes: int | None = None) -> subprocess.Popen[str]:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails with EFBIG instead, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes or resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    return subprocess.Popen(
        [sys.executable, "-m", "genrec.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
        env={**os.environ, "POLARS_MAX_THREADS": "1"},
    )


def test_full_disk_leaves_nothing(tmp_path: Path) -> None:
    process = start(*SYNTHETIC, f"output={tmp_path}/d", limit_bytes=2048)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert not (tmp_path / "d").exists()
    assert leftovers(tmp_path) == []


def test_killed_in_the_middle_of_writing(tmp_path: Path) -> None:
    words = ["prepare", "synthetic", "source.num_users=60000", "source.max_length=40", f"output={tmp_path}/d"]
    process = start(*words)
    deadline = time.monotonic() + 120
    while not leftovers(tmp_path) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert leftovers(tmp_path), "the process was not caught while it wrote"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "d").exists()
    assert leftovers(tmp_path)
    assert "manifest" in fails("audit", f"dataset={tmp_path}/{leftovers(tmp_path)[0]}", code=3)
    works(*SYNTHETIC, f"output={tmp_path}/d")
    assert leftovers(tmp_path) == []
    works("audit", f"dataset={tmp_path}/d")
