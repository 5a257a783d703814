"""The loop on a small task with dropout: a killed run goes on to bit-equal weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from genrec.data.batches import BatchStream
from genrec.data.sequences import Ragged
from genrec.models.transformer import Dropout
from genrec.processes import Team
from genrec.runs import RunDirectory
from genrec.training.loop import FitOptions, Stretches, TrainingState, fit


class Killed(Exception):
    """Stands in for SIGKILL where a test stays in one process."""


class Task(pl.LightningModule):
    """Next-item prediction with dropout; dies at a step."""

    def __init__(self, die: Callable[[], None], at: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(20, 8)
        self.head = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(8, 20))
        self.die, self.at = die, at

    @property
    def step(self) -> int:
        return self.trainer.callbacks[0].state.step

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        if self.step == self.at:
            self.die()
        logits = self.head(self.embed(batch["items"].clamp(min=0)))
        chosen = batch["is_target"]
        return {"loss": torch.nn.functional.cross_entropy(logits[chosen], batch["targets"][chosen])}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + 0.05 * step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


IN_VALIDATION, BEFORE_THE_CHECKPOINT = -2, -3


def run(
    folder: Path, die: Callable[[], None], *, kill: int, patience: int, resume: bool, first: bool, keep: str = "best"
) -> None:
    """Four epochs of six steps, validated every five; `kill` is a step, or one of the places above."""
    random = np.random.default_rng(0)
    rows = [[(start + step) % 20 for step in range(int(random.integers(3, 9)))] for start in range(40)]
    stream = BatchStream(Ragged.from_lists(rows), batch_size=8, max_length=6, seed=3)
    task = Task(die, -1 if resume else kill)

    def validate() -> dict[str, float]:
        if kill == IN_VALIDATION and not resume and task.step == 10:
            die()
        if patience < 5:
            return {"recall@10": 1.0 / (1 + task.step)}
        return {"recall@10": float(-task.embed.weight.square().mean()) + task.step}

    options = FitOptions(
        max_epochs=4,
        validate_every=5,
        patience=patience,
        seed=5,
        accelerator="cpu",
        validate_first=first,
        average=0.9,  # without one: test_recommender.py
        keep="last" if keep == "last" else "best",
    )
    with RunDirectory.open(folder, command="train", config_text="a: 1\n", resume=resume) as directory:
        if kill == BEFORE_THE_CHECKPOINT and not resume:
            log = directory.log_metrics
            directory.log_metrics = lambda record: (log(record), die())
        if first:
            torch.save(task.state_dict(), folder / "start.pt")
        fit(task, stream, validate, run=directory, options=options)
    torch.save(task.state_dict(), folder / "final.pt")


def train(folder: Path, *, kill: int = -1, patience: int = 99, resume: bool = False, first: bool = False) -> None:
    def die() -> None:
        raise Killed

    with pytest.raises(Killed) if kill != -1 and not resume else nullcontext():
        run(folder, die, kill=kill, patience=patience, resume=resume, first=first)


def train_in_another_process(folder: Path, *, kill: int, resume: bool = False) -> int:
    command = [sys.executable, "-W", "ignore", __file__, str(folder), str(kill), "resume" if resume else ""]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "final.pt")


def records(folder: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "targets_per_second"} for record in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder)
    return folder


KILLS = {
    "first": 0,
    "record": BEFORE_THE_CHECKPOINT,
    "middle": 7,
    "boundary": 10,
    "validation": IN_VALIDATION,
    "last": 23,
}


@pytest.mark.parametrize("kill", KILLS.values(), ids=KILLS)
def test_a_broken_run_ends_with_equal_weights_and_records(kill: int, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(folder, kill=kill)
    train(folder, kill=kill, resume=True)
    check_it_ended_as(whole, folder)


@pytest.mark.slow  # two processes each, which import Lightning
@pytest.mark.parametrize("kill", KILLS.values(), ids=KILLS)
def test_a_killed_run_ends_with_equal_weights_and_records(kill: int, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train_in_another_process(folder, kill=kill) == -signal.SIGKILL
    assert train_in_another_process(folder, kill=kill, resume=True) == 0
    check_it_ended_as(whole, folder)


def check_it_ended_as(whole: Path, folder: Path) -> None:
    expected, found = weights(whole), weights(folder)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert records(folder) == records(whole)


def test_training_lowers_the_loss_and_records_every_stretch(whole: Path) -> None:
    lines = records(whole)
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 24]
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]


def test_the_weights_at_the_start_may_be_the_best(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(folder, patience=2, first=True)
    lines = records(folder)
    assert [line["step"] for line in lines] == [0, 5, 10]
    assert ["train_loss" in line for line in lines] == [False, True, True]
    start, found = torch.load(folder / "start.pt"), weights(folder)
    assert all(torch.equal(value, found[name]) for name, value in start.items())


def test_the_best_weights_are_loaded_and_training_stops_early(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(folder, patience=2)
    assert [line["step"] for line in records(folder)] == [5, 10, 15]
    best = torch.load(folder / "checkpoints" / "best.pt", weights_only=True)
    assert best["state"]["best_step"] == 5
    found = weights(folder)
    assert all(torch.equal(value, found[name]) for name, value in best["model"].items())
    before = (folder / "metrics.jsonl").read_bytes()
    train(folder, patience=2, resume=True)
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert all(torch.equal(value, weights(folder)[name]) for name, value in best["model"].items())


def test_the_last_weights_may_be_kept_and_nothing_stops_early(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    run(folder, lambda: None, kill=-1, patience=2, resume=False, first=True, keep="last")
    assert [line["step"] for line in records(folder)] == [0, 5, 10, 15, 20, 24]
    # Validation of `whole` prefers its last step, so its weights are those of the same steps.
    assert all(torch.equal(value, weights(folder)[name]) for name, value in weights(whole).items())


@pytest.mark.parametrize("size", [2, 3, 9])
def test_the_rows_of_a_batch_are_shared_out_among_a_team(size: int) -> None:
    """Every target is in one process, and the mean over processes of weighted means is the mean over all targets."""
    rows = [[(start + step) % 20 for step in range(2 + start % 7)] for start in range(17)]
    stream = BatchStream(Ragged.from_lists(rows), batch_size=8, max_length=5, seed=3)  # the last batch is of few rows

    def batches(team: Team) -> list[dict[str, torch.Tensor]]:
        return list(Stretches(stream, stream.num_batches, stream.num_batches, TrainingState(), team))

    def mean(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        values = (batch["items"] * 20 + batch["targets"]).double().square()
        return values[batch["is_target"]].mean()

    alone = batches(Team())
    shared = [batches(Team(rank, size)) for rank in range(size)]
    for whole, *parts in zip(alone, *shared, strict=True):
        assert whole["share"] == 1
        counted = [part for part in parts if part["share"] > 0]
        targets = torch.cat([part["targets"][part["is_target"]] for part in counted])
        assert torch.equal(targets.sort().values, whole["targets"][whole["is_target"]].sort().values)
        assert torch.stack([part["share"] * mean(part) for part in parts]).sum() / size == pytest.approx(mean(whole))


class Noise(pl.LightningModule):
    """Records the dropout of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.dropout = Dropout(0.5)
        self.shares: list[float] = []

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        self.shares.append(float((self.dropout(torch.ones(4096)) == 0).float().mean()))
        return {"loss": self.weight.sum()}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def test_the_dropout_of_a_step_follows_its_schedule(tmp_path: Path) -> None:
    """Also where a run goes on: of twelve steps the first six make the first half."""
    stream = BatchStream(Ragged.from_lists([[1, 2]] * 3), batch_size=1, max_length=2)
    whole = []
    for epochs, resume in ((2, False), (4, True)):
        task = Noise()
        options = FitOptions(
            max_epochs=epochs, accelerator="cpu", dropout=lambda done, e=epochs: 1 - done * e / 4, validate_every=3
        )
        with RunDirectory.open(tmp_path / "run", command="train", config_text="a: 1\n", resume=resume) as run:
            fit(task, stream, lambda: {"recall@10": 0.5}, run=run, options=options)
        whole += task.shares
    expected = [0.5 * (1 - step / 12) for step in range(12)]
    assert whole == pytest.approx(expected, abs=0.04)


if __name__ == "__main__":
    torch.set_num_threads(1)
    path, where, again = sys.argv[1:]
    run(
        Path(path),
        lambda: os.kill(os.getpid(), signal.SIGKILL),
        kill=int(where),
        patience=99,
        resume=bool(again),
        first=False,
    )
