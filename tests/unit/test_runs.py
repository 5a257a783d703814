"""A run folder belongs to one living process, says where its run stands, and is resumed with the same inputs only."""
# ruff: noqa: PT012 - what raises is often the end of a block of `RunDirectory.open`, so the block belongs to the test

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import genrec
from genrec.artifacts import Artifact, read_json, write_artifact
from genrec.errors import ArtifactError, DataError, LineageError, RunError, StorageError
from genrec.runs import (
    RunDirectory,
    environment,
    lineage,
    raise_on_sigterm,
    read_metrics,
    read_status,
    remove_run,
)

PROJECT = Path(genrec.__file__).parents[1]
CONFIG = "dataset: data/x\nseed: 1\nname: naïve\n"


def open_run(
    folder: Path,
    *,
    command: str = "train",
    config_text: str = CONFIG,
    inputs: Sequence[Path | str | Artifact] = (),
    resume: bool = False,
    ignore_keys: Sequence[str] = (),
) -> AbstractContextManager[RunDirectory]:
    return RunDirectory.open(
        folder, command=command, config_text=config_text, inputs=inputs, resume=resume, ignore_keys=ignore_keys
    )


def finish(folder: Path, **options: Any) -> None:
    with open_run(folder, **options):
        pass


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def artifact(path: Path, kind: str = "dataset", parents: dict[str, Artifact] | None = None, text: str = "") -> Artifact:
    with write_artifact(path, kind=kind, parents=parents) as writer:
        writer.path("x").write_text(text)
    return writer.artifact


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "one"


# --- what a run writes ---


def test_a_run_from_start_to_end(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_text("raw")
    dataset = artifact(tmp_path / "dataset")
    with open_run(folder, inputs=[dataset, tmp_path / "raw.txt", str(dataset.path)]) as run:
        assert (run.path, run.command, run.resumed) == (folder, "train", False)
        status = read_status(folder)
        assert (status["status"], status["command"], status["pid"]) == ("running", "train", os.getpid())
        assert status["host"] == platform.node()
        assert (status["step"], status["message"], status["error"], status["num_resumed"]) == (None, None, None, 0)
        run.update(step=3, message="epoch 1 of 2")
        assert (read_status(folder)["step"], read_status(folder)["message"]) == (3, "epoch 1 of 2")
        run.log_metrics({"step": 3, "loss": 0.5, "recall": {"10": None}})
        run.log_metrics({"step": 4, "loss": 0.25})
        assert run.metrics() == [{"step": 3, "loss": 0.5, "recall": {"10": None}}, {"step": 4, "loss": 0.25}]
    assert (folder / "config.yaml").read_text("utf-8") == CONFIG
    entry = {"path": str(dataset.path), "kind": "dataset", "identity": dataset.identity}
    digest = hashlib.sha256(b"raw").hexdigest()
    assert read_json(folder / "inputs.json") == [
        entry,
        {"path": str(tmp_path / "raw.txt"), "sha256": digest, "size": 3},
        entry,
    ]
    status = read_status(folder)
    assert (status["status"], status["step"], status["error"]) == ("done", 3, None)
    assert status["started"] <= status["updated"]
    names = ["config.yaml", "environment.json", "inputs.json", "log.txt", "metrics.jsonl", "status.json"]
    assert sorted(os.listdir(folder)) == names


def test_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2-hunter2")
    finish(folder)
    stored = read_json(folder / "environment.json")
    assert stored["python"] == platform.python_version()
    assert stored["genrec"] == genrec.__version__
    assert stored["packages"]["numpy"] == np.__version__
    assert stored["command_line"] == sys.argv
    assert stored["cpu_usable"] <= stored["cpu_count"]
    assert stored["memory_bytes"] > 2**28
    assert all("hunter2" not in data.decode() for data in snapshot(folder).values())


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment()["git_commit"] is None
    git(tmp_path, "init", "-q")
    assert environment()["git_commit"] is None
    (tmp_path / "x").write_text("1")
    git(tmp_path, "add", "x")
    git(tmp_path, "commit", "-q", "-m", "first")
    git(tmp_path, "tag", "v1")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert environment()["git_commit"] == commit
    (tmp_path / "x").write_text("2")
    assert environment()["git_commit"] == f"{commit}-dirty"
    monkeypatch.setenv("PATH", "")
    assert environment()["git_commit"] is None


# --- log ---


@contextmanager
def package_level(level: int) -> Iterator[logging.Logger]:
    package = logging.getLogger("genrec")
    before = package.level
    package.setLevel(level)
    try:
        yield package
    finally:
        package.setLevel(before)


def test_the_log_is_kept_for_the_runs_life(folder: Path) -> None:
    with package_level(logging.NOTSET) as package:
        handlers = list(package.handlers)
        logging.getLogger("genrec.data").info("before")
        with open_run(folder):
            logging.getLogger("genrec.data").info("it has %d rows", 7)
            logging.getLogger("genrec.data").debug("detail")
            logging.getLogger("elsewhere").warning("not ours")
        logging.getLogger("genrec.data").warning("after")
        assert package.handlers == handlers
        assert package.level == logging.NOTSET
    first, second = (folder / "log.txt").read_text().splitlines()
    assert first.endswith(f"INFO genrec.runs: starting train in {folder}")
    assert second.endswith("Z INFO genrec.data: it has 7 rows")


def test_a_level_that_the_application_has_set_is_kept(folder: Path) -> None:
    with package_level(logging.ERROR) as package, open_run(folder):
        assert package.level == logging.ERROR
        package.warning("quiet")
        package.error("loud")
    assert [line[21:] for line in (folder / "log.txt").read_text().splitlines()] == ["ERROR genrec: loud"]


# --- how a run ends ---


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("two\nlines"), "failed", "ValueError: two lines"),
        (DataError("bad row", where="a.csv:3"), "failed", "DataError: a.csv:3: bad row"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt:"),
        (SystemExit(3), "failed", "SystemExit: 3"),
        (MemoryError(), "failed", "MemoryError:"),
    ],
)
def test_an_exception_is_told_and_passes(folder: Path, error: BaseException, status: str, line: str) -> None:
    with pytest.raises(type(error)) as raised, open_run(folder) as run:
        run.update(step=5)
        raise error
    assert raised.value is error
    stored = read_status(folder)
    assert (stored["status"], stored["error"], stored["step"]) == (status, line, 5)
    log = (folder / "log.txt").read_text()
    assert f"ERROR genrec.runs: {line}" in log
    assert "Traceback (most recent call last)" in log
    assert not (folder / ".lock").exists()


def test_an_interrupt_that_a_library_turns_into_an_exit_is_one(folder: Path) -> None:
    interrupt = KeyboardInterrupt("Ctrl-C")
    with pytest.raises(KeyboardInterrupt) as raised, open_run(folder):
        try:
            raise interrupt
        except KeyboardInterrupt:
            sys.exit(1)
    assert raised.value is interrupt
    assert (read_status(folder)["status"], read_status(folder)["error"]) == ("interrupted", "KeyboardInterrupt: Ctrl-C")


def test_the_first_error_is_told_when_the_status_cannot_be_written(folder: Path) -> None:
    with pytest.raises(ValueError, match="first"), open_run(folder):
        (folder / "status.json").unlink()
        (folder / "status.json").mkdir()
        raise ValueError("first")
    assert "the status could not be written" in (folder / "log.txt").read_text()


def test_a_run_whose_end_cannot_be_written_is_not_done(folder: Path) -> None:
    with pytest.raises(StorageError, match=r"status\.json: cannot write"), open_run(folder):
        (folder / "status.json").unlink()
        (folder / "status.json").mkdir()


# --- metrics ---


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"loss": float("nan")}, "metrics.loss: not a JSON value"),
        ({"slices": {"head": [0.1, float("-inf")]}}, "metrics.slices.head[1]: not a JSON value"),
        ({"loss": np.float32(1)}, "found float32"),
        ({3: 1}, "metrics: a key has to be a string (found 3)"),
    ],
)
def test_metrics_have_to_be_finite_json(folder: Path, record: dict[Any, Any], words: str) -> None:
    with open_run(folder) as run:
        run.log_metrics({"step": 1})
        with pytest.raises(DataError) as raised:
            run.log_metrics(record)
        assert words in str(raised.value)
        assert str(raised.value).endswith("; give None for an undefined value")
        assert run.metrics() == [{"step": 1}]


def test_a_bad_line_of_metrics_is_named(folder: Path) -> None:
    with open_run(folder) as run:
        for step in range(3):
            run.log_metrics({"step": step})
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for bad in (b'{"step": 1\n', b"\xff\n", b"\n"):
        path.write_bytes(lines[0] + bad + lines[2])
        with pytest.raises(ArtifactError, match=r"metrics\.jsonl:2: not (JSON|UTF-8)"):
            read_metrics(folder)


def test_metrics_of_a_run_without_any(folder: Path) -> None:
    finish(folder)
    assert read_metrics(folder) == []


@pytest.mark.parametrize("torn", [b"{", b'{"step": 2, "loss": 0.1}', b"\x00\x00"])
def test_a_torn_last_line_is_cut_off_on_resuming(folder: Path, torn: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with open_run(folder) as run:
        run.log_metrics({"step": 1})
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    assert read_metrics(folder) == [{"step": 1}]
    with open_run(folder, resume=True) as run:
        assert run.metrics() == [{"step": 1}]
        run.log_metrics({"step": 2})
    assert read_metrics(folder) == [{"step": 1}, {"step": 2}]
    assert f"cutting off an unfinished last line of {len(torn)} bytes" in caplog.text


def test_metrics_that_are_nothing_but_a_torn_line(folder: Path) -> None:
    finish(folder)
    (folder / "metrics.jsonl").write_bytes(b'{"step"')
    finish(folder, resume=True)
    assert (folder / "metrics.jsonl").read_bytes() == b""


METRICS_ON_A_FULL_DISK = """
import resource, signal, sys
from genrec.errors import StorageError
from genrec.runs import RunDirectory
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
with RunDirectory.open(sys.argv[1], command="train", config_text="") as run:
    run.log_metrics({"step": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        run.log_metrics({"step": 2})
    except StorageError as error:
        message = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    run.log_metrics({"step": 3})
print(message)
"""


def test_a_line_that_finds_no_space_is_taken_back(folder: Path) -> None:
    command = [sys.executable, "-c", METRICS_ON_A_FULL_DISK, str(folder)]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert result.stderr == ""
    assert f"{folder / 'metrics.jsonl'}: cannot write: File too large; check free space" in result.stdout
    assert read_metrics(folder) == [{"step": 1}, {"step": 3}]


# --- whose folder it is ---


def test_a_folder_that_is_not_empty_is_refused(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError) as raised:
        finish(folder)
    assert raised.value.exit_code == 2
    assert str(raised.value) == (
        f"{folder}: the run folder is not empty; choose another folder, or go on with it by --resume"
    )
    with pytest.raises(RunError, match=r"nothing to resume: the folder is not empty and has no config\.yaml"):
        finish(folder, resume=True)
    assert snapshot(folder) == {"thesis.tex": b"years of work"}


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="there is a file where the run folder should go"):
        finish(tmp_path / "file")
    with pytest.raises(StorageError, match="cannot write: Not a directory"):
        finish(tmp_path / "file/run")


def test_an_empty_folder_is_as_good_as_none(folder: Path) -> None:
    folder.mkdir(parents=True)
    finish(folder, resume=True)
    assert (read_status(folder)["status"], read_status(folder)["num_resumed"]) == ("done", 0)


def test_a_finished_run_is_not_started_again_by_mistake(folder: Path) -> None:
    finish(folder)
    before = snapshot(folder)
    with pytest.raises(RunError, match="not empty"):
        finish(folder)
    assert snapshot(folder) == before


def test_one_process_cannot_open_a_run_twice(folder: Path) -> None:
    with open_run(folder):
        with pytest.raises(RunError, match="the run folder is in use"):
            finish(folder, resume=True)
        assert read_status(folder)["status"] == "running"
    assert read_status(folder)["status"] == "done"


RUN_AND_WAIT = """
import sys
from genrec.runs import RunDirectory
with RunDirectory.open(sys.argv[1], command="train", config_text=sys.argv[2], resume=True) as run:
    run.log_metrics({"step": 1})
    run.update(step=1)
    print("running", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def running_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", RUN_AND_WAIT, str(folder), CONFIG]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=PROJECT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            if process.stdout.readline() != "running\n":
                raise AssertionError(process.stderr.read())
            yield process
        finally:
            process.kill()


def test_a_run_of_another_process(folder: Path) -> None:
    with running_elsewhere(folder) as process:
        before = snapshot(folder)
        for resume in (False, True):
            with pytest.raises(RunError) as raised:
                finish(folder, resume=resume)
            message = f"{folder}: the run folder is in use (found process {process.pid} on {platform.node()} since 20"
            assert str(raised.value).startswith(message)
            assert raised.value.exit_code == 2
        assert snapshot(folder) == before
        process.send_signal(signal.SIGKILL)
        process.wait()
    # It was killed: that is what a status of "running" without a living process means.
    assert (read_status(folder)["status"], read_status(folder)["pid"]) == ("running", process.pid)
    with pytest.raises(RunError, match="not empty"):
        finish(folder)
    with open_run(folder, resume=True) as run:
        assert run.resumed
        assert run.metrics() == [{"step": 1}]
        assert (read_status(folder)["step"], read_status(folder)["pid"]) == (1, os.getpid())


def test_a_run_inside_of_an_artifact(tmp_path: Path) -> None:
    dataset = artifact(tmp_path / "dataset")
    for resume in (False, True):
        with pytest.raises(RunError, match=r"dataset/run: this is inside of an artifact"):
            finish(tmp_path / "dataset/run", resume=resume)
    assert sorted(os.listdir(dataset.path)) == ["manifest.json", "x"]
    with open_run(tmp_path / "run") as run:
        assert artifact(run.path / "recommender").path == tmp_path / "run/recommender"


def fail(folder: Path, **options: Any) -> None:
    with pytest.raises(ValueError, match="boom"), open_run(folder, **options):
        raise ValueError("boom")


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_failed_before_it_did_anything_is_not_in_the_way(folder: Path, resume: bool) -> None:
    fail(folder)
    (folder / "metrics.jsonl").touch()
    (folder / ".DS_Store").touch()
    with open_run(folder, command="sweep", config_text="other: 1\n", resume=resume) as run:
        assert not run.resumed
        status = read_status(folder)
        assert (status["command"], status["status"], status["error"], status["num_resumed"]) == (
            *("sweep", "running", None),
            0,
        )
    assert (folder / "config.yaml").read_text() == "other: 1\n"
    log = (folder / "log.txt").read_text()
    assert log.index("ValueError: boom") < log.index("starting sweep in")


def test_a_run_that_failed_after_it_did_something_stays(folder: Path) -> None:
    with pytest.raises(ValueError, match="boom"), open_run(folder) as run:
        run.log_metrics({"step": 1})
        raise ValueError("boom")
    for leave in (lambda: None, lambda: (folder / "checkpoint").mkdir()):
        leave()
        with pytest.raises(RunError, match="the run folder is not empty"):
            finish(folder)
        (folder / "metrics.jsonl").write_bytes(b"")
    shutil.rmtree(folder / "checkpoint")
    for status in ('{"status": "interrupted"}', '{"status": "running"}', "[]", "{}", "torn"):
        (folder / "status.json").write_text(status)
        with pytest.raises(RunError, match="the run folder is not empty"):
            finish(folder)


# --- being asked to end ---

RUN_UNTIL_SIGTERM = """
import multiprocessing, signal, sys, time
from genrec.artifacts import write_artifact
from genrec.runs import RunDirectory
before = signal.getsignal(signal.SIGTERM)
context = multiprocessing.get_context("fork")
begun = context.Event()
def work():
    begun.set()
    time.sleep(60)
child = context.Process(target=work)
try:
    with RunDirectory.open(sys.argv[1], command="train", config_text="") as run:
        child.start()
        begun.wait()
        child.terminate()
        child.join(30)
        with write_artifact(sys.argv[1] + "/recommender", kind="thing") as writer:
            print(child.exitcode, flush=True)  # the signal is sent from now on, when the lock is held
            try:
                time.sleep(60)
            finally:
                signal.raise_signal(signal.SIGTERM)  # a second one does not disturb the tidying up
except KeyboardInterrupt as interrupt:
    print(interrupt, signal.getsignal(signal.SIGTERM) is before)
"""


def test_sigterm_interrupts_a_run(folder: Path) -> None:
    command = [sys.executable, "-c", RUN_UNTIL_SIGTERM, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=PROJECT, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            # A forked child dies of the signal as ever, and does not meddle with the run.
            assert process.stdout.readline() == f"{-signal.SIGTERM}\n"
            process.terminate()
            output, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (output, errors, process.returncode) == ("SIGTERM True\n", "", 0)
    assert (read_status(folder)["status"], read_status(folder)["error"]) == (
        "interrupted",
        "KeyboardInterrupt: SIGTERM",
    )
    assert not list(folder.glob(".*"))
    finish(folder, config_text="", resume=True)


def test_sigterm_is_left_alone_where_it_must_be() -> None:
    seen: list[object] = []

    def look() -> None:
        with raise_on_sigterm():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        look()
        assert seen[1:] == [signal.SIG_IGN]
    finally:
        signal.signal(signal.SIGTERM, before)
    look()
    assert seen[2] not in (before, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) == before


# --- resuming ---


def test_resuming_keeps_what_was(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_run(folder) as run:
        run.log_metrics({"step": 1})
        run.update(step=1, message="one")
        raise KeyboardInterrupt
    first, started = read_json(folder / "environment.json"), read_status(folder)["started"]
    (folder / ".status.json.0123456789abcdef.tmp").write_text("half")
    for times in (1, 2):
        with open_run(folder, resume=True) as run:
            assert run.resumed
            status = read_status(folder)
            assert (status["status"], status["error"], status["num_resumed"]) == ("running", None, times)
            assert (status["step"], status["message"], status["started"]) == (1, "one", started)
            run.log_metrics({"resumed": times})
    assert read_metrics(folder) == [{"step": 1}, {"resumed": 1}, {"resumed": 2}]
    assert (folder / "config.yaml").read_text("utf-8") == CONFIG
    environment = read_json(folder / "environment.json")
    assert [earlier["python"] for earlier in environment["previous"]] == [first["python"]] * 2
    assert environment["previous"][0] == first
    assert not list(folder.glob(".*"))
    log = (folder / "log.txt").read_text()
    assert log.count("resuming train in") == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (CONFIG.replace("seed: 1", "seed: 2"), "config.yaml:2: {} (expected 'seed: 1', found 'seed: 2')"),
        (CONFIG + "extra: 1\n", "config.yaml:4: {} (expected '', found 'extra: 1')"),
        (CONFIG.rstrip("\n"), "config.yaml:4: {} (expected '', found no more lines)"),
        ("", "config.yaml:1: {} (expected 'dataset: data/x', found '')"),
        (CONFIG.replace("\n", "\r\n"), r"config.yaml:1: {} (expected 'dataset: data/x', found 'dataset: data/x\r')"),
    ],
)
def test_resuming_with_another_configuration(folder: Path, text: str, words: str) -> None:
    finish(folder)
    before = snapshot(folder)
    with pytest.raises(RunError) as raised:
        finish(folder, config_text=text, resume=True)
    assert words.format("cannot resume with another configuration") in str(raised.value)
    assert str(raised.value).endswith("; give the configuration it was started with, or choose another folder")
    assert snapshot(folder) == before


PATHS = """run: {run}
dataset: {dataset}
space:
  run: 1
window:
- 1
- 2
seed: {seed}
"""


def test_resuming_with_another_spelling_of_a_path(folder: Path) -> None:
    def spelt(run: str, dataset: str, seed: int = 1) -> str:
        return PATHS.format(run=run, dataset=dataset, seed=seed)

    keys = ("run", "dataset")
    stored = spelt("runs/one", "'a folder whose name is long enough to be\n  folded'")
    finish(folder, config_text=stored)
    for text in (spelt("./runs/one", "/data/x"), spelt("/runs/one", "x:y"), stored.removeprefix("run: runs/one\n")):
        finish(folder, config_text=text, resume=True, ignore_keys=keys)
        with pytest.raises(RunError, match=r"config\.yaml:\d: cannot resume with another configuration"):
            finish(folder, config_text=text, resume=True)
    # Line numbers are those of the stored file; keys inside of others are not meant.
    with pytest.raises(RunError, match=r"config\.yaml:9: cannot .* \(expected 'seed: 1', found 'seed: 2'\)"):
        finish(folder, config_text=spelt("a", "b", seed=2), resume=True, ignore_keys=keys)
    with pytest.raises(RunError, match=r"config\.yaml:5: cannot .* \(expected ' run: 1', found ' run: 2'\)"):
        finish(folder, config_text=stored.replace("  run: 1", "  run: 2"), resume=True, ignore_keys=keys)
    with pytest.raises(RunError, match=r"config\.yaml:11: .* \(expected no more lines, found ''\)"):
        finish(folder, config_text=stored + "\n", resume=True, ignore_keys=keys)
    assert (folder / "config.yaml").read_text() == stored


def test_resuming_another_command(folder: Path) -> None:
    finish(folder)
    with pytest.raises(RunError, match=r"another command's run \(expected train, found sweep\)"):
        finish(folder, command="sweep", resume=True)


def test_a_run_that_was_killed_while_it_started(folder: Path) -> None:
    finish(folder)
    (folder / "status.json").unlink()
    with pytest.raises(RunError, match=r"nothing to resume: .* has no status\.json; choose another folder, or remove"):
        finish(folder, resume=True)


def test_resuming_with_other_inputs(folder: Path, tmp_path: Path) -> None:
    raw, dataset = tmp_path / "raw.txt", artifact(tmp_path / "dataset")
    raw.write_text("raw")
    finish(folder, inputs=[raw, dataset])
    before = snapshot(folder)

    def refuse(inputs: list[Any], words: str) -> None:
        with pytest.raises(LineageError) as raised:
            finish(folder, inputs=inputs, resume=True)
        assert words in str(raised.value)
        assert raised.value.exit_code == 5
        assert snapshot(folder) == before

    other = artifact(tmp_path / "other", text="other")
    message = f"{other.path}: cannot resume with another input (expected {dataset.identity}, found {other.identity})"
    refuse([raw, other], message)
    refuse([raw], f"{dataset.path}: cannot resume with another input (expected {dataset.identity}, found no such input")
    refuse([raw, dataset, raw], f"{raw}: cannot resume with another input (expected no such input, found ")
    refuse([dataset, raw], "cannot resume with another input")
    raw.write_text("RAW")
    refuse([raw, dataset], f"{raw}: cannot resume with another input")

    # The same content somewhere else is the same input.
    raw.write_text("raw")
    shutil.move(dataset.path, tmp_path / "moved")
    shutil.move(raw, tmp_path / "moved.txt")
    finish(folder, inputs=[tmp_path / "moved.txt", tmp_path / "moved"], resume=True)
    assert read_status(folder)["status"] == "done"


def test_inputs_that_are_none(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent: the input is missing"):
        finish(folder, inputs=[tmp_path / "absent"])
    (tmp_path / "plain").mkdir()
    with pytest.raises(DataError, match=r"plain: not a complete artifact"):
        finish(folder, inputs=[tmp_path / "plain"])
    assert snapshot(folder) == {}
    finish(folder)  # nothing of the failed starts is in the way


# --- lineage ---


def test_lineage_walks_to_the_roots(tmp_path: Path) -> None:
    dataset = artifact(tmp_path / "dataset")
    embeddings = artifact(tmp_path / "embeddings", "embeddings", {"dataset": dataset})
    ids = artifact(tmp_path / "ids", "semantic_ids", {"embeddings": embeddings})
    model = artifact(tmp_path / "model", "recommender", {"dataset": dataset, "semantic_ids": ids})

    def row(name: str | None, item: Artifact, kind: str | None) -> dict[str, Any]:
        return {"name": name, "identity": item.identity, "path": str(item.path), "kind": kind}

    assert lineage(model.path) == [
        row(None, model, "recommender"),
        row("dataset", dataset, "dataset"),
        row("semantic_ids", ids, "semantic_ids"),
        row("embeddings", embeddings, "embeddings"),
    ]
    assert lineage(dataset.path) == [row(None, dataset, "dataset")]

    shutil.rmtree(ids.path)
    artifact(ids.path, "semantic_ids", text="another one at the same place")
    known = [row(None, model, "recommender"), row("dataset", dataset, "dataset"), row("semantic_ids", ids, None)]
    assert lineage(model.path) == known
    shutil.rmtree(ids.path)
    assert lineage(model.path) == known
    with pytest.raises(ArtifactError, match="no such artifact"):
        lineage(ids.path)


def test_metrics_lines_are_plain_json(folder: Path) -> None:
    with open_run(folder) as run:
        run.log_metrics({"text": "a\nb ü", "sizes": (1, 2)})
    lines = (folder / "metrics.jsonl").read_text("ascii").splitlines()
    assert [json.loads(line) for line in lines] == [{"text": "a\nb ü", "sizes": [1, 2]}]


def test_only_run_folders_are_removed(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "run", command="train", config_text="a: 1\n") as run:
        run.log_metrics({"step": 1})
        with pytest.raises(RunError, match="in use"):
            remove_run(tmp_path / "run")
    remove_run(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(RunError, match="not a run folder"):
        remove_run(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_records_after_a_checkpoint_are_cut(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "run", command="train", config_text="a: 1\n") as run:
        for step in range(4):
            run.log_metrics({"step": step})
        run.keep_metrics(lambda record: record["step"] <= 1)
        run.log_metrics({"step": 2, "again": True})
        assert run.metrics() == [{"step": 0}, {"step": 1}, {"step": 2, "again": True}]
