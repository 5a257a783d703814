"""What many searches say together, against loops over the cases."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.evaluation.search_diagnosis import displaced, near_lists, reliability, rescues


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30), st.integers(1, 6))
def test_reliability_bins_hold_all_cases_and_add_up(cases: list[tuple[float, bool]], num_bins: int) -> None:
    predicted, is_hit = (np.array(column) for column in zip(*cases, strict=True))
    found = reliability(predicted, is_hit, num_bins)
    bins = found["bins"]
    assert len(bins) == min(num_bins, len(cases))
    sizes = [line["num_cases"] for line in bins]
    assert sum(sizes) == len(cases)
    assert max(sizes) - min(sizes) <= 1
    assert all(line["low"] <= line["predicted"] + 1e-12 and line["predicted"] <= line["high"] + 1e-12 for line in bins)
    assert all(before["high"] <= line["low"] for before, line in pairwise(bins))
    in_order = sorted(cases, key=lambda case: case[0])  # stable
    error, start = 0.0, 0
    for line in bins:
        own = in_order[start : start + line["num_cases"]]
        start += line["num_cases"]
        assert line["hit_rate"] == pytest.approx(sum(hit for _, hit in own) / len(own))
        error += abs(sum(p for p, _ in own) - sum(hit for _, hit in own)) / len(cases)
    assert found["ece"] == pytest.approx(error)
    assert found["brier"] == pytest.approx(sum((p - hit) ** 2 for p, hit in cases) / len(cases))
    assert abs(found["predicted"] - found["hit_rate"]) <= found["ece"] + 1e-9


def test_probabilities_that_are_true_have_a_small_error() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.beta(1, 9, 20_000)
    is_hit = rng.random(20_000) < predicted
    assert reliability(predicted, is_hit, 10)["ece"] < 0.01
    assert reliability(np.minimum(3 * predicted, 1), is_hit, 10)["ece"] > 0.15


def test_what_displaced_targets_is_told_by_level() -> None:
    nan = np.nan
    lost_at = np.array([0, 1, 1, -1, 1])
    gap = np.array([[0.5, nan], [nan, 1.0], [nan, 3.0], [nan, nan], [nan, nan]])
    shared = np.array([[0, 0], [1, 1], [1, 0], [1, 2], [1, 1]])
    rivals, own = np.array([[5, 0], [0, 7], [0, 2], [0, 0], [0, 9]]), np.array([[9, 0], [9, 2], [9, 2], [9, 9], [9, 1]])
    first, second = displaced(lost_at, gap, shared, rivals, own)
    assert (first["level"], first["num_lost"], first["num_displaced"]) == (1, 1, 1)
    assert first["gap"] == dict.fromkeys(("q25", "q50", "q75", "q90"), 0.5)
    assert (first["share_siblings"], first["share_more_popular"]) == (1, 0)
    assert (second["num_lost"], second["num_displaced"]) == (3, 2)  # the last had nothing that could have been kept
    assert second["gap"]["q50"] == 2.0
    assert (second["share_siblings"], second["share_more_popular"]) == (0.5, 0.5)
    nobody = displaced(np.array([-1]), np.full((1, 1), nan), *np.zeros((3, 1, 1), dtype=int))[0]
    assert nobody["num_lost"] == 0
    assert {*nobody["gap"].values(), nobody["share_siblings"], nobody["share_more_popular"]} == {None}


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20), st.floats(-5, 50))
def test_rescues_and_losses_make_the_difference(cases: list[tuple[bool, bool]], extra: float) -> None:
    kept, found = (np.array(column) for column in zip(*cases, strict=True))
    counted = rescues(kept, found, extra)
    assert counted["rescued"] == sum(after and not before for before, after in cases) / len(cases)
    assert counted["lost"] == sum(before and not after for before, after in cases) / len(cases)
    gain = counted["found"] - kept.mean()
    assert counted["rescued"] - counted["lost"] == pytest.approx(gain)
    rate = counted["net_per_100_nodes"]
    assert rate is None if extra <= 0 else rate == pytest.approx(100 * gain / extra)


@settings(max_examples=20)
@given(st.data())
def test_items_near_a_list_are_a_union(data: st.DataObject) -> None:
    num_items = 8
    item = st.integers(0, num_items - 1)
    lists = np.array(data.draw(st.lists(st.lists(st.integers(-1, 7), min_size=3, max_size=3), min_size=1, max_size=4)))
    neighbours = np.array(
        [data.draw(st.lists(st.integers(-1, 7), min_size=4, max_size=4, unique=True)) for _ in range(num_items)]
    )
    targets = np.array([data.draw(item) for _ in lists])
    denied = [data.draw(st.sets(item, max_size=3)) for _ in lists]
    last = np.zeros(len(lists))
    for num_near in range(5):
        sizes, hits = near_lists(lists, neighbours, targets, denied, num_near)
        for case, row in enumerate(lists):
            near = {int(each) for each in row if each >= 0}
            for each in list(near):
                near |= {int(other) for other in neighbours[each][:num_near] if other >= 0}
            near = {each for each in near if each not in denied[case]}
            assert (int(sizes[case]), bool(hits[case])) == (len(near), int(targets[case]) in near)
        assert bool((sizes >= last).all())
        last = sizes
