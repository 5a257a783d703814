from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from genrec.errors import ConfigError
from genrec.models.transformer import (
    Block,
    Dropout,
    FeedForward,
    Rotary,
    SelfAttention,
    fused_attention,
    plain_attention,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999])
def test_dropout_keeps_the_mean_and_drops_its_share(rate: float) -> None:
    torch.manual_seed(0)
    dropout = Dropout(rate).train()
    y = dropout(torch.ones(1000, 1003))
    exact = min(round(rate * 256), 255) / 256
    share = (y == 0).double().mean().item()
    assert abs(share - exact) < 4 * math.sqrt(exact * (1 - exact) / y.numel())
    assert abs(exact - rate) <= 1 / 256
    assert torch.allclose(y[y != 0], torch.tensor(1 / (1 - exact)))


def test_dropout_has_no_pattern_by_column() -> None:
    torch.manual_seed(0)
    kept = Dropout(0.5).train()(torch.ones(20_000, 16)) != 0
    assert (kept.double().mean(dim=0) - 0.5).abs().max() < 5 * 0.5 / math.sqrt(20_000)
    assert torch.corrcoef(kept.T.double()).triu(1).abs().max() < 5 / math.sqrt(20_000)


def test_dropout_is_nothing_in_evaluation_or_at_rate_zero_and_follows_the_seed() -> None:
    x = draw(5, 7)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0).train()(x) is x
    dropout = Dropout(0.3).train()
    torch.manual_seed(4)
    first = dropout(x)
    torch.manual_seed(4)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(dropout(x), first)


def test_dropout_drops_the_gradient_too() -> None:
    x = torch.ones(50, 3, requires_grad=True)
    y = Dropout(0.5).train()(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_dropout_rates_are_checked(rate: float) -> None:
    with pytest.raises(ConfigError, match="dropout rate"):
        Dropout(rate)


def test_rotation_is_a_rotation_whose_products_depend_on_the_distance() -> None:
    rotary = Rotary(8, max_length=20)
    query, key = draw(8, seed=1), draw(8, seed=2)
    turned_query, turned_key = (rotary(vector.expand(20, 8)) for vector in (query, key))
    torch.testing.assert_close(turned_query.norm(dim=1), query.norm().expand(20))
    products = turned_query @ turned_key.T
    for distance in range(-3, 4):
        along = products.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-4, atol=1e-5)
    assert abs(products[0, 0] - products[0, 5]) > 1e-3


def test_rotation_equals_multiplication_by_complex_numbers() -> None:
    x = draw(6, 4).numpy()
    angles = np.arange(6)[:, None] * 10_000.0 ** -(np.array([0, 2]) / 4)
    turned = (x[:, :2] + 1j * x[:, 2:]) * np.exp(1j * angles)
    expected = np.concatenate([turned.real, turned.imag], axis=1)
    found = Rotary(4, max_length=6)(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_both_attentions_equal_a_loop() -> None:
    query, key, value = (draw(2, 3, 5, 4, seed=seed) for seed in range(3))
    expected = torch.empty_like(query)
    for b in range(2):
        for h in range(3):
            for t in range(5):
                weights = torch.softmax(key[b, h, : t + 1] @ query[b, h, t] / 2, dim=0)
                expected[b, h, t] = weights @ value[b, h, : t + 1]
    torch.testing.assert_close(plain_attention(query, key, value), expected)
    torch.testing.assert_close(fused_attention(query, key, value), expected)


def test_kinds_of_attention_agree_in_value_and_gradient() -> None:
    x = draw(2, 7, 12)
    outputs, gradients = [], []
    for kind in ("softmax", "sdpa"):
        torch.manual_seed(1)
        attention = SelfAttention(12, num_heads=3, max_length=7, kind=kind)
        y = attention(x)
        y.square().sum().backward()
        outputs.append(y.detach())
        gradients.append(attention.qkv.weight.grad)
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "sdpa"])
def test_a_block_sees_the_past_alone(kind: str) -> None:
    torch.manual_seed(0)
    block = Block(12, num_heads=3, hidden=20, max_length=8, attention=kind).eval()
    x = draw(2, 8, 12)
    changed = x.clone()
    changed[:, 5] += 1
    before, after = block(x), block(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert ((before[:, 5:] - after[:, 5:]).abs().amax(dim=2) > 1e-4).all()
    torch.testing.assert_close(block(x[:, :3]), before[:, :3])


@pytest.mark.parametrize("kind", ["softmax", "sdpa"])
def test_half_precision_is_close(kind: str) -> None:
    torch.manual_seed(0)
    block = Block(16, num_heads=2, hidden=32, max_length=8, attention=kind).eval()
    x = draw(3, 8, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = block(x)
    assert half.dtype == torch.float32  # the residual stream stays what it was
    torch.testing.assert_close(half, block(x), rtol=0.05, atol=0.05)


def test_feed_forward_equals_its_formula_and_swiglu_has_no_more_parameters() -> None:
    x = draw(4, 6)
    plain, gated = FeedForward(6, 12), FeedForward(6, 12, activation="swiglu")
    torch.testing.assert_close(plain(x), F.gelu(x @ plain.inner.weight.T) @ plain.outer.weight.T)
    gate, linear = (x @ gated.inner.weight.T).chunk(2, dim=1)
    torch.testing.assert_close(gated(x), (gate * gate.sigmoid() * linear) @ gated.outer.weight.T)
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (plain, gated)]
    assert sizes[0] == sizes[1]


def test_wrong_sizes_and_names_are_errors() -> None:
    with pytest.raises(ConfigError, match="multiple of the number of heads"):
        SelfAttention(10, num_heads=3, max_length=4)
    with pytest.raises(ConfigError, match="unknown attention"):
        SelfAttention(8, num_heads=2, max_length=4, kind="flash")
    with pytest.raises(ConfigError, match="even number"):
        SelfAttention(6, num_heads=2, max_length=4)
    with pytest.raises(ConfigError, match="unknown activation"):
        FeedForward(4, 8, activation="relu6")


@pytest.mark.parametrize("kind", ["softmax", "sdpa"])
def test_a_block_at_one_position_is_the_whole_block_there(kind: str) -> None:
    torch.manual_seed(0)
    block = Block(8, num_heads=2, hidden=16, max_length=6, attention=kind).double().eval()
    x, places = draw(5, 6, 8).double(), torch.tensor([0, 5, 2, 3, 5])
    expected = block(x)[torch.arange(5), places]
    assert torch.allclose(block.at(x, places), expected, atol=1e-12)
    behind = x.masked_fill((torch.arange(6) > places.unsqueeze(1)).unsqueeze(-1), 7.0)
    assert torch.allclose(block.at(behind, places), expected, atol=1e-12), "it looks ahead"
