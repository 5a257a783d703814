from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.errors import ConfigError, DataError, GateError
from genrec.quantization.diagnostics import check_gates, health, health_rows

SIZES = (4, 3, 5)
SHARES = {"min_items": 0.0, "p05_items": 0.05, "p25_items": 0.25, "median_items": 0.5}
SHARES |= {"p75_items": 0.75, "p95_items": 0.95, "max_items": 1.0}
tables = st.lists(st.tuples(*[st.integers(0, size - 1) for size in SIZES]), min_size=1, max_size=40)


def of(rows: list[tuple[int, ...]], **arguments: Any) -> dict[str, Any]:
    return health(np.array(rows, dtype=np.int32), codebook_sizes=SIZES, **arguments)


def at_least(share: float, counts: Iterable[int]) -> int:
    """The smallest count that this share of the counts does not exceed."""
    counts = sorted(counts)
    return next(count for at, count in enumerate(counts, start=1) if at / len(counts) >= share - 1e-12)


@given(tables)
def test_counts_are_those_of_plain_python(rows) -> None:
    report = of(rows)
    buckets = Counter(rows)
    assert report["num_items"] == len(rows)
    assert report["collisions"] == {
        "distinct": len(buckets),
        "rate": pytest.approx(1 - len(set(rows)) / len(rows)),
        "items": sum(buckets[row] > 1 for row in rows),
        "largest_bucket": max(buckets.values()),
    }
    for at, level in enumerate(report["levels"]):
        counts = Counter(row[at] for row in rows)
        perplexity = math.prod((len(rows) / count) ** (count / len(rows)) for count in counts.values())
        assert level == {
            "level": at + 1,
            "size": SIZES[at],
            "used": len(counts),
            "dead": SIZES[at] - len(counts),
            "perplexity": pytest.approx(perplexity),
            "perplexity_share": pytest.approx(perplexity / SIZES[at]),
            "usage": sorted((counts[code] for code in range(SIZES[at])), reverse=True),
            "mean_squared_residual": None,
            "unexplained": None,
        }
    for depth, entry in enumerate(report["depths"], start=1):
        nodes = Counter(row[:depth] for row in rows)
        children = Counter(prefix[:-1] for prefix in nodes)
        assert entry == {
            "depth": depth,
            "nodes": len(nodes),
            "mean_items": pytest.approx(len(rows) / len(nodes)),
            **{name: at_least(share, nodes.values()) for name, share in SHARES.items()},
            "max_children": max(children.values()),
        }
    assert report["resolved"] is report["purity"] is report["neighbours"] is report["zero_rows"] is None
    assert json.loads(json.dumps(report, allow_nan=False)) == report


@given(tables)
def test_a_suffix_level_resolves(rows) -> None:
    seen: Counter[tuple[int, ...]] = Counter()
    resolved = []
    for row in rows:
        resolved.append((*row, seen[row]))
        seen[row] += 1
    before, after = np.array(rows), np.array(resolved)
    report = health(before, after, codebook_sizes=(*SIZES, 50))
    assert report["codebook_sizes"] == list(SIZES)
    assert report["resolved"] == {
        "num_levels": 4,
        "codebook_sizes": [*SIZES, 50],
        "distinct": len(rows),
        "largest_bucket": 1,
        "moved": 0,
    }
    assert report["depths"][-1] == {
        "depth": 4,
        "nodes": len(rows),
        "mean_items": 1.0,
        **dict.fromkeys(SHARES, 1),
        "max_children": report["collisions"]["largest_bucket"],
    }
    assert report["collisions"] == of(rows)["collisions"]


def test_items_that_moved() -> None:
    report = health(np.array([[0, 0, 0], [0, 0, 0]]), np.array([[0, 0, 0], [0, 0, 1]]), codebook_sizes=SIZES)
    assert report["resolved"]["moved"] == 1
    still = health(np.array([[0, 0, 0], [0, 0, 0]]), np.array([[0, 0, 0], [0, 0, 0]]), codebook_sizes=SIZES)
    value, remark = {name: rest for name, *rest in health_rows(still)}["after resolution"]
    assert value == "3 levels, 0 items moved, 1 still collide"
    assert remark.startswith("note:")


def test_equal_vectors_explain_collisions() -> None:
    """Items 0, 1 and 4 are equal and so are 5 and 6; 2 collides with the former without need; 3 is alone."""
    codes = [(0, 0, 0), (0, 0, 0), (0, 0, 0), (1, 0, 0), (0, 0, 0), (2, 0, 0), (2, 0, 0)]
    vectors = np.array([[1, 0], [1, -0.0], [1, 0.1], [1, 0], [1, 0], [0, 0], [0, -0.0]], dtype=np.float32)
    report = of(codes, vectors=vectors)
    assert report["collisions"]["items"] == 6
    assert report["collisions"]["rate"] == pytest.approx(4 / 7)
    assert report["collisions"]["identical_items"] == 5
    assert report["collisions"]["avoidable_rate"] == pytest.approx(1 / 7)
    assert report["zero_rows"] == 2


def test_residuals_of_every_depth() -> None:
    codebooks = [np.array([[0.0, 0], [8, 0], [0, 8], [8, 8]]), np.array([[0.0, 0], [1, 0], [0, 1]]), np.zeros((5, 2))]
    rows = [(0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 0, 4)]
    vectors = np.array([[0, 0], [9, 0], [0, 8.5], [8, 8]], dtype=np.float32)

    def decode(codes: np.ndarray) -> np.ndarray:
        return sum(book[column] for book, column in zip(codebooks, codes.T, strict=False)).astype(np.float32)  # type: ignore[union-attr]

    levels = of(rows, vectors=vectors, decode=decode)["levels"]
    assert [level["mean_squared_residual"] for level in levels] == [1.25 / 4, 0.25 / 4, 0.25 / 4]
    variance = np.square(vectors - vectors.mean(axis=0)).sum(axis=1).mean()
    assert levels[0]["unexplained"] == pytest.approx(1.25 / 4 / variance)


def test_categories() -> None:
    rows = [(item // 10, item // 5 % 2, 0) for item in range(40)]
    paths = [(["Office"] if item < 20 else ["Home"]) + [f"leaf {item // 5}"] for item in range(40)]
    purity = of([*rows, (0, 0, 0), (0, 0, 0)], categories=[*paths, None, []])["purity"]
    assert purity["first"]["num_items"] == 40
    assert purity["first"]["num_classes"] == 2
    first = purity["first"]["depths"][0]
    assert first["nmi"] == pytest.approx(2 / 3)  # 1 bit of 2, 2 (1) / (1 + 2)
    assert first["adjusted"] == pytest.approx((first["nmi"] - first["by_chance"]) / (1 - first["by_chance"]))
    assert purity["last"]["num_classes"] == 8
    assert purity["last"]["depths"][1]["nmi"] == pytest.approx(1.0)
    one = of(rows, categories=[["Office", leaf] for _, leaf in paths])
    assert one["purity"]["first"] is None
    assert ("first category", "fewer than two classes", "note: no purity") in health_rows(one)
    assert of(rows, categories=[None] * 40)["purity"] == {"first": None, "last": None}


def test_neighbours_of_separate_clusters() -> None:
    """Ten items a cluster, eleven with the item: all ten neighbours share the first code."""
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(4), 11)
    vectors = (np.eye(4)[cluster] * 100 + rng.standard_normal((44, 4))).astype(np.float32)
    report = of([(int(c), 0, 0) for c in cluster], vectors=vectors)
    assert report["neighbours"]["depths"][0] == {
        "depth": 1,
        "share": 1.0,
        "by_chance": pytest.approx(10 / 43),
        "lift": pytest.approx(4.3),
    }
    assert of([(0, 0, 0)], vectors=vectors[:1])["neighbours"] is None


@pytest.mark.parametrize(
    ("codes", "arguments", "message"),
    [
        (np.zeros((2, 3)), {}, r"codes have the wrong shape or type \(expected integers \[N, L\], found float64"),
        (np.zeros((0, 3), dtype=int), {}, "wrong shape or type"),
        (np.zeros((2, 2), dtype=int), {}, r"wrong number of levels \(expected 3, as codebook_sizes has, found 2"),
        (np.zeros((2, 4), dtype=int), {}, "wrong number of levels"),
        (np.array([[0, 0, 0], [0, 3, 0]]), {}, r"outside level 2 in row 1 of the codes \(expected 0 to 2, found 3"),
        (np.array([[0, -1, 0]]), {}, "outside level 2 in row 0"),
        (np.zeros((2, 3), dtype=int), {"codes_after": np.zeros((3, 3), dtype=int)}, "another number of items"),
        (np.zeros((2, 2), dtype=int), {"codes_after": np.zeros((2, 2), dtype=int)}, "resolved codes have the wrong"),
        (np.zeros((2, 3), dtype=int), {"vectors": np.zeros((3, 4), dtype=np.float32)}, "vectors do not fit"),
        (np.zeros((2, 3), dtype=int), {"vectors": np.zeros((2, 4))}, "vectors do not fit"),
        (np.zeros((2, 3), dtype=int), {"categories": [["a"]]}, r"categories do not fit.*expected 2 items, found 1"),
    ],
)
def test_tables_that_are_none(codes, arguments, message) -> None:
    with pytest.raises(DataError, match=message):
        health(codes, codebook_sizes=SIZES, **arguments)


def test_wrong_number_of_queries() -> None:
    with pytest.raises(ConfigError, match="wrong max_queries"):
        of([(0, 0, 0)], max_queries=0)


HEALTHY = [(a, b, c) for a in range(4) for b in range(3) for c in range(5)]


def test_a_healthy_table_passes() -> None:
    report = of(HEALTHY)
    check_gates(report, max_collision_rate=0.0, min_perplexity_share=0.999, max_dead_share=0.0)
    assert {remark for _, _, remark in health_rows(report)} == {"ok"}


def test_gates_name_what_failed() -> None:
    report = of([(0, b, b) for b in range(3)] * 2)
    with pytest.raises(GateError) as caught:
        check_gates(report)
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert "collision rate at most 0.3" in message
    assert "level 1 dead codes at most 0.5" in message
    assert "found 0.5, 0.75" in message
    assert "level 2" not in message
    assert "raise tokenizer.codebook_sizes or add a level" in message
    with pytest.raises(GateError, match=r"0\.75\); make others with tokenizer=residual_kmeans, or relax the gates$"):
        check_gates(report, are_given=True)
    with pytest.raises(GateError, match=r"\(expected level 1 perplexity share at least 0\.26, found 0\.25\); lower"):
        check_gates(report, max_collision_rate=1.0, max_dead_share=1.0, min_perplexity_share=0.26)
    check_gates(report, max_collision_rate=0.5, max_dead_share=0.75, min_perplexity_share=0.25)


def with_lift(lift: float | None) -> dict[str, Any]:
    entry = {"window": 5, "num_targets": 9, "repeat_share": 0.0}
    depths = [{"depth": 1, "share": 0.2, "by_chance": 0.1, "lift": lift, "information": 0.1}]
    proxy = {"num_positions": 9, "num_sampled": 9, "last": {**entry, "window": 1, "depths": depths}}
    return {**of(HEALTHY), "proxy": {**proxy, "recent": {**entry, "depths": depths}}}


def test_the_gate_on_the_proxy() -> None:
    check_gates(with_lift(2.0), min_proxy_lift=2.0)
    check_gates(of(HEALTHY))
    with pytest.raises(GateError, match=r"proxy lift of depth 1 at least 3, found 2\); use embeddings that know"):
        check_gates(with_lift(2.0), min_proxy_lift=3.0)
    for unknown in (with_lift(None), of(HEALTHY), {**of(HEALTHY), "proxy": None}):
        with pytest.raises(GateError, match="found none: no next item to count"):
            check_gates(unknown, min_proxy_lift=0.1)
    with pytest.raises(GateError, match=r"collision rate.*proxy lift.*raise tokenizer.*use embeddings"):
        check_gates({**with_lift(1.0), "collisions": {"rate": 0.9}}, min_proxy_lift=1.5)
    for wrong in (-0.1, math.nan, math.inf):
        with pytest.raises(ConfigError, match="wrong gate min_proxy_lift"):
            check_gates(of(HEALTHY), min_proxy_lift=wrong)


def test_rows_of_the_proxy() -> None:
    rows = {name: rest for name, *rest in health_rows(with_lift(2.0))}
    assert rows["depth 1 next item shares with last 5"] == ["20 % (by chance 10 %)", "ok: lift 2"]
    report = with_lift(0.5)
    report["proxy"]["recent"]["depths"] = [{"depth": 1, "share": 0.1, "by_chance": 0.2, "lift": 0.5}]
    assert ["10 % (by chance 20 %)", "warn: the codes know nothing of the histories"] in [
        rest for _, *rest in health_rows(report)
    ]
    report["proxy"]["recent"]["depths"] = [{"depth": 1, "share": 0.0, "by_chance": 0.0, "lift": None}]
    assert ["0 % (by chance 0 %)", "note: no two items share one"] in [rest for _, *rest in health_rows(report)]
    report["proxy"]["recent"]["num_targets"] = 0
    assert ("next item and last 5", "always a repeat", "note: no proxy for recall") in health_rows(report)


def test_usage_of_a_large_level_is_told_in_groups() -> None:
    codes = np.repeat(np.arange(100), np.arange(100))[:, None]
    (level,) = health(codes, codebook_sizes=(200,))["levels"]
    assert len(level["usage"]) == 64
    assert level["usage"] == sorted(level["usage"], reverse=True)
    sizes = [len(group) for group in np.array_split(range(200), 64)]
    assert np.dot(level["usage"], sizes) == pytest.approx(len(codes))
    assert level["usage"][0] == pytest.approx(np.mean([99, 98, 97, 96]))
    assert level["usage"][-1] == 0


@pytest.mark.parametrize("gate", ["max_collision_rate", "min_perplexity_share", "max_dead_share"])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_impossible_gates(gate: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"wrong gate {gate}"):
        check_gates(of(HEALTHY), **{gate: value})


def test_rows_of_an_unhealthy_table() -> None:
    vectors = np.ones((60, 2), dtype=np.float32)
    vectors[:10] = 0
    report = of([(0, 0, 0)] * 60, vectors=vectors, categories=[["a"], ["b"]] * 30)
    rows = {name: (value, remark) for name, value, remark in health_rows(report)}
    assert rows["collision rate"] == ("98.3 %", "warn: more levels or codes?")
    assert rows["items with a vector of zeros"][0] == "10"
    assert rows["items with another's vector"][0] == "60"
    assert rows["items with another's vector"][1].startswith("warn:")
    assert rows["largest bucket"] == ("60", "note: a suffix level needs 60 codes and its reserve")
    assert rows["level 1 used codes"] == ("1 of 4", "warn: 75 % of the codes are never used")
    assert rows["level 3 perplexity"] == ("1.0 (20 %)", "note: items crowd into few codes")
    assert rows["depth 1 NMI with the last category"][1].startswith("warn: the codes know nothing of the categories")
    assert rows["depth 1 shared with 10 neighbours"][1].startswith("warn: the codes know nothing of the vectors")
    assert len(rows) == len(health_rows(report))
