"""A moving average of weights: what is validated, kept as the best and saved, while the raw weights go on learning.

Knows modules; must not know losses or files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """a <- d a + (1 - d) w after each step, d = min(decay, (1 + t) / (10 + t)) at step t (from 1).

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
