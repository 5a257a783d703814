"""The audit against plain loops, on planted faults and on real files."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.data.audit import audit, audit_rows, gini
from genrec.data.filters import FilterPolicy
from genrec.data.prepare import OrderPolicy, Prepared, prepare
from genrec.data.schema import INTERACTIONS, ITEMS, RAW_ITEMS, SPLITS, RawData
from genrec.data.splits import SplitPolicy
from genrec.errors import DataError
from oracles import prepare_oracle

OFF = FilterPolicy(min_user_interactions=0, min_item_interactions=0)
HELD_OUT = ("validation", "test")


def tables(events: Sequence[tuple[int, int, int | None, int]], num_items: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Prepared tables from (user, item, seconds, part), sorted by user."""
    users, items, seconds, parts = zip(*events, strict=True)
    position, seen = [], Counter()
    for user in users:
        position.append(seen[user])
        seen[user] += 1
    columns = {"user_index": users, "item_index": items, "timestamp": seconds, "position": position}
    interactions = pl.DataFrame(columns | {"split": [SPLITS[part] for part in parts]}, schema=INTERACTIONS)
    catalogue = pl.DataFrame({"item_index": range(num_items)}, schema={"item_index": pl.UInt32})
    return interactions, catalogue.with_columns(
        pl.lit(None, dtype).alias(n) for n, dtype in ITEMS.items() if n != "item_index"
    )


@st.composite
def prepared_events(draw) -> list[tuple[int, int, int, int]]:
    event = st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 6))
    parts = st.lists(st.integers(0, 2), min_size=40, max_size=40)
    rows = draw(st.lists(event, min_size=1, max_size=40))
    index = {user: number for number, user in enumerate(sorted({user for user, _, _ in rows}))}
    order = sorted(rows, key=lambda row: (row[0], row[2], row[1]))
    return [(index[user], item, seconds, part) for (user, item, seconds), part in zip(order, draw(parts), strict=False)]


def share(count: int, events: list, part: str) -> float | None:
    size = sum(SPLITS[event[3]] == part for event in events)
    return count / size if size else None


@settings(max_examples=examples(150), deadline=None)
@given(prepared_events())
def test_audit_equals_plain_loops(events):
    interactions, items = tables(events, num_items=8)
    found = audit(interactions, items)
    positions = interactions["position"].to_list()
    expected = prepare_oracle.audit(
        [
            prepare_oracle.Event(str(user), str(item), seconds, position, part)
            for (user, item, seconds, part), position in zip(events, positions, strict=True)
        ]
    )
    counts = [sum(e[1] == item and e[3] == 0 for e in events) for item in range(8)]
    assert found["leaks"] == {
        "target_in_own_history": {name: expected[f"own_{name}"] for name in HELD_OUT},
        "train_after_evaluation": expected["train_after_evaluation"],
        "target_before_latest_training": {name: share(expected[f"early_{name}"], events, name) for name in HELD_OUT},
    }
    assert found["ties"]["rows_in_ties"] == expected["rows_in_ties"]
    assert found["ties"]["out_of_time_order"] == 0
    assert found["ties"]["dependent_targets"] == {
        name: share(expected[f"dependent_{name}"], events, name) for name in HELD_OUT
    }
    assert (found["duplicates"]["exact"], found["duplicates"]["repeats"]) == (expected["exact"], expected["repeats"])
    assert found["cold"]["unseen_targets"] == {name: expected[f"unseen_{name}"] for name in HELD_OUT}
    assert found["cold"]["unseen_share"] == {name: share(expected[f"unseen_{name}"], events, name) for name in HELD_OUT}
    assert found["cold"]["empty_histories"] == {name: expected[f"empty_{name}"] for name in HELD_OUT}
    assert found["cold"]["unseen_items"] == found["popularity"]["unseen"] == counts.count(0)
    users = {e[0] for e in events}
    assert found["cold"]["users_without_training"] == len(users - {e[0] for e in events if e[3] == 0})
    assert found["popularity"]["gini"] == pytest.approx(prepare_oracle.gini(counts))
    classes = Counter(prepare_oracle.popularity_class(counts, item) for item in range(8))
    assert {name: found["popularity"][name] for name in ("head", "middle", "tail", "unseen")} == {
        name: classes[name] for name in ("head", "middle", "tail", "unseen")
    }
    json.dumps(found, allow_nan=False)
    assert all(verdict.split(":")[0] in ("ok", "note", "warn") for _, _, verdict in audit_rows(found))


def verdicts(found: dict) -> dict[str, str]:
    return {name: verdict.split(":")[0] for name, _, verdict in audit_rows(found)}


def test_counts_and_quantiles():
    clean = [(user, (user + n) % 5, 10 * n + user, max(0, n - 2)) for user in range(5) for n in range(5)]
    found = audit(*tables(clean, num_items=5))
    assert {name: found["counts"][name] for name in ("users", "items", "interactions", *SPLITS)} == {
        "users": 5,
        "items": 5,
        "interactions": 25,
        "train": 15,
        "validation": 5,
        "test": 5,
    }
    assert found["counts"]["density"] == 1.0
    assert found["counts"]["events_per_user"] == dict.fromkeys(
        ("min", "p25", "median", "p75", "p90", "p99", "max"), 5
    ) | {"mean": 5.0}
    assert found["counts"]["history_length"]["test"]["median"] == 4
    assert found["popularity"]["top_1_percent"] == 0.2
    assert verdicts(found)["targets in own history"] == "ok"


def test_planted_faults_are_found():
    # user 0: item 1 again as test target; user 1: training after validation; user 2: a tie before its test target
    planted = [(0, 1, 0, 0), (0, 2, 10, 1), (0, 1, 20, 2), (1, 1, 0, 0), (1, 2, 5, 1), (1, 1, 900, 0), (1, 3, 901, 2)]
    planted += [(2, 1, 7, 0), (2, 2, 8, 1), (2, 4, 8, 2), (2, 4, 8, 2)]
    found = audit(*tables(planted, num_items=5))
    assert found["leaks"] == {
        "target_in_own_history": {"validation": 0, "test": 2},
        "train_after_evaluation": 1,
        # against user 1, who has the latest training event itself, only that of the others at 7 s counts
        "target_before_latest_training": {"validation": 1.0, "test": 0.75},
    }
    assert found["ties"]["rows_in_ties"] == 3
    assert found["ties"]["users_last_two_tied"] == pytest.approx(1 / 3)
    assert found["ties"]["dependent_targets"] == {"validation": pytest.approx(1 / 3), "test": 0.5}
    assert found["duplicates"] == {"exact": 1, "repeats": 3, "users_with_repeats": 3}
    assert found["cold"]["unseen_targets"] == {"validation": 3, "test": 3}
    told = verdicts(found)
    assert told["training after held-out"] == told["targets decided by ties"] == told["cold test targets"] == "warn"
    assert told["exact duplicates"] == told["repeats"] == told["targets in own history"] == "note"
    assert told["leak in global time"] == "note"


def test_times_against_the_order_are_counted():
    found = audit(*tables([(0, 1, 5, 0), (0, 2, 4, 0), (0, 3, 6, 1), (1, 1, 0, 2)], num_items=4))
    assert found["ties"]["out_of_time_order"] == 1
    assert verdicts(found)["out of time order"] == "warn"


def test_without_a_clock_nothing_is_said_about_time():
    found = audit(*tables([(0, 1, None, 0), (0, 2, 5, 1), (0, 3, 6, 2)], num_items=4))
    assert found["ties"] is None
    assert found["duplicates"]["exact"] is None
    assert found["leaks"]["target_before_latest_training"] is None
    assert found["counts"]["without_timestamp"] == 1
    assert ("timestamps", "incomplete") in [row[:2] for row in audit_rows(found)]
    found = audit(*tables([(0, 1, None, 0), (0, 2, None, 1), (0, 3, None, 2)], num_items=4))
    assert ("timestamps", "none") in [row[:2] for row in audit_rows(found)]


def test_text_coverage():
    rows = [
        {"item_id": "a", "title": "A", "categories": ["x"], "description": ""},
        {"item_id": "b", "title": " ", "categories": []},
        {"item_id": "c", "brand": "C"},
    ]
    described = pl.DataFrame([dict.fromkeys(RAW_ITEMS) | row for row in rows], schema=RAW_ITEMS)
    events = pl.DataFrame({"user_id": ["u"] * 4, "item_id": list("abcd"), "timestamp": [1, 2, 3, 4]})
    made = prepare(RawData(events.lazy(), described), filters=OFF)
    found = audit(made.interactions, made.items)
    assert found["text"] == {"title": 0.25, "brand": 0.25, "categories": 0.25, "description": 0.0, "text": 0.5}
    assert verdicts(found)["items with text"] == "warn"


def test_wrong_tables_are_refused():
    interactions, items = tables([(0, 1, 0, 0)], num_items=2)
    with pytest.raises(DataError, match="interactions: missing column 'position'"):
        audit(interactions.drop("position"), items)
    with pytest.raises(DataError, match="items: missing column 'text'"):
        audit(interactions, items.drop("text"))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12))
def test_gini_is_the_mean_difference(counts):
    assert gini(np.array(counts)) == pytest.approx(prepare_oracle.gini(counts), abs=1e-12)


def planted_temporal(split: str) -> Prepared:
    rng = np.random.default_rng(0)
    columns = {"user_id": rng.integers(0, 30, 600).astype(str), "item_id": rng.integers(0, 900, 600).astype(str)}
    events = pl.DataFrame(columns | {"timestamp": 1000 * rng.permutation(600)})
    return prepare(RawData(events.lazy()), filters=OFF, split=SplitPolicy(split))


def test_a_temporal_split_has_no_leak_in_global_time():
    for split, leaks in (("temporal", False), ("leave_one_out", True)):
        made = planted_temporal(split)
        found = audit(made.interactions, made.items)["leaks"]
        assert (found["target_before_latest_training"]["test"] > 0) == leaks
        assert found["train_after_evaluation"] == 0


@pytest.mark.slow
def test_ties_of_beauty(data_root):
    with gzip.open(data_root / "amazon2014_beauty/derived_sequences.jsonl.gz", "rt") as lines:
        sequences = [json.loads(line) for line in lines]
    complete = [s for s in sequences if None not in s["timestamps"]]
    events = pl.DataFrame(
        {
            "user_id": [s["user"] for s in complete],
            "item_id": [s["items"] for s in complete],
            "timestamp": [[1000 * t for t in s["timestamps"]] for s in complete],
        },
        schema={"user_id": pl.String, "item_id": pl.List(pl.String), "timestamp": pl.List(pl.Int64)},
    ).explode("item_id", "timestamp")
    made = prepare(RawData(events.lazy()), filters=OFF)
    found = audit(made.interactions, made.items)
    assert found["ties"]["users_last_two_tied"] == pytest.approx(0.43, abs=0.005)
    assert found["ties"]["dependent_targets"]["test"] == found["ties"]["users_last_two_tied"]
    assert found["leaks"]["target_in_own_history"] == {"validation": 0, "test": 0}
    assert found["duplicates"] == {"exact": 0, "repeats": 0, "users_with_repeats": 0}
    assert found["ties"]["rows_in_ties"] == made.facts["rows_in_ties"]
    in_file_order = prepare(RawData(events.lazy()), filters=OFF, order=OrderPolicy("file"))
    assert in_file_order.interactions.equals(made.interactions)
