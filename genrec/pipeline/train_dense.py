"""What ``genrec train model=sasrec`` trains, and on what: the part of training that knows of dense recommenders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from genrec.artifacts import Artifact
from genrec.config import losses, models, training
from genrec.data.dataset import Dataset
from genrec.decoding.catalogue_search import CatalogueSearch
from genrec.errors import ConfigError
from genrec.evaluation.dense_generator import DenseGenerator
from genrec.models.sasrec import Sasrec
from genrec.models.settings import SasrecSettings
from genrec.pipeline.warm_start import WarmStart
from genrec.seeding import fold_in
from genrec.training.dense_objective import (
    DenseLoss,
    DenseObjective,
    FullSoftmax,
    GeneralisedBce,
    SampledSoftmax,
)


@dataclass(frozen=True, eq=False)
class Setup:
    """What is trained, whatever kind it is.

    Attributes:
        model: before the first step.
        objective: what is minimised.
        parents: of the recommender.
        facts: of the recommender, beside the model's own.
        open: the search of the model as it is when this is called.
        watch: more to write down at each validation.
        initial: where the weights come from.
    """

    model: Any
    objective: Any
    parents: dict[str, Artifact]
    facts: dict[str, Any]
    open: Callable[[], CatalogueSearch]
    watch: Callable[[], dict[str, float]]
    initial: WarmStart | None = None


def set_up_sasrec(config: training.TrainConfig, dataset: Dataset, counts: np.ndarray) -> Setup:
    """A SASRec with random weights.

    Raises:
        ConfigError: semantic IDs, an initial recommender, or a loss over codes.
    """
    assert isinstance(config.model, models.SasrecModel)
    for name in ("semantic_ids", "initial"):
        if getattr(config, name) is not None:
            raise ConfigError(
                f"model=sasrec takes no {name}",
                where=f"key '{name}'",
                found=getattr(config, name),
                fix=f"leave out {name}",
            )
    objective = DenseObjective(_dense_loss(config.loss), torch.from_numpy(counts), seed=fold_in(config.seed, 4))
    torch.manual_seed(fold_in(config.seed, 0))
    values = {key: value for key, value in asdict(config.model).items() if key != "name"}
    model = Sasrec(dataset.num_items, SasrecSettings(**values))
    return Setup(
        model=model,
        objective=objective,
        parents={"dataset": dataset.artifact},
        facts={},
        open=lambda: build_dense_generator(model, dataset, counts, batch_size=256),
        watch=dict,
    )


def build_dense_generator(
    model: Sasrec, dataset: Dataset, counts: np.ndarray, *, batch_size: int = 64, index: str = "flat"
) -> DenseGenerator:
    """The search of a dense recommender, as it is now."""
    return DenseGenerator(
        model,
        item_ids=dataset.item_ids.to_list(),
        train_counts=counts,
        max_history=model.settings.history_length,
        batch_size=batch_size,
        index=index,
    )


def _dense_loss(section: losses.Loss) -> DenseLoss:
    if isinstance(section, losses.SampledSoftmaxLoss):
        return SampledSoftmax(section.num_negatives, section.popularity_power, section.correct)
    if isinstance(section, losses.GbceLoss):
        return GeneralisedBce(section.num_negatives, section.calibration)
    if isinstance(section, losses.CrossEntropyLoss) and section.level_weights is None:
        return FullSoftmax(section.label_smoothing)
    found = section.name + (" with level_weights" if isinstance(section, losses.CrossEntropyLoss) else "")
    raise ConfigError(
        "model=sasrec has no codes, which this loss is about",
        where="key 'loss'",
        expected="cross_entropy, sampled_softmax or gbce",
        found=found,
        fix="loss=cross_entropy loss.level_weights=null",
    )
