"""Filters, index maps, order and splits, against plain loops and on real files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from examples import examples
from genrec.data.filters import FilterPolicy, find_duplicates, k_core
from genrec.data.item_table import TextPolicy
from genrec.data.prepare import OrderPolicy, Prepared, prepare, sort_ids
from genrec.data.schema import INTERACTIONS, ITEMS, SPLIT_DTYPE, SPLITS, USERS, RawData
from genrec.data.splits import SplitPolicy, find_temporal_cuts, parse_moment
from genrec.errors import ConfigError, DataError
from oracles import prepare_oracle
from oracles.prepare_oracle import Row

OFF = FilterPolicy(min_user_interactions=0, min_item_interactions=0)
FILE = OrderPolicy(by="file")
NUMBERS, WORDS = [str(n) for n in (0, 3, 10, 20)], ["a", "B", "ä", "01"]


def frame(rows: list[Row]) -> pl.DataFrame:
    parts = pl.Series("split", [SPLITS[row.part] for row in rows], dtype=SPLIT_DTYPE)
    columns = {"user_id": "user", "item_id": "item", "timestamp": "ms", "rating": "rating"}
    types = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64, "rating": pl.Float64}
    data = {name: [getattr(row, attribute) for row in rows] for name, attribute in columns.items()}
    return pl.DataFrame(data, schema=types).with_columns(parts)


def raw(rows: list[Row], **kwargs) -> RawData:
    return RawData(frame(rows).lazy(), **kwargs)


def events(prepared: Prepared) -> list[prepare_oracle.Event]:
    """The prepared events with their ids, as the oracle gives them."""
    users, items = prepared.users["user_id"].to_list(), prepared.items["item_id"].to_list()
    return [
        prepare_oracle.Event(users[user], items[item], seconds, position, SPLITS.index(split))
        for user, item, seconds, position, split in prepared.interactions.rows()
    ]


@st.composite
def raw_rows(draw) -> list[Row]:
    users, items = draw(st.sampled_from([NUMBERS, WORDS])), draw(st.sampled_from([NUMBERS, WORDS]))
    row = st.builds(
        Row,
        user=st.sampled_from(users),
        item=st.sampled_from(items),
        ms=st.integers(-2, 3).map(lambda half: 500 * half),  # several in a second, and before 1970
        rating=st.sampled_from([None, 1.0, 3.0, 3.0, 5.0, 5.0, float("nan")]),
        part=st.integers(0, 2),
    )
    return draw(st.lists(row, min_size=draw(st.sampled_from([1, 15, 25])), max_size=40))


LINE = [Row("u", item, 1000 * n) for n, item in enumerate("abcde")]


# --- against the oracle ----------------------------------------------------------------------------------------------


@settings(max_examples=examples(60), deadline=None)
@given(
    rows=raw_rows(),
    cores=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    min_rating=st.sampled_from([None, None, 3.0]),
    duplicates=st.sampled_from(["keep", "exact", "first", "last"]),
    by=st.sampled_from(["timestamp", "file"]),
    ties=st.sampled_from(["item_id", "file"]),
    split=st.sampled_from(["leave_one_out", "temporal", "provided"]),
)
def test_prepare_equals_plain_loops(rows, cores, min_rating, duplicates, by, ties, split):
    if split == "temporal":
        by = "timestamp"
    expected = prepare_oracle.prepare(
        rows,
        min_user=cores[0],
        min_item=cores[1],
        min_rating=min_rating,
        duplicates=duplicates,
        by=by,
        ties=ties,
        split=split,
        fractions=(0.3, 0.2),
    )
    arguments: dict = {
        "filters": FilterPolicy(*cores, min_rating=min_rating, duplicates=duplicates),
        "order": OrderPolicy(by=by, ties=ties),
        "split": SplitPolicy(name=split, validation_fraction=0.3, test_fraction=0.2),
    }
    if not expected:
        with pytest.raises(DataError, match=r"no interactions are left|leaves .* empty"):
            prepare(raw(rows), **arguments)
    else:
        assert events(prepare(raw(rows), **arguments)) == expected


@settings(max_examples=examples(80), deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60),
    min_user=st.integers(0, 4),
    min_item=st.integers(0, 4),
)
def test_k_core_is_the_fixed_point(pairs, min_user, min_item):
    users, items = (np.array(column, dtype=np.uint32) for column in zip(*pairs, strict=True))
    keep, rounds = k_core(users, items, min_user_interactions=min_user, min_item_interactions=min_item)
    assert set(np.flatnonzero(keep).tolist()) == prepare_oracle.k_core(pairs, min_user, min_item)
    assert (rounds == 0) == keep.all()
    if keep.any():
        again, more = k_core(users[keep], items[keep], min_user_interactions=min_user, min_item_interactions=min_item)
        assert again.all()
        assert more == 0


@settings(max_examples=examples(60), deadline=None)
@given(
    rows=raw_rows(),
    seed=st.integers(0, 2**32 - 1),
    duplicates=st.sampled_from(["keep", "exact", "first", "last"]),
    split=st.sampled_from(["leave_one_out", "temporal", "provided"]),
)
def test_shuffled_rows_give_the_same_dataset(rows, seed, duplicates, split):
    arguments: dict = {"filters": FilterPolicy(2, 1, duplicates=duplicates), "split": SplitPolicy(name=split)}
    shuffled = [rows[n] for n in np.random.default_rng(seed).permutation(len(rows))]

    def attempt(some: list[Row]) -> Prepared | str:
        try:
            return prepare(raw(some), **arguments)
        except DataError as error:
            return str(error)

    first, second = attempt(rows), attempt(shuffled)
    if isinstance(first, str) or isinstance(second, str):
        assert first == second
        return
    assert first.facts == second.facts
    for name in ("interactions", "items", "users"):
        assert_frame_equal(getattr(first, name), getattr(second, name))


@settings(max_examples=examples(60), deadline=None)
@given(rows=raw_rows(), split=st.sampled_from(["leave_one_out", "temporal"]))
def test_split_invariants(rows, split):
    policy = SplitPolicy(name=split, validation_fraction=0.2, test_fraction=0.2)
    try:
        made = prepare(raw(rows), filters=OFF, split=policy)
    except DataError:
        return
    table = made.interactions.with_columns(part=pl.col("split").to_physical())
    # within a user the parts follow each other: no history reaches past its target
    assert table.filter(pl.col("part").diff().over("user_index") < 0).is_empty()
    assert (
        table.group_by("user_index").agg((pl.col("position").sort() == pl.int_range(pl.len())).all())["position"].all()
    )
    assert made.facts["train_after_evaluation"] == 0
    if split == "leave_one_out":
        per_user = table.group_by("user_index").agg(
            *(pl.col("part").filter(pl.col("part") == code).len().alias(str(code)) for code in range(3)), pl.len()
        )
        assert per_user.filter((pl.col("1") != pl.col("2")) | (pl.col("1") != (pl.col("len") >= 3))).is_empty()
        assert made.facts["users_without_evaluation"] == len(per_user.filter(pl.col("len") < 3))
    else:
        seconds = table.group_by("part").agg(
            pl.col("timestamp").min().alias("min"), pl.col("timestamp").max().alias("max")
        )
        low = dict(zip(seconds["part"], seconds["min"], strict=True))
        high = dict(zip(seconds["part"], seconds["max"], strict=True))
        assert high[0] < made.facts["cuts"]["validation_from"] == low[1]
        assert high[1] < made.facts["cuts"]["test_from"] == low[2]


# --- reading ---------------------------------------------------------------------------------------------------------


def test_tables_have_the_declared_schema_and_sizes():
    made = prepare(raw([Row(user, row.item, row.ms) for user in "wv" for row in LINE]), filters=OFF)
    assert dict(made.interactions.schema) == INTERACTIONS
    assert dict(made.items.schema) == ITEMS
    assert dict(made.users.schema) == USERS
    assert made.users.rows() == [(0, "v", 5), (1, "w", 5)]
    assert made.item_codes is None
    json.dumps(made.facts, allow_nan=False)


def test_file_order_survives_many_row_groups_and_files(tmp_path):
    rng = np.random.default_rng(0)
    table = pl.DataFrame({"user_id": rng.integers(0, 50, 20_000), "item_id": rng.integers(0, 500, 20_000)}).cast(
        pl.String
    )
    table[:12_345].write_parquet(tmp_path / "a.parquet", row_group_size=100)
    table[12_345:].write_parquet(tmp_path / "b.parquet", row_group_size=77)
    scans = pl.concat([pl.scan_parquet(tmp_path / f"{name}.parquet") for name in "ab"])
    made = prepare(RawData(scans), filters=OFF, order=FILE)
    expected = table.group_by("user_id", maintain_order=True).agg("item_id").cast({"user_id": pl.Int64}).sort("user_id")
    found = made.interactions.join(made.items, on="item_index", maintain_order="left")
    assert found["item_id"].to_list() == expected["item_id"].explode().to_list()
    assert made.facts["has_clock"] is False
    assert made.interactions["timestamp"].null_count() == 20_000


def test_unreadable_file_is_a_data_error(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"x\.parquet: cannot read the interactions"):
        prepare(RawData(pl.scan_parquet(path), files=(path,)))
    with pytest.raises(DataError, match="cannot read"):
        prepare(RawData(pl.scan_parquet(tmp_path / "absent.parquet")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.lit("").alias("user_id"), "5 of 5 rows have no user_id"),
        (
            pl.when(pl.col("item_id") == "c").then(None).otherwise("item_id").alias("item_id"),
            "1 of 5 rows have no item_id",
        ),
        (pl.col("timestamp").cast(pl.Float64), "column 'timestamp' has the wrong type"),
        (pl.col("timestamp").cast(pl.String).alias("item_id").str.to_integer(), "column 'item_id' has the wrong type"),
    ],
)
def test_bad_columns_are_named(change, message):
    table = RawData(frame(LINE).lazy().with_columns(change), files=(Path("x.csv"), Path("y.csv")))
    with pytest.raises(DataError, match=message) as caught:
        prepare(table, filters=OFF)
    assert str(caught.value).startswith("x.csv and 1 more: ")


def test_missing_columns_are_named():
    with pytest.raises(DataError, match=r"missing column 'item_id' \(found columns user_id"):
        prepare(RawData(frame(LINE).lazy().drop("item_id")))
    with pytest.raises(
        DataError, match=r"filter\.min_rating needs a column 'rating'.*set source\.rating_column=\.\.\."
    ):
        prepare(RawData(frame(LINE).lazy().drop("rating")), filters=FilterPolicy(min_rating=3))
    with pytest.raises(DataError, match=r"split=provided needs a column 'split'.*set source\.split_column=\.\.\."):
        prepare(RawData(frame(LINE).lazy().drop("split")), split=SplitPolicy("provided"))
    with pytest.raises(DataError, match="there are no interactions"):
        prepare(raw([]))


# --- filters ---------------------------------------------------------------------------------------------------------


def test_each_step_is_counted():
    rows = [*LINE, Row("u", "a", 9000, rating=2.0), *(Row("v", i, 0) for i in "ab")]
    rows = [Row(r.user, r.item, r.ms, 5.0 if r.rating is None else r.rating) for r in rows] + [Row("w", "a", 0, None)]
    made = prepare(raw(rows), filters=FilterPolicy(3, 1, min_rating=3.0, duplicates="first"))
    assert made.facts["steps"] == [
        {"step": "read", "interactions": 9, "users": 3, "items": 5},
        {"step": "min_rating", "interactions": 7, "users": 2, "items": 5, "without_rating": 1},
        {"step": "duplicates", "interactions": 7, "users": 2, "items": 5},
        {"step": "k_core", "interactions": 5, "users": 1, "items": 5, "rounds": 1},
    ]
    assert {name: made.facts[f"num_{name}"] for name in SPLITS} == {"train": 3, "validation": 1, "test": 1}


def test_first_and_last_follow_the_declared_order():
    rows = [Row("u", "a", 9000), *LINE]  # the earliest `a` is second in the file
    first = FilterPolicy(0, 0, duplicates="first")
    assert [e.item for e in events(prepare(raw(rows), filters=first))] == list("abcde")
    last = FilterPolicy(0, 0, duplicates="last")
    assert [e.item for e in events(prepare(raw(rows), filters=last))] == list("bcdea")
    assert [e.item for e in events(prepare(raw(rows), filters=last, order=FILE))] == list("abcde")


def test_exact_duplicates_differ_in_time():
    users, items = np.zeros(4, np.uint32), np.zeros(4, np.uint32)
    assert find_duplicates(users, items, np.array([5, 6, 5, 6]), keep="exact").tolist() == [True, True, False, False]
    with pytest.raises(DataError, match=r"filter\.duplicates=exact needs a timestamp .*found no timestamps"):
        prepare(
            RawData(frame(LINE).lazy().drop("timestamp")), filters=FilterPolicy(0, 0, duplicates="exact"), order=FILE
        )


def test_empty_core_tells_the_counts_and_what_to_lower():
    with pytest.raises(DataError) as caught:
        prepare(raw(LINE))
    assert str(caught.value) == (
        "interactions: no interactions are left (found read: 5 interactions of 1 users and 5 items, "
        "k_core: 0 interactions of 0 users and 0 items); "
        "lower filter.min_user_interactions or filter.min_item_interactions"
    )
    with pytest.raises(DataError, match=r"no interactions are left .*; lower filter\.min_rating"):
        prepare(raw(LINE), filters=FilterPolicy(min_rating=1.0))
    assert caught.value.exit_code == 3


# --- order and index maps --------------------------------------------------------------------------------------------


def test_missing_timestamps_are_counted_and_file_order_takes_them():
    rows = [*LINE[:2], Row("u", "x", None), *LINE[2:]]
    with pytest.raises(DataError, match=r"order\.by=timestamp needs .*found 1 of 6 rows without\); set order\.by=file"):
        prepare(raw(rows), filters=OFF)
    place = {"first_untimed": "t.csv:4", "files": (Path("t.csv"),)}
    offer = r"found 1 of 6 rows without, the first is t\.csv:4\); set source\.skip_bad_lines=true to leave.*, or set "
    with pytest.raises(DataError, match=offer + r"order\.by=file"):
        prepare(raw(rows, **place), filters=OFF)
    with pytest.raises(DataError, match=offer + r"split=leave_one_out order\.by=file"):
        prepare(raw(rows, **place), filters=OFF, split=SplitPolicy("temporal"))
    many = [Row("u", f"i{n}", None if n < 9 else n) for n in range(40)]  # more than may be left out
    with pytest.raises(DataError, match=r"9 of 40 rows without, the first is t\.csv:4\); set order\.by=file"):
        prepare(raw(many, **place), filters=OFF)
    made = prepare(raw(rows), filters=OFF, order=FILE)
    assert [e.item for e in events(made)] == list("abxcde")
    assert made.facts["rows_without_timestamp"] == 1
    assert made.facts["has_clock"] is False


def test_milliseconds_order_and_seconds_are_stored():
    made = prepare(
        raw([Row("u", item, ms) for item, ms in [("a", 1900), ("b", 1100), ("c", 1500), ("d", -1)]]), filters=OFF
    )
    assert [(e.item, e.seconds) for e in events(made)] == [("d", -1), ("b", 1), ("c", 1), ("a", 1)]
    assert made.facts["rows_in_ties"] == 0


def test_ties():
    rows = [Row("u", item, 0) for item in ("10", "9", "2")] + [Row("u", "1", 5)]
    assert [e.item for e in events(prepare(raw(rows), filters=OFF))] == ["2", "9", "10", "1"]
    by_file = prepare(raw(rows), filters=OFF, order=OrderPolicy(ties="file"))
    assert [e.item for e in events(by_file)] == ["10", "9", "2", "1"]
    assert by_file.facts["rows_in_ties"] == 3


@given(st.lists(st.one_of(st.integers(0, 10**30).map(str), st.text(min_size=1, max_size=3)), min_size=1, unique=True))
def test_ids_sort_by_number_or_code_point(ids):
    order, name = sort_ids(pl.Series(ids))
    key = prepare_oracle.id_key(set(ids))
    assert [ids[n] for n in order] == sorted(ids, key=key)
    assert name == ("numeric" if key is int else "lexicographic")


def test_index_maps_are_contiguous_and_sorted_after_the_filters():
    rows = [Row(user, item, n) for user in ("7", "30") for n, item in enumerate(["2", "10", "1"])] + [Row("x", "1", 0)]
    made = prepare(raw(rows), filters=FilterPolicy(2, 2))
    assert made.users["user_id"].to_list() == ["7", "30"]
    assert made.items["item_id"].to_list() == ["1", "2", "10"]
    assert made.id_order == made.facts["id_order"] == {"users": "numeric", "items": "numeric"}
    assert made.items["item_index"].to_list() == [0, 1, 2]
    # "x" is a user id that is no number
    assert prepare(raw(rows), filters=OFF).id_order["users"] == "lexicographic"


# --- splits ----------------------------------------------------------------------------------------------------------


def test_explicit_cuts():
    cuts = {"validation_from": "1970-01-01T00:00:03", "test_from": 4}
    made = prepare(raw(LINE), filters=OFF, split=SplitPolicy("temporal", **cuts))
    assert [e.part for e in events(made)] == [0, 0, 0, 1, 2]
    assert made.facts["cuts"] == {"validation_from": 3, "test_from": 4}


def test_temporal_needs_a_clock():
    timeless = RawData(frame(LINE).lazy().drop("timestamp"))
    for order in (FILE, OrderPolicy()):
        with pytest.raises(DataError, match=r"split=temporal needs a timestamp") as caught:
            prepare(timeless, filters=OFF, order=order, split=SplitPolicy("temporal"))
        assert caught.value.exit_code == 3


def test_temporal_refuses_a_file_order_against_time():
    policy = SplitPolicy("temporal", validation_fraction=0.2, test_fraction=0.2)
    two_users = [*LINE, *(Row("v", row.item, row.ms) for row in LINE)]
    assert len(prepare(raw(two_users), filters=OFF, order=FILE, split=policy).interactions) == 10
    with pytest.raises(DataError, match=r"2 events stand before .*; set order\.by=timestamp"):
        prepare(raw(LINE[::-1]), filters=OFF, order=FILE, split=policy)


def test_temporal_cuts_on_one_timestamp_leave_a_part_empty():
    rows = [Row("u", item, 1000 * (item != "a")) for item in "abcdefgh"]
    with pytest.raises(DataError, match=r"split=temporal leaves validation empty .*move the cuts \(now 1 s and 1 s"):
        prepare(raw(rows), filters=OFF, split=SplitPolicy("temporal"))


def test_too_short_users_leave_nothing_to_evaluate():
    with pytest.raises(DataError, match=r"empty \(found read: 2 .*\); leave-one-out needs users with 3 events"):
        prepare(raw(LINE[:2]), filters=OFF)
    with pytest.raises(DataError, match=r"; lower filter\.min_user_interactions: leave-one-out needs users"):
        prepare(raw(LINE[:2]), filters=FilterPolicy(2, 1))


def test_provided_split_orders_ties_and_counts_training_after_evaluation():
    rows = [Row("u", "z", 0, part=0), Row("u", "b", 0, part=1), Row("u", "a", 0, part=2), Row("u", "c", 9, part=0)]
    made = prepare(raw(rows[::-1]), filters=OFF, split=SplitPolicy("provided"))
    assert [(e.item, e.part) for e in events(made)] == [("z", 0), ("b", 1), ("a", 2), ("c", 0)]
    assert made.facts["train_after_evaluation"] == 1
    with pytest.raises(DataError, match="leaves validation and test empty"):
        prepare(raw(LINE), filters=OFF, split=SplitPolicy("provided"))
    unknown = pl.when(pl.col("item_id") == "a").then(None).otherwise("split").alias("split")
    with pytest.raises(DataError, match="1 of 5 rows have no split"):
        prepare(RawData(frame(LINE).lazy().with_columns(unknown)), filters=OFF, split=SplitPolicy("provided"))


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.floats(0.01, 0.45), st.floats(0.01, 0.45))
def test_temporal_cuts_hold_at_least_their_share(seconds, validation_fraction, test_fraction):
    times = np.array(seconds)
    fractions = {"validation_fraction": validation_fraction, "test_fraction": test_fraction}
    cuts = find_temporal_cuts(times, **fractions)
    assert cuts == prepare_oracle.temporal_cuts(seconds, validation_fraction, test_fraction)
    assert (times >= cuts[1]).sum() >= max(1, round(len(times) * test_fraction))
    assert cuts[0] <= cuts[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FilterPolicy(duplicates="frist"), r"filter\.duplicates: unknown value .*found 'frist'"),
        (lambda: FilterPolicy(min_user_interactions=-1), r"filter\.min_user_interactions: must not be negative"),
        (lambda: OrderPolicy(by="time"), r"order\.by: unknown value \(expected timestamp \| file"),
        (lambda: OrderPolicy(ties="x"), r"order\.ties: "),
        (lambda: SplitPolicy("loo"), r"split\.name: "),
        (lambda: SplitPolicy(test_fraction=0.0), r"split\.test_fraction: out of range"),
        (lambda: SplitPolicy(validation_fraction=0.6, test_fraction=0.5), "no share is left"),
        (lambda: SplitPolicy(test_from="2020-01-01"), "go together"),
        (lambda: SplitPolicy(validation_from=5, test_from=5), "must be before"),
        (lambda: SplitPolicy(validation_from="soon", test_from=5), r"split\.validation_from: not a moment"),
        (lambda: SplitPolicy(validation_from=1, test_from=1_600_000_000_000), "looks like milliseconds"),
        (lambda: TextPolicy(fields=("title", "colour")), r"text\.fields: .*found 'colour'"),
        (lambda: TextPolicy(duplicates="last"), r"text\.duplicates: "),
    ],
)
def test_policies_refuse_values_they_do_not_know(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_moments():
    assert parse_moment("1388534400", where="x") == parse_moment("20140101", where="x") == 1388534400
    assert parse_moment("2014-01-01 00:00:59.9", where="x") == 1388534459


# --- real data -------------------------------------------------------------------------------------------------------


def read_amazon_2018(path: Path) -> RawData:
    with gzip.open(path, "rt") as lines:
        reviews = [json.loads(line) for line in lines]
    rows = [Row(r["reviewerID"], r["asin"], 1000 * r["unixReviewTime"], r["overall"]) for r in reviews]
    return RawData(frame(rows).lazy().drop("split"), files=(path,))


@pytest.mark.parametrize(
    ("file", "read", "distinct", "core"),
    [
        ("amazon2018_giftcards_raw/Gift_Cards_5.json.gz", (458, 148, 2972), 2965, (453, 147, 2941)),
        ("amazon2018_allbeauty5_raw/All_Beauty_5.json.gz", (991, 85, 5269), None, (137, 24, 686)),
    ],
)
@pytest.mark.parametrize("order", [OrderPolicy(), FILE])
def test_amazon_2018_counts(data_root, file, read, distinct, core, order):
    made = prepare(read_amazon_2018(data_root / file), filters=FilterPolicy(duplicates="first"), order=order)
    steps = {step["step"]: step for step in made.facts["steps"]}
    assert tuple(steps["read"][name] for name in ("users", "items", "interactions")) == read
    assert distinct in (None, steps["duplicates"]["interactions"])
    assert (made.facts["num_users"], made.facts["num_items"], made.facts["num_interactions"]) == core
    assert made.facts["num_test"] == made.facts["num_validation"] == core[0]


@pytest.mark.slow
def test_beauty_order_is_time_then_item_id(data_root):
    with gzip.open(data_root / "amazon2014_beauty/derived_sequences.jsonl.gz", "rt") as lines:
        sequences = [json.loads(line) for line in lines]
    complete = {s["user"]: s["items"] for s in sequences if None not in s["timestamps"]}
    assert len(complete) == 22_201
    rows = [
        Row(s["user"], item, 1000 * seconds)
        for s in sequences
        if s["user"] in complete
        for item, seconds in zip(s["items"], s["timestamps"], strict=True)
    ]
    shuffled = [rows[n] for n in np.random.default_rng(0).permutation(len(rows))]
    made = prepare(raw(shuffled), filters=OFF)
    table = made.interactions.join(made.items, on="item_index", maintain_order="left")
    histories = table.group_by("user_index", maintain_order=True).agg("item_id")
    assert dict(zip(made.users["user_id"], histories["item_id"].to_list(), strict=True)) == complete
