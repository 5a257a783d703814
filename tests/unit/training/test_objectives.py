"""What a step minimises, on a small recommender: against the losses put together by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from genrec.data.negatives import draw_items
from genrec.data.sequences import Cases, Ragged
from genrec.errors import ConfigError
from genrec.losses.likelihood import token_cross_entropy
from genrec.losses.prefix_aware import pairwise_losses, persistent_weights, pointwise_losses, stateless_weights
from genrec.models.hierarchical import HierarchicalRecommender
from genrec.models.settings import HierarchicalSettings
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.training.objectives import Likelihood, Objective, Prefixes
from genrec.training.prefix_metrics import prefix_metrics
from oracles.prefix_oracle import pairwise

SIZES, NUM_ITEMS = (3, 4, 2), 20


@pytest.fixture
def model() -> HierarchicalRecommender:
    torch.manual_seed(0)
    codes = np.random.default_rng(0).integers(0, SIZES, size=(NUM_ITEMS, 3)).astype(np.int32)
    small: dict[str, Any] = {"width": 16, "num_layers": 1, "num_heads": 2, "hidden": 16, "depth_hidden": 16}
    rates: dict[str, Any] = {f"dropout_{part}": 0.0 for part in ("input", "blocks", "depth", "nodes")}
    settings = HierarchicalSettings(**small, **rates, history_length=6)
    model = HierarchicalRecommender(SemanticIdTrie.build(codes, SIZES), settings)
    model.mark_trained(torch.ones(NUM_ITEMS, dtype=torch.bool), torch.ones(NUM_ITEMS, dtype=torch.bool))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model


def batch() -> dict[str, torch.Tensor]:
    items = torch.randint(NUM_ITEMS, (5, 7), generator=torch.Generator().manual_seed(1))
    is_target = torch.rand(5, 6, generator=torch.Generator().manual_seed(2)) < 0.7
    return {
        "items": items[:, :-1],
        "targets": items[:, 1:],
        "is_target": is_target,
        "user_index": torch.arange(5) + 10,
        "epoch": torch.tensor(3),
    }


def num_prefixes(model: HierarchicalRecommender) -> list[int]:
    return [model.trie.num_nodes(level + 1) for level in range(3)]


def test_cross_entropy_alone_is_the_likelihood(model: HierarchicalRecommender) -> None:
    some = batch()
    scores = model.score_targets(some["items"], some["targets"], with_means=True)
    options = Likelihood(label_smoothing=0.2, level_weights=(1.0, 2.0, 3.0))
    found = Objective(num_prefixes(model), likelihood=options)(model, some)
    expected = token_cross_entropy(
        scores.log_probs,
        some["is_target"],
        means=scores.means,
        label_smoothing=0.2,
        level_weights=(1.0, 2.0, 3.0),
    )
    torch.testing.assert_close(found.loss, expected.loss)
    assert found.parts.keys() == expected.parts.keys()


@pytest.mark.parametrize("stateless", [False, True])
def test_the_pointwise_total_is_put_together_of_its_parts(model: HierarchicalRecommender, stateless: bool) -> None:
    some, is_target = batch(), batch()["is_target"]
    objective = Objective(num_prefixes(model), likelihood=Likelihood(), prefixes=Prefixes(0.5, 0.3, stateless))
    log_probs = model.score_targets(some["items"], some["targets"]).log_probs
    losses = pointwise_losses(log_probs[is_target])
    weights = torch.full((3,), 1 / 3)
    for _ in range(3):
        found = objective(model, some)
        weights = stateless_weights(losses, 0.3) if stateless else persistent_weights(weights, losses, 0.3)
        expected = token_cross_entropy(log_probs, is_target).loss + 0.5 * (weights * losses).sum()
        torch.testing.assert_close(found.loss, expected)
        torch.testing.assert_close(objective.weights, weights)
        assert [found.parts[f"prefix_loss_{t}"].item() for t in (1, 2, 3)] == pytest.approx(losses.tolist())
    before = objective.eval().weights.clone()
    objective(model, some)
    torch.testing.assert_close(objective.weights, before)
    copy = Objective(num_prefixes(model), likelihood=Likelihood(), prefixes=Prefixes(0.5, 0.3, stateless))
    copy.load_state_dict(objective.state_dict())
    torch.testing.assert_close(copy.weights, weights)


def test_the_pairwise_total_is_put_together_of_its_parts(model: HierarchicalRecommender) -> None:
    some, is_target = batch(), batch()["is_target"]
    prefixes = Prefixes(0.5, 0.3, num_negatives=7, temperature=0.6)
    objective = Objective(num_prefixes(model), likelihood=Likelihood(label_smoothing=0.1), prefixes=prefixes, seed=4)
    found = objective(model, some)
    row, place = is_target.nonzero(as_tuple=True)
    own = some["targets"][is_target]
    names = torch.stack([some["user_index"][row], place, own], dim=1)
    negatives = draw_items(4, 3, names, num_negatives=7, num_items=NUM_ITEMS)
    candidates = torch.cat([own.unsqueeze(1), negatives], dim=1)
    scores = []
    for column in candidates.unbind(dim=1):  # each candidate alone
        targets = torch.full_like(some["targets"], -1).masked_scatter(is_target, column)
        scores.append(model.score_targets(some["items"], targets, with_means=True))
    log_probs = torch.stack([score.log_probs[is_target] for score in scores], dim=1)
    expected = pairwise_losses(log_probs, model.trie.path_nodes(candidates), num_prefixes(model), temperature=0.6)
    likelihood = token_cross_entropy(
        log_probs[:, 0], torch.ones(len(own), dtype=torch.bool), means=scores[0].means[is_target], label_smoothing=0.1
    )
    weights = persistent_weights(torch.full((3,), 1 / 3), expected.losses, 0.3)
    torch.testing.assert_close(found.loss, likelihood.loss + 0.5 * (weights * expected.losses).sum())
    assert [found.parts[f"prefix_auc_{t}"].item() for t in (1, 2, 3)] == pytest.approx(expected.auc.tolist())
    assert [found.parts[f"prefix_mrr_{t}"].item() for t in (1, 2, 3)] == pytest.approx(expected.mrr.tolist())
    found.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_batch_without_targets_costs_nothing(model: HierarchicalRecommender) -> None:
    some = batch() | {"is_target": torch.zeros(5, 6, dtype=torch.bool)}
    for num_negatives in (0, 4):
        prefixes = Prefixes(0.5, 0.3, num_negatives=num_negatives)
        found = Objective(num_prefixes(model), likelihood=Likelihood(), prefixes=prefixes)(model, some)
        assert found.loss.item() == 0


@pytest.mark.parametrize("prefixes", [Prefixes(1.0, 0.1), Prefixes(1.0, 0.1, num_negatives=8)])
def test_training_on_prefixes_lowers_every_loss(model: HierarchicalRecommender, prefixes: Prefixes) -> None:
    objective = Objective(num_prefixes(model), likelihood=Likelihood(), prefixes=prefixes)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    records = []
    for _ in range(30):
        output = objective(model.train(), batch())
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        records.append(output.parts)
    for name in ("nll", "prefix_loss_1", "prefix_loss_2", "prefix_loss_3"):
        assert records[-1][name] < 0.5 * records[0][name]


def test_prefix_metrics_are_those_of_a_loop(model: HierarchicalRecommender) -> None:
    histories = [[3, 1], [], [4, 4, 9, 2, 2, 7, 8, 1], [5]]
    cases = Cases(np.arange(4), np.array([6, 0, 11, -1]), Ragged.from_lists(histories))
    model.eval()
    found = prefix_metrics(model, cases, num_negatives=6, seed=9)
    codes = torch.stack([model.trie.child_codes[level][nodes] for level, nodes in enumerate(_paths(model))], dim=1)
    log_probs, prefixes = [], []
    for user, (history, target) in enumerate(zip(histories[:3], (6, 0, 11), strict=True)):
        names = torch.tensor([[user, target]])
        items = [target, *draw_items(9, 0, names, num_negatives=6, num_items=NUM_ITEMS)[0].tolist()]
        shown = torch.tensor([history[-6:] or [-1]])
        of_items = []
        for item in items:
            targets = torch.full_like(shown, -1)
            targets[0, -1] = item
            of_items.append(model.score_targets(shown, targets).log_probs[0, -1].tolist())
        log_probs.append(of_items)
        prefixes.append([tuple(codes[item].tolist()) for item in items])
    _, auc, mrr = pairwise(log_probs, prefixes, num_prefixes(model), temperature=1.0, depth_scaled=True)
    assert [found[f"prefix_auc_{t}"] for t in (1, 2, 3)] == pytest.approx(auc)
    assert [found[f"prefix_mrr_{t}"] for t in (1, 2, 3)] == pytest.approx(mrr)


def _paths(model: HierarchicalRecommender) -> list[torch.Tensor]:
    return list(model.trie.path_nodes(torch.arange(NUM_ITEMS)).unbind(dim=1))


@pytest.mark.parametrize("weights", [(1.0, 2.0), (0.0, 0.0, 0.0)])
def test_level_weights_that_do_not_fit_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"loss\.level_weights"):
        Objective([3, 9, 20], likelihood=Likelihood(level_weights=weights))
