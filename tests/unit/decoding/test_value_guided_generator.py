"""Recommendations by value-guided search: those of the search itself, the same in every batch, within the budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.data.sequences import Ragged
from genrec.decoding.tree_scorer import TableTreeScorer
from genrec.decoding.value_guided import value_guided_search
from genrec.decoding.value_guided_generator import ValueGuidedGenerator, name_histories
from genrec.decoding.value_guided_settings import ValueGuidedSettings
from genrec.errors import ConfigError
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles.last_item import LastItemScorer
from oracles.search_oracle import random_tables

CODES = np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3).astype(np.int32)
TRIE = SemanticIdTrie.build(CODES, (4, 4, 4))
ROWS = [[1], [2, 3], [4, 1, 0], [], [3], [9, 8]]


def build(initial_width: int = 2) -> ValueGuidedGenerator:
    scorer = LastItemScorer(TRIE, random_tables(TRIE, "normal", 0, num_tables=5))
    random = torch.Generator().manual_seed(1)
    trees = TableTreeScorer(scorer, [torch.randn(5, TRIE.num_nodes(depth), generator=random) for depth in range(4)])
    settings = ValueGuidedSettings(node_budget=12, initial_width=initial_width)
    ids = [str(item) for item in range(64)]
    return ValueGuidedGenerator(trees, scorer, TRIE, settings=settings, item_ids=ids, train_counts=np.ones(64))


def test_a_request_gets_the_same_alone_and_in_a_batch() -> None:
    together = build().search(Ragged.from_lists(ROWS), 8, exclude_seen=True)
    for place, row in enumerate(ROWS):
        alone = build().search(Ragged.from_lists([row]), 8, exclude_seen=True)
        assert together.item_index[place].tolist() == alone.item_index[0].tolist()
        assert not set(row) & set(alone.item_index[0].tolist())
    assert together.item_index[3].tolist() == list(range(8)), "no history: popularity"


def test_lists_are_those_of_the_search_and_costs_are_counted() -> None:
    generator, rows = build(), [ROWS[0], ROWS[1]]
    found = generator.search(Ragged.from_lists(rows), 5)
    names = name_histories(torch.tensor([[1, -1], [2, 3]]))
    context = generator.scorer.encode(torch.tensor([[1, -1], [2, 3]]), torch.tensor([1, 2]))
    expected, trace = value_guided_search(
        generator.trees, TRIE, context, generator.settings, num_candidates=5, request_ids=names
    )
    assert torch.equal(found.item_index, expected.item_index)
    assert generator.nodes_per_request == trace.num_forwarded.double().mean() <= 12
    assert generator.max_candidates == 64
    with pytest.raises(ConfigError, match="half the budget"):
        build(initial_width=4)
