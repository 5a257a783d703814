from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec.losses.likelihood import log_probs_of_codes, token_cross_entropy, trie_cross_entropy


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.lists(st.lists(st.floats(-20, 0, width=32), min_size=3, max_size=3), min_size=1, max_size=6), st.data())
def test_cross_entropy_is_the_mean_over_valid_targets(rows: list[list[float]], data: st.DataObject) -> None:
    is_valid = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    kept = [row for row, is_kept in zip(rows, is_valid, strict=True) if is_kept]
    output = token_cross_entropy(torch.tensor(rows), torch.tensor(is_valid))
    expected = sum(-sum(row) / 3 for row in kept) / max(1, len(kept))
    assert output.loss.item() == pytest.approx(expected, abs=1e-4)
    assert output.parts["nll"].item() == pytest.approx(3 * expected, abs=1e-3)
    for level in range(3):
        expected = sum(-row[level] for row in kept) / max(1, len(kept))
        assert output.parts[f"nll_level_{level + 1}"].item() == pytest.approx(expected, abs=1e-4)


def test_padding_gets_no_gradient_even_if_it_is_not_finite() -> None:
    log_probs = torch.tensor([[[-1.0, -2.0], [-torch.inf, torch.nan]]], requires_grad=True)
    output = token_cross_entropy(log_probs, torch.tensor([[True, False]]))
    output.loss.backward()
    assert output.loss.item() == 1.5
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == [[[-0.5, -0.5], [0.0, 0.0]]]
    assert not any(part.requires_grad for part in output.parts.values())


def test_a_batch_without_targets_costs_nothing() -> None:
    log_probs = torch.zeros(2, 3, 4, requires_grad=True)
    output = token_cross_entropy(log_probs, torch.zeros(2, 3, dtype=torch.bool))
    output.loss.backward()
    assert output.loss.item() == 0.0


def test_vocabulary_softmax_equals_torch() -> None:
    logits, codes = draw(5, 7), torch.tensor([0, 6, 3, 3, 1])
    expected = -torch.nn.functional.cross_entropy(logits / 0.5, codes, reduction="none")
    torch.testing.assert_close(log_probs_of_codes(logits, codes, temperature=0.5), expected)


def test_trie_softmax_runs_over_the_children_alone() -> None:
    logits, codes = draw(2, 6, seed=1), torch.tensor([4, 0])
    children = [[1, 4, 5], [0]]
    is_child = torch.zeros(2, 6, dtype=torch.bool)
    for row, some in enumerate(children):
        is_child[row, some] = True
    found = log_probs_of_codes(logits, codes, is_child, temperature=2.0)
    for row, some in enumerate(children):
        total = sum(math.exp(logits[row, code] / 2) for code in some)
        assert found[row].item() == pytest.approx(logits[row, codes[row]].item() / 2 - math.log(total), abs=1e-5)
    assert (found >= log_probs_of_codes(logits, codes, temperature=2.0)).all()


def test_impossible_codes_and_padding_get_zero_gradient() -> None:
    logits = draw(3, 2, 5, seed=2).requires_grad_()
    is_child = torch.tensor([[True, False, True, True, False], [False, True, True, False, False]]).repeat(3, 1, 1)
    is_child[2] = False
    codes = torch.tensor([[0, 1], [3, 2], [-1, -1]])
    output = trie_cross_entropy(logits, codes, is_child)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert logits.grad is not None
    assert torch.equal(logits.grad != 0, is_child)
    # a softmax: what the target gains the others lose
    torch.testing.assert_close(logits.grad.sum(dim=-1), torch.zeros(3, 2), atol=1e-6, rtol=0)


def test_prefix_probabilities_of_a_tree_sum_to_one() -> None:
    """Two levels: the products of child probabilities over all leaves are a distribution."""
    catalogue = [(0, 1), (0, 2), (2, 0), (2, 1), (2, 2)]
    first, second = draw(3, seed=3), draw(3, 3, seed=4)
    total = 0.0
    for codes in catalogue:
        is_child = torch.zeros(2, 3, dtype=torch.bool)
        is_child[0, [0, 2]] = True
        is_child[1, [other[1] for other in catalogue if other[0] == codes[0]]] = True
        logits = torch.stack([first, second[codes[0]]])
        total += log_probs_of_codes(logits, torch.tensor(codes), is_child).sum().exp().item()
    assert total == pytest.approx(1.0, abs=1e-5)
