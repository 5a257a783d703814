"""Exact scores against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.decoding.exhaustive import exhaustive_search, score_catalogue, score_items
from genrec.decoding.scorer import TableScorer
from genrec.errors import ConfigError, DataError
from genrec.semantic_ids.constraints import Constraint
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles import search_oracle
from oracles.code_tables import CodeTable, code_tables

kinds = st.sampled_from(search_oracle.TABLE_KINDS)
normalisations = st.sampled_from(["trie", "vocabulary"])


@given(code_tables(), kinds, normalisations, st.integers(0, 99))
def test_every_item_gets_the_sum_along_its_path(table: CodeTable, kind: str, normalisation: str, seed: int) -> None:
    trie = SemanticIdTrie.build(table.codes, table.sizes)
    logits = search_oracle.random_tables(trie, kind, seed, num_tables=2)
    scorer = TableScorer(trie, logits, normalisation=normalisation)
    requests = torch.tensor([1, 0, 1])
    expected = [
        [
            float(score)
            for score in search_oracle.item_scores(table.rows, search_oracle.read_log_probs(scorer, table.rows, row))
        ]
        for row in requests.tolist()
    ]
    assert score_catalogue(scorer, trie, requests).tolist() == expected
    items = torch.arange(-1, trie.num_items).flip(0).expand(3, -1)
    found = score_items(scorer, trie, requests, items)
    assert found.tolist() == [[*row[::-1], -np.inf] for row in expected]


@settings(max_examples=examples(50))
@given(code_tables(), kinds, st.integers(0, 99), st.integers(1, 20), st.data())
def test_the_list_is_the_sorted_catalogue(table: CodeTable, kind: str, seed: int, k: int, data: st.DataObject) -> None:
    trie = SemanticIdTrie.build(table.codes, table.sizes)
    scorer = TableScorer(trie, search_oracle.random_tables(trie, kind, seed))
    denied = data.draw(st.lists(st.integers(0, trie.num_items - 1), max_size=4))
    constraint = Constraint.build(trie, deny=torch.tensor([denied], dtype=torch.int64).view(1, -1))
    log_probs = search_oracle.read_log_probs(scorer, table.rows, 0)
    expected = search_oracle.exhaustive(table.rows, log_probs, k, set(range(trie.num_items)) - set(denied))
    found = exhaustive_search(scorer, trie, torch.tensor([0]), num_candidates=k, constraint=constraint)
    padding = k - len(expected)
    assert found.item_index.tolist() == [[item for item, _ in expected] + [-1] * padding]
    assert found.log_prob.tolist() == found.score.tolist() == [[float(s) for _, s in expected] + [-np.inf] * padding]


def test_all_items_are_returned_by_default() -> None:
    trie = SemanticIdTrie.build(np.array([[1], [0], [1]]), (2,))
    scorer = TableScorer(trie, [torch.tensor([[[0.0, 1.0]]])])
    assert exhaustive_search(scorer, trie, torch.tensor([0])).item_index.tolist() == [[0, 2, 1]]
    with pytest.raises(ConfigError, match=r"wrong number of candidates \(expected 1 or more, found 0\)"):
        exhaustive_search(scorer, trie, torch.tensor([0]), num_candidates=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_model_is_reported(value: float) -> None:
    trie = SemanticIdTrie.build(np.array([[0, 0], [0, 1], [1, 0]]), (2, 2))
    scorer = TableScorer(trie, search_oracle.random_tables(trie, "normal", 0, num_tables=2))
    scorer.log_probs[1][1, 0, 1] = value
    message = "request 2 of the batch, level 1: the model gave something that is no log-probability"
    items, fine, broken = torch.tensor([[0, 1]] * 3), torch.tensor([0, 0, 0]), torch.tensor([0, 0, 1])
    assert score_items(scorer, trie, fine, items).isfinite().all()
    assert score_catalogue(scorer, trie, fine).isfinite().all()
    with pytest.raises(DataError, match=message):
        score_catalogue(scorer, trie, broken)
    with pytest.raises(DataError, match=message):
        score_items(scorer, trie, broken, items)
