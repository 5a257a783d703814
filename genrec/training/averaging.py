"""Weights between weights: a moving average beside the raw ones, and the way from one training to the next.

Knows modules; must not know losses or files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def interpolate(first: Mapping[str, Tensor], second: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """(1 - a) first + a second (ReCUT), of the state dicts of one model before and after it was tuned further.

    Args:
        first: at share 0.
        second: at share 1, with the same names; what is not a floating-point number must be equal.
        share: a. Which is best is for validation to say.

    >>> interpolate({"w": torch.tensor([0.0, 4.0])}, {"w": torch.tensor([2.0, 4.0])}, 0.25)
    {'w': tensor([0.5000, 4.0000])}
    """
    assert first.keys() == second.keys(), "the weights of two models"
    mixed = {}
    for name, tensor in first.items():
        own, other = tensor.detach(), second[name].detach()
        if own.is_floating_point():
            mixed[name] = torch.where(own == other, own, own.lerp(other, share))  # two infinities stay one
        else:
            assert torch.equal(own, other), f"{name} differs and cannot be interpolated"
            mixed[name] = own.clone()
    return mixed


class WeightAverage:
    """A moving average: what is validated, kept as the best and saved, while the raw weights go on learning.

    a <- d a + (1 - d) w after each step, d = min(decay, (1 + t) / (10 + t)) at step t (from 1).

    The warm-up lets the first average forget its random start. Buffers are not averaged: those of the module count.

    Args:
        module: whose parameters are averaged; they are the first average.
        decay: in [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Takes in the weights after a step."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, parameter in module.named_parameters():
            self.tensors[name].lerp_(parameter, share)

    @contextmanager
    @torch.no_grad()
    def in_place(self, module: nn.Module) -> Iterator[None]:
        """The module with the average for its weights; its own are back afterwards."""
        own = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        self._copy(self.tensors, module)
        try:
            yield
        finally:
            self._copy(own, module)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from a checkpoint."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])

    def _copy(self, tensors: Mapping[str, Tensor], module: nn.Module) -> None:
        for name, parameter in module.named_parameters():
            parameter.copy_(tensors[name])
