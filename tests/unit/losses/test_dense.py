"""Losses of dense recommenders, against loops over single targets."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.losses.dense import full_softmax, generalised_bce, sampled_softmax

N, P, D = 12, 5, 4


def case(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(P, D, generator=generator, dtype=torch.float64)
    items = torch.randn(N, D, generator=generator, dtype=torch.float64)
    return queries.float(), items.float(), torch.randint(N, (P,), generator=generator)


def scores_of(queries: torch.Tensor, items: torch.Tensor) -> list[list[float]]:
    return [[sum(float(a * b) for a, b in zip(q, i, strict=True)) for i in items] for q in queries]


@settings(max_examples=examples(15))
@given(st.integers(0, 50), st.sampled_from([0.0, 0.1, 1.0]))
def test_full_softmax_is_a_loop(seed: int, smoothing: float) -> None:
    queries, items, targets = case(seed)
    nll = smoothed = 0.0
    for scores, target in zip(scores_of(queries, items), targets.tolist(), strict=True):
        normaliser = math.log(sum(math.exp(score) for score in scores))
        nll -= (scores[target] - normaliser) / P
        smoothed -= sum(score - normaliser for score in scores) / N / P
    output = full_softmax(queries, items, targets, label_smoothing=smoothing)
    assert float(output.loss) == pytest.approx((1 - smoothing) * nll + smoothing * smoothed, rel=1e-5)
    assert float(output.parts["nll"]) == pytest.approx(nll, rel=1e-5)
    theirs = torch.nn.functional.cross_entropy(queries @ items.T, targets, label_smoothing=smoothing)
    torch.testing.assert_close(output.loss, theirs)


@settings(max_examples=examples(15))
@given(st.integers(0, 50), st.booleans())
def test_sampled_softmax_is_a_loop(seed: int, correct: bool) -> None:
    queries, items, targets = case(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    negatives = torch.randint(N, (7,), generator=generator)
    q = torch.rand(N, generator=generator).softmax(0)
    total = 0.0
    for scores, target in zip(scores_of(queries, items), targets.tolist(), strict=True):
        mass = math.exp(scores[target])
        for negative in negatives.tolist():
            if negative != target:
                mass += math.exp(scores[negative]) / (7 * float(q[negative]) if correct else 1)
        total += (math.log(mass) - scores[target]) / P
    output = sampled_softmax(queries, items, targets, negatives, q.log() if correct else None)
    assert float(output.loss) == pytest.approx(total, rel=1e-4)


@settings(max_examples=examples(15))
@given(st.integers(0, 50))
def test_all_items_as_negatives_give_the_full_softmax_and_its_gradient(seed: int) -> None:
    queries, items, targets = case(seed)
    queries.requires_grad_()
    items.requires_grad_()
    uniform = torch.full((N,), -math.log(N))
    losses = (
        sampled_softmax(queries, items, targets, torch.randperm(N), uniform).loss,
        full_softmax(queries, items, targets).loss,
    )
    torch.testing.assert_close(losses[0], losses[1])
    for tensor in (queries, items):
        first, second = (torch.autograd.grad(loss, tensor, retain_graph=True)[0] for loss in losses)
        torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-4)


def test_the_corrected_normaliser_is_unbiased() -> None:
    """Many popular negatives estimate the normaliser of the full softmax; uncorrected ones do not."""
    queries, items, targets = case(3)
    q = (torch.arange(N) + 1.0) / sum(range(1, N + 1))
    negatives = torch.multinomial(q, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    full = float(full_softmax(queries, items, targets).loss)
    assert float(sampled_softmax(queries, items, targets, negatives, q.log()).loss) == pytest.approx(full, abs=0.02)
    assert abs(float(sampled_softmax(queries, items, targets, negatives).loss) - full) > 1


@settings(max_examples=examples(15))
@given(st.integers(0, 50), st.sampled_from([0.0, 0.5, 1.0]))
def test_generalised_bce_is_a_loop(seed: int, calibration: float) -> None:
    queries, items, targets = case(seed)
    negatives = torch.randint(N, (P, 3), generator=torch.Generator().manual_seed(seed))
    rate = 3 / (N - 1)
    beta = {0.0: 1.0, 0.5: (1 + rate) / 2, 1.0: rate}[calibration]
    total = 0.0
    for scores, target, row in zip(scores_of(queries, items), targets.tolist(), negatives.tolist(), strict=True):
        total += beta * math.log(1 + math.exp(-scores[target]))
        total += sum(math.log(1 + math.exp(scores[negative])) for negative in row if negative != target)
    output = generalised_bce(queries, items, targets, negatives, calibration=calibration)
    assert float(output.loss) == pytest.approx(total / P, rel=1e-4)
    assert float(sum(output.parts.values())) == pytest.approx(float(output.loss))


def test_without_a_target_the_losses_are_zero() -> None:
    queries, items, targets = (part[:0] if number != 1 else part for number, part in enumerate(case(0)))
    negatives = torch.zeros(0, 3, dtype=torch.int64)
    assert float(full_softmax(queries, items, targets, label_smoothing=0.1).loss) == 0
    assert float(sampled_softmax(queries, items, targets, torch.arange(3)).loss) == 0
    assert float(generalised_bce(queries, items, targets, negatives).loss) == 0
