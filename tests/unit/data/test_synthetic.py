"""The planted catalogue: its law, its samples, and the optimum that no recommender can pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from genrec.data import synthetic_text
from genrec.data.schema import RAW_ITEMS, RAW_OPTIONAL, RAW_REQUIRED, check_frame
from genrec.data.sequences import Ragged
from genrec.data.synthetic import (
    FIRST_SECOND,
    HORIZON,
    SUBCATEGORY_WEIGHTS,
    SUCCESSOR_WEIGHTS,
    PlantedCatalogue,
    catalogue_of,
    read_synthetic,
    write_raw,
)
from genrec.errors import ConfigError, DataError, RunError, StorageError

SMALL: dict[str, Any] = {"num_items": 30, "num_categories": 3, "subcategories_per_category": 2}
TINY: dict[str, Any] = {"num_items": 2, "num_categories": 1, "subcategories_per_category": 1}


def slow_row(catalogue: PlantedCatalogue, last: int) -> list[float]:
    """The equation of the module's docstring, term by term."""
    num_items = catalogue.num_items
    row = [0.0] * num_items
    for share, successor in zip(SUCCESSOR_WEIGHTS, catalogue.successors[last], strict=True):
        row[successor] += 0.4 * share
    for share, following in zip(
        SUBCATEGORY_WEIGHTS, catalogue.next_subcategories[catalogue.subcategory[last]], strict=True
    ):
        members = [item for item in range(num_items) if catalogue.subcategory[item] == following]
        mass = sum(catalogue.popularity[item] for item in members)
        for item in members:
            row[item] += 0.4 * share * catalogue.popularity[item] / mass
    for item in range(num_items):
        row[item] += 0.2 * catalogue.popularity[item]
    if not catalogue.immediate_repeats:
        row[last] = 0.0
    return [value / sum(row) for value in row]


@pytest.mark.parametrize("immediate_repeats", [False, True])
def test_transition_is_the_written_mixture(immediate_repeats: bool) -> None:
    catalogue = PlantedCatalogue.create(**SMALL, immediate_repeats=immediate_repeats, seed=3)
    table = catalogue.transition(np.arange(30))
    np.testing.assert_allclose(table, [slow_row(catalogue, last) for last in range(30)], atol=1e-14)
    np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-12)
    assert table.dtype == np.float64
    assert (table.diagonal() > 0).all() == immediate_repeats
    np.testing.assert_allclose(catalogue.transition(np.array([-1]))[0], catalogue.popularity)


@pytest.mark.parametrize("options", [{}, {"immediate_repeats": True}, {"successor_share": 0, "subcategory_share": 1}])
def test_samples_follow_the_transition(options: dict[str, Any]) -> None:
    """Chi-square of the pairs that follow each item; p-values of all items are then uniform."""
    catalogue = PlantedCatalogue.create(**SMALL, **options)
    users, items, _ = catalogue.sample(20_000, 5, 20, seed=1)
    follows = users[1:] == users[:-1]
    counts = np.zeros((30, 30))
    np.add.at(counts, (items[:-1][follows], items[1:][follows]), 1)
    table = catalogue.transition(np.arange(30))
    assert not counts[table == 0].any()
    p_values = []
    for last in np.flatnonzero(counts.sum(axis=1) > 1000):
        expected = table[last] * counts[last].sum()
        rare = expected < 5
        observed = np.append(counts[last][~rare], counts[last][rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
        possible = expected > 0
        p_values.append(stats.chisquare(observed[possible], expected[possible]).pvalue)
    assert len(p_values) >= 20
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_first_item_follows_the_popularity() -> None:
    catalogue = PlantedCatalogue.create(**SMALL)
    _, items, _ = catalogue.sample(20_000, 1, 1)
    counts = np.bincount(items, minlength=30)
    assert stats.chisquare(counts, catalogue.popularity * 20_000).pvalue > 1e-3


def test_structure() -> None:
    catalogue = PlantedCatalogue.create(num_items=501, seed=5)
    assert sorted(np.bincount(catalogue.subcategory)) == [13] * 3 + [14] * 33
    zipf = np.sort(catalogue.popularity)[::-1]
    np.testing.assert_allclose(zipf[0] / zipf, np.arange(1, 502), rtol=1e-12)
    following, successors = catalogue.next_subcategories, catalogue.successors
    assert np.array_equal(np.sort(following, axis=0), np.tile(np.arange(36)[:, None], 2))  # each column a permutation
    assert (following[:, 0] // 3 == np.arange(36) // 3).all()
    assert (following[:, 1] // 3 != np.arange(36) // 3).all()
    # what follows an item lies in the sub-categories that follow its own: content says where to look
    near, far = following[catalogue.subcategory].T
    assert np.array_equal(catalogue.subcategory[successors], np.stack([near, near, far], axis=1))
    assert (successors[:, 0] != successors[:, 1]).all()
    assert (np.bincount(successors.ravel(), minlength=501) >= 2).all()


def test_items_have_plausible_text() -> None:
    catalogue = PlantedCatalogue.create(num_items=1000, subcategories_per_category=4, seed=2)
    check_frame(catalogue.items, RAW_ITEMS, where="items")
    assert catalogue.items["title"].n_unique() == 1000
    assert catalogue.items["item_id"].to_list() == sorted(f"item-{i:04d}" for i in range(1000))
    named = catalogue.items.with_columns(subcategory=catalogue.subcategory).group_by("subcategory")
    assert named.agg(pl.col("categories").n_unique())["categories"].to_list() == [1] * 48
    assert catalogue.items["categories"].n_unique() == 48
    assert catalogue.items.null_count().sum_horizontal()[0] == 0


def test_word_lists_are_complete_and_disjoint() -> None:
    catalogue = synthetic_text._CATALOGUE
    assert {len(subs) for _, subs in catalogue.values()} == {synthetic_text.MAX_SUBCATEGORIES}
    nouns = [noun for _, subs in catalogue.values() for names in subs.values() for noun in names]
    subs = [sub for _, subs in catalogue.values() for sub in subs]
    assert len(set(nouns)) == len(nouns) == 12 * 4 * 5
    assert len(set(subs)) == len(subs)
    assert len(synthetic_text._BRAND_STEMS) == synthetic_text.MAX_CATEGORIES == 12


def test_ids_sort_like_rows_beyond_four_digits() -> None:
    catalogue = PlantedCatalogue.create(num_items=12_000)
    ids = catalogue.items["item_id"].to_list()
    assert ids == sorted(ids)
    assert ids[42] == "item-00042"
    assert catalogue.index_of([ids[11_999], ids[0]]).tolist() == [11_999, 0]
    with pytest.raises(DataError, match=r"'item-0042' and 1 more\); rebuild"):
        catalogue.index_of([ids[3], "item-0042", "zzz"])


def test_seeds() -> None:
    first, again, other = (PlantedCatalogue.create(seed=seed) for seed in (1, 1, 2))
    assert first.items.equals(again.items)
    assert np.array_equal(first.successors, again.successors)
    assert not np.array_equal(first.successors, other.successors)
    assert not first.items.equals(other.items)
    one, two, three = (first.sample(50, seed=seed) for seed in (7, 7, 8))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one[1], three[1])


@pytest.mark.parametrize("immediate_repeats", [False, True])
def test_more_users_leave_the_first_as_they_are(immediate_repeats: bool) -> None:
    catalogue = PlantedCatalogue.create(**SMALL, immediate_repeats=immediate_repeats)
    few, many = catalogue.sample(40, seed=4), catalogue.sample(1000, seed=4)
    for some, all_of_them in zip(few, many, strict=True):
        assert np.array_equal(some, all_of_them[: len(some)])
    assert (np.diff(many[1])[np.diff(many[0]) == 0] == 0).any() == immediate_repeats


def test_lengths_and_times() -> None:
    users, items, times = PlantedCatalogue.create().sample(3000, 3, 40, seed=9)
    lengths = np.bincount(users)
    assert (np.diff(users) >= 0).all()
    assert set(lengths) == set(range(3, 41))
    assert stats.chisquare(np.bincount(lengths)[3:]).pvalue > 1e-3
    same_user = np.diff(users) == 0
    assert (np.diff(times)[same_user] > 0).all()
    assert times.dtype == items.dtype == users.dtype == np.int64
    assert times.min() >= FIRST_SECOND
    assert times.max() <= FIRST_SECOND + HORIZON + 40
    assert times.max() - times.min() > 0.95 * HORIZON
    gaps = np.diff(times)[same_user]
    assert 86400 < np.median(gaps) < 8 * 86400
    assert (gaps < 3600).any()


def slow_optimum(probabilities: list[float], k: int) -> tuple[float, float]:
    best = sorted(probabilities, reverse=True)[:k]
    return sum(best), sum(p / np.log2(rank + 2) for rank, p in enumerate(best))


@pytest.mark.parametrize("k", [1, 7, 30, 50])
def test_optimum_is_the_sum_of_the_largest(k: int) -> None:
    catalogue = PlantedCatalogue.create(**SMALL)
    last = np.array([4, 4, -1, 29, 0, 4])
    seen = Ragged.from_lists([[4], [1, 2, 3], [], list(range(25)), [0, 0, 5], [4, 9]])
    rows = catalogue.transition(last)
    plain = [slow_optimum(row.tolist(), k) for row in rows]
    masked = [
        slow_optimum([p for item, p in enumerate(row) if item not in hidden], k)
        for row, hidden in zip(rows, seen.to_lists(), strict=True)
    ]
    np.testing.assert_allclose(catalogue.optimal_recall(last, k), [recall for recall, _ in plain], atol=1e-12)
    np.testing.assert_allclose(catalogue.optimal_ndcg(last, k), [ndcg for _, ndcg in plain], atol=1e-12)
    np.testing.assert_allclose(catalogue.optimal_recall(last, k, seen=seen), [r for r, _ in masked], atol=1e-12)
    np.testing.assert_allclose(catalogue.optimal_ndcg(last, k, seen=seen), [n for _, n in masked], atol=1e-12)


def test_optimal_items_are_sorted_and_unseen() -> None:
    catalogue = PlantedCatalogue.create(**SMALL)
    seen = Ragged.from_lists([[4, 5, 6], list(range(28))])
    items = catalogue.optimal_items(np.array([4, 27]), 5, seen=seen)
    row = catalogue.transition(np.array([4]))[0]
    assert items[0].tolist() == sorted(set(range(30)) - {4, 5, 6}, key=lambda item: (-row[item], item))[:5]
    assert sorted(items[1, :2]) == [28, 29]
    assert items[1, 2:].tolist() == [-1, -1, -1]
    assert catalogue.optimal_items(np.array([], dtype=np.int64), 3).shape == (0, 3)
    assert catalogue.optimal_recall(np.array([], dtype=np.int64), 3).shape == (0,)


def test_chunks_do_not_change_the_optimum() -> None:
    catalogue = PlantedCatalogue.create(num_items=3000)
    last = np.arange(3000)[::-1]
    expected = np.sort(catalogue.transition(last), axis=1)[:, -10:].sum(axis=1)
    np.testing.assert_allclose(catalogue.optimal_recall(last, 10), expected, atol=1e-12)
    unmasked = catalogue.optimal_recall(last, 10, seen=Ragged.from_lists([[]] * 3000))
    np.testing.assert_allclose(unmasked, expected, atol=1e-12)


def last_two(users: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position of each user's last event, that item, and the one before."""
    end = np.flatnonzero(np.append(np.diff(users) > 0, True))
    return end, items[end], items[end - 1]


def hit_rate(scores: np.ndarray, target: np.ndarray, k: int) -> np.ndarray:
    lists = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return (lists == target[:, None]).any(axis=1)


def test_oracle_reaches_the_optimum() -> None:
    catalogue = PlantedCatalogue.create(num_items=200, seed=6)
    users, items, _ = catalogue.sample(30_000, 2, 12, seed=6)
    end, target, last = last_two(users, items)
    lists = catalogue.optimal_items(last, 10)
    hit = lists == target[:, None]
    recall, ndcg = hit.any(axis=1), (hit / np.log2(np.arange(10) + 2)).sum(axis=1)
    for value, optimum in (
        (recall, catalogue.optimal_recall(last, 10)),
        (ndcg, catalogue.optimal_ndcg(last, 10)),
    ):
        error = value - optimum  # mean 0 given the last item
        assert abs(error.mean()) < 4 * error.std() / np.sqrt(len(error))
    starts = np.append(0, end[:-1] + 1)
    seen = Ragged(items, starts, end)
    masked_hit = catalogue.optimal_items(last, 10, seen=seen) == target[:, None]
    error = masked_hit.any(axis=1) - catalogue.optimal_recall(last, 10, seen=seen)
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(len(error))


@pytest.mark.parametrize("seed", [0, 1])
def test_default_catalogue_tells_recommenders_apart(seed: int) -> None:
    """Popularity < last-item Markov < with sub-categories < optimum, each by several standard errors."""
    catalogue = PlantedCatalogue.create(seed=seed)
    users, items, _ = catalogue.sample(2000, seed=seed)
    end, target, last = last_two(users, items)
    is_train = np.ones(len(items), dtype=bool)
    is_train[end] = is_train[end - 1] = False
    popularity = np.bincount(items[is_train], minlength=500).astype(float)
    pairs = is_train[1:] & is_train[:-1] & (users[1:] == users[:-1])
    markov = np.zeros((500, 500))
    np.add.at(markov, (items[:-1][pairs], items[1:][pairs]), 1)
    of_subcategory = np.zeros((36, 500))
    np.add.at(of_subcategory, catalogue.subcategory, markov)
    of_subcategory /= of_subcategory.sum(axis=1, keepdims=True)
    scores = {
        "popularity": np.tile(popularity, (2000, 1)),
        "markov": markov[last] + 1e-6 * popularity,
        "content": markov[last] + 20 * of_subcategory[catalogue.subcategory[last]],
    }
    recall = {name: hit_rate(values, target, 10).mean() for name, values in scores.items()}
    optimum = catalogue.optimal_recall(last, 10).mean()
    standard_error = np.sqrt(optimum * (1 - optimum) / 2000)
    assert recall["popularity"] + 20 * standard_error < recall["markov"]
    assert recall["markov"] + 4 * standard_error < optimum
    assert recall["markov"] + standard_error < recall["content"] < optimum + 3 * standard_error
    assert np.bincount(items, minlength=500).min() >= 5  # a 5-core takes nothing away


def test_read_synthetic_is_a_source() -> None:
    raw = read_synthetic(None, num_users=100, num_items=80, min_length=4, max_length=9, seed=5)
    check_frame(raw.interactions, RAW_REQUIRED, RAW_OPTIONAL, where="interactions")
    assert raw.items is not None
    check_frame(raw.items, RAW_ITEMS, where="items")
    frame = raw.interactions.collect()
    catalogue = catalogue_of(num_users=100, num_items=80, min_length=4, max_length=9, seed=5)
    users, items, times = catalogue.sample(100, 4, 9, 5)
    assert frame["user_id"].to_list() == [f"user-{user:05d}" for user in users]
    assert np.array_equal(catalogue.index_of(frame["item_id"].to_list()), items)
    assert np.array_equal(frame["timestamp"].to_numpy(), times * 1000)  # ms
    assert raw.items.equals(catalogue.items)
    assert raw.files == ()
    assert "80 items" in raw.notes[0]


@pytest.mark.parametrize("interactions_format", ["parquet", "csv"])
def test_write_raw(tmp_path, interactions_format: str) -> None:
    raw = read_synthetic(num_users=30, num_items=72)
    interactions, items = write_raw(tmp_path / "new" / "raw", raw, interactions_format=interactions_format)
    read = pl.read_parquet if interactions_format == "parquet" else pl.read_csv
    assert read(interactions).equals(raw.interactions.collect())
    assert raw.items is not None
    assert pl.read_parquet(items).equals(raw.items)
    assert sorted(path.name for path in interactions.parent.iterdir()) == sorted([interactions.name, items.name])
    with pytest.raises(RunError, match=r"interactions\.\w+: the file is there already"):
        write_raw(tmp_path / "new" / "raw", raw, interactions_format=interactions_format)


def test_write_raw_errors(tmp_path) -> None:
    raw = read_synthetic(num_users=5, num_items=72)
    with pytest.raises(ConfigError, match="expected parquet or csv, found 'xlsx'"):
        write_raw(tmp_path, raw, interactions_format="xlsx")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write_raw(tmp_path / "file", raw)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_items": 71}, r"num_items is out of range \(expected at least 72, found 71\); or take fewer"),
        ({"num_categories": 13}, r"num_categories .*expected 1 to 12, found 13"),
        ({"num_categories": 0}, "num_categories"),
        ({"subcategories_per_category": 5}, "subcategories_per_category .*expected 1 to 4"),
        ({"zipf_exponent": -1.0}, "zipf_exponent"),
        ({"zipf_exponent": float("nan")}, "zipf_exponent"),
        ({"successor_share": 1.1}, "successor_share"),
        ({"successor_share": 0.7}, "subcategory_share .*expected 0 to 0.3, found 0.4"),
    ],
)
def test_create_errors(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PlantedCatalogue.create(**options)


def test_shares_may_be_all_or_nothing() -> None:
    for successor_share, subcategory_share in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.9, 0.1), (0.7, 0.3)):
        for small in (TINY, SMALL):
            catalogue = PlantedCatalogue.create(
                **small, successor_share=successor_share, subcategory_share=subcategory_share
            )
            users, items, _ = catalogue.sample(200)
            follows = users[1:] == users[:-1]
            table = catalogue.transition(np.arange(catalogue.num_items))
            np.testing.assert_allclose(table.sum(axis=1), 1.0)
            assert (table[items[:-1][follows], items[1:][follows]] > 0).all()


def test_sample_and_query_errors() -> None:
    catalogue = PlantedCatalogue.create(**SMALL)
    for options in ({"num_users": 0}, {"num_users": 3, "min_length": 0}, {"num_users": 3, "max_length": 4}):
        with pytest.raises(ConfigError, match="out of range"):
            catalogue.sample(**options)
    for last in (-2, 30):
        with pytest.raises(DataError, match="expected -1 to 29"):
            catalogue.transition(np.array([0, last]))
    with pytest.raises(ConfigError, match="k is out of range"):
        catalogue.optimal_recall(np.array([0]), 0)
    with pytest.raises(ConfigError, match="k is out of range"):
        catalogue.optimal_items(np.array([0]), 31)
