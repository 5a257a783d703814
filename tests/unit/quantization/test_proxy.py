from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.sequences import Ragged
from genrec.errors import ConfigError, DataError
from genrec.quantization import proxy
from genrec.quantization.comparison import flat_figures
from genrec.quantization.neighbours import prefix_indices
from genrec.quantization.proxy import next_item_proxy, training_counts
from oracles.proxy_oracle import share_and_chance

NUM_ITEMS = 8
tables = st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=NUM_ITEMS, max_size=NUM_ITEMS)
histories = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=7), min_size=1, max_size=6)


@given(histories, tables, st.integers(1, 4), st.sampled_from([2, 5, 2**20]))
def test_the_same_as_counting_one_by_one(train, codes, window, chunk) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proxy, "_CHUNK", chunk)
        found = next_item_proxy(Ragged.from_lists(train), prefix_indices(np.array(codes)), window=window)
    if all(len(history) < 2 for history in train):
        assert found is None
        return
    assert found is not None
    for name, width in (("last", 1), ("recent", window)):
        assert found[name]["window"] == width
        for depth, entry in enumerate(found[name]["depths"], start=1):
            slow = share_and_chance(train, codes, depth, width)
            assert found["num_positions"] == found["num_sampled"] == slow["num_positions"]
            assert found[name]["num_targets"] == len(slow["shared"])
            assert found[name]["repeat_share"] == pytest.approx(1 - len(slow["shared"]) / slow["num_positions"])
            assert entry["depth"] == depth
            if not slow["shared"]:
                assert entry["share"] is entry["by_chance"] is entry["lift"] is entry["information"] is None
                continue
            share, chance = np.mean(slow["shared"]), np.mean(slow["chance"])
            assert entry["share"] == pytest.approx(share)
            assert entry["by_chance"] == pytest.approx(chance, abs=1e-12)
            assert entry["lift"] == (pytest.approx(share / chance) if chance > 1e-9 else None)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@given(histories, tables, st.integers(1, 4))
def test_longer_prefixes_are_shared_less_often_and_names_of_codes_are_nothing(train, codes, window) -> None:
    ragged = Ragged.from_lists(train)
    found = next_item_proxy(ragged, prefix_indices(np.array(codes)), window=window)
    if found is None:
        assert max(map(len, train)) < 2
        return
    renamed = next_item_proxy(ragged, prefix_indices(np.array([4, 0, 2])[np.array(codes)]), window=window)
    assert renamed is not None
    assert flat_figures(renamed) == pytest.approx(flat_figures(found))
    if found["recent"]["num_targets"]:
        shares = [entry["share"] for entry in found["recent"]["depths"]]
        assert shares == sorted(shares, reverse=True)


def test_chance_is_what_drawing_by_popularity_gives() -> None:
    """Next items drawn at random: found is chance, up to the error of 40,000 draws, at every depth and window."""
    rng = np.random.default_rng(0)
    train = Ragged.from_offsets(rng.geometric(0.02, 40_000).clip(max=200) - 1, np.arange(0, 40_001, 20))
    codes = rng.integers(0, 4, (200, 3))
    found = next_item_proxy(train, prefix_indices(codes))
    assert found is not None
    for name in ("last", "recent"):
        for entry in found[name]["depths"]:
            error = math.sqrt(entry["by_chance"] * (1 - entry["by_chance"]) / found[name]["num_targets"])
            assert abs(entry["share"] - entry["by_chance"]) < 5 * error
            assert entry["information"] < 1e-3


def test_histories_inside_of_a_cluster() -> None:
    """Each history stays among the items of one first code; the second code says nothing."""
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, 10, 500)
    train = Ragged.from_lists([rng.choice(100, 8, replace=False) * 10 + of for of in cluster])
    item = np.arange(1000)
    found = next_item_proxy(train, prefix_indices(np.stack([item % 10, rng.integers(0, 5, 1000)], axis=1)))
    assert found is not None
    first, second = found["last"]["depths"]
    assert first["share"] == 1.0
    assert first["lift"] == pytest.approx(10, rel=0.15)
    assert first["information"] == pytest.approx(math.log(first["lift"]))
    assert second["share"] == pytest.approx(0.2, abs=0.03)
    assert found["last"]["repeat_share"] == 0.0


def test_a_sample_of_the_positions() -> None:
    rng = np.random.default_rng(1)
    train = Ragged.from_offsets(rng.integers(0, 50, 20_000), np.arange(0, 20_001, 10))
    prefixes = prefix_indices(rng.integers(0, 3, (50, 2)))
    every = next_item_proxy(train, prefixes)
    some, again, other = (next_item_proxy(train, prefixes, max_positions=5000, seed=seed) for seed in (3, 3, 4))
    assert every is not None
    assert some is not None
    assert (some["num_positions"], some["num_sampled"], every["num_sampled"]) == (18_000, 5000, 18_000)
    assert some == again
    assert some != other
    for entry, full in zip(some["recent"]["depths"], every["recent"]["depths"], strict=True):
        assert entry["share"] == pytest.approx(full["share"], abs=0.04)
        assert entry["by_chance"] == pytest.approx(full["by_chance"], abs=0.01)


def test_only_what_is_in_the_rows_is_read() -> None:
    """Rows of one flat array, with events of other splits between them."""
    values = np.array([0, 1, 7, 7, 2, 3, 7], dtype=np.int32)
    rows = Ragged(values, np.array([0, 4]), np.array([2, 6]))
    codes = np.array([[0], [0], [1], [1], [2], [2], [2], [2]])
    found = next_item_proxy(rows, prefix_indices(codes))
    assert found == next_item_proxy(Ragged.from_lists([[0, 1], [2, 3]]), prefix_indices(codes))
    assert training_counts(rows, 8).tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_what_there_is_nothing_to_say_of() -> None:
    prefixes = prefix_indices(np.array([[0], [1]]))
    assert next_item_proxy(Ragged.from_lists([[0], [], [1]]), prefixes) is None
    assert next_item_proxy(Ragged.from_lists([]), prefixes) is None
    found = next_item_proxy(Ragged.from_lists([[0, 0, 0], [1]]), prefixes)
    assert found is not None
    assert found["last"]["num_targets"] == 0
    assert found["last"]["repeat_share"] == 1.0
    assert found["last"]["depths"] == [
        {"depth": 1, "share": None, "by_chance": None, "lift": None, "information": None}
    ]
    apart = next_item_proxy(Ragged.from_lists([[0, 1]]), prefixes)
    assert apart is not None
    assert apart["last"]["depths"] == [{"depth": 1, "share": 0.0, "by_chance": 0.0, "lift": None, "information": None}]


def test_what_is_wrong() -> None:
    prefixes = prefix_indices(np.array([[0], [1]]))
    train = Ragged.from_lists([[0, 1]])
    with pytest.raises(ConfigError, match=r"wrong window \(expected at least 1, found 0\)"):
        next_item_proxy(train, prefixes, window=0)
    with pytest.raises(ConfigError, match="wrong max_positions"):
        next_item_proxy(train, prefixes, max_positions=0)
    for item in (2, -1):
        with pytest.raises(DataError, match=rf"unknown item \(expected 0 to 1, found {item}\)"):
            next_item_proxy(Ragged.from_lists([[0, item]]), prefixes)
