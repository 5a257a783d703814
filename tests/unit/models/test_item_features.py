"""Side features: the mean of values written out, a start that changes nothing, other items and names, and times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from genrec.data.batches import BatchStream
from genrec.data.item_features import build_vocabulary, value_numbers
from genrec.data.sequences import Ragged
from genrec.decoding.exhaustive import score_catalogue
from genrec.decoding.generator import CandidateGenerator
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


def test_training_begins_as_without_features() -> None:
    histories, targets = batch()
    before = build({}).eval().score_targets(histories, targets).log_probs
    rich = build(features(), positions="both", time_gaps=True).eval()
    assert torch.equal(rich.score_targets(histories, targets, gaps=targets).log_probs, before)


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
    settings = replace(model.settings, history_length=7)
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


def clocked(seed: int = 3) -> tuple[Ragged, list[list[str]], list[list[int]]]:
    """Histories of 0 to 8 items, as rows and as ids, and their times."""
    random = np.random.default_rng(seed)
    items = [random.integers(6, size=length).tolist() for length in range(9)]
    times = [np.cumsum(4 ** random.integers(12, size=len(row))).tolist() for row in items]
    rows = replace(Ragged.from_lists(items), times=Ragged.from_lists(times, dtype=np.int64).values)
    return rows, [[str(item) for item in row] for row in items], times


def with_gaps() -> HierarchicalRecommender:
    model = build(features(), time_gaps=True, positions="both")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.eval()


def test_the_search_reads_the_gaps_that_training_reads() -> None:
    """A window from within a history, as training cuts it, and the same items as the end of a request."""
    model, (rows, _, _) = with_gaps(), clocked()
    generator = CandidateGenerator(model, model.trie, item_ids=list("012345"), train_counts=np.ones(6), max_history=5)
    stream = BatchStream(rows, batch_size=50, max_length=5, stride=5, gaps=True)
    num_compared = 0
    for batch in stream.epoch(0):
        assert batch.gaps is not None
        histories, targets, gaps = (torch.from_numpy(array) for array in (batch.items, batch.targets, batch.gaps))
        with torch.no_grad():
            scores = model.score_targets(histories, targets, gaps=gaps).log_probs.sum(dim=2)
            blind = model.score_targets(histories, targets).log_probs.sum(dim=2)
        for window, user in enumerate(batch.user_index.tolist()):
            length = int((histories[window] >= 0).sum())
            end = len(rows[user]) - 1
            if rows[user][end - length : end].tolist() != histories[window, :length].tolist():
                continue  # not the last window of its history
            request = replace(rows, ends=rows.ends - 1).take(np.array([user]))
            found = score_catalogue(model, model.trie, generator.read(request).context)[0, targets[window, length - 1]]
            torch.testing.assert_close(found, scores[window, length - 1])
            num_compared += not torch.allclose(scores[window, length - 1], blind[window, length - 1])
    assert num_compared >= 6


def test_requests_may_tell_their_times_or_not() -> None:
    model, (rows, ids, times) = with_gaps(), clocked()
    generator = CandidateGenerator(
        model, model.trie, item_ids=list("012345"), train_counts=np.ones(6), max_history=5, beam_width=6, batch_size=4
    )
    told, untold = generator.recommend(ids, 6, times=times), generator.recommend(ids, 6)
    for row, (items, scores) in enumerate(zip(told.item_ids, told.scores, strict=True)):
        found = generator.search(rows.take(slice(row, row + 1)), 6)
        assert items == [str(item) for item in found.item_index[0].tolist()]
        np.testing.assert_allclose(scores, found.score[0].tolist(), rtol=1e-5)
    plain = generator.search(replace(rows, times=None), 6)
    np.testing.assert_allclose(untold.scores, plain.score.tolist(), rtol=1e-5)
    assert not np.allclose(told.scores[2:], untold.scores[2:])
    strangers = [["?", *row] for row in ids]  # an entry that is not in the catalogue is as if it were not there
    again = generator.recommend(strangers, 6, times=[[0, *row] for row in times])
    np.testing.assert_allclose(again.scores, told.scores, rtol=1e-5)
    with pytest.raises(ConfigError, match="one time an entry of a history"):
        generator.recommend(ids, 6, times=times[:-1])


def test_some_windows_of_training_are_read_without_their_times() -> None:
    """So that requests without times are not strange to the model; a row has all of its gaps or none."""
    histories, gaps = torch.zeros(400, 3, dtype=torch.int64), torch.full((400, 3), 7)
    model = build({}, time_gaps=True, dropout_gaps=0.25).train()
    with torch.no_grad():
        assert model.gaps is not None
        model.gaps.normal_()
        vectors = model._embed_gaps(gaps)
        is_known = vectors.any(dim=2)
        assert (is_known.all(dim=1) == is_known.any(dim=1)).all()
        assert 0.6 < is_known.float().mean() < 0.9
        assert model.eval()._embed_gaps(gaps).any(dim=2).all()
        assert torch.equal(vectors[is_known], model.gaps[torch.full_like(histories, 7)][is_known])
