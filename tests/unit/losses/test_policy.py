"""Policy objectives against loops, against REINFORCE, and at the edges where something is clipped or missing."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.errors import ConfigError
from genrec.losses.advantages import build_candidate_tree, group_advantages, sibling_advantages, sibling_pairs
from genrec.losses.likelihood import LossOutput, token_cross_entropy
from genrec.losses.policy import (
    RATIOS,
    Clipping,
    clipped_terms,
    code_weights,
    exact_kl,
    log_ratios,
    policy_loss,
    prefix_weights,
    sampled_kl,
    step_preference,
    weighted_sum,
)
from oracles import policy_oracle as oracle

WAYS = [("token", "ppo"), ("token", "ecpo"), ("prefix_min", "ppo"), ("sequence", "ppo")]
R, L = 9, 3
ALL = torch.ones(R, dtype=torch.bool)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_probs_of(logits: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.logsigmoid(logits)


def of_equal_weight(is_valid: torch.Tensor = ALL) -> torch.Tensor:
    return code_weights(is_valid, torch.ones(L, dtype=torch.float64))


@settings(max_examples=examples(60))
@given(
    st.integers(0, 10**6),
    st.sampled_from(WAYS),
    st.sampled_from([0.05, 1.0]),
    st.sampled_from([(0.2, 0.2), (0.1, 0.3)]),
    st.sampled_from([0.0, 0.1]),
)
def test_the_same_objective_with_loops(
    seed: int, way: tuple[str, str], spread: float, clip: tuple[float, float], delta: float
) -> None:
    """Padding of NaN, hinted codes, and levels of unequal weight among them."""
    generator = torch.Generator().manual_seed(seed)
    old = log_probs_of(draw(R, L, seed=seed))
    new = log_probs_of(draw(R, L, seed=seed) + spread * draw(R, L, seed=seed + 1))
    group, siblings = draw(R, L, seed=seed + 2), draw(R, L, seed=seed + 3)
    is_valid = torch.rand(R, generator=generator) < 0.8
    hinted = torch.randint(0, L + 1, (R,), generator=generator)
    weights = code_weights(is_valid, torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64), hinted)
    new[~is_valid] = old[~is_valid] = group[~is_valid] = torch.nan
    clipping = Clipping(*way, low=clip[0], high=clip[1], delta=delta)
    found = policy_loss(new, old, weights, group, siblings=siblings, alpha=0.3, clipping=clipping)
    bound = delta if way[1] == "ecpo" else None
    expected = [
        oracle.objective(new.tolist(), old.tolist(), weights.tolist(), table.tolist(), way[0], clip, bound)
        for table in (group, siblings)
    ]
    assert found.parts["policy_group"].item() == pytest.approx(expected[0])
    assert found.parts["policy_sibling"].item() == pytest.approx(expected[1])
    assert found.loss.item() == pytest.approx(-expected[0] - 0.3 * expected[1])
    assert 0 <= found.parts["clip_share"].item() <= 1


@pytest.mark.parametrize("way", WAYS)
def test_on_policy_the_gradient_is_that_of_reinforce(way: tuple[str, str]) -> None:
    """J_sibling = sum over (h, v) of A(h, v) grad log p(v | h), each once, beside J_group."""
    logits = draw(R, L).requires_grad_()
    codes = torch.randint(0, 2, (R, L), generator=torch.Generator().manual_seed(1))
    rewards = draw(R, seed=2)
    tree = build_candidate_tree(codes, torch.arange(R) % 2)
    group, siblings = group_advantages(rewards, tree), sibling_advantages(rewards, tree)
    new = log_probs_of(logits)
    output = policy_loss(
        new, new.detach(), of_equal_weight(), group, siblings=siblings, alpha=0.7, clipping=Clipping(*way)
    )
    (found,) = torch.autograd.grad(output.loss, logits, retain_graph=True)
    (expected,) = torch.autograd.grad(-((group + 0.7 * siblings) * new).sum() / (R * L), logits)
    torch.testing.assert_close(found, expected)
    assert output.parts["clip_share"].item() == 0
    assert output.parts["mean_ratio"].item() == output.parts["max_ratio"].item() == 1


def test_shared_codes_of_siblings_count_once() -> None:
    """Three candidates share their first code; its gradient is A(h, v) and not three times that."""
    table = torch.zeros(2, requires_grad=True, dtype=torch.float64)  # logits of the two first codes
    codes = torch.tensor([[0, 0], [0, 1], [0, 2], [1, 0]])
    rewards = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    siblings = sibling_advantages(rewards, build_candidate_tree(codes, torch.zeros(4).long()), eps=0.0)
    log_p = table.log_softmax(dim=0)
    log_probs = torch.stack([log_p[codes[:, 0]], torch.zeros(4, dtype=torch.float64)], dim=1)
    weights = code_weights(torch.ones(4, dtype=torch.bool), torch.ones(2, dtype=torch.float64))
    nothing = torch.zeros_like(siblings)
    output = policy_loss(log_probs, log_probs.detach(), weights, nothing, siblings=siblings)
    (found,) = torch.autograd.grad(output.loss, table, retain_graph=True)
    (expected,) = torch.autograd.grad(-(log_p[0] - log_p[1]) / 8, table)
    torch.testing.assert_close(found, expected)


def slope(log_ratio: float, advantage: float, clipping: Clipping) -> tuple[float, float]:
    """Value and gradient of one term as a function of the log-ratio."""
    place = torch.tensor([[log_ratio]], dtype=torch.float64, requires_grad=True)
    terms, _ = clipped_terms(place, torch.tensor([[advantage]], dtype=torch.float64), clipping)
    terms.sum().backward()
    assert place.grad is not None
    return terms.item(), place.grad.item()


def test_clipping_stops_what_has_moved_far_enough() -> None:
    ppo, ecpo = Clipping(), Clipping(kind="ecpo")
    for clipping in (ppo, ecpo):
        assert slope(math.log(1.5), 1.0, clipping) == pytest.approx((1.2, 0.0))
        assert slope(math.log(0.5), 1.0, clipping) == pytest.approx((0.5, 0.5))
        assert slope(math.log(0.5), -1.0, clipping) == pytest.approx((-0.8, 0.0))
        assert slope(math.log(1.25), -1.0, clipping) == pytest.approx((-1.25, -1.25))
    assert slope(math.log(9.0), -1.0, ppo) == pytest.approx((-9.0, -9.0))
    assert slope(math.log(9.0), -1.0, ecpo) == pytest.approx((-1.3, -1.3))


def test_what_was_clipped_is_counted() -> None:
    old = torch.zeros(1, 4, dtype=torch.float64)
    new = torch.tensor([[1.5, 1.5, 1.5, 0.5]], dtype=torch.float64).log()
    advantages = torch.tensor([[1.0, -1.0, 0.0, -1.0]], dtype=torch.float64)
    weights = torch.ones(1, 4, dtype=torch.float64)
    assert policy_loss(new, old, weights, advantages).parts["clip_share"].item() == pytest.approx(2 / 3)
    bounded = policy_loss(new, old, weights, advantages, clipping=Clipping(kind="ecpo"))
    assert bounded.parts["clip_share"].item() == 1
    assert bounded.parts["mean_ratio"].item() == pytest.approx(1.25)
    assert bounded.parts["max_ratio"].item() == pytest.approx(1.5)


@pytest.mark.parametrize("kind", RATIOS)
def test_each_ratio_has_the_gradient_of_its_own_code(kind: str) -> None:
    old, new = log_probs_of(draw(R, L)), log_probs_of(draw(R, L, seed=1)).requires_grad_()
    for level in range(L):
        (found,) = torch.autograd.grad(log_ratios(new, old, kind)[:, level].sum(), new)
        expected = torch.zeros_like(found)
        expected[:, level] = 1
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("way", WAYS)
def test_extreme_ratios_and_padding_give_finite_gradients(way: tuple[str, str]) -> None:
    new = torch.full((2, L), -500.0, dtype=torch.float64)
    new[1] = -torch.inf
    for sign in (1.0, -1.0):
        for old in (torch.zeros(2, L), torch.full((2, L), -900.0)):
            place = new.clone().requires_grad_()
            weights = of_equal_weight(torch.tensor([True, False]))
            advantages = torch.full((2, L), sign, dtype=torch.float64)
            policy_loss(place, old.double(), weights, advantages, clipping=Clipping(*way)).loss.backward()
            assert place.grad is not None
            assert torch.isfinite(place.grad).all()
            assert (place.grad[1] == 0).all()


def test_without_candidates_there_is_no_loss() -> None:
    new = draw(R, L).requires_grad_()
    nobody = of_equal_weight(~ALL)
    outputs = [
        policy_loss(new, new, nobody, draw(R, L), siblings=draw(R, L)),
        sampled_kl(new, draw(R, L), nobody),
        exact_kl([new], [draw(R, L)], [~ALL]),
    ]
    for output in outputs:
        assert output.loss.item() == 0
        output.loss.backward()
        assert all(torch.isfinite(part).all() for part in output.parts.values())
    assert outputs[0].parts["mean_ratio"].item() == 1
    assert new.grad is not None
    assert (new.grad == 0).all()


def test_prefixes_grow_and_weigh() -> None:
    assert prefix_weights(0.75, 3).tolist() == [1.0, 1.0, 0.5]
    assert prefix_weights(0.0, 4, floor=0.2).tolist() == pytest.approx([1.0, 0.2, 0.2, 0.2])
    assert prefix_weights(0.0, 1).tolist() == prefix_weights(1.0, 1).tolist() == [1.0]
    for low, high in itertools.pairwise([share / 7 for share in range(8)]):
        assert (prefix_weights(high, 5) >= prefix_weights(low, 5)).all()
    old, new, advantages = log_probs_of(draw(R, L)), log_probs_of(draw(R, L, seed=1)), draw(R, L, seed=2)
    first = policy_loss(new, old, code_weights(ALL, prefix_weights(0.0, L)), advantages).loss
    alone = policy_loss(new[:, :1], old[:, :1], torch.ones(R, 1), advantages[:, :1]).loss
    assert first.item() == pytest.approx(alone.item())


@settings(max_examples=examples(30))
@given(st.integers(0, 10**6), st.integers(1, 5), st.booleans())
def test_exact_divergence_is_that_of_a_loop(seed: int, width: int, has_rest: bool) -> None:
    """Of nodes with 1 to `width` children and padding; with a rest, two codes more that nobody is told of."""
    hidden = 2 if has_rest else 0
    counts = [1 + (seed + row) % width for row in range(4)]
    tables, numbers = [torch.full((4, width), -torch.inf, dtype=torch.float64) for _ in range(2)], []
    for row, count in enumerate(counts):
        logits = [draw(count + hidden, seed=seed + 10 * row + which).log_softmax(dim=0) for which in range(2)]
        of_row = []
        for table, values in zip(tables, logits, strict=True):
            table[row, :count] = values[:count]
            seen = values[:count].exp().tolist()
            of_row.append([*seen, 1 - sum(seen)] if has_rest else seen)
        numbers.append(of_row)
    is_visited = torch.tensor([True, False, True, True])
    found = exact_kl([tables[0].requires_grad_()], [tables[1]], [is_visited], has_rest=has_rest)
    visited = [numbers[row] for row in (0, 2, 3)]
    assert found.loss.item() == pytest.approx(sum(oracle.kl(*pair) for pair in visited) / 3, abs=1e-9)
    entropy = -sum(p * math.log(p) for new, _ in visited for p in new) / 3
    assert found.parts["entropy"].item() == pytest.approx(entropy, abs=1e-9)
    assert found.loss.item() >= -1e-9
    found.loss.backward()
    gradient = tables[0].grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()
    assert (gradient[1] == 0).all()


def test_levels_of_different_width_have_one_mean() -> None:
    tables = [[draw(n, m, seed=n + k).log_softmax(dim=1) for n, m in ((1, 4), (5, 2))] for k in (0, 9)]
    visited = [torch.tensor([True]), torch.tensor([True, False, True, True, False])]
    alone = [exact_kl([a], [b], [mask]) for a, b, mask in zip(*tables, visited, strict=True)]
    found = exact_kl(*tables, visited)
    for name in ("kl", "entropy"):
        expected = (alone[0].parts[name] + 3 * alone[1].parts[name]) / 4
        assert found.parts[name].item() == pytest.approx(expected.item())


def test_the_divergence_of_the_policy_from_itself_is_nothing() -> None:
    same = draw(4, 3).log_softmax(dim=1)
    visited = torch.ones(4, dtype=torch.bool)
    assert exact_kl([same], [same], [visited]).loss.item() == 0
    assert sampled_kl(same, same, torch.ones(4, 3)).loss.item() == 0
    reference = same.clone()
    reference[2, 1] = -torch.inf
    never = same.clone()
    never[2] = torch.tensor([0.0, -2000.0, -torch.inf])
    assert math.isfinite(exact_kl([never], [reference], [visited]).loss.item())
    assert exact_kl([same], [reference], [visited]).loss.item() == math.inf


def test_the_sampled_divergence_has_the_exact_one_as_its_mean() -> None:
    """Weighted by p, all outcomes of one node give sum p (r - log r - 1) = KL(p || p_ref), r = p_ref / p."""
    new, reference = draw(1, 6).log_softmax(dim=1), draw(1, 6, seed=1).log_softmax(dim=1)
    found = sampled_kl(new.T, reference.T, new.T.exp())
    exact = exact_kl([new], [reference], [torch.ones(1, dtype=torch.bool)])
    assert found.loss.item() == pytest.approx(exact.loss.item())


def test_preferences_of_siblings() -> None:
    codes = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 0]])
    requests = torch.tensor([5, 5, 5, 8])
    rewards = torch.tensor([1.0, 0.0, 0.2, 0.9])
    pairs = sibling_pairs(rewards, build_candidate_tree(codes, requests))
    new, reference = log_probs_of(draw(4, 2)).requires_grad_(), log_probs_of(draw(4, 2, seed=1))
    gains = (new - reference).tolist()
    margins = [gains[0][0] - gains[2][0], gains[0][1] - gains[1][1]]  # codes 0 | 1 at the root, 0 | 1 behind 0
    output = step_preference(new, reference, pairs, beta=0.4)
    assert output.loss.item() == pytest.approx(sum(math.log(1 + math.exp(-0.4 * m)) for m in margins) / 2)
    assert output.parts["preference_accuracy"].item() == pytest.approx(sum(m > 0 for m in margins) / 2)
    assert output.parts["num_pairs"].item() == 2
    output.loss.backward()
    assert new.grad is not None
    assert (new.grad[3] == 0).all()
    assert new.grad[0, 0] == -new.grad[2, 0]
    assert (new.grad[0] < 0).all()
    same = sibling_pairs(torch.zeros(4), build_candidate_tree(codes, requests))
    assert step_preference(new, reference, same).loss.item() == 0


def test_terms_are_put_together() -> None:
    new = log_probs_of(draw(R, L)).requires_grad_()
    anchor = token_cross_entropy(new, ALL)
    policy = policy_loss(new, new.detach(), of_equal_weight(), draw(R, L, seed=3))
    far = LossOutput(new.sum() * torch.inf, {"kl": torch.tensor(7.0)})
    found = weighted_sum([(1.0, policy), (0.1, anchor), (0.0, far)])
    assert found.loss.item() == pytest.approx(policy.loss.item() + 0.1 * anchor.loss.item())
    assert {"kl", "nll", "clip_share"} < set(found.parts)
    with pytest.raises(AssertionError, match="two terms"):
        weighted_sum([(1.0, anchor), (1.0, anchor)])


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown ratio"):
        Clipping(ratio="tokens")
    with pytest.raises(ConfigError, match="unknown clipping"):
        Clipping(kind="none")
    with pytest.raises(ConfigError, match="ratio of single tokens"):
        Clipping(ratio="sequence", kind="ecpo")
    with pytest.raises(ConfigError, match="wrong clipping"):
        Clipping(low=1.0)
