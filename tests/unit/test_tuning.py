"""The search: distinct, deterministic, resumable, greedy; failed trials are left behind."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.baselines.tuning import KNN_SPACE
from genrec.errors import ConfigError, DataError
from genrec.tuning import CoordinateSearch, best_trial, coordinate_neighbours, luck, random_trials

SPACE = {"window": (3, 1, 2, 5), "decay": (0.5, 0.7, 0.85), "backward": (0.0, 1.0)}


def bowl(params) -> float:
    """One optimum: window 5, decay .5, backward 1."""
    return -abs(params["window"] - 5) - 3 * abs(params["decay"] - 0.5) + 0.5 * params["backward"]


def run(search: CoordinateSearch, objective, history=None) -> list:
    history = list(history or [])
    while (params := search.propose(history)) is not None:
        history.append((params, objective(params)))
    return history


@given(st.integers(0, 1000), st.integers(0, 40))
def test_random_trials_are_distinct_points_of_the_space(seed, num_trials):
    trials = random_trials(SPACE, num_trials, seed)
    assert len(trials) == len({tuple(trial.values()) for trial in trials}) == min(num_trials, 24)
    assert all(trial.keys() == SPACE.keys() for trial in trials)
    assert all(trial[key] in values for trial in trials for key, values in SPACE.items())


def test_the_first_random_trials_do_not_depend_on_how_many_follow():
    assert random_trials(KNN_SPACE, 30, seed=4)[:10] == random_trials(KNN_SPACE, 10, seed=4)
    assert random_trials(KNN_SPACE, 10, seed=5) != random_trials(KNN_SPACE, 10, seed=4)


def test_random_trials_spread_over_the_space():
    trials = random_trials(KNN_SPACE, 400, seed=0)
    for key, values in KNN_SPACE.items():
        shares = [sum(trial[key] == value for trial in trials) / 400 for value in values]
        assert max(abs(share - 1 / len(values)) for share in shares) < 0.1


def test_neighbours_differ_in_one_key_by_one_step():
    best = {"window": 2, "decay": 0.5, "backward": 1.0}
    assert coordinate_neighbours(best, SPACE) == [
        {**best, "window": 1},
        {**best, "window": 3},
        {**best, "decay": 0.7},
        {**best, "backward": 0.0},
    ]
    with pytest.raises(ConfigError, match="not in the space: window=4"):
        coordinate_neighbours({**best, "window": 4}, SPACE)


@settings(max_examples=examples(30))
@given(st.integers(0, 500), st.integers(1, 6), st.integers(1, 24))
def test_a_resumed_search_goes_on_exactly(seed, num_random, killed_after):
    search = CoordinateSearch(SPACE, num_trials=24, num_random=num_random, seed=seed)
    whole = run(search, bowl)
    again = CoordinateSearch(SPACE, num_trials=24, num_random=num_random, seed=seed)
    assert run(again, bowl, whole[:killed_after]) == whole


@settings(max_examples=examples(30))
@given(st.integers(0, 500))
def test_a_search_ends_in_a_point_no_neighbour_beats(seed):
    history = run(CoordinateSearch(SPACE, num_trials=24, num_random=2, seed=seed), bowl)
    tried = [tuple(params.values()) for params, _ in history]
    assert len(set(tried)) == len(tried) <= 24
    best, score = best_trial(history)
    assert all(bowl(near) <= score for near in coordinate_neighbours(best, SPACE))
    assert best == {"window": 5, "decay": 0.5, "backward": 1.0}


def test_the_number_of_trials_is_kept():
    assert len(run(CoordinateSearch(KNN_SPACE, num_trials=7, num_random=3), bowl_of_all)) == 7
    assert len(run(CoordinateSearch(KNN_SPACE, num_trials=2, num_random=9), bowl_of_all)) == 2


def bowl_of_all(params) -> float:
    return sum(math.sin(3 * value) for value in params.values())


def test_trials_of_another_search_are_refused():
    history = run(CoordinateSearch(SPACE, num_trials=6, num_random=3, seed=1), bowl)
    with pytest.raises(ConfigError, match="trial 1: the trials so far come from another search"):
        CoordinateSearch(SPACE, num_trials=6, num_random=3, seed=2).propose(history)
    changed = [*history[:4], (history[4][0] | {"window": 3}, 0.0)]
    if changed[4][0] != history[4][0]:
        with pytest.raises(ConfigError, match="trial 5"):
            CoordinateSearch(SPACE, num_trials=6, num_random=3, seed=1).propose(changed)


def test_bad_settings_and_scores_are_refused():
    with pytest.raises(ConfigError, match=r"too few trials.*; set num_trials=100 num_random=40"):
        CoordinateSearch(SPACE, num_trials=0)
    for values in ((), (1, 1)):
        with pytest.raises(ConfigError, match=r"key 'space\.window': wrong values to search for 'window'"):
            CoordinateSearch({"window": values})
    with pytest.raises(DataError, match="is not a number"):
        best_trial([({"window": 1}, math.nan)])
    with pytest.raises(DataError, match="no trials"):
        best_trial([])


@settings(max_examples=examples(20))
@given(st.integers(0, 200), st.integers(1, 6), st.integers(0, 24))
def test_failed_trials_are_left_behind_and_resumed_over(seed, num_random, killed_after):
    def cliff(params) -> float | None:
        return None if params["window"] > 3 else bowl(params)

    search = CoordinateSearch(SPACE, num_trials=24, num_random=num_random, seed=seed)
    whole = run(search, cliff)
    assert run(search, cliff, whole[:killed_after]) == whole
    assert [score is None for _, score in whole].count(False) > 0, "random trials go on where all have failed"
    best, score = best_trial(whole)
    assert best["window"] <= 3
    found = [cliff(near) for near in coordinate_neighbours(best, SPACE)]
    assert all(value <= score for value in found if value is not None)


def test_a_search_whose_trials_all_fail_ends():
    assert len(run(CoordinateSearch(SPACE, num_trials=40, num_random=3), lambda params: None)) == 24
    assert len(run(CoordinateSearch(SPACE, num_trials=5, num_random=3), lambda params: None)) == 5


def test_names_and_flags_have_no_order():
    space = {"loss": ("b", "a", "c"), "flag": (True, False), "sizes": ([1, 2], [2]), "width": (None, 3)}
    best = {"loss": "a", "flag": True, "sizes": [2], "width": 3}
    assert coordinate_neighbours(best, space) == [
        {**best, "loss": "b"},
        {**best, "loss": "c"},
        {**best, "flag": False},
        {**best, "sizes": [1, 2]},
        {**best, "width": None},
    ]
    with pytest.raises(ConfigError, match="distinct values"):
        random_trials({"sizes": ([1], [1])}, 3, seed=0)


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_luck_bounds_what_chance_does_to_equal_trials(shared):
    """Recall of trials that all hit a case with probability .1, on cases that they err on alike or not."""
    rng, num_cases, num_trials = np.random.default_rng(0), 400, 20
    common = rng.random((300, 1, num_cases))
    own = rng.random((300, num_trials, num_cases))
    scores = (np.where(rng.random(own.shape) < shared, common, own) < 0.1).mean(axis=2)
    error, bias = luck(0.1, num_cases=num_cases, num_trials=num_trials)
    assert scores[:, 0].std() == pytest.approx(error, rel=0.15)
    assert 0 < scores.max(axis=1).mean() - 0.1 < bias
    assert luck(0.1, num_cases=num_cases, num_trials=1)[1] == 0
