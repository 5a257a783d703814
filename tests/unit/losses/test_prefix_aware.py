"""Prefix-aware losses against loops, against the closed forms, and against each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.negatives import draw_items
from genrec.losses.likelihood import token_cross_entropy
from genrec.losses.prefix_aware import (
    pairwise_losses,
    persistent_weights,
    pointwise_losses,
    stateless_weights,
)
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles.prefix_oracle import pairwise, pointwise

SIZES = (3, 4, 2)


def catalogue(num_items: int = 18) -> tuple[np.ndarray, SemanticIdTrie]:
    """Some items share all their codes; a root child with one child."""
    codes = np.random.default_rng(0).integers(0, SIZES, size=(num_items, 3)).astype(np.int32)
    codes[1] = codes[0]
    return codes, SemanticIdTrie.build(codes, SIZES)


def num_prefixes(trie: SemanticIdTrie) -> list[int]:
    return [trie.num_nodes(level + 1) for level in range(trie.num_levels)]


def draw_scores(*shape: int, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return -noise.abs() - 0.05


def test_pointwise_losses_are_those_of_a_loop() -> None:
    log_probs = draw_scores(7, 4)
    assert pointwise_losses(log_probs).tolist() == pytest.approx(pointwise(log_probs.tolist()))
    assert pointwise_losses(log_probs[:0]).tolist() == [0.0] * 4


@pytest.mark.parametrize(("temperature", "depth_scaled"), [(1.0, True), (0.3, False), (2.5, True)])
def test_pairwise_losses_are_those_of_a_loop(temperature: float, depth_scaled: bool) -> None:
    codes, trie = catalogue()
    candidates = torch.from_numpy(np.random.default_rng(1).integers(0, len(codes), size=(40, 6)))
    candidates[0] = candidates[0, 0]  # no negative is left at any depth
    candidates[1, 1:] = candidates[1, 1]  # one
    log_probs = draw_scores(40, 6, 3)
    log_probs[2] = log_probs[2, :1]  # ties wherever prefixes differ
    found = pairwise_losses(
        log_probs, trie.path_nodes(candidates), num_prefixes(trie), temperature=temperature, depth_scaled=depth_scaled
    )
    prefixes = [[tuple(codes[item].tolist()) for item in row] for row in candidates.tolist()]
    expected = pairwise(
        log_probs.tolist(), prefixes, num_prefixes(trie), temperature=temperature, depth_scaled=depth_scaled
    )
    for part, values in zip(found, expected, strict=True):
        assert part.tolist() == pytest.approx(values)


def test_a_target_without_negatives_has_no_loss_and_a_finite_gradient() -> None:
    _, trie = catalogue()
    candidates = torch.tensor([[4, 4, 4], [2, 9, 11]])
    log_probs = draw_scores(2, 3, 3).requires_grad_()
    found = pairwise_losses(log_probs, trie.path_nodes(candidates), num_prefixes(trie))
    found.losses.sum().backward()
    assert log_probs.grad is not None
    assert torch.isfinite(log_probs.grad).all()
    assert (log_probs.grad[0] == 0).all()
    alone = pairwise_losses(log_probs[:1, :1], trie.path_nodes(candidates[:1, :1]), num_prefixes(trie))
    assert alone.losses.tolist() == [0.0, 0.0, 0.0]
    assert alone.auc.tolist() == alone.mrr.tolist() == [1.0, 1.0, 1.0]


def test_gradients_are_those_of_finite_differences() -> None:
    _, trie = catalogue()
    candidates = torch.tensor([[4, 1, 7, 4], [2, 9, 11, 3], [5, 5, 5, 5]])
    nodes, sizes = trie.path_nodes(candidates), num_prefixes(trie)
    log_probs = draw_scores(3, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pairwise_losses(x, nodes, sizes, temperature=0.7).losses, log_probs)
    assert torch.autograd.gradcheck(lambda x: pointwise_losses(x[:, 0]), log_probs)


def test_cross_entropy_and_pointwise_losses_are_one_weighted_cross_entropy() -> None:
    """c_s = 1 / L + beta sum_{t >= s} w_t / t is the weight of the code at position s."""
    log_probs, beta = draw_scores(9, 4), 0.7
    weights = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64)
    likelihood = token_cross_entropy(log_probs, torch.ones(9, dtype=torch.bool)).loss
    total = likelihood + beta * (weights * pointwise_losses(log_probs)).sum()
    closed = [1 / 4 + beta * sum(weights[t - 1].item() / t for t in range(s, 5)) for s in range(1, 5)]
    expected = -sum(closed[s] * log_probs[:, s].mean().item() for s in range(4))
    assert total.item() == pytest.approx(expected)


def test_against_all_prefixes_the_pairwise_loss_is_the_pointwise_one() -> None:
    """Prefix probabilities that sum to one make the softmax over all prefixes the probability itself."""
    codes, trie = catalogue()
    logits = [draw_scores(trie.num_nodes(level + 1), seed=level) for level in range(3)]
    conditional = []
    for level in range(3):
        parents = trie.parents[level]
        mass = torch.zeros(trie.num_nodes(level), dtype=torch.float64).index_add(0, parents, logits[level].exp())
        conditional.append(logits[level] - mass[parents].log())
    everything = torch.arange(len(codes))
    candidates = torch.stack([torch.cat([everything[target : target + 1], everything]) for target in (0, 3, 11)])
    nodes = trie.path_nodes(candidates)
    log_probs = torch.stack([conditional[level][nodes[..., level]] for level in range(3)], dim=-1)
    found = pairwise_losses(log_probs, nodes, num_prefixes(trie), temperature=1.0, depth_scaled=False).losses
    depths = torch.arange(1, 4)
    torch.testing.assert_close(found, pointwise_losses(log_probs[:, 0]) * depths)


@given(st.lists(st.floats(0, 50), min_size=4, max_size=4), st.floats(0, 5))
def test_weights_stay_on_the_simplex_and_lean_towards_the_worst(losses: list[float], rate: float) -> None:
    values = torch.tensor(losses, dtype=torch.float64)
    start = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    for weights in (persistent_weights(start, values, rate), stateless_weights(values, rate)):
        assert weights.sum().item() == pytest.approx(1)
        assert (weights >= 0).all()
    order = values.argsort()
    gains = (persistent_weights(start, values, rate) / start)[order]
    assert (gains.diff() >= -1e-9).all()
    assert (stateless_weights(values, rate)[order].diff() >= -1e-9).all()


def test_weights_have_their_closed_forms() -> None:
    history = draw_scores(6, 3).abs()
    weights = torch.full((3,), 1 / 3, dtype=torch.float64)
    for losses in history:
        weights = persistent_weights(weights, losses, 0.3)
    raw = [math.exp(0.3 * total) for total in history.sum(dim=0).tolist()]
    assert weights.tolist() == pytest.approx([value / sum(raw) for value in raw])
    last = history[-1].tolist()
    raw = [value * math.exp(0.3 * value) for value in last]
    assert stateless_weights(history[-1], 0.3).tolist() == pytest.approx([value / sum(raw) for value in raw])
    assert stateless_weights(torch.zeros(4), 0.3).tolist() == [0.25] * 4
    assert stateless_weights(torch.tensor([1e4, 0.0]), 1.0).tolist() == [1.0, 0.0]


def test_no_gradient_flows_through_the_weights() -> None:
    losses = torch.tensor([1.0, 2.0], requires_grad=True)
    assert not stateless_weights(losses, 0.5).requires_grad
    assert not persistent_weights(torch.tensor([0.5, 0.5]), losses, 0.5).requires_grad


def test_label_smoothing_and_level_weights_are_those_of_a_loop() -> None:
    log_probs, means = draw_scores(5, 3), draw_scores(5, 3, seed=1)
    is_valid = torch.tensor([True, True, False, True, False])
    weights, share = [1.0, 0.0, 3.0], 0.2
    found = token_cross_entropy(log_probs, is_valid, means=means, label_smoothing=share, level_weights=weights)
    expected = 0.0
    for row in range(5):
        if is_valid[row]:
            of_levels = [
                weights[level] * ((1 - share) * -log_probs[row, level] + share * -means[row, level])
                for level in range(3)
            ]
            expected += float(sum(of_levels)) / sum(weights) / 3
    assert found.loss.item() == pytest.approx(expected)
    plain = token_cross_entropy(log_probs, is_valid)
    assert {name: part.item() for name, part in found.parts.items()} == {
        name: part.item() for name, part in plain.parts.items()
    }
    assert token_cross_entropy(log_probs, is_valid, level_weights=[2.0] * 3).loss.item() == pytest.approx(
        plain.loss.item()
    )


def test_negatives_are_uniform_and_belong_to_their_place() -> None:
    places = torch.stack([torch.arange(3000), torch.arange(3000) % 7], dim=1)
    drawn = draw_items(3, 0, places, num_negatives=50, num_items=60)
    counts = drawn.flatten().bincount(minlength=60).double()
    expected = drawn.numel() / 60
    assert ((counts - expected) ** 2 / expected).sum() < 59 + 5 * math.sqrt(2 * 59)  # chi-square, five deviations
    pairs = (drawn[:, 0] * 60 + drawn[:, 1]).bincount(minlength=3600).double()
    assert ((pairs - 3000 / 3600) ** 2 / (3000 / 3600)).sum() < 3599 + 5 * math.sqrt(2 * 3599)
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(0))[:100]
    some = draw_items(3, 0, places[order], num_negatives=20, num_items=60)
    assert torch.equal(some, drawn[order, :20])
    for other in (draw_items(3, 1, places, num_negatives=50, num_items=60), drawn.roll(1, dims=0)):
        assert (other == drawn).double().mean().item() == pytest.approx(1 / 60, abs=0.005)
