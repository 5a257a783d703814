"""Ranks against sorting, metrics against their formulas, dense against sparse."""

from __future__ import annotations

import itertools
import math
from typing import cast

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from genrec.baselines.scores import BackoffScores
from genrec.errors import ConfigError, DataError
from genrec.evaluation.metrics import (
    ALL_TIE_RULES,
    METRICS,
    TIE_RULES,
    check_cutoffs,
    check_tie_rule,
    count_values,
    expected_at_k,
    id_rank_counts,
    metric_values,
    mrr_at_k,
    ndcg_at_k,
    parse_metric,
    rank_counts,
    ranks,
    recall_at_k,
)
from oracles import ranking_oracle

# A handful of distinct values, so that ties are the rule.
score_rows = st.integers(1, 6).flatmap(
    lambda num_items: st.lists(
        st.lists(st.sampled_from([-1.5, 0.0, 0.25, 2.0]), min_size=num_items, max_size=num_items),
        min_size=1,
        max_size=5,
    )
)


@st.composite
def ranking_problems(draw):
    """(scores [B, N], which of them are stored [B, N], targets with -1 among them, seen pairs with repeats)."""
    scores = np.array(draw(score_rows))
    num_rows, num_items = scores.shape
    stored = np.array(draw(st.lists(st.booleans(), min_size=scores.size, max_size=scores.size))).reshape(scores.shape)
    targets = np.array(draw(st.lists(st.integers(-1, num_items - 1), min_size=num_rows, max_size=num_rows)))
    pairs = draw(st.lists(st.tuples(st.integers(0, num_rows - 1), st.integers(0, num_items - 1)), max_size=12))
    return scores, stored, targets, np.array(pairs, dtype=np.int64).reshape(-1, 2).T


def csr(scores: np.ndarray, stored: np.ndarray, *, reverse: bool = False) -> sp.csr_matrix:
    """Explicit zeros stay; with `reverse`, unsorted indices as a sparse product may have them."""
    columns = [np.flatnonzero(row)[:: -1 if reverse else 1] for row in stored]
    indptr = np.concatenate([[0], np.cumsum([len(column) for column in columns])])
    data = np.concatenate([row[column] for row, column in zip(scores, columns, strict=True)])
    return sp.csr_matrix((data, np.concatenate(columns), indptr), shape=scores.shape)


def expected_counts(scores, stored, targets, seen, num_items):
    """The oracle, row by row, unmasked and masked; a miss is (N, 0)."""
    rows = []
    for row, target in enumerate(targets):
        known = {item: scores[row, item] for item in range(num_items) if stored[row, item]}
        mask = {int(item) for at, item in zip(*seen, strict=True) if at == row}
        pair = [ranking_oracle.rank_counts(known, target, hidden) or (num_items, 0) for hidden in (set(), mask)]
        rows.append([*pair[0], *pair[1]])
    return np.array(rows).T


@given(ranking_problems())
def test_dense_counts_equal_the_oracle(problem):
    scores, _, targets, seen = problem
    found = rank_counts(scores, targets, (seen[0], seen[1]))
    everything = np.ones(scores.shape, dtype=bool)
    np.testing.assert_array_equal(found, expected_counts(scores, everything, targets, seen, scores.shape[1]))


@given(ranking_problems(), st.booleans())
def test_sparse_counts_equal_the_oracle(problem, reverse):
    scores, stored, targets, seen = problem
    found = rank_counts(csr(scores, stored, reverse=reverse), targets, (seen[0], seen[1]))
    np.testing.assert_array_equal(found, expected_counts(scores, stored, targets, seen, scores.shape[1]))


@given(ranking_problems())
def test_a_full_sparse_matrix_counts_as_the_dense_one(problem):
    scores, _, targets, seen = problem
    full = csr(scores, np.ones(scores.shape, dtype=bool))
    np.testing.assert_array_equal(rank_counts(full, targets, tuple(seen)), rank_counts(scores, targets, tuple(seen)))


@given(ranking_problems(), st.data())
def test_a_base_counts_as_the_dense_matrix_it_stands_for(problem, data):
    scores, stored, targets, seen = problem
    values = st.sampled_from([-1.5, 0.0, 0.25, 2.0])
    base = np.array(data.draw(st.lists(values, min_size=scores.shape[1], max_size=scores.shape[1])))
    dense = np.where(stored, scores, base)
    found = rank_counts(BackoffScores(csr(scores, stored), base), targets, tuple(seen))
    np.testing.assert_array_equal(found, rank_counts(dense, targets, tuple(seen)))


@given(score_rows, st.data())
def test_rank_is_the_place_in_the_sorted_list(rows, data):
    scores = np.array(rows)
    targets = np.array(data.draw(st.lists(st.integers(0, scores.shape[1] - 1), min_size=len(rows), max_size=len(rows))))
    counts = rank_counts(scores, targets)[:2]
    for rule in ("pessimistic", "optimistic"):
        places = [
            ranking_oracle.position(dict(enumerate(row)), target, rule)
            for row, target in zip(rows, targets, strict=True)
        ]
        assert ranks(*counts, rule).tolist() == places


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1))
def test_mid_lies_half_way_between_optimistic_and_pessimistic(pairs):
    greater, tied = np.array(pairs).T
    late, mid, early = (ranks(greater, tied, rule) for rule in TIE_RULES)
    assert (early <= mid).all()
    assert (mid <= late).all()
    np.testing.assert_array_equal(mid, (early + late) / 2)


@given(st.lists(st.integers(0, 200), min_size=1), st.integers(1, 100))
def test_metrics_are_their_formulas(rank, k):
    values = {name: function(np.array(rank, dtype=float), k) for name, function in METRICS.items()}
    for at, place in enumerate(rank):
        for name, expected in ranking_oracle.metrics(place, k).items():
            assert math.isclose(values[name][at], expected, rel_tol=1e-12)


@given(st.lists(st.floats(0, 300), min_size=1))
def test_metrics_are_bounded_and_grow_with_the_cutoff(rank):
    values = metric_values(np.array(rank), (1, 5, 10, 50))
    for name in METRICS:
        columns = [values[f"{name}@{k}"] for k in (1, 5, 10, 50)]
        assert all(((column >= 0) & (column <= 1)).all() for column in columns)
        assert all((a <= b).all() for a, b in itertools.pairwise(columns))
    for k in (1, 5, 10, 50):
        assert (values[f"mrr@{k}"] <= values[f"ndcg@{k}"]).all()
        assert (values[f"ndcg@{k}"] <= values[f"recall@{k}"]).all()


def test_a_fractional_rank_goes_into_the_formulas():
    rank = np.array([9.5])
    assert recall_at_k(rank, 10).item() == 1.0
    assert ndcg_at_k(rank, 10).item() == pytest.approx(1 / math.log2(11.5))
    assert mrr_at_k(rank, 10).item() == pytest.approx(1 / 10.5)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=6), st.integers(1, 12))
def test_the_expected_rule_is_the_mean_over_all_orders(pairs, k):
    greater, tied = np.array(pairs).T
    for name, function in METRICS.items():
        found = expected_at_k(function, greater, tied, k)
        orders = [ranking_oracle.mean_over_orders(*pair, k)[name] for pair in pairs]
        np.testing.assert_allclose(found, orders, rtol=1e-12, atol=1e-15)


@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 600)), min_size=1, max_size=20))
def test_the_expected_rule_is_its_formulas_and_lies_between_the_bounds(pairs):
    greater, tied = np.array(pairs).T
    cutoffs = (1, 10, 500)
    low, mean, high = (count_values(greater, tied, cutoffs, rule) for rule in ("pessimistic", "expected", "optimistic"))
    for name, values in mean.items():
        assert (low[name] - 1e-12 <= values).all()
        assert (values <= high[name] + 1e-12).all()
    for k in cutoffs:
        np.testing.assert_allclose(mean[f"recall@{k}"], np.clip((k - greater) / (tied + 1), 0, 1))
    alone = np.zeros_like(tied)
    for rule in ALL_TIE_RULES:
        single = count_values(greater, alone, cutoffs, rule)
        assert all((single[name] == values).all() for name, values in metric_values(greater, cutoffs).items())


def test_equal_scores_for_everything_win_nothing():
    """A model that knows nothing must not profit from it: 0, and by the expected rule what chance would give."""
    num_items, targets = 40, np.arange(40)
    flat = np.full((num_items, num_items), 0.5)
    forms = (flat, csr(flat, flat > 0), BackoffScores(sp.csr_matrix(flat.shape), flat[0]))
    for scores in forms:
        counts = rank_counts(scores, targets, (targets, (targets + 1) % num_items))
        for greater, tied, size in ((counts[0], counts[1], num_items), (counts[2], counts[3], num_items - 1)):
            for k in (1, 10, 38):
                assert count_values(greater, tied, (k,))[f"recall@{k}"].sum() == 0
                chance = count_values(greater, tied, (k,), "expected")[f"recall@{k}"]
                np.testing.assert_allclose(chance, k / size)


@given(ranking_problems(), st.data())
def test_ranks_of_semantic_ids_are_those_of_the_list_of_distinct_ids(problem, data):
    scores, stored, targets, _ = problem
    num_items = scores.shape[1]
    codes = np.array(data.draw(st.lists(st.integers(0, 2), min_size=num_items, max_size=num_items)))
    scores = np.array([0.25, -1.5, 2.0])[codes] + scores * 0  # an ID has one score, no two of them the same
    greater, tied = id_rank_counts(csr(scores, stored), codes, targets)
    for row, target in enumerate(targets.tolist()):
        known = {item: scores[row, item] for item in range(num_items) if stored[row, item]}
        place = ranking_oracle.id_position(known, codes.tolist(), target)
        assert (greater[row], tied[row]) == ((num_items if place is None else place), 0)


def test_ids_of_equal_score_are_tied():
    scores = csr(np.array([[1.0, 1.0, 1.0, 0.0]]), np.ones((1, 4), dtype=bool))
    counts = id_rank_counts(scores, np.array([0, 0, 1, 2]), np.array([1]))
    assert [count.item() for count in counts] == [0, 1]


def test_a_miss_is_a_miss_at_every_cutoff_and_tie_rule():
    """A target outside the catalogue, one without a score, one that is masked, and all at k = N."""
    scores = csr(np.zeros((3, 4)), np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]], dtype=bool))
    greater, tied = rank_counts(scores, np.array([-1, 3, 2]), (np.array([2]), np.array([2])))[2:]
    for rule in TIE_RULES:
        assert recall_at_k(ranks(greater, tied, rule), 4).tolist() == [0, 0, 0]
    assert expected_at_k(recall_at_k, greater, tied, 4).tolist() == [0, 0, 0]


def test_a_stored_zero_is_a_score():
    greater, tied = rank_counts(csr(np.zeros((1, 3)), np.array([[True, True, False]])), np.array([1]))[:2]
    assert (greater.item(), tied.item()) == (0, 1)


def test_no_rows_and_no_entries():
    assert [len(counts) for counts in rank_counts(sp.csr_matrix((0, 3)), np.zeros(0, dtype=int))] == [0] * 4
    assert rank_counts(sp.csr_matrix((2, 3)), np.array([0, 1])).num_greater.tolist() == [3, 3]
    base = BackoffScores(sp.csr_matrix((1, 3)), np.array([5, 7, 5]))
    assert rank_counts(base, np.array([0])).num_greater.tolist() == [1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused_by_name(bad):
    scores = np.array([[0.0, bad, 1.0]])
    everything = np.ones(scores.shape, dtype=bool)
    for form in (scores, csr(scores, everything), BackoffScores(sp.csr_matrix((1, 3)), scores[0])):
        with pytest.raises(DataError, match=r"model 'broken': scores are not finite \(expected numbers, found 1 NaN"):
            rank_counts(form, np.array([0]), model="broken")


def test_wrong_input_is_refused():
    scores = np.zeros((2, 3))
    with pytest.raises(DataError, match="position 1: target outside the catalogue"):
        rank_counts(scores, np.array([0, 3]))
    with pytest.raises(DataError, match="target outside the catalogue"):
        rank_counts(scores, np.array([0, -2]))
    with pytest.raises(DataError, match="seen item outside the catalogue"):
        rank_counts(scores, np.array([0, 1]), (np.array([0]), np.array([3])))
    with pytest.raises(DataError, match="wrong number of score rows"):
        rank_counts(scores, np.array([0]))
    with pytest.raises(DataError, match="wrong type of scores"):
        rank_counts(cast("sp.csr_matrix", sp.coo_matrix((2, 3))), np.array([0, 1]))
    with pytest.raises(DataError, match="wrong shape of base scores"):
        rank_counts(BackoffScores(sp.csr_matrix((2, 3)), np.zeros(2)), np.array([0, 1]))
    twice = sp.csr_matrix((np.ones(2), np.array([1, 1]), np.array([0, 2])), shape=(1, 3))
    with pytest.raises(DataError, match="scored twice"):
        rank_counts(twice, np.array([1]))
    with pytest.raises(ConfigError, match="unknown tie rule"):
        ranks(np.array([0]), np.array([0]), "hopeful")
    with pytest.raises(ConfigError, match=r"unknown tie rule \(expected one of pessimistic, mid, optimistic, found"):
        ranks(np.array([0]), np.array([0]), "expected")  # not one rank
    check_tie_rule("expected")


def test_cutoffs():
    assert check_cutoffs([10, 5], 10) == (5, 10)
    for wrong in ([], [0, 5], [5, 5]):
        with pytest.raises(ConfigError, match="wrong cut-offs"):
            check_cutoffs(wrong, 10)
    with pytest.raises(
        ConfigError, match=r"cut-off 50 is above the number of candidates \(expected at most 24.*smaller cut-off$"
    ):
        check_cutoffs((10, 50), 24)
    for cutoffs, remedy in (((1, 10, 50), "1,10"), ((50,), "24"), ((0, 5, 5), "5")):
        with pytest.raises(ConfigError, match=rf"; set cutoffs=\[{remedy}\]$"):
            check_cutoffs(cutoffs, 24, key="cutoffs")


def test_metric_names():
    assert parse_metric("recall@5") == (recall_at_k, 5)
    for wrong in ("recall", "map@10", "ndcg@0", "ndcg@x", ""):
        with pytest.raises(ConfigError, match="unknown metric"):
            parse_metric(wrong)
