"""The functions that train an RQ-VAE, against slow NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from genrec.quantization.rqvae import (
    RqVae,
    balanced,
    ema_update,
    loss_parts,
    nearest,
    quantise,
    reseed,
    sinkhorn,
    squared_distances,
    straight_through,
)
from oracles import rqvae_oracle as oracle

BETA = 0.25
B, E, D, SIZES = 24, 7, 5, (6, 4, 3)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@pytest.fixture
def parts() -> dict[str, torch.Tensor]:
    parts = {"vectors": normal(0, B, E), "latents": normal(1, B, D), "decoder": normal(2, E, D)}
    return parts | {f"codebook_{level}": normal(3 + level, size, D) for level, size in enumerate(SIZES)}


def codebooks_of(parts: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return [parts[f"codebook_{level}"] for level in range(len(SIZES))]


def test_loss_and_gradients_are_the_formula(parts):
    arrays = {name: tensor.numpy().copy() for name, tensor in parts.items()}
    books = [arrays[f"codebook_{level}"] for level in range(len(SIZES))]
    terms, to_latents, to_books, to_decoder = oracle.loss_and_gradients(
        arrays["vectors"], arrays["latents"], books, arrays["decoder"], BETA
    )
    for tensor in parts.values():
        tensor.requires_grad_()
    quantised = quantise(parts["latents"], codebooks_of(parts))
    decoded = straight_through(parts["latents"], quantised) @ parts["decoder"].T
    found = loss_parts(parts["vectors"], decoded, quantised, beta=BETA)
    assert {name: pytest.approx(value.item()) for name, value in found.items()} == terms
    sum(found.values()).backward()
    np.testing.assert_array_equal(quantised.codes, oracle.quantise(arrays["latents"], books)[0])
    np.testing.assert_allclose(parts["latents"].grad, to_latents, atol=1e-12)
    np.testing.assert_allclose(parts["decoder"].grad, to_decoder, atol=1e-12)
    for codebook, expected in zip(codebooks_of(parts), to_books, strict=True):
        np.testing.assert_allclose(codebook.grad, expected, atol=1e-12)


def test_each_term_moves_its_own_side_only(parts):
    latents = parts["latents"].requires_grad_()
    books = [book.requires_grad_() for book in codebooks_of(parts)]

    def terms() -> dict[str, torch.Tensor]:
        quantised = quantise(latents, books)
        decoded = straight_through(latents, quantised) @ parts["decoder"].T
        return loss_parts(parts["vectors"], decoded, quantised, beta=BETA)

    for name, moves_latents in (("reconstruction", True), ("codebook", False), ("commitment", True)):
        gradients = torch.autograd.grad(terms()[name], [latents, *books], allow_unused=True)
        assert [gradient is not None for gradient in gradients] == [moves_latents] + [not moves_latents] * len(books)


def test_straight_through_has_the_value_of_the_codes_and_the_gradient_of_the_decoder(parts):
    latents = parts["latents"].requires_grad_()
    quantised = quantise(latents, codebooks_of(parts))
    through = straight_through(latents, quantised)
    torch.testing.assert_close(through, quantised.total)
    at_codes = quantised.total.detach().requires_grad_()
    for point in (through, at_codes):
        (point @ parts["decoder"].T).tanh().square().sum().backward()
    torch.testing.assert_close(latents.grad, at_codes.grad)


def test_distances_are_squared_and_the_nearest_is_taken():
    residuals, codebook = normal(0, 50, 6), normal(1, 9, 6)
    expected = (residuals[:, None] - codebook[None]).square().sum(dim=2)
    torch.testing.assert_close(squared_distances(residuals, codebook), expected)
    assert torch.equal(nearest(expected), expected.argmin(dim=1))


@pytest.mark.parametrize("epsilon", [0.0025, 0.003, 0.05, 0.5])  # the first in logarithms
def test_sinkhorn_is_the_loop(epsilon):
    distances = normal(0, 12, 5).square()
    found = sinkhorn(distances, epsilon=epsilon, iterations=7)
    np.testing.assert_allclose(found, oracle.sinkhorn(distances.numpy(), epsilon, 7), rtol=1e-9, atol=1e-12)


def test_sinkhorn_balances_rows_and_columns():
    distances = squared_distances(normal(0, 60, 4) * 0.1 + 1, normal(1, 6, 4))  # one code is nearest to all
    assert len(nearest(distances).unique()) < 4
    plan = sinkhorn(distances, epsilon=0.05, iterations=300)
    torch.testing.assert_close(plan.sum(dim=0), torch.full((6,), 10.0, dtype=plan.dtype))
    torch.testing.assert_close(plan.sum(dim=1), torch.ones(60, dtype=plan.dtype), atol=1e-4, rtol=0)
    counts = torch.bincount(balanced(distances, epsilon=0.003, iterations=300), minlength=6)
    assert (counts - 10).abs().max() <= 2
    for epsilon in (1e-4, 0.003):
        assert sinkhorn(distances.float() * 1e6, epsilon=epsilon).isfinite().all()


def test_moving_averages_are_the_formula():
    codebook, sums, residuals = normal(0, 6, 3), normal(1, 6, 3), normal(2, 20, 3)
    counts = normal(3, 6).abs() + 0.5
    codes = torch.from_numpy(np.random.default_rng(4).integers(5, size=20))  # code 5 gets nothing
    found = ema_update(codebook, counts, sums, residuals=residuals, codes=codes, decay=0.9)
    arrays = [tensor.numpy() for tensor in (codebook, counts, sums, residuals, codes)]
    for mine, expected in zip(found, oracle.moving_average(*arrays, decay=0.9), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-12)
    assert torch.equal(found[0][5], codebook[5])


def test_reseeding_replaces_the_dead_codes_alone():
    codebook, residuals = normal(0, 6, 3), normal(1, 40, 3)
    is_dead = torch.tensor([False, True, False, True, True, False])
    new, replaced = reseed(codebook, is_dead, residuals)
    assert replaced.tolist() == [1, 3, 4]
    assert torch.equal(new[~is_dead], codebook[~is_dead])
    errors = squared_distances(residuals, codebook[~is_dead]).amin(dim=1)
    assert torch.equal(new[is_dead], residuals[errors.argsort(descending=True)[:3]])
    assert torch.equal(codebook, normal(0, 6, 3)), "the old one is left alone"


def test_reseeding_by_direction_looks_at_directions_alone():
    codebook = torch.tensor([[1.0, 0.0], [5.0, 5.0], [7.0, 7.0]])
    residuals = torch.tensor([[90.0, 1.0], [0.0, 0.1], [0.0, 3.0], [0.0, 0.0]])
    new, replaced = reseed(codebook, torch.tensor([False, True, True]), residuals, by_direction=True)
    assert replaced.tolist() == [1, 2], "one direction of the two residuals that share it, and no zero"
    assert new.tolist()[0] == [1.0, 0.0]
    np.testing.assert_allclose(new[1:], [[0.0, 0.1], [90.0, 1.0]])


def test_reseeding_never_makes_two_codes_of_one_residual():
    codebook = torch.tensor([[1.0], [0.0], [0.0]])
    residuals = torch.tensor([[1.0], [7.0], [7.0], [1.0]])
    new, replaced = reseed(codebook, torch.tensor([False, True, True]), residuals)
    assert (new.flatten().tolist(), replaced.tolist()) == ([1.0, 7.0, 0.0], [1])
    new, replaced = reseed(codebook, torch.tensor([True, True, True]), residuals)
    assert (new.flatten().tolist(), replaced.tolist()) == ([7.0, 1.0, 0.0], [0, 1])


def test_the_module_starts_from_given_codebooks_and_says_so_in_its_state():
    state = torch.get_rng_state()

    def build(seed: int) -> RqVae:
        random = torch.Generator().manual_seed(seed)
        return RqVae(
            width=E, latent_width=D, hidden=(8, 6), codebook_sizes=SIZES, learn_codebooks=True, generator=random
        )

    model = build(1)
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn from the global generator"
    assert not model.is_initialised
    books = [normal(level, size, D).numpy().astype(np.float32) for level, size in enumerate(SIZES)]
    model.initialise(books)
    other = build(2)
    other.load_state_dict(model.state_dict())
    assert other.is_initialised
    vectors = normal(9, B, E).float()
    decoded, through, quantised = other(vectors)
    hidden = F.relu(F.linear(vectors, model.encoder[0].weight, model.encoder[0].bias))
    hidden = F.relu(F.linear(hidden, model.encoder[2].weight, model.encoder[2].bias))
    latents = F.linear(hidden, model.encoder[4].weight, model.encoder[4].bias)
    codes, _, total = oracle.quantise(latents.detach().double().numpy(), [book.astype(np.float64) for book in books])
    np.testing.assert_array_equal(quantised.codes, codes)
    torch.testing.assert_close(through, torch.from_numpy(total).float())
    torch.testing.assert_close(decoded, model.decoder(torch.from_numpy(total).float()))
