"""LETTER's terms against slow NumPy, and what they must not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from genrec.quantization.letter import Alignment, Diversity, Letter, alignment_loss, cluster, diversity_loss, partners
from oracles import rqvae_oracle as oracle

B, D, K = 20, 4, 12


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def test_alignment_and_its_gradient_are_the_formula():
    quantised, collaborative = normal(0, B, D).requires_grad_(), normal(1, B, D)
    collaborative[[3, 8]] = 0
    expected, gradient = oracle.alignment(quantised.detach().numpy(), collaborative.numpy())
    loss = alignment_loss(quantised, collaborative)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    np.testing.assert_allclose(quantised.grad, gradient, atol=1e-12)
    assert not quantised.grad[[3, 8]].any(), "nothing is asked of items without a collaborative vector"


def test_items_without_a_collaborative_vector_are_left_out():
    quantised, collaborative = normal(0, B, D), normal(1, B, D)
    collaborative[5:] = 0
    assert alignment_loss(quantised, collaborative) == alignment_loss(quantised[:5], collaborative[:5])
    collaborative[:] = 0
    quantised.requires_grad_()
    loss = alignment_loss(quantised, collaborative)
    loss.backward()
    assert loss == 0
    assert not quantised.grad.any()


def test_alignment_is_log_n_for_items_alike_and_small_for_items_far_apart():
    assert alignment_loss(torch.ones(B, D), torch.ones(B, D)).item() == pytest.approx(math.log(B))
    apart = 9 * torch.eye(B)
    assert alignment_loss(apart, apart).item() < 1e-6


def test_a_map_is_learnt_where_widths_differ_only():
    same = Alignment(latent_width=D, width=D, weight=0.5, generator=torch.Generator())
    assert list(same.parameters()) == []
    quantised, collaborative = normal(0, B, D).float(), normal(1, B, D).float()
    torch.testing.assert_close(same(quantised, collaborative), 0.5 * alignment_loss(quantised, collaborative))
    state = torch.get_rng_state()
    other = Alignment(latent_width=D, width=7, weight=1.0, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn from the global generator"
    (weight,) = other.parameters()
    assert weight.shape == (7, D)
    wide = normal(2, B, 7).float()
    torch.testing.assert_close(other(quantised, wide), alignment_loss(quantised @ weight.T, wide))


def test_diversity_is_the_formula_and_leaves_the_code_itself_out():
    codebook = normal(0, K, D).requires_grad_()
    codes, others = torch.tensor([0, 3, 3, 11]), torch.tensor([5, 1, 0, 2])
    loss = diversity_loss(codebook, codes, others)
    assert loss.item() == pytest.approx(oracle.diversity(codebook.detach().numpy(), codes.numpy(), others.numpy()))
    assert torch.autograd.gradcheck(lambda book: diversity_loss(book, codes, others), codebook)
    assert diversity_loss(codebook, codes[:0], others[:0]) == 0


def test_partners_are_other_codes_of_the_same_cluster_and_every_one_of_them():
    clusters = torch.tensor([0, 1, 0, 0, 1, 2])
    codes = torch.arange(6).repeat(200)
    rows, found = partners(codes, clusters, torch.rand(len(codes), 6, generator=torch.Generator().manual_seed(0)))
    assert (codes[rows] != 5).all(), "a code alone has no partner"
    assert len(rows) == 1000
    pairs = torch.stack([codes[rows], found], dim=1).unique(dim=0).tolist()
    assert pairs == [[0, 2], [0, 3], [1, 4], [2, 0], [2, 3], [3, 0], [3, 2], [4, 1]]


def test_codes_are_clustered_anew_in_every_epoch_and_the_same_seed_draws_the_same():
    codebooks, codes = [normal(0, 40, D).float(), normal(1, 3, D).float()], torch.arange(6).reshape(3, 2) % 3
    values = []
    for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0)):
        diversity = Diversity(weight=2.0, seed=seed)
        diversity.begin(codebooks, epoch)
        assert [len(clusters.unique()) for clusters in diversity.clusters] == [10, 1]
        values.append(diversity(codebooks, codes).item())
    assert values[0] == values[1]
    assert len(set(values)) == 3
    assert cluster(np.zeros((5, 2), dtype=np.float32), seed=0).tolist() == [0] * 5


def test_only_the_terms_that_are_wanted_are_there():
    quantised, codes, codebooks = normal(0, 3, D).float(), torch.tensor([[0], [1], [2]]), [normal(1, 8, D).float()]
    alignment = Alignment(latent_width=D, width=D, weight=1.0, generator=torch.Generator())
    for letter, names in (
        (Letter(alignment, None), ["alignment"]),
        (Letter(None, Diversity(weight=1.0, seed=0)), ["diversity"]),
        (Letter(alignment, Diversity(weight=1.0, seed=0)), ["alignment", "diversity"]),
    ):
        letter.begin(codebooks, 0)
        assert list(letter(quantised, codes, codebooks, normal(2, 3, D).float())) == names
