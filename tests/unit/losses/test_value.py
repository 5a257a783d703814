"""Dense rewards and TD(0) against loops, and the values that the loss leads to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.losses.value import dense_rewards, level_weights, mean_embeddings, td_loss, td_targets
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles import value_oracle as oracle
from oracles.code_tables import CodeTable, code_tables


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_weights_go_from_the_first_to_the_last() -> None:
    assert level_weights(3).tolist() == pytest.approx([0.3, 0.5, 1.0])
    for num_levels in range(1, 8):
        expected = [oracle.weight(level, num_levels) for level in range(1, num_levels + 1)]
        assert level_weights(num_levels).tolist() == pytest.approx(expected)
    assert level_weights(3, (0.2,)).tolist() == pytest.approx([0.2] * 3)
    assert level_weights(2, (1.0, 3.0, 2.0)).tolist() == [1.0, 2.0]


@settings(max_examples=examples(50))
@given(code_tables(), st.integers(0, 999))
def test_rewards_are_those_of_a_loop(table: CodeTable, seed: int) -> None:
    trie = SemanticIdTrie.build(table.codes, table.sizes)
    embeddings = draw(trie.num_items, 4, seed=seed)
    embeddings[seed % trie.num_items] = 0.0
    means = mean_embeddings(embeddings, trie.item_order, trie.item_offsets)
    for depth, of_nodes in enumerate(means):
        expected = [
            oracle.mean_below(table.rows, embeddings.tolist(), prefix) for prefix in trie.prefix_codes(depth).tolist()
        ]
        np.testing.assert_allclose(of_nodes, expected, atol=1e-9)
    generator = torch.Generator().manual_seed(seed)
    items, targets = torch.randint(0, trie.num_items, (2, 8), generator=generator)
    weights = level_weights(trie.num_levels).double()
    found = dense_rewards(trie.path_nodes(items), trie.path_nodes(targets), embeddings[targets], means, weights)
    pairs = zip(items.tolist(), targets.tolist(), strict=True)
    expected = [oracle.rewards(table.rows, embeddings.tolist(), *pair) for pair in pairs]
    np.testing.assert_allclose(found, expected, atol=1e-6)  # the weights are float32
    assert (found <= weights).all()
    assert (found >= -2 * weights).all()


def test_padding_has_no_reward_and_an_unknown_target_no_prefix() -> None:
    trie = SemanticIdTrie.build(np.array([[0, 0], [0, 1], [1, 0]]), (2, 2))
    embeddings = torch.eye(3)
    means = mean_embeddings(embeddings, trie.item_order, trie.item_offsets)
    nodes = trie.path_nodes(torch.tensor([-1, 0]))
    unknown = torch.full((2, 2), -1)
    found = dense_rewards(nodes, unknown, embeddings[[0, 2]], means, torch.tensor([0.5, 1.0]))
    assert found.tolist() == [[0.0, 0.0], [-0.5, -1.0]]


@settings(max_examples=examples(30))
@given(st.integers(0, 999), st.integers(1, 5), st.sampled_from([0.0, 0.9, 1.0]))
def test_td_errors_are_those_of_a_loop(seed: int, num_levels: int, gamma: float) -> None:
    values, rewards = draw(6, num_levels + 1, seed=seed), draw(6, num_levels, seed=seed + 1)
    is_valid = torch.tensor([True, False, True, True, False, True])
    values[1] = torch.nan
    output = td_loss(values, rewards, is_valid, gamma=gamma)
    rows = [row for row in range(6) if is_valid[row]]
    errors = [oracle.td_errors(values[row].tolist(), rewards[row].tolist(), gamma) for row in rows]
    np.testing.assert_allclose(values[rows] - td_targets(rewards, values, gamma=gamma)[rows], errors)
    assert output.loss.item() == pytest.approx(np.square(errors).mean())
    assert output.parts["value"].item() == pytest.approx(output.loss.item())
    for depth in range(num_levels + 1):
        expected = np.abs(errors)[:, depth].mean()
        assert output.parts[f"value_error_depth_{depth}"].item() == pytest.approx(expected)


def test_the_gradient_is_that_of_the_error_alone() -> None:
    """2 (V(s_l) - target) / number of states: nothing flows through the target."""
    values, rewards = draw(3, 4).requires_grad_(), draw(3, 3, seed=1)
    is_valid = torch.tensor([True, True, False])
    td_loss(values, rewards, is_valid).loss.backward()
    expected = 2 * (values.detach() - td_targets(rewards, values)) / 8 * is_valid.unsqueeze(1)
    torch.testing.assert_close(values.grad, expected)
    nothing = td_loss(values, rewards, torch.zeros(3, dtype=torch.bool))
    assert nothing.loss.item() == 0
    assert all(part.item() == 0 for part in nothing.parts.values())


def test_descent_ends_in_the_discounted_sums_of_rewards() -> None:
    rewards, gamma = draw(5, 3), 0.9
    values = torch.zeros(5, 4, dtype=torch.float64, requires_grad=True)
    everyone = torch.ones(5, dtype=torch.bool)
    for _ in range(60):
        (gradient,) = torch.autograd.grad(td_loss(values, rewards, everyone, gamma=gamma).loss, values)
        values = (values.detach() - 5 * gradient).requires_grad_()
    expected = torch.zeros(5, 5, dtype=torch.float64)
    for depth in reversed(range(4)):
        arrived = rewards[:, depth - 1] if depth > 0 else 0.0
        expected[:, depth] = arrived + gamma * expected[:, depth + 1]
    torch.testing.assert_close(values.detach(), expected[:, :4], atol=1e-3, rtol=0)
