"""Vectors of item features: the mean written out, a start that changes nothing, and other items or other names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from genrec.data.item_features import build_vocabulary, value_numbers
from genrec.errors import ConfigError
from genrec.losses.likelihood import token_cross_entropy
from genrec.models.hierarchical import HierarchicalRecommender, HierarchicalSettings
from genrec.models.item_features import FeatureValues, ItemFeatures
from genrec.semantic_ids.trie import SemanticIdTrie

SMALL: dict[str, Any] = {"width": 8, "num_heads": 2, "hidden": 12, "depth_hidden": 10, "history_length": 5}
CATEGORIES = pl.Series([["pen", "ink"], ["ink"], [], ["cap", "lid"], ["pen", "cap"], ["ink", "odd", "pen"]])
CODES = np.array([[0, 1], [0, 2], [1, 0], [1, 1], [2, 0], [2, 2]], dtype=np.int32)


def features(values: pl.Series = CATEGORIES, *, min_count: int = 2) -> dict[str, FeatureValues]:
    vocabulary = build_vocabulary(values, min_count=min_count)
    return {"categories": FeatureValues(vocabulary, torch.from_numpy(value_numbers(values, vocabulary)))}


def build(values: dict[str, FeatureValues], rows: Sequence[int] = range(6), **settings: Any) -> HierarchicalRecommender:
    torch.manual_seed(0)
    given = HierarchicalSettings(**(SMALL | {"item_features": tuple(values)} | settings))
    model = HierarchicalRecommender(SemanticIdTrie.build(CODES[list(rows)], (3, 3)), given, values)
    everything = torch.ones(len(rows), dtype=torch.bool)
    model.mark_trained(everything, everything)
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(6, (8, 5), generator=generator), torch.randint(6, (8, 5), generator=generator)


def table_of(model: HierarchicalRecommender) -> torch.nn.Parameter:
    assert model.features is not None
    return model.features.tables["categories"]


def test_an_item_has_the_mean_of_its_values() -> None:
    module = ItemFeatures(features() | {"brand": FeatureValues("q", torch.tensor([[2], [1], [0], [0], [2], [1]]))}, 4)
    names = ["missing", "other", *module.vocabularies["categories"]]
    assert names[2:] == ["cap", "ink", "pen"]
    with torch.no_grad():
        for table in module.tables.values():
            table.normal_()
        found = module(torch.tensor([[0, 1, 2], [3, 4, 5]])).view(6, 4)
    rows = dict(zip(names, module.tables["categories"].detach(), strict=True))
    brands = module.tables["brand"].detach()[[2, 1, 0, 0, 2, 1]]
    wanted = [["ink", "pen"], ["ink"], ["missing"], ["cap", "other"], ["cap", "pen"], ["ink", "other", "pen"]]
    expected = torch.stack([torch.stack([rows[name] for name in own]).mean(dim=0) for own in wanted])
    torch.testing.assert_close(found, expected + brands)


@pytest.mark.parametrize("settings", [{}, {"positions": "both"}], ids=str)
def test_training_begins_as_without_features(settings: dict[str, Any]) -> None:
    histories, targets = batch()
    plain, rich = build({}), build(features(), **settings)
    before, after = (model.eval().score_targets(histories, targets).log_probs for model in (plain, rich))
    assert torch.equal(before, after)


def test_values_that_training_does_not_show_stay_at_nothing() -> None:
    """Whatever the weight decay: an item of a brand that was never seen is not moved by chance."""
    model = build(features())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    histories, targets = torch.tensor([[0, 1, 5], [1, 0, 0]]), torch.tensor([[1, 5, 0], [0, 0, 1]])
    for _ in range(3):
        scores = model.train().score_targets(histories, targets).log_probs.flatten(0, 1)
        loss = token_cross_entropy(scores, torch.ones(6, dtype=torch.bool)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    missing, other, cap, ink, pen = table_of(model)
    assert not missing.any()
    assert not cap.any()
    assert other.any()
    assert ink.any()
    assert pen.any()


def test_other_names_of_the_values_change_the_rows_alone() -> None:
    histories, targets = batch()
    renamed = {"pen": "a", "ink": "z", "cap": "m", "lid": "b", "odd": "k"}
    values = pl.Series([[renamed[name] for name in row] for row in CATEGORIES], dtype=pl.List(pl.String))
    model, other = build(features()), build(features(values))
    assert model.features is not None
    assert other.features is not None
    before, after = (found.features.vocabularies["categories"] for found in (model, other))
    order = [0, 1, *(2 + before.index(next(old for old in renamed if renamed[old] == name)) for name in after)]
    assert order != sorted(order)
    with torch.no_grad():
        table_of(model).normal_()
        table_of(other).copy_(table_of(model)[order])
        scores = [found.eval().score_targets(histories, targets).log_probs for found in (model, other)]
    torch.testing.assert_close(*scores)


def test_newer_items_and_values_leave_what_old_ones_say() -> None:
    """Item 1 is new, and values that are frequent now have rows of their own after the old ones."""
    rows = [0, 2, 3, 4, 5]
    model = build(features(CATEGORIES.gather(rows)), rows, normalisation="vocabulary", positions="both")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    assert model.features is not None
    old = model.features.vocabularies["categories"]
    vocabulary = build_vocabulary(CATEGORIES, min_count=1, known=old)
    assert vocabulary[: len(old)] == old
    assert len(vocabulary) > len(old)
    described = value_numbers(CATEGORIES, old)  # in the words of before
    values = {"categories": FeatureValues(vocabulary, torch.from_numpy(described))}
    settings = HierarchicalSettings(**model.settings.__dict__ | {"history_length": 7})
    newer = HierarchicalRecommender(SemanticIdTrie.build(CODES, (3, 3)), settings, values)
    places = torch.tensor(rows)
    newer.load_adapted(model.state_dict(), places)
    assert torch.equal(table_of(newer)[: len(old) + 2], table_of(model))
    assert not table_of(newer)[len(old) + 2 :].any()
    assert newer.positions is not None
    assert not newer.positions[5:].any()
    histories, targets = (items % 5 for items in batch())
    with torch.no_grad():
        expected = model.eval().score_targets(histories, targets).log_probs
        found = newer.eval().score_targets(places[histories], places[targets]).log_probs
    torch.testing.assert_close(found, expected)


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="an item feature is there twice"):
        HierarchicalSettings(item_features=("brand", "brand"))
    with pytest.raises(ConfigError, match=r"unknown positions .*rotary, both, found 'none'"):
        HierarchicalSettings(positions="none")


@pytest.mark.parametrize("positions", ["learnt", "both"])
def test_a_position_counts_from_the_first_item_that_is_read(positions: str) -> None:
    """Rotary attention alone cannot tell a repeated item's places apart; vectors of positions can."""
    plain, model = (build({}, positions=kind, transition_embeddings=False) for kind in ("rotary", positions))
    histories, lengths = torch.tensor([[4, 4, 4], [4, -1, -1]]), torch.tensor([3, 1])
    for found, alike in ((plain, True), (model, False)):
        with torch.no_grad():
            for parameter in found.parameters():
                parameter.normal_(std=0.5)
            state = found.eval().encode(histories, lengths).state
        assert torch.allclose(state[0], state[1], atol=1e-5) == alike
