"""The scorer of explicit tables: normalisation, tables by request, shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.decoding.exhaustive import score_catalogue
from genrec.decoding.scorer import TableScorer
from genrec.errors import ConfigError
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles import search_oracle, trie_oracle
from oracles.code_tables import CodeTable, code_tables


@settings(max_examples=examples(50))
@given(code_tables(), st.integers(0, 99), st.sampled_from(["trie", "vocabulary"]))
def test_log_probs_are_the_softmax_in_plain_python(table: CodeTable, seed: int, normalisation: str) -> None:
    trie = SemanticIdTrie.build(table.codes, table.sizes)
    logits = search_oracle.random_tables(trie, "normal", seed, num_tables=2)
    scorer = TableScorer(trie, logits, normalisation=normalisation)
    for row in range(2):
        expected = search_oracle.child_log_probs(table.rows, [part[row].tolist() for part in logits], normalisation)
        found = search_oracle.read_log_probs(scorer, table.rows, row)
        assert found.keys() == expected.keys()
        for prefix, children in expected.items():
            assert found[prefix] == pytest.approx(children, abs=1e-5)
            if normalisation == "trie":
                assert sum(np.exp(list(found[prefix].values()))) == pytest.approx(1, abs=1e-5)


@settings(max_examples=examples(50))
@given(code_tables(), st.integers(0, 99))
def test_trie_normalised_leaves_sum_to_one(table: CodeTable, seed: int) -> None:
    trie, root = SemanticIdTrie.build(table.codes, table.sizes), trie_oracle.build(table.rows)
    scorer = TableScorer(trie, search_oracle.random_tables(trie, "normal", seed))
    scores = score_catalogue(scorer, trie, torch.zeros(1, dtype=torch.int64))[0].tolist()
    first_of_each_leaf = [trie_oracle.items(root, leaf)[0] for leaf in trie_oracle.prefixes(root, trie.num_levels)]
    assert sum(np.exp([scores[item] for item in first_of_each_leaf])) == pytest.approx(1, abs=1e-5)


def test_the_last_item_of_the_history_chooses_the_table() -> None:
    trie = SemanticIdTrie.build(np.array([[0], [1], [2]]), (3,))
    scorer = TableScorer(trie, search_oracle.random_tables(trie, "normal", 0, num_tables=2))
    histories = torch.tensor([[2, 1, -1], [0, -1, -1], [-1, -1, -1], [1, 1, 2]])
    assert scorer.encode(histories, torch.tensor([2, 1, 0, 3])).tolist() == [1, 0, 0, 0]
    assert scorer.encode(torch.empty(2, 0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)).tolist() == [0, 0]


def test_a_dead_beam_has_no_children() -> None:
    trie = SemanticIdTrie.build(np.array([[0, 0], [1, 1]]), (2, 2))
    scorer = TableScorer(trie, search_oracle.random_tables(trie, "normal", 0))
    _, state = scorer.start(torch.tensor([0]))
    parents, codes, nodes = torch.tensor([[0, 0]]), torch.tensor([[1, 0]]), torch.tensor([[1, -1]])
    log_probs, state = scorer.step(1, state, parents, codes, nodes)
    assert log_probs.tolist() == [[[0.0], [-np.inf]]]
    assert state.nodes is nodes


def test_a_search_that_mixes_up_its_beams_is_caught() -> None:
    trie = SemanticIdTrie.build(np.array([[0, 0, 0], [1, 1, 0]]), (2, 2, 1))
    scorer = TableScorer(trie, search_oracle.random_tables(trie, "equal", 0))
    _, state = scorer.start(torch.tensor([0]))
    ones, zeros, both = torch.tensor([[0, 0]]), torch.tensor([[0, 0]]), torch.tensor([[0, 1]])
    with pytest.raises(AssertionError, match="not the code of the node"):
        scorer.step(1, state, ones, zeros, both)
    _, state = scorer.step(1, state, zeros, both, both)
    with pytest.raises(AssertionError, match="not a child of its parent"):
        scorer.step(2, state, both.flip(1), both, both)


def test_wrong_tables_are_refused() -> None:
    trie = SemanticIdTrie.build(np.array([[0, 0], [1, 1]]), (2, 3))
    right = [torch.zeros(1, 1, 2), torch.zeros(1, 2, 3)]
    with pytest.raises(ConfigError, match="unknown normalisation"):
        TableScorer(trie, right, normalisation="softmax")
    for wrong in ([right[0]], [right[0], torch.zeros(1, 2, 2)], [right[0], torch.zeros(4, 2, 3)]):
        with pytest.raises(ConfigError, match="tables of the wrong shape"):
            TableScorer(trie, wrong)
