"""The training loop: a Lightning Trainer whose epochs are stretches of steps that end in validation and a checkpoint.

What a step does is a function of (seed, step): its batch comes from a `BatchStream`, its dropout from a seed folded
with the step. A checkpoint is written at the end of each stretch, after validation, so a run that is killed anywhere
goes on from the last one and ends with bit-equal weights on the same device. Knows nothing of what the task computes.

Checkpoints, the best weights and stopping are ours, in some forty lines, because Lightning 2.6 goes on from a
checkpoint of an epoch's end with one more batch of the old epoch.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy

from genrec.data.batches import BatchStream
from genrec.errors import ArtifactError
from genrec.files import writing
from genrec.models.transformer import Dropout
from genrec.processes import ALONE, Team
from genrec.runs import RunDirectory
from genrec.seeding import fold_in
from genrec.training.averaging import WeightAverage

logger = logging.getLogger(__name__)

Progress = Callable[..., None]
Stop = Callable[[Sequence[Mapping[str, Any]]], bool]


@dataclass(frozen=True)
class FitOptions:
    """How long and on what to train.

    Attributes:
        max_epochs: passes over the data.
        validate_every: steps between two validations (and checkpoints); None: once an epoch of the data.
        patience: validations without improvement after which training stops; None: never.
        metric: what `validate` returns and is maximised, for the best checkpoint and for stopping.
        precision: a Lightning precision, such as "32-true" or "bf16-mixed".
        accelerator: a Lightning accelerator, such as "cpu" or "auto".
        clip_norm: largest gradient norm; None: no clipping.
        seed: of batches and dropout.
        validate_first: validate before the first step too, so that the weights at the start may turn out the best.
        average: decay of a moving average of the weights, which is validated and kept in their place; None: none.
        dropout: the share of the dropout rates that a step uses, of the share of the steps that are done.
        shown: what a step returns whose mean since the last validation belongs beside the progress.
        keep: the weights that are loaded in the end: the best, or those of the last validation whatever it says. The
            latter are not chosen on validation, and are what to compare with weights that were not either.
    """

    max_epochs: int
    validate_every: int | None = None
    patience: int | None = None
    metric: str = "recall@10"
    precision: str = "32-true"
    accelerator: str = "auto"
    clip_norm: float | None = 1.0
    seed: int = 0
    validate_first: bool = False
    average: float | None = None
    dropout: Callable[[float], float] | None = None
    shown: tuple[str, ...] = ()
    keep: Literal["best", "last"] = "best"


@dataclass
class TrainingState:
    """Where a run stands; part of every checkpoint.

    Attributes:
        step: steps done.
        best_metric, best_step: of the best validation so far.
        num_waited: validations since then.
    """

    step: int = 0
    best_metric: float = -math.inf
    best_step: int = 0
    num_waited: int = 0

    def is_over(self, total_steps: int, patience: int | None) -> bool:
        return self.step >= total_steps or (patience is not None and self.num_waited >= patience)


def fit(
    task: pl.LightningModule,
    stream: BatchStream,
    validate: Callable[[], Mapping[str, float]],
    *,
    run: RunDirectory,
    options: FitOptions,
    progress: Progress | None = None,
    team: Team = ALONE,
    stop: Stop | None = None,
) -> TrainingState:
    """Trains `task`, resuming from the run's last checkpoint if there is one, and loads its best weights.

    Args:
        task: its `training_step` takes a dict of tensors (items, targets, is_target, user_index as in `Batch`, the
            epoch and the step) and returns a dict with the loss and other scalars to record, means over the batch's
            targets.
        stream: the batches.
        validate: metrics of the task's model as it is now, by the real decoder; holds `options.metric`. The same in
            all processes of a team.
        run: where checkpoints, metrics and status go.
        options: how long and on what.
        progress: called with ("train", steps done, steps in all, and what is `shown`).
        team: processes that share the rows of every batch out among them. Their step is that of one process, up to
            the order of sums, and dropout.
        stop: from the records of the run so far, whether to end it for a reason of the caller's; asked after each
            validation, and of a run that goes on before its first step.

    Returns:
        Where training ended; it stopped early if `step` is below max_epochs x batches.

    Raises:
        ArtifactError: the checkpoint cannot be read.
        Whatever `training_step` and `validate` raise.
    """
    total_steps = options.max_epochs * stream.num_batches
    every = min(options.validate_every or stream.num_batches, total_steps)
    folder = run.path / "checkpoints"
    if team.leads:
        folder.mkdir(exist_ok=True)
    state, tensors = TrainingState(), None
    if (folder / "last.pt").is_file():
        state, tensors = _load(folder / "last.pt")
        run.keep_metrics(lambda record: record.get("step", 0) <= state.step)
        logger.info("resuming at step %d of %d", state.step, total_steps)
    elif run.resumed:
        run.keep_metrics(lambda record: False)  # killed between the first record and the first checkpoint
    team.wait()  # nobody writes a checkpoint before all have looked for one

    def is_over() -> bool:
        own = state.is_over(total_steps, options.patience) or (stop is not None and stop(run.metrics()))
        return bool(team.total(np.array([own], dtype=np.int64)).any())  # `stop` may be the leader's alone

    def tell(step: int, means: Mapping[str, float]) -> None:
        notes = (", ".join(f"{name} {means[name]:.4f}" for name in options.shown),) if options.shown else ()
        if progress is not None:
            progress("train", step, total_steps, *notes)

    if not is_over():
        plan = _Plan(total_steps, is_over, tell)
        trainer = pl.Trainer(
            max_steps=total_steps - state.step,
            max_epochs=-1,
            accelerator=options.accelerator,
            **_devices(team),
            precision=options.precision,  # type: ignore[arg-type]
            gradient_clip_val=options.clip_norm,
            callbacks=[_Stretch(state, tensors, validate, run=run, options=options, plan=plan, team=team)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            limit_val_batches=0,
            default_root_dir=run.path,
        )
        trainer.fit(task, Stretches(stream, every, total_steps, state, team))
    _, tensors = _load(folder / "best.pt")
    task.load_state_dict(tensors["model"])
    return state


def _devices(team: Team) -> dict[str, Any]:
    if team.size == 1:
        return {"devices": 1}
    environment = TorchElasticEnvironment()  # the group is there already; this reads ranks from the same variables
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    # Buffers are functions of the data (a trie, a memory) or of what is summed over all: they are equal everywhere.
    strategy = DDPStrategy(broadcast_buffers=False)
    return {"devices": local, "num_nodes": team.size // local, "strategy": strategy, "plugins": [environment]}


@dataclass(frozen=True)
class _Plan:
    """What a run is to do: steps in all, whether it is over now, and what to tell of each step and the means so far."""

    total: int
    is_over: Callable[[], bool]
    tell: Callable[[int, Mapping[str, float]], None]


class Stretches:
    """The batches from the present step to the end of its stretch, or of each the rows of one process.

    A process without a row (in a small batch) gets one that does not count, because all have to take every step.
    `share` is what makes the mean over processes of weighted means over targets the mean over all targets.
    """

    def __init__(
        self, stream: BatchStream, every: int, total_steps: int, state: TrainingState, team: Team = ALONE
    ) -> None:
        self.stream = stream
        self.every = every
        self.total_steps = total_steps
        self.state = state
        self.team = team

    def __len__(self) -> int:
        return self.every

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        step = self.state.step
        end = min(step + self.every, self.total_steps)
        while step < end:
            epoch, start = divmod(step, self.stream.num_batches)
            for batch in self.stream.epoch(epoch, start):
                own = np.arange(self.team.rank, len(batch.items), self.team.size)
                rows = own if len(own) else np.arange(1)
                gaps = {} if batch.gaps is None else {"gaps": torch.from_numpy(batch.gaps[rows])}
                yield {
                    "items": torch.from_numpy(batch.items[rows]),
                    "targets": torch.from_numpy(batch.targets[rows]),
                    "is_target": torch.from_numpy(batch.is_target[rows]),
                    "user_index": torch.from_numpy(batch.user_index[rows]),
                    "epoch": torch.tensor(epoch),
                    "step": torch.tensor(step),
                    "share": torch.tensor(self.team.size * batch.is_target[own].sum() / batch.num_targets).float(),
                    **gaps,
                }
                step += 1
                if step == end:
                    return


class _Stretch(Callback):
    """Seeds every step by its number; ends a stretch with validation, a record, the best weights and a checkpoint."""

    def __init__(
        self,
        state: TrainingState,
        tensors: dict[str, Any] | None,
        validate: Callable[[], Mapping[str, float]],
        *,
        run: RunDirectory,
        options: FitOptions,
        plan: _Plan,
        team: Team,
    ) -> None:
        self.state = state
        self.tensors = tensors
        self.validate = validate
        self.run = run
        self.options = options
        self.plan = plan
        self.team = team
        self.average: WeightAverage | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.options.average is not None:
            self.average = WeightAverage(pl_module, self.options.average)
        if self.tensors is not None:
            pl_module.load_state_dict(self.tensors["model"])
            if self.average is not None:
                self.average.load(self.tensors["average"])
            trainer.optimizers[0].load_state_dict(self.tensors["optimizer"])
            trainer.lr_scheduler_configs[0].scheduler.load_state_dict(self.tensors["scheduler"])
            self.tensors = None
        elif self.options.validate_first:
            self._conclude(trainer, pl_module, {})

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.monotonic()
        self.num_targets = self.num_batches = 0
        self.sums: dict[str, float] = {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        place = (self.state.step, self.team.rank) if self.team.rank else (self.state.step,)
        torch.manual_seed(fold_in(self.options.seed, *place))
        if self.options.dropout is not None:
            factor = self.options.dropout(self.state.step / self.plan.total)
            for module in pl_module.modules():
                if isinstance(module, Dropout):
                    module.scale(factor)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.state.step += 1
        if self.average is not None:
            self.average.update(pl_module, self.state.step)
        self.num_batches += 1
        self.num_targets += int(batch["is_target"].sum()) * bool(batch["share"])
        for name, value in outputs.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.plan.tell(self.state.step, {name: total / self.num_batches for name, total in self.sums.items()})

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seconds = time.monotonic() - self.started
        totals = self.team.total(np.array([self.num_targets, *self.sums.values()]))
        losses = {
            f"train_{name}": float(total) / (self.num_batches * self.team.size)
            for name, total in zip(self.sums, totals[1:], strict=True)
        }
        self._conclude(trainer, pl_module, losses, targets_per_second=float(totals[0]) / max(seconds, 1e-9))

    def _conclude(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, losses: Mapping[str, float], **speed: float
    ) -> None:
        with nullcontext() if self.average is None else self.average.in_place(pl_module):
            pl_module.eval()
            with torch.inference_mode():
                metrics = dict(self.validate())
            pl_module.train()
            self._keep_best(pl_module, metrics[self.options.metric])
        record = {
            "step": self.state.step,
            "learning_rate": max(group["lr"] for group in trainer.optimizers[0].param_groups),
            **losses,
            **metrics,
            **speed,
        }
        self.run.log_metrics(record)
        self._keep_last(trainer, pl_module.state_dict())
        trainer.should_stop = self.plan.is_over()  # none goes on before the leader has written
        self.run.update(step=self.state.step, message=f"best {self.options.metric} {self.state.best_metric:.4f}")
        logger.info("%s", record)

    def _keep_best(self, pl_module: pl.LightningModule, metric: float) -> None:
        state = self.state
        is_best = metric > state.best_metric or self.options.keep == "last"
        state.num_waited = 0 if is_best else state.num_waited + 1
        if is_best:
            state.best_metric, state.best_step = metric, state.step
        if is_best and self.team.leads:
            _save(self.run.path / "checkpoints" / "best.pt", state, {"model": pl_module.state_dict()})

    def _keep_last(self, trainer: pl.Trainer, model: dict[str, Any]) -> None:
        """After the best: a kill between the two repeats this stretch, best included."""
        if not self.team.leads:
            return
        tensors = {
            "model": model,
            "optimizer": trainer.optimizers[0].state_dict(),
            "scheduler": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
        }
        if self.average is not None:
            tensors["average"] = self.average.tensors
        _save(self.run.path / "checkpoints" / "last.pt", self.state, tensors)


def _save(path: Path, state: TrainingState, tensors: dict[str, Any]) -> None:
    """Whole or not at all: a kill leaves the old checkpoint or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        with partial.open("wb") as file:
            torch.save({"state": asdict(state), **tensors}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


def _load(path: Path) -> tuple[TrainingState, dict[str, Any]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return TrainingState(**content.pop("state")), content
    except (RuntimeError, KeyError, TypeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise ArtifactError(f"cannot read the checkpoint: {error}", where=path, fix="start a new run") from error
