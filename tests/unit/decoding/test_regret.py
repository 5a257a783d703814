"""The regret of a list, and its faults, against sorting and loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding.beam_search import beam_search
from genrec.decoding.exhaustive import exhaustive_search, keep_admissible, score_catalogue
from genrec.decoding.regret import list_faults, list_regret
from genrec.decoding.scorer import TableScorer
from genrec.semantic_ids.constraints import Constraint
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles.code_tables import CodeTable, code_tables
from oracles.search_oracle import TABLE_KINDS, random_tables

probabilities = st.lists(st.integers(0, 4), min_size=1, max_size=9).filter(any)


@settings(max_examples=40)
@given(probabilities, st.integers(1, 10), st.data())
def test_regret_is_what_sorting_says(weights: list[int], k: int, data: st.DataObject) -> None:
    scores = torch.tensor([weights], dtype=torch.float32).div(sum(weights)).log()
    possible = [item for item, weight in enumerate(weights) if weight]
    drawn = data.draw(st.lists(st.sampled_from(possible), unique=True, max_size=k))
    found = list_regret(scores, torch.tensor([drawn + [-1] * (k - len(drawn))]))
    best = sorted(possible, key=lambda item: (-weights[item], item))[:k]
    own = sorted((weights[item] for item in drawn), reverse=True)
    gaps = [math.log(weights[item] / weight) for item, weight in zip(best, own, strict=False)]
    assert float(found.mass[0]) == pytest.approx((sum(weights[i] for i in best) - sum(own)) / sum(weights), abs=1e-6)
    assert float(found.log_prob[0]) == pytest.approx(sum(gaps) / max(len(gaps), 1), abs=1e-6)
    assert float(found.top[0]) == pytest.approx(gaps[0] if gaps else 0, abs=1e-6)
    assert int(found.num_missing[0]) == len(best) - len(own)
    assert float(found.overlap[0]) == pytest.approx(len(set(drawn) & set(best)) / len(best))
    assert bool(found.is_same[0]) == (own == [weights[item] for item in best])
    assert min(float(found.mass[0]), float(found.log_prob[0]), float(found.top[0])) >= 0


@settings(max_examples=20)
@given(code_tables(), st.sampled_from(TABLE_KINDS), st.integers(0, 99), st.integers(1, 6), st.data())
def test_a_beam_search_has_no_negative_regret_and_none_with_beams_enough(
    table: CodeTable, kind: str, seed: int, width: int, data: st.DataObject
) -> None:
    trie = SemanticIdTrie.build(table.codes, table.sizes)
    scorer = TableScorer(trie, random_tables(trie, kind, seed, num_tables=2))
    requests = torch.tensor([0, 1, 0])
    deny = torch.tensor(data.draw(st.lists(st.integers(-1, trie.num_items - 1), min_size=3, max_size=3))).unsqueeze(1)
    constraint = Constraint.build(trie, deny=deny)
    k = data.draw(st.integers(1, width * trie.max_bucket))
    scores = keep_admissible(score_catalogue(scorer, trie, requests), constraint)
    for beams in (width, trie.num_items):
        how = {"num_candidates": min(k, beams * trie.max_bucket), "constraint": constraint}
        items = beam_search(scorer, trie, requests, beam_width=beams, **how).item_index
        found = list_regret(scores, items)
        assert min(float(column.min()) for column in (found.mass, found.log_prob, found.top)) >= 0
        exact = exhaustive_search(scorer, trie, requests, **how).item_index
        is_equal = (exact == items).all(dim=1)
        assert bool((found.is_same | ~is_equal).all())
        assert [count.tolist() for count in list_faults(items, trie.num_items, constraint)[:2]] == [[0] * 3] * 2
        if beams == trie.num_items:
            assert bool(is_equal.all() & found.is_same.all())
            assert float(found.mass.abs().max()) == float(found.log_prob.max()) == 0
            assert found.overlap.tolist() == [1, 1, 1]


@settings(max_examples=40)
@given(st.lists(st.integers(-2, 5), min_size=1, max_size=8), st.sets(st.integers(0, 3)))
def test_faults_are_counted_one_by_one(row: list[int], denied: set[int]) -> None:
    trie = SemanticIdTrie.build(np.arange(4)[:, None], (4,))
    deny = torch.tensor([sorted(denied) + [-1] * (4 - len(denied))])
    found = list_faults(torch.tensor([row]), 4, Constraint.build(trie, deny=deny))
    invalid = [item for item in row if item != -1 and (item not in range(4) or item in denied)]
    repeats = [item for place, item in enumerate(row) if item != -1 and item in row[:place]]
    assert [int(count[0]) for count in found] == [len(invalid), len(repeats), row.count(-1)]
