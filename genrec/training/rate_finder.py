"""Which learning rates lower the loss: a range test (Smith 2017) on a stream of batches.

Lightning's finder is not used: it divides its moving average by the wrong power at first, so that its curve rises where
the loss stands still, and with its weight of .98 a hundred steps say little. Knows a task and its batches; trains
nothing that is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch

from genrec.data.batches import BatchStream
from genrec.errors import TrainingError
from genrec.seeding import fold_in
from genrec.training.loop import Stretches, TrainingState
from genrec.training.recommender_task import RecommenderTask

LOWEST, HIGHEST = 1e-6, 1.0
SMOOTHING, RISE, WINDOW = 0.9, 1.3, 9


@dataclass(frozen=True)
class RateTest:
    """What was found.

    Attributes:
        rates: of each step, growing geometrically.
        losses: before each, smoothed.
        suggestion: where the loss falls fastest.
    """

    rates: list[float]
    losses: list[float]
    suggestion: float


def find_rate(
    task: RecommenderTask,
    stream: BatchStream,
    *,
    num_steps: int,
    device: str = "cpu",
    clip_norm: float | None = None,
    seed: int = 0,
    tell: Callable[[int], None] | None = None,
) -> RateTest:
    """Trains a copy for some steps with rates from 1e-6 to 1, in float32; ends early where the loss has risen by 30 %.

    Args:
        task: as it is before training, and afterwards.
        stream: the batches.
        num_steps: of the test.
        device: where to compute.
        clip_norm: largest gradient norm; None: no clipping.
        seed: of dropout.
        tell: called with the number of steps done.

    Raises:
        TrainingError: the loss falls nowhere.
    """
    task = deepcopy(task).to(device).train()
    optimizer = task.build_optimizer()
    rates, losses, average = [], [], 0.0
    for step, batch in enumerate(Stretches(stream, num_steps, num_steps, TrainingState())):
        torch.manual_seed(fold_in(seed, step))
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / max(1, num_steps - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = task.objective(task.model, {name: tensor.to(device) for name, tensor in batch.items()}).loss
        average = SMOOTHING * average + (1 - SMOOTHING) * float(loss.detach())
        smoothed = average / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(smoothed) or (losses and smoothed > RISE * min(losses)):
            break
        rates.append(rate)
        losses.append(smoothed)
        optimizer.zero_grad()
        loss.backward()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(task.parameters(), clip_norm)
        optimizer.step()
        if tell is not None:
            tell(step + 1)
    return RateTest(rates, losses, steepest(rates, losses))


def steepest(rates: list[float], losses: list[float]) -> float:
    """The rate around which the loss falls fastest by the logarithm of the rate, before it is lowest.

    The slope at a rate is that of a straight line through the nine points around it.

    Raises:
        TrainingError: it falls nowhere.

    >>> rates = [10.0**-exponent for exponent in range(20, 0, -1)]
    >>> falling = [2.0] * 8 + [1.9, 1.7, 1.3, 0.9, 0.7, 0.6, 0.6] + [0.7, 0.9, 2.0, 3.0, 4.0]
    >>> steepest(rates, falling)
    1e-10
    """
    end = int(np.argmin(losses)) + 1 if losses else 0
    half = WINDOW // 2
    slopes = {}
    for place in range(half, min(end, len(losses) - half)):
        around = slice(place - half, place + half + 1)
        slopes[place] = float(np.polyfit(np.log(rates[around]), losses[around], 1)[0])
    best = min(slopes, key=lambda place: slopes[place], default=None)
    if best is None or slopes[best] >= 0:
        raise TrainingError(
            "no learning rate lowers the loss",
            expected=f"one between {LOWEST:g} and {HIGHEST:g}",
            fix="look at the data and the model, or set optimizer.learning_rate by hand",
        )
    return rates[best]
