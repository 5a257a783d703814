"""The loop on a small task with dropout: a killed run goes on to bit-equal weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from genrec.data.batches import BatchStream
from genrec.data.sequences import Ragged
from genrec.models.transformer import Dropout
from genrec.processes import Team
from genrec.runs import RunDirectory
from genrec.training.loop import FitOptions, Stretches, TrainingState, fit

SCRIPT = """
import os, signal, sys
import numpy as np, torch, lightning.pytorch as pl
from genrec.data.batches import BatchStream
from genrec.data.sequences import Ragged
from genrec.runs import RunDirectory
from genrec.training.loop import FitOptions, fit

class Task(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(20, 8)
        self.head = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(8, 20))
        self.kill = None
    def training_step(self, batch, batch_idx):
        if state_step(self) == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        logits = self.head(self.embed(batch["items"].clamp(min=0)))
        chosen = batch["is_target"]
        loss = torch.nn.functional.cross_entropy(logits[chosen], batch["targets"][chosen])
        return {"loss": loss}
    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + 0.05 * step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

def state_step(task):
    return task.trainer.callbacks[0].state.step

folder, kill, every, patience = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
random = np.random.default_rng(0)
rows = [[(start + step) % 20 for step in range(int(random.integers(3, 9)))] for start in range(40)]
stream = BatchStream(Ragged.from_lists(rows), batch_size=8, max_length=6, seed=3)
task = Task()
task.kill = None if kill < 0 else kill
def validate():
    if kill == -2 and state_step(task) == 2 * every and not os.environ.get("RESUMED"):
        os.kill(os.getpid(), signal.SIGKILL)
    if patience < 5:
        return {"recall@10": 1.0 / (1 + state_step(task))}
    return {"recall@10": float(-task.embed.weight.square().mean()) + state_step(task)}
options = FitOptions(
    max_epochs=4, validate_every=every, patience=patience, seed=5, accelerator="cpu",
    validate_first=bool(os.environ.get("FIRST")),
    average=0.9,  # without one: test_recommender.py
)
with RunDirectory.open(folder, command="train", config_text="a: 1\\n", resume=bool(os.environ.get("RESUMED"))) as run:
    if kill == -3 and not run.resumed:
        log = run.log_metrics
        run.log_metrics = lambda record: (log(record), os.kill(os.getpid(), signal.SIGKILL))
    if os.environ.get("FIRST"):
        torch.save(task.state_dict(), folder + "/start.pt")
    found = fit(task, stream, validate, run=run, options=options)
torch.save(task.state_dict(), folder + "/final.pt")
print(found)
"""


def train(
    folder: Path, *, kill: int = -1, every: int = 5, patience: int = 99, resume: bool = False, first: bool = False
) -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment |= {"RESUMED": "1" if resume else "", "FIRST": "1" if first else ""}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder), str(kill), str(every), str(patience)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
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
    assert train(folder) == 0
    return folder


KILLS = {"first": 0, "record": -3, "middle": 7, "boundary": 10, "validation": -2, "last": 23}
SLOW = ("first", "record", "boundary", "validation", "last")  # two processes each, which import Lightning


@pytest.mark.parametrize(
    "kill", [pytest.param(at, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name, at in KILLS.items()]
)
def test_a_killed_run_ends_with_equal_weights_and_records(kill: int, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train(folder, kill=kill) == -signal.SIGKILL
    assert train(folder, resume=True) == 0
    expected, found = weights(whole), weights(folder)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert records(folder) == records(whole)


def test_training_lowers_the_loss_and_records_every_stretch(whole: Path) -> None:
    lines = records(whole)
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 24]
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]


def test_the_weights_at_the_start_may_be_the_best(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train(folder, patience=2, first=True) == 0
    lines = records(folder)
    assert [line["step"] for line in lines] == [0, 5, 10]
    assert ["train_loss" in line for line in lines] == [False, True, True]
    start, found = torch.load(folder / "start.pt"), weights(folder)
    assert all(torch.equal(value, found[name]) for name, value in start.items())


def test_the_best_weights_are_loaded_and_training_stops_early(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train(folder, patience=2) == 0
    assert [line["step"] for line in records(folder)] == [5, 10, 15]
    best = torch.load(folder / "checkpoints" / "best.pt", weights_only=True)
    assert best["state"]["best_step"] == 5
    found = weights(folder)
    assert all(torch.equal(value, found[name]) for name, value in best["model"].items())
    before = (folder / "metrics.jsonl").read_bytes()
    assert train(folder, patience=2, resume=True) == 0
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert all(torch.equal(value, weights(folder)[name]) for name, value in best["model"].items())


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
