"""Intervals and tests: against brute force on tiny cases, and against known distributions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.errors import ConfigError, DataError
from genrec.evaluation.significance import (
    bootstrap_means,
    bootstrap_p_value,
    holm,
    percentile_interval,
    resample_counts,
    sign_flip_p_value,
    smallest_detectable_effect,
    standard_error,
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


@settings(max_examples=20)
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
    assert standard_error(hits) == pytest.approx(0.0042, abs=5e-5)
    assert standard_error(np.ones(1)) is None
    assert smallest_detectable_effect(np.ones(1)) is None


def test_impossible_requests_are_refused():
    with pytest.raises(DataError, match="no evaluation cases"):
        bootstrap_means(np.zeros((0, 2)))
    with pytest.raises(DataError, match="no evaluation cases"):
        sign_flip_p_value(np.zeros(0))
    with pytest.raises(ConfigError, match="too few resamples"):
        bootstrap_means(np.zeros((3, 2)), num_resamples=0)
    with pytest.raises(ConfigError, match="wrong confidence"):
        percentile_interval(np.zeros(3), confidence=95)
