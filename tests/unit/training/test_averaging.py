"""Averages of weights, against loops."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genrec.training.averaging import WeightAverage, interpolate


def test_the_average_is_that_of_a_loop_and_leaves_the_weights_alone() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(module, decay=0.6)
    expected = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    for step in range(1, 9):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(module, step)
        decay = min(0.6, (1 + step) / (10 + step))
        for name, parameter in module.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * parameter.detach()
    own = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    with average.in_place(module):
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(parameter.detach(), expected[name])
            assert not torch.equal(parameter, own[name])
    with pytest.raises(RuntimeError), average.in_place(module):
        raise RuntimeError
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, own[name])
    copy = WeightAverage(module, decay=0.6)
    copy.load(average.tensors)
    for name, tensor in average.tensors.items():
        assert torch.equal(copy.tensors[name], tensor)


def test_a_constant_is_its_own_average() -> None:
    module = nn.Linear(2, 2)
    average = WeightAverage(module, decay=0.999)
    for step in range(1, 50):
        average.update(module, step)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(average.tensors[name], parameter.detach(), rtol=0, atol=1e-7)


def test_interpolated_weights_lie_on_the_line_between_two() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = ({"w": torch.randn(4, generator=generator), "n": torch.tensor(3)} for _ in range(2))
    for weights in (first, second):
        weights["floor"] = torch.tensor([-torch.inf, 0.0])
    for share in (0.0, 0.3, 1.0):
        found = interpolate(first, second, share)
        expected = [(1 - share) * a + share * b for a, b in zip(first["w"].tolist(), second["w"].tolist(), strict=True)]
        assert found["w"].tolist() == pytest.approx(expected)
        assert found["n"].item() == 3
        assert found["floor"].tolist() == [-torch.inf, 0.0]
    assert torch.equal(interpolate(first, second, 0.0)["w"], first["w"])
    assert torch.equal(interpolate(first, second, 1.0)["w"], second["w"])
    with pytest.raises(AssertionError, match="n differs"):
        interpolate(first, second | {"n": torch.tensor(4)}, 0.5)
