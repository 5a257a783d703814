"""What ``genrec train model=sasrec`` trains, and on what: the part of training that knows of dense recommenders."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import torch

from genrec.config import losses, models, training
from genrec.data.dataset import Dataset
from genrec.errors import ConfigError
from genrec.models.sasrec import Sasrec
from genrec.models.settings import SasrecSettings
from genrec.pipeline.recommenders import build_dense_generator
from genrec.pipeline.setup import Setup
from genrec.seeding import fold_in
from genrec.training.dense_objective import (
    DenseLoss,
    DenseObjective,
    FullSoftmax,
    GeneralisedBce,
    SampledSoftmax,
)


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
