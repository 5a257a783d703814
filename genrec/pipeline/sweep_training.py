"""``genrec sweep target=train``: many trainings, one after the other, and the one that validates best.

A trial is the ordinary run of ``genrec train`` in <run>/trials/NNN, so that it goes on exactly where it was killed.
When it has ended it becomes one line of metrics.jsonl, and is never repeated. What comes next depends on these lines
alone.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from genrec.config import schema
from genrec.config.load import to_plain, to_yaml
from genrec.config.training import TrainConfig
from genrec.errors import ConfigError, GateError, RunError, TrainingError
from genrec.files import write_json, write_text, writing
from genrec.pipeline.evaluate import short
from genrec.pipeline.sections import keys_of
from genrec.pipeline.sweep_space import PLACES, TrainingSpace, luck_note, training_space
from genrec.pipeline.train import prepare_training, train
from genrec.runs import RunDirectory, read_metrics
from genrec.terminal import Outcome, Progress, Table
from genrec.training.loop import Stop
from genrec.tuning import CoordinateSearch, Params, Trial, best_trial, is_hopeless

WEIGHTS = ("checkpoints", "recommender")
Record = dict[str, Any]


def sweep_training(config: schema.SweepConfig, *, progress: Progress, resume: bool) -> Outcome:
    """Trains with one set of values after the other; keeps the weights of the best on validation.

    Raises:
        ConfigError: what `training_space` refuses, or a training without a trial's values that cannot begin.
        GateError: all trials failed.
    """
    space = training_space(config)
    search = CoordinateSearch(
        space.values, num_trials=config.num_trials, num_random=config.num_random, seed=config.seed
    )
    base = space.build({})
    with keys_of("train", of="sweep"):
        parents, num_cases = _look(base)
    with RunDirectory.open(
        config.run,
        command="sweep",
        config_text=to_yaml(config),
        inputs=parents,
        resume=resume,
        ignore_keys=PLACES,
    ) as run:
        sweep = TrainingSweep(config, space, run, progress)
        sweep.search(search)
        sweep.train_other_seeds()
        best = sweep.conclude(num_cases)
    return sweep.outcome(best, num_cases)


def _look(base: TrainConfig) -> tuple[list[Any], int]:
    """The inputs, and how many validation cases there are; raises what would make every trial fail."""
    ready = prepare_training(base)
    found = ready.dataset.facts["num_validation"]
    return list(ready.setup.parents.values()), min(found, base.stopping.max_cases or found)


class TrainingSweep:
    """The trials so far, of an open run.

    Attributes:
        trials: one record a trial, in order.
        seeds: one record for each training of the best trial with another seed.
    """

    def __init__(self, config: schema.SweepConfig, space: TrainingSpace, run: RunDirectory, progress: Progress) -> None:
        self.config = config
        self.space = space
        self.run = run
        self.progress = progress
        stopping = space.build({}).stopping
        self.metric = f"{stopping.metric}@{stopping.cutoff}"
        records = run.metrics()
        self.trials: list[Record] = [record for record in records if "trial" in record]
        self.seeds: list[Record] = [record for record in records if "trial" not in record]

    @property
    def history(self) -> list[Trial]:
        return [(record["params"], record[self.metric]) for record in self.trials]

    @property
    def _scored(self) -> list[Record]:
        return [record for record in self.trials if record[self.metric] is not None]

    def search(self, search: CoordinateSearch) -> None:
        """Trains what the search proposes, until it is over."""
        self._drop_weights()
        while (params := search.propose(self.history)) is not None:
            number = len(self.trials)
            folder = _name_of(number)
            name = f"trial {folder} of {self.config.num_trials}: {self._values(params)}{self._so_far()}"
            found = self._train(params, folder, name, stop=self._stop())
            record = {"trial": number, "params": params, **found}
            self.run.log_metrics(record)
            self.trials.append(record)
            self._drop_weights()
            self.run.update(step=len(self.trials), message=self._so_far().strip(" ()"))
        if not self._scored:
            raise GateError(
                f"all {len(self.trials)} trials failed",
                where=self.run.path,
                found=self.trials[0]["error"],
                fix=f"look at {self.run.path}/trials/000/log.txt",
            )

    def train_other_seeds(self) -> None:
        """The best trial again, from other seeds: what is left of its lead is not luck of the seed."""
        best, _ = best_trial(self.history)
        first = self.space.build({}).seed + 1
        for seed in range(first + len(self.seeds), first + self.config.num_seeds - 1):
            folder = f"seed_{seed}"
            record = {"seed": seed, **self._train({**best, "seed": seed}, folder, f"best trial, seed {seed}")}
            self.run.log_metrics(record)
            self.seeds.append(record)
            self._drop(folder)

    def conclude(self, num_cases: int) -> Record:
        """Writes best.yaml, which ``genrec train`` runs as it is, and best.json; returns the latter."""
        params, score = best_trial(self.history)
        training = self.space.build(params)
        best = {
            "train": to_plain(training),
            "params": params,
            "trial": self.history.index((params, score)),
            self.metric: score,
            "split": "validation",
            "num_cases": num_cases,
            "seeds": {str(training.seed): score, **{str(line["seed"]): line[self.metric] for line in self.seeds}},
        }
        write_json(self.run.path / "best.json", best)
        write_text(self.run.path / "best.yaml", to_yaml(training))
        return best

    def outcome(self, best: Record, num_cases: int) -> Outcome:
        """The ten best trials, and how much of it may be luck."""
        config = self.config
        ranked = sorted(self._scored, key=lambda record: -record[self.metric])[:10]
        columns = ("trial", self.metric, "best step", "steps", "seconds", "values")
        rows = tuple(
            (
                str(record["trial"]),
                short(record[self.metric]),
                f"{record['best_step']:,}",
                f"{record['last_step']:,}",
                f"{record['seconds']:,.0f}",
                self._values(record["params"]),
            )
            for record in ranked
        )
        title = f"{config.run}: best of {len(self.trials)} trials on {num_cases:,} validation cases, no mask"
        recommender = config.run / "trials" / _name_of(best["trial"]) / "recommender"
        follow = (
            f"genrec evaluate dataset={config.dataset} recommenders.best={recommender} output={config.run}/evaluation"
        )
        summary = {
            "run": str(config.run),
            "recommender": str(recommender),
            **{name: best[name] for name in ("params", "trial", self.metric, "seeds")},
            "trials": len(self.trials),
            "failed": len(self.trials) - len(self._scored),
        }
        return Outcome(
            summary, (Table(title, columns, rows, left=("values",)),), notes=self._notes(best, num_cases), next=follow
        )

    def _notes(self, best: Record, num_cases: int) -> tuple[str, ...]:
        num_scored = len(self._scored)
        notes = [luck_note(self.metric, best[self.metric], num_cases=num_cases, num_trials=num_scored)]
        scores = [score for score in best["seeds"].values() if score is not None]
        if len(scores) > 1:
            spread = f"{short(statistics.mean(scores))}, standard deviation {statistics.stdev(scores):.4f}"
            notes.append(f"the best trial from {len(scores)} seeds, its own included: mean {spread}")
        notes += [f"trial {record['trial']} failed: {record['error']}" for record in self.trials if "error" in record]
        return tuple(notes)

    def _stop(self) -> Stop | None:
        after = self.config.stop_after
        if after is None:
            return None
        folders = [self.run.path / "trials" / _name_of(record["trial"]) for record in self._scored]
        others = [self._scores(read_metrics(folder)) for folder in folders]
        return lambda records: is_hopeless(self._scores(records), others, after=after)

    def _scores(self, records: Sequence[Mapping[str, Any]]) -> list[float]:
        return [record[self.metric] for record in records]

    def _train(self, values: Params, folder: str, name: str, stop: Stop | None = None) -> Record:
        """One training; one that diverges, or whose values do not go together, has no score."""
        run = self.run.path / "trials" / folder
        started = time.monotonic()

        def tell(task: str, done: int, total: int | None) -> None:
            self.progress(name, done, total)

        found: Record = {self.metric: None}
        try:
            summary = train(
                self.space.build({**values, "run": str(run)}), progress=tell, resume=True, stop=stop
            ).summary
            found = {name: summary[name] for name in (self.metric, "best_step", "last_step")}
        except RunError:
            raise  # of the folder, and not of these values
        except (TrainingError, ConfigError) as error:
            found["error"] = str(error)
        return {**found, "seconds": round(time.monotonic() - started, 1)}

    def _drop_weights(self) -> None:
        """Of all trials that have ended, but the best."""
        best = self.history.index(best_trial(self.history)) if self._scored else None
        for number in range(len(self.trials)):
            if number != best:
                self._drop(_name_of(number))

    def _drop(self, folder: str) -> None:
        for name in WEIGHTS:
            path = self.run.path / "trials" / folder / name
            with writing(path):
                if path.exists():
                    shutil.rmtree(path)

    def _values(self, params: Params) -> str:
        return " ".join(
            f"{label}={_shown(params[name])}" for name, label in zip(params, _labels(list(params)), strict=True)
        )

    def _so_far(self) -> str:
        return f" (best {self.metric} {short(best_trial(self.history)[1])})" if self._scored else ""


def _name_of(number: int) -> str:
    return f"{number:03d}"


def _labels(names: Sequence[str]) -> list[str]:
    """The last parts of dotted keys, or all of a key where another ends alike.

    >>> _labels(["optimizer.warmup", "model.width", "other.width"])
    ['warmup', 'model.width', 'other.width']
    """
    ends = [name.split(".")[-1] for name in names]
    return [end if ends.count(end) == 1 else name for name, end in zip(names, ends, strict=True)]


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)
