"""Trainings tuned through the command line: resumable anywhere, one metric, one winner that runs, no test split."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import RUNNER, fails, works
from safetensors.numpy import load_file

from genrec.cli import app, config_folders
from genrec.config.load import load_config
from genrec.config.schema import SweepConfig
from genrec.config.training import TrainConfig
from genrec.files import read_json
from genrec.pipeline.sweep_space import training_space
from genrec.pipeline.train import train
from genrec.runs import read_metrics, read_status
from genrec.training import loop

MODEL = ["train.model=sasrec", "train.model.width=8", "train.model.hidden=16", "train.model.history_length=6"]
SHORT = ["train.stopping.max_epochs=2", "train.optimizer.batch_size=32", "train.accelerator=cpu"]
SPACE = ["space.model.dropout_input=[0,0.5]", "space.optimizer.learning_rate=[5e-3,1e30]"]  # the latter diverges
SEARCH = ["num_trials=4", "num_random=2", "num_seeds=2", "seed=7"]
CONFIGS = [file for folder in config_folders()[:1] for file in sorted((folder / "sweep").glob("*.yaml"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dataset d and a sweep that nothing interrupted, whole."""
    folder = tmp_path_factory.mktemp("sweep")
    size = ["source.num_users=60", "source.num_items=40", "source.num_categories=4"]
    works("prepare", "synthetic", *size, f"output={folder}/d")
    works(*words(folder / "d", folder / "whole"))
    return folder


def words(dataset: Path, run: Path, *more: str) -> list[str]:
    return ["sweep", "target=train", f"dataset={dataset}", f"run={run}", *MODEL, *SHORT, *SPACE, *SEARCH, *more]


def records(run: Path) -> list[dict[str, Any]]:
    """Those of a sweep, but for the time they took."""
    return [{key: value for key, value in record.items() if key != "seconds"} for record in read_metrics(run)]


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "recommender" / "weights.safetensors")


@contextmanager
def interrupted_after(num_saves: int) -> Iterator[None]:
    """Ctrl-C once that many checkpoints of a stretch's end have been written."""
    save, saved = loop._save, []

    def interrupt(path: Path, state: loop.TrainingState, tensors: dict[str, object]) -> None:
        save(path, state, tensors)
        saved.append(path.name)
        if saved.count("last.pt") == num_saves:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_save", interrupt)
        yield


def check_as_uninterrupted(folder: Path, run: Path) -> None:
    assert records(run) == records(folder / "whole")
    best, expected = read_json(run / "best.json"), read_json(folder / "whole" / "best.json")
    assert best.pop("train")["run"] != expected.pop("train")["run"]
    assert best == expected
    trial = f"trials/{best['trial']:03d}"
    before, after = weights(folder / "whole" / trial), weights(run / trial)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert read_status(run)["status"] == "done"


def test_trials_failures_seeds_and_the_best_are_written_down(folder: Path) -> None:
    run = folder / "whole"
    lines = read_metrics(run)
    trials, seeds = lines[:4], lines[4:]
    assert [line["trial"] for line in trials] == [0, 1, 2, 3]
    failed = [line for line in trials if line["params"]["optimizer.learning_rate"] == 1e30]
    assert [line["recall@10"] for line in failed] == [None, None]
    assert all("the loss is" in line["error"] for line in failed)
    scored = {line["trial"]: line["recall@10"] for line in trials if line not in failed}
    best = read_json(run / "best.json")
    assert best["recall@10"] == max(scored.values()) == scored[best["trial"]]
    assert best["params"] == trials[best["trial"]]["params"]
    assert (best["split"], best["num_cases"]) == ("validation", 60)
    assert best["seeds"] == {"0": best["recall@10"], "1": seeds[0]["recall@10"]}
    assert len(seeds) == 1
    kept = sorted(path.parent.name for path in (run / "trials").glob("*/recommender"))
    assert kept == sorted(path.parent.name for path in (run / "trials").glob("*/checkpoints"))
    assert kept == [f"{best['trial']:03d}"]


def test_the_table_shows_the_best_and_what_is_luck(folder: Path) -> None:
    shown = RUNNER.invoke(app, [*words(folder / "d", folder / "whole"), "--resume"])
    assert shown.exit_code == 0, shown.output + repr(shown.exception)
    assert "best of 4 trials on 60 validation cases" in shown.output
    assert "recall@10  best step  steps  seconds  values" in shown.output
    assert "dropout_input=0.5 learning_rate=0.005" in shown.output
    assert "of 2 equally good trials the best may look up to" in shown.output
    assert "the best trial from 2 seeds" in shown.output
    assert shown.output.count(" failed: ") == 2
    (follow,) = (line for line in shown.output.splitlines() if line.startswith("next: genrec "))
    assert works(*follow.removeprefix("next: genrec ").split(), "models=[popularity]", "num_resamples=100")["rows"]
    assert len(read_metrics(folder / "whole")) == 5, "a finished sweep repeats nothing"


def test_the_best_is_a_training_that_runs_as_it_is(folder: Path) -> None:
    run = folder / "whole"
    best = read_json(run / "best.json")
    assert works("train", str(run / "best.yaml"))["recall@10"] == best["recall@10"]
    trained, kept = weights(run / "best"), weights(run / "trials" / f"{best['trial']:03d}")
    assert all(np.array_equal(trained[name], kept[name]) for name in kept)


def test_an_interrupted_sweep_goes_on_exactly(folder: Path, tmp_path: Path) -> None:
    """Cut off in the middle of a trial, at the end of one before it is written down, and in a training with a seed."""
    command = words(folder / "d", tmp_path / "run")
    for num_saves in (1, 1, 3):
        with interrupted_after(num_saves):
            stopped = RUNNER.invoke(app, [*command, "--resume"])
        assert stopped.exit_code == 130, stopped.output
        assert "go on with --resume" in stopped.output
        assert read_status(tmp_path / "run")["status"] == "interrupted"
    assert "--resume" in fails(*command, code=2)
    assert "num_trials" in fails(*command, "num_trials=5", "--resume", code=2)
    works(*command, "--resume")
    check_as_uninterrupted(folder, tmp_path / "run")


@pytest.mark.slow
def test_a_killed_sweep_goes_on_exactly(folder: Path, tmp_path: Path) -> None:
    command = words(folder / "d", tmp_path / "run")
    for num_records in (1, 3):
        process = subprocess.Popen(
            [sys.executable, "-m", "genrec", *command, "--resume"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=dict(os.environ),
        )
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if (tmp_path / "run").is_dir() and len(read_metrics(tmp_path / "run")) >= num_records:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, errors
    works(*command, "--resume")
    check_as_uninterrupted(folder, tmp_path / "run")


def test_a_training_ends_where_its_caller_says_and_can_go_on(folder: Path, tmp_path: Path) -> None:
    best = read_json(folder / "whole" / "best.json")
    config = load_config(TrainConfig, [folder / "whole" / "best.yaml"], [f"run={tmp_path}/run"])
    for resume in (False, True):
        train(config, progress=lambda *_: None, resume=resume, stop=lambda records: len(records) == 1)
        assert len(read_metrics(tmp_path / "run")) == 1
    train(config, progress=lambda *_: None, resume=True)
    trial = folder / "whole" / f"trials/{best['trial']:03d}"
    assert len(read_metrics(tmp_path / "run")) == len(read_metrics(trial)) == 2
    before, after = weights(trial), weights(tmp_path / "run")
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_a_hopeless_trial_ends_early(folder: Path, tmp_path: Path) -> None:
    """Five trials at fair rates, then one at which nothing is learnt: where the curves say so, and not before."""
    rates = ["space.model.dropout_input=[0]", "space.optimizer.learning_rate=[4e-3,5e-3,6e-3,7e-3,8e-3,1e-9]"]
    more = [*rates, "num_trials=6", "num_random=6", "seed=0", "num_seeds=1", "stop_after=1"]
    command = words(folder / "d", tmp_path / "run", *more)
    works(*command)
    trials = read_metrics(tmp_path / "run")
    curves = [[line["recall@10"] for line in read_metrics(tmp_path / f"run/trials/{n:03d}")] for n in range(6)]
    assert [len(curve) for curve in curves] == [2, 2, 2, 2, 2, 1]
    assert trials[5]["params"]["optimizer.learning_rate"] == 1e-9
    assert trials[5]["recall@10"] == curves[5][0] < min(curve[0] for curve in curves[:5])
    # One that is cut off once it has ended early does not go on.
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(lines[:5]))
    shutil.rmtree(tmp_path / "run" / "trials" / "005")
    with interrupted_after(1):
        assert RUNNER.invoke(app, [*command, "--resume"]).exit_code == 130
    works(*command, "--resume")
    assert records(tmp_path / "run")[5] == {key: value for key, value in trials[5].items() if key != "seconds"}
    assert len(read_metrics(tmp_path / "run" / "trials" / "005")) == 1


def test_a_sweep_of_failures_is_an_error(folder: Path, tmp_path: Path) -> None:
    more = ["space.optimizer.learning_rate=[1e30]", "num_seeds=1"]
    for resume in ([], ["--resume"]):
        line = fails(*words(folder / "d", tmp_path / "run", *more, *resume), code=4)
        assert "all 2 trials failed" in line
        assert "the loss is" in line
    assert len(read_metrics(tmp_path / "run")) == 2


def test_values_that_do_not_go_together_are_a_failed_trial(folder: Path, tmp_path: Path) -> None:
    more = ["space.model.num_heads=[2,3]", "space.optimizer.learning_rate=[5e-3]", "space.model.dropout_input=[0.5]"]
    found = works(*words(folder / "d", tmp_path / "run", *more, "num_seeds=1"))
    assert (found["trials"], found["failed"]) == (2, 1)
    assert found["params"]["model.num_heads"] == 2
    (failed,) = (line for line in read_metrics(tmp_path / "run") if line["recall@10"] is None)
    assert "heads" in failed["error"]


def test_the_test_split_is_never_read(tmp_path: Path) -> None:
    """Two data sets with the same items that differ in the targets of the test split alone: the same sweep."""
    rng = random.Random(0)
    items = [f"i{number}" for number in range(30)]
    kept = [(f"u{user}", rng.choice(items), part) for user in range(60) for part in ["train"] * 4 + ["validation"]]
    for name, seed in (("a", 1), ("b", 2)):
        targets = random.Random(seed).sample(items * 2, 60)
        test = [(f"u{user}", target, "test") for user, target in enumerate(targets)]
        rows = sorted([*kept, *test], key=lambda row: (int(row[0][1:]), ["train", "validation", "test"].index(row[2])))
        text = "user_id,item_id,split\n" + "".join(f"{','.join(row)}\n" for row in rows)
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
        source = ["source=table", f"source.interactions={name}.csv", "source.timestamp_column=null"]
        split = ["split=provided", "source.split_column=split", "order.by=file"]
        core = ["filter.min_user_interactions=0", "filter.min_item_interactions=0"]
        works("prepare", *source, *split, *core, f"raw_dir={tmp_path}", f"output={tmp_path}/{name}")
        works(*words(tmp_path / name, tmp_path / f"run_{name}", "num_trials=1", "num_seeds=1", "seed=0"))
    assert records(tmp_path / "run_a") == records(tmp_path / "run_b")
    assert (tmp_path / "a.csv").read_text() != (tmp_path / "b.csv").read_text()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["space.model.width=[8,a]"], "space: key 'model.width' has the wrong type"),
        (["space.optimizer.warmup=[2]"], "space: key 'optimizer.warmup' is out of range"),
        (["train.optimizer.lerning_rate=1"], "train: unknown key 'optimizer.lerning_rate'; did you mean"),
        (["space.seed=[1,2]"], "trials cannot differ in seed"),
        (["space.stopping.cutoff=[5,10]"], "all trials share train.stopping.cutoff"),
        (["space.run=[a,b]"], "trials cannot differ in run"),
        (["train.run=a"], "'train.run' is decided by the sweep"),
        (["metric=ndcg"], "set train.stopping.metric instead"),
        (["history_length=5"], "set train.model.history_length instead"),
        (["semantic_ids=a"], "model=sasrec takes no semantic_ids"),
        (["train.loss=prefix_pairwise"], "in a sweep, its keys begin with 'train.'"),
        (["target=item_knn"], "item-kNN is not trained"),
    ],
)
def test_what_is_wrong_is_told_before_the_first_trial(
    more: list[str], expected: str, folder: Path, tmp_path: Path
) -> None:
    assert expected in fails(*words(folder / "d", tmp_path / "run", *more), code=2)
    assert not (tmp_path / "run").exists()


def test_a_sweep_needs_something_to_search(folder: Path, tmp_path: Path) -> None:
    command = ["sweep", "target=train", f"dataset={folder}/d", f"run={tmp_path}/run", *MODEL]
    assert "nothing to search" in fails(*command, code=2)
    assert "nothing to search" in fails(*command, "--dry-run", code=2)
    found = works(*command, "space.model.width=[8]", "num_trials=7", "num_seeds=3", "--dry-run")
    assert found["expected_cost"][0].startswith("trains at most 9 times on ")


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_shipped_spaces_hold_what_was_chosen_by_hand(file: Path) -> None:
    config = load_config(SweepConfig, [file], ["dataset=d", "run=r"])
    space = training_space(config).values
    assert {"optimizer.learning_rate", "optimizer.item_weight_decay", "model.width"} <= space.keys()
    assert all(len(values) > 1 for values in space.values())
