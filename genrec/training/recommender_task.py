"""One step of training a recommender: the objective of a batch, AdamW with warm-up and cosine.

A shell around a built model and an objective; must not know configuration or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from genrec.losses.likelihood import LossOutput
from genrec.training.scheduled_task import ScheduledTask, shared_output


class StepObjective(Protocol):
    """What is minimised, a torch module: `Objective` for a generative recommender, `DenseObjective` for a dense one."""

    compiles: str  # the method of the model that it calls, which may be compiled

    def __call__(self, model: Any, batch: Mapping[str, Tensor], *, compiled: Any = None) -> LossOutput:
        """The loss of a batch; `compiled` stands in for the method."""
        ...


class RecommenderTask(ScheduledTask):
    """Trains a recommender on every position of its windows.

    Args:
        model: a torch module that the objective knows; the `mark_trained` of a `Recommender` has been called.
        objective: what is minimised; its adaptive weights become part of the checkpoint.
        parameter_groups: of the model.
        compile: torch.compile the forward pass.
        **schedule: see `ScheduledTask`.
    """

    def __init__(
        self,
        model: Any,
        *,
        objective: StepObjective,
        parameter_groups: list[Any],
        compile: bool = False,
        **schedule: Any,
    ) -> None:
        super().__init__(parameter_groups, **schedule)
        self.model = model
        self.objective = objective
        self.compiled = torch.compile(getattr(model, objective.compiles)) if compile else None

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """The loss and its parts; TrainingError if it is not finite."""
        output = self.objective(self.model, batch, compiled=self.compiled)
        return shared_output(output, batch, batch_idx)
