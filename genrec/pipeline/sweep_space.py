"""What ``genrec sweep`` searches, checked before the first trial, and what its best score is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from genrec.baselines.tuning import KNN_SPACE
from genrec.config import schema
from genrec.config.load import from_values
from genrec.config.space import Build, read_space
from genrec.config.training import TrainConfig
from genrec.errors import ConfigError
from genrec.pipeline.sections import keys_of
from genrec.tuning import luck

Space = dict[str, tuple[Any, ...]]

PLACES = ("run", "dataset", "semantic_ids")  # the inputs' identities are compared, not where they are

# Trials are told apart by one metric on the same cases, from the same seed; their folders are the sweep's.
SHARED = ("seed", "stopping.metric", "stopping.cutoff", "stopping.max_cases")


class TrainingSpace(NamedTuple):
    """What the trials are.

    Attributes:
        build: values by dotted key -> the training that has them.
        values: the values to search, by dotted key.
    """

    build: Build[TrainConfig]
    values: Space


def knn_space(config: schema.SweepConfig) -> Space:
    """Values for each constant of item-kNN: those given, else `KNN_SPACE`.

    Raises:
        ConfigError: a key that is not item-kNN's or a wrong value; keys that are for trainings alone.
    """
    for name in ("semantic_ids", "train", "stop_after"):
        if getattr(config, name):
            fix = f"leave out {name}, or set target=train"
            raise ConfigError("item-kNN is not trained", where=f"key '{name}'", fix=fix)
    if config.num_seeds > 1:
        raise ConfigError("item-kNN has no seed", where="key 'num_seeds'", found=config.num_seeds, fix="num_seeds=1")

    def build(values: Mapping[str, Any]) -> schema.ItemKnnSection:
        return from_values(schema.ItemKnnSection, {"space": values})

    given = read_space(config.space, build)
    if "history_length" in given:
        fix = "set history_length=20, say, for all trials"
        raise ConfigError("one length is for all trials", where="key 'space.history_length'", fix=fix)
    return {**{name: tuple(values) for name, values in KNN_SPACE.items()}, **given}


def training_space(config: schema.SweepConfig) -> TrainingSpace:
    """The trainings that a sweep may try.

    Raises:
        ConfigError: an unknown key, a wrong type or range in `train` or `space`; nothing to search; keys that the sweep
            decides, that trials have to share, or that are item-kNN's alone.
    """
    _refuse_keys_of_knn(config)
    folders = {
        "dataset": str(config.dataset),
        "semantic_ids": None if config.semantic_ids is None else str(config.semantic_ids),
        "run": str(config.run / "best"),
    }
    for name in PLACES:
        if name in config.train:
            fix = f"set {name}=... of the sweep instead"
            raise ConfigError(f"key 'train.{name}' is decided by the sweep", fix=fix)

    def build(values: Mapping[str, Any]) -> TrainConfig:
        with keys_of("train", of="sweep"):
            return from_values(TrainConfig, {"train": config.train, "the sweep": folders, "space": values})

    build({})
    values = read_space(config.space, build)
    if not values:
        fix = "write {optimizer.learning_rate: [1e-3, 2e-3]}, say"
        raise ConfigError("nothing to search", where="key 'space'", fix=fix)
    for name in (*PLACES, *SHARED):
        if name in values:
            fix = f"leave it out; all trials share train.{name}" if name in SHARED else "leave it out"
            raise ConfigError(f"trials cannot differ in {name}", where=f"key 'space.{name}'", fix=fix)
    return TrainingSpace(build, values)


def luck_note(metric: str, score: float, *, num_cases: int, num_trials: int) -> str:
    """What to bear in mind about the best of several trials."""
    error, bias = luck(score, num_cases=num_cases, num_trials=num_trials)
    return (
        f"the standard error of {metric} is at most {error:.4f}; of {num_trials} equally good trials the best may look "
        f"up to {bias:.4f} better by chance: what it is worth, only the test split tells"
    )


def _refuse_keys_of_knn(config: schema.SweepConfig) -> None:
    for name, fix in (
        ("metric", "set train.stopping.metric instead"),
        ("cutoff", "set train.stopping.cutoff instead"),
        ("exclude_seen", "leave it out: trainings are validated without a mask"),
        ("history_length", "set train.model.history_length instead"),
    ):
        if getattr(config, name):
            raise ConfigError("not a key of target=train", where=f"key '{name}'", found=getattr(config, name), fix=fix)
