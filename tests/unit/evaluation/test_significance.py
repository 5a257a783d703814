"""Intervals and tests: against brute force on tiny cases, and against known distributions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.errors import ConfigError, DataError
from genrec.evaluation.significance import (
    bootstrap_means,
    bootstrap_p_value,
    holm,
    percentile_interval,
    resample_counts,
    sign_flip_p_value,
    smallest_detectable_effect,
    standard_errors,
    sums_by_user,
)

p_lists = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def test_counts_are_resamples_with_replacement():
    counts = resample_counts(50, range(400), seed=3)
    assert counts.shape == (400, 50)
    assert (counts.sum(axis=1) == 50).all()
    assert counts.min() == 0
    assert abs(counts.var() - 0.98) < 0.05  # multinomial: C * 1/C * (1 - 1/C)


def test_a_resample_depends_on_seed_and_number_alone():
    all_of_them = resample_counts(20, range(6), seed=1)
    np.testing.assert_array_equal(resample_counts(20, range(4, 6), seed=1), all_of_them[4:])
    assert not np.array_equal(resample_counts(20, range(6), seed=2), all_of_them)
    assert not np.array_equal(all_of_them[0], all_of_them[1])


def test_bootstrap_means_are_means_of_the_drawn_cases():
    values = np.random.default_rng(0).normal(size=(30, 4))
    counts = resample_counts(30, range(7), seed=5).astype(int)
    expected = [np.repeat(values, row, axis=0).mean(axis=0) for row in counts]
    for form in (values, sp.csr_matrix(values)):
        np.testing.assert_allclose(bootstrap_means(form, num_resamples=7, seed=5), expected, rtol=1e-12)


def test_chunks_and_further_columns_change_nothing():
    values = np.random.default_rng(0).normal(size=(30, 4))
    means = bootstrap_means(values, num_resamples=25, seed=5)
    np.testing.assert_allclose(bootstrap_means(values, num_resamples=25, seed=5, row_chunk=4), means, rtol=1e-12)
    np.testing.assert_allclose(bootstrap_means(values[:, 1:2], num_resamples=25, seed=5), means[:, 1:2], rtol=1e-12)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_intervals_cover_the_true_rate_of_binomials(rate):
    """Of 200 seeded samples of 400 cases, about 95 % of the intervals hold the true rate (3 sigma: 90.4 to 99.6 %)."""
    samples = (np.random.default_rng(11).random((400, 200)) < rate).astype(float)
    low, high = percentile_interval(bootstrap_means(samples, num_resamples=500, seed=1), confidence=0.95)
    covered = np.mean((low <= rate) & (rate <= high))
    assert 0.904 <= covered <= 0.996


def test_paired_intervals_are_narrower_than_unpaired_ones_for_models_that_agree():
    rng = np.random.default_rng(0)
    first = (rng.random(1000) < 0.3).astype(float)
    second = np.where(rng.random(1000) < 0.05, 1 - first, first)
    means = bootstrap_means(np.column_stack([first, second]), num_resamples=500, seed=0)
    low, high = percentile_interval(means[:, 0] - means[:, 1])
    lows, highs = percentile_interval(means)
    assert high - low < 0.5 * np.hypot(*(highs - lows))


def test_p_values_are_uniform_enough_under_the_null_and_small_under_an_effect():
    rng = np.random.default_rng(7)
    null = rng.normal(size=(200, 300))
    p_flip = sign_flip_p_value(null, num_permutations=400, seed=0)
    p_boot = bootstrap_p_value(bootstrap_means(null, num_resamples=400, seed=0))
    for p_values in (p_flip, p_boot):
        assert 0.01 < np.mean(p_values <= 0.05) < 0.10
        assert 0.4 < p_values.mean() < 0.6
    effect = null[:, :20] + 0.5
    assert sign_flip_p_value(effect, num_permutations=400, seed=0).max() < 0.01
    assert bootstrap_p_value(bootstrap_means(effect, num_resamples=400, seed=0)).max() < 0.01


@settings(max_examples=examples(20))
@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.3, 1.0]), min_size=1, max_size=6))
def test_sign_flips_approach_the_exact_permutation_test(differences):
    patterns = itertools.product([-1, 1], repeat=len(differences))
    sums = np.abs([np.dot(signs, differences) for signs in patterns])
    exact = np.mean(sums >= abs(sum(differences)) - 1e-9)
    assert abs(sign_flip_p_value(np.array(differences), num_permutations=3000, seed=2).item() - exact) < 0.05


def test_sign_flips_do_not_depend_on_chunks_or_on_cases_without_a_difference():
    rng = np.random.default_rng(1)
    differences = np.where(rng.random((64, 3)) < 0.5, 0.0, rng.normal(size=(64, 3)))
    p_values = sign_flip_p_value(differences, num_permutations=200, seed=4)
    np.testing.assert_array_equal(sign_flip_p_value(differences, num_permutations=200, seed=4, row_chunk=7), p_values)
    wider = np.column_stack([differences, rng.normal(size=64)])
    np.testing.assert_array_equal(sign_flip_p_value(wider, num_permutations=200, seed=4)[:3], p_values)


def test_bootstrap_p_value_counts_the_smaller_side_twice():
    means = np.array([-1.0, 0.5, 1.0, 2.0])
    assert bootstrap_p_value(means) == pytest.approx(2 * 2 / 5)
    assert bootstrap_p_value(np.zeros(9)) == 1.0


@given(p_lists)
def test_holm_is_monotone_above_the_raw_value_and_below_bonferroni(p_values):
    adjusted = holm(p_values)
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()
    assert (adjusted >= np.array(p_values) - 1e-15).all()
    assert (adjusted <= np.minimum(1, len(p_values) * np.array(p_values)) + 1e-15).all()


@given(p_lists, st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, level):
    rejected = [False] * len(p_values)
    for step, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] * (len(p_values) - step) > level:
            break
        rejected[index] = True
    assert (holm(p_values) <= level).tolist() == rejected


def test_holm_of_a_textbook_family():
    assert holm([0.01, 0.02, 0.03, 0.04]).tolist() == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([]).tolist() == []


def test_smallest_detectable_effect_is_found_four_times_in_five():
    """Simulated z-tests of samples whose true mean is the smallest detectable effect."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 500))
    effect = smallest_detectable_effect(noise[:, 0] / noise[:, 0].std(ddof=1))
    assert effect is not None
    assert effect == pytest.approx((1.959964 + 0.841621) / 20, rel=1e-5)
    samples = noise + effect
    z = samples.mean(axis=0) / (samples.std(axis=0, ddof=1) / 20)
    assert abs(np.mean(np.abs(z) > 1.96) - 0.8) < 0.06


def test_standard_error_of_the_reference_row():
    """Recall .0972 over 4,905 cases: .0042."""
    hits = np.zeros(4905)
    hits[:477] = 1
    (error,) = standard_errors(hits[:, None])
    assert error == pytest.approx(0.0042, abs=5e-5)
    assert error == pytest.approx(np.std(hits, ddof=1) / np.sqrt(4905), rel=1e-12)
    assert standard_errors(np.ones((1, 2))) == [None, None]
    assert smallest_detectable_effect(np.ones(1)) is None


def test_impossible_requests_are_refused():
    with pytest.raises(DataError, match="no evaluation cases"):
        bootstrap_means(np.zeros((0, 2)))
    with pytest.raises(DataError, match="no evaluation cases"):
        sign_flip_p_value(np.zeros(0))
    with pytest.raises(ConfigError, match="too few resamples: num_resamples"):
        bootstrap_means(np.zeros((3, 2)), num_resamples=0)
    with pytest.raises(ConfigError, match="too few resamples: num_permutations"):
        sign_flip_p_value(np.zeros(3), num_permutations=0)
    with pytest.raises(ConfigError, match="wrong confidence"):
        percentile_interval(np.zeros(3), confidence=95)


def clustered(seed: int, num_users: int = 60, num_columns: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Values [C, M] with a share that all cases of a user have in common, and the user of each case, in any order."""
    rng = np.random.default_rng(seed)
    users = rng.permutation(np.repeat(rng.permutation(1000)[:num_users], rng.integers(1, 12, size=num_users)))
    common = rng.normal(size=(1000, num_columns))
    return common[users] + 0.5 * rng.normal(size=(len(users), num_columns)), users


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3)), min_size=1, max_size=12))
def test_sums_by_user_are_loops_in_the_order_of_first_cases(cases):
    expected: dict[int, list[int]] = {}
    for user, value in cases:
        expected.setdefault(user, []).append(value)
    users, values = np.array(cases).T
    for form in (values[:, None].astype(float), sp.csr_matrix(values[:, None].astype(float))):
        sums, sizes = sums_by_user(form, users)
        assert np.asarray(sums.sum(axis=1)).ravel().tolist() == [sum(row) for row in expected.values()]
        assert sizes.tolist() == [len(row) for row in expected.values()]


def test_users_are_drawn_with_all_their_cases():
    values, users = clustered(0)
    order = list(dict.fromkeys(users.tolist()))
    counts = resample_counts(len(order), range(7), seed=5).astype(int)
    drawn = [
        np.concatenate([values[users == user] for user, n in zip(order, row, strict=True) for _ in range(n)])
        for row in counts
    ]
    expected = [cases.mean(axis=0) for cases in drawn]
    for form in (values, sp.csr_matrix(values)):
        np.testing.assert_allclose(bootstrap_means(form, users, num_resamples=7, seed=5), expected, rtol=1e-10)


def test_one_case_a_user_changes_no_bit():
    values = np.random.default_rng(0).normal(size=(50, 3))
    users = np.random.default_rng(1).permutation(50) * 7
    np.testing.assert_array_equal(
        bootstrap_means(values, users, num_resamples=9), bootstrap_means(values, num_resamples=9)
    )
    np.testing.assert_array_equal(
        sign_flip_p_value(values, users, num_permutations=99), sign_flip_p_value(values, num_permutations=99)
    )
    assert standard_errors(values, users) == standard_errors(values)


def test_copies_of_cases_bring_no_certainty():
    """Sixty copies of each user's case are no more evidence than one."""
    values = np.random.default_rng(0).normal(size=(40, 2)) + 0.3
    copies, users = np.repeat(values, 60, axis=0), np.repeat(np.arange(40), 60)
    once, again = bootstrap_means(values, num_resamples=200), bootstrap_means(copies, users, num_resamples=200)
    np.testing.assert_allclose(again, once, rtol=1e-10)
    np.testing.assert_array_equal(
        sign_flip_p_value(copies, users, num_permutations=300), sign_flip_p_value(values, num_permutations=300)
    )
    assert standard_errors(copies, users) == pytest.approx(standard_errors(values))
    effect = smallest_detectable_effect(values[:, 0])
    assert smallest_detectable_effect(copies[:, 0], users) == pytest.approx(effect)
    assert standard_errors(np.ones((9, 1)), np.zeros(9)) == [None]


def test_clustered_intervals_and_errors_cover_where_those_over_cases_do_not():
    """200 seeded columns whose true mean is 0, about five cases a user that are much alike."""
    values, users = clustered(3, num_users=150, num_columns=200)

    def coverage(of: np.ndarray | None) -> float:
        low, high = percentile_interval(bootstrap_means(values, of, num_resamples=400))
        return float(np.mean((low <= 0) & (high >= 0)))

    assert 0.89 <= coverage(users) <= 0.99
    assert coverage(None) < 0.75
    errors = np.array(standard_errors(values, users), dtype=float)
    bootstrap = bootstrap_means(values, users, num_resamples=400).std(axis=0)
    assert np.mean(bootstrap / errors) == pytest.approx(1.0, abs=0.03)
    found = np.mean(sign_flip_p_value(values, users, num_permutations=400) <= 0.05)
    assert 0.01 <= found <= 0.1
    assert np.mean(sign_flip_p_value(values, num_permutations=400) <= 0.05) > 0.2


@settings(max_examples=examples(20))
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-1.0, 0.0, 0.3, 1.0])), min_size=1, max_size=8))
def test_sign_flips_by_user_approach_the_exact_test(cases):
    users, differences = np.array([user for user, _ in cases]), np.array([value for _, value in cases])
    sums = [differences[users == user].sum() for user in set(users.tolist())]
    totals = np.abs([np.dot(signs, sums) for signs in itertools.product([-1, 1], repeat=len(sums))])
    exact = np.mean(totals >= abs(sum(sums)) - 1e-9)
    assert abs(sign_flip_p_value(differences, users, num_permutations=3000, seed=2).item() - exact) < 0.05
