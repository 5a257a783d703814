"""What all tasks share: AdamW with warm-up and cosine, and a loss that has to be a number.

Must not know what a step computes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from genrec.errors import TrainingError
from genrec.losses.likelihood import LossOutput


class ScheduledTask(pl.LightningModule):
    """A task whose learning rate is a function of the step.

    Args:
        parameter_groups: what is trained; a group may have a `learning_rate` of its own.
        learning_rate: highest rate.
        total_steps: of the schedule.
        warmup: share of the steps in which the rate rises linearly from 0.
        final_rate: rate at the end of the cosine, as a share of the highest.
    """

    def __init__(
        self,
        parameter_groups: list[Any],
        *,
        learning_rate: float,
        total_steps: int,
        warmup: float = 0.05,
        final_rate: float = 0.05,
    ) -> None:
        super().__init__()
        self.parameter_groups = parameter_groups
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.warmup_steps = round(warmup * total_steps)
        self.final_rate = final_rate

    def configure_optimizers(self) -> Any:
        """AdamW and a rate that is a function of the step."""
        # Lightning does not clip the gradients of a fused optimiser under mixed precision.
        optimizer = self.build_optimizer(fused="mixed" not in self.trainer.precision)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def build_optimizer(self, *, fused: bool = True) -> torch.optim.Optimizer:
        """AdamW on the parameter groups, at the highest rate."""
        groups = [
            {
                "params": group["params"],
                "weight_decay": group["weight_decay"],
                "lr": group.get("learning_rate", self.learning_rate),
            }
            for group in self.parameter_groups
        ]
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.98), fused=fused)

    def rate(self, step: int) -> float:
        """The rate of a step as a share of the highest."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def shared_output(output: LossOutput, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
    """What a step returns: the loss and its parts, times the batch's `share` (see `Stretches`).

    Raises:
        TrainingError: the loss is not finite; names the step, the parts and the batch.
    """
    if not torch.isfinite(output.loss):
        parts = ", ".join(f"{name} {float(value):.4g}" for name, value in output.parts.items())
        digest = hashlib.sha256(batch["items"].cpu().numpy().tobytes()).hexdigest()[:12]
        raise TrainingError(
            f"the loss is {float(output.loss.detach())}",
            where=f"batch {batch_idx} of the stretch, items sha256 {digest}",
            found=parts,
            fix="lower optimizer.learning_rate, or set precision=32-true",
        )
    share = batch["share"]
    return {"loss": share * output.loss, **{name: share * value for name, value in output.parts.items()}}
