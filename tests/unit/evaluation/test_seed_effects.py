"""The test over seeds and cases: its parts by hand, and how often it rejects what is true and what is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from genrec.errors import DataError
from genrec.evaluation.seed_effects import TwoLevel, two_level_test
from genrec.evaluation.significance import sign_flip_p_value

REPETITIONS = 200
BOUND = 0.08  # share of rejections at the 5 % level of a true null hypothesis: 16 of 200


def test_the_variance_is_that_of_cases_and_of_both_sides_seeds() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(4, 50)), random.normal(size=(3, 50))
    found = two_level_test(a, b)
    differences = [a[:, case].mean() - b[:, case].mean() for case in range(50)]
    cases = np.var(differences, ddof=1) / 50
    seeds = [np.var([row.mean() for row in side], ddof=1) / len(side) for side in (a, b)]
    total = cases + sum(seeds)
    degrees = total**2 / (cases**2 / 49 + seeds[0] ** 2 / 3 + seeds[1] ** 2 / 2)
    assert found.difference == pytest.approx(np.mean(differences))
    assert found.standard_error == pytest.approx(total**0.5)
    assert (found.cases_error, found.seeds_error) == (pytest.approx(cases**0.5), pytest.approx(sum(seeds) ** 0.5))
    assert found.degrees == pytest.approx(degrees)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(found.difference) / total**0.5, degrees))
    reach = stats.t.ppf(0.975, degrees) * total**0.5
    assert (found.high - found.difference, found.difference - found.low) == (pytest.approx(reach), pytest.approx(reach))
    both = two_level_test(np.repeat(a, 2, axis=1), np.repeat(b, 2, axis=1), np.repeat(np.arange(50), 2))
    assert tuple(both) == pytest.approx(tuple(found)), "a user's cases come and go together"
    turned = two_level_test(b, a)
    assert (turned.low, turned.high, turned.p_value) == (-found.high, -found.low, found.p_value)


def test_seeds_without_an_effect_leave_the_paired_t_test() -> None:
    row, base = np.random.default_rng(1).normal(size=(2, 40))
    found = two_level_test(np.stack([row, row]), base[None])
    assert found.seeds_error == 0
    assert found.p_value == pytest.approx(stats.ttest_rel(row, base).pvalue)


def test_equal_systems() -> None:
    rows = np.tile(np.array([1.0, 0.0, 1.0]), (2, 1))
    assert two_level_test(rows, rows) == TwoLevel(0, 0, 0, 1, 0, 0, 0, 2)
    assert two_level_test(rows + 1, rows).p_value == 0


@pytest.mark.parametrize(
    ("a", "b", "users"),
    [((1, 5), (1, 5), None), ((2, 5), (2, 4), None), ((0, 5), (2, 5), None), ((2, 3), (2, 3), [7, 7, 7])],
)
def test_what_cannot_be_tested(a: tuple[int, int], b: tuple[int, int], users: list[int] | None) -> None:
    with pytest.raises(DataError, match=r"do not fit|too few cases"):
        two_level_test(np.zeros(a), np.zeros(b), None if users is None else np.array(users))


def simulate(
    seed_effect: float, shift: float, *, seed: int, repetitions: int = REPETITIONS
) -> tuple[np.ndarray, np.ndarray]:
    """[repetitions, 3, 400] of two systems; a seed shifts all its cases, by some standard errors of the cases."""
    random = np.random.default_rng(seed)
    size = (repetitions, 3, 400)
    common = random.normal(scale=0.05**0.5, size=(repetitions, 1, 400))
    error = (0.05 / 400) ** 0.5
    sides = [
        random.normal(scale=0.03**0.5, size=size) + random.normal(scale=seed_effect * error, size=(repetitions, 3, 1))
        for _ in range(2)
    ]
    return sides[0] + common / 2 + shift * error, sides[1] - common / 2


def bootstrap_rejects(a: np.ndarray, b: np.ndarray, random: np.random.Generator) -> bool:
    """The two-level bootstrap that `two_level_test` stands in for: seeds and cases drawn anew."""
    means = np.empty(200)
    for at in range(200):
        cases = random.integers(0, 400, 400)
        one, other = (side[random.integers(0, 3, 3)][:, cases].mean() for side in (a, b))
        means[at] = one - other
    low, high = np.quantile(means, [0.025, 0.975])
    return not low <= 0 <= high


@pytest.mark.parametrize("seed_effect", [0.0, 0.5, 1.0, 3.0])
def test_a_true_null_hypothesis_is_rarely_rejected(seed_effect: float) -> None:
    null = simulate(seed_effect, 0.0, seed=3, repetitions=500)
    rejected = np.mean([two_level_test(*pair).p_value <= 0.05 for pair in zip(*null, strict=True)])
    power = {}
    for shift in (2, 4, 8):
        planted = simulate(seed_effect, shift, seed=4)
        power[shift] = sum(two_level_test(*pair).p_value <= 0.05 for pair in zip(*planted, strict=True)) / REPETITIONS
    print(f"seed effect {seed_effect}: {rejected:.1%} rejected; power by shift in standard errors {power}")
    assert rejected <= BOUND
    assert power[2] <= power[4] <= power[8]
    assert power[8] >= 0.5


@pytest.mark.slow
def test_the_bootstrap_of_three_seeds_rejects_too_often() -> None:
    random = np.random.default_rng(5)
    a, b = simulate(3.0, 0.0, seed=3)
    rejected = np.mean([bootstrap_rejects(*pair, random) for pair in zip(a, b, strict=True)])
    print(f"two-level bootstrap: {rejected:.1%} rejected")
    assert rejected > BOUND


def test_exchangeable_cases_are_rarely_called_different() -> None:
    """Hits and misses of two systems, 200 repetitions as columns; and with a planted difference they mostly are."""
    random = np.random.default_rng(6)
    propensity = random.beta(0.3, 2.0, size=(800, 1))
    a, b, better = (random.random((800, REPETITIONS)) < propensity * scale for scale in (1, 1, 1.5))
    p_values = sign_flip_p_value(a.astype(float) - b, num_permutations=2000, seed=1)
    power = (sign_flip_p_value(better.astype(float) - b, num_permutations=2000, seed=1) <= 0.05).mean()
    print(f"{(p_values <= 0.05).mean():.1%} rejected; power against half as many hits again {power:.2f}")
    assert (p_values <= 0.05).mean() <= BOUND
    assert power > 0.8
