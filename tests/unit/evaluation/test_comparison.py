"""Comparisons against loops over cases and pairs of seeds."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import polars as pl
import pytest

from genrec.evaluation.comparison import ComparisonProtocol, System, compare_systems, hit_overlap, verdict
from genrec.evaluation.significance import holm
from genrec.evaluation.slices import NOVELTY_LABELS, POPULARITY_LABELS, length_bucket_names

USERS = [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]


def table(rank: np.ndarray) -> pl.DataFrame:
    """Cases of twelve ranks; masked ranks are one lower, the last two cases repeat an item."""
    lengths = ["1-5"] * 6 + ["6-10"] * 6
    masked = np.maximum(rank - 1, 0)
    return pl.DataFrame(
        {
            "case_index": np.arange(12, dtype=np.uint32),
            "user_index": np.array(USERS, dtype=np.int32),
            "target": np.arange(12, dtype=np.int32),
            "num_greater": rank.astype(np.int32),
            "num_tied": np.zeros(12, dtype=np.int32),
            "num_greater_masked": masked.astype(np.int32),
            "num_tied_masked": np.zeros(12, dtype=np.int32),
            "target_popularity": pl.Series(["head", "tail", "tail"] * 4, dtype=pl.Enum(POPULARITY_LABELS)),
            "history_length_bucket": pl.Series(lengths, dtype=pl.Enum(length_bucket_names())),
            "target_novelty": pl.Series(["new"] * 10 + ["repeat"] * 2, dtype=pl.Enum(NOVELTY_LABELS)),
        }
    )


@pytest.fixture(scope="module")
def systems() -> list[System]:
    random = np.random.default_rng(0)
    ranks = random.integers(0, 20, size=(6, 12))
    tables = [table(rank) for rank in ranks]
    return [System("a", tables[:2]), System("b", tables[2:5]), System("c", tables[5:], has_seeds=False)]


PROTOCOL = ComparisonProtocol(cutoff=10, num_resamples=200, num_permutations=300, seed=1)


def gain(rank: float, metric: str) -> float:
    if rank >= 10:
        return 0.0
    return 1.0 if metric.startswith("recall") else 1 / math.log2(rank + 2)


def values(system: System, mask: str, metric: str) -> list[list[float]]:
    column = "num_greater" if mask == "none" else "num_greater_masked"
    return [[gain(rank, metric) for rank in frame[column].to_list()] for frame in system.tables]


def mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def test_differences_slices_and_overlap_are_those_of_loops(systems: list[System]) -> None:
    report = compare_systems(systems, "b", PROTOCOL)
    by_name = {system.name: system for system in systems}
    assert len(report["comparisons"]) == 2 * 2 * 2
    for row in report["comparisons"]:
        own, base = (values(by_name[name], row["mask"], row["metric"]) for name in (row["system"], "b"))
        expected = mean([mean(seed) for seed in own]) - mean([mean(seed) for seed in base])
        assert row["difference"] == pytest.approx(expected)
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["over"] == "seeds and cases"
    corrected, plain = ([row[name] for row in report["comparisons"]] for name in ("p_holm", "p_value"))
    assert corrected == holm(plain).tolist()
    for row in report["slices"]:
        own, base = (values(by_name[name], row["mask"], row["metric"]) for name in (row["system"], "b"))
        frame = systems[0].tables[0]
        chosen = [case for case in range(12) if row["slice"] == "all" or str(frame[row["slice"]][case]) == row["label"]]
        by_case = [mean([seed[case] for seed in own]) - mean([seed[case] for seed in base]) for case in chosen]
        assert row["num_cases"] == len(chosen)
        assert row["difference"] == pytest.approx(mean(by_case))
        counts = (sum(d > 1e-9 for d in by_case), sum(abs(d) <= 1e-9 for d in by_case), sum(d < -1e-9 for d in by_case))
        assert (row["num_won"], row["num_tied"], row["num_lost"]) == counts
    for name, label in {(row["slice"], row["label"]) for row in report["slices"]}:
        rows = [row for row in report["slices"] if (row["slice"], row["label"]) == (name, label)]
        assert len(rows) == 8
    for row in report["overlap"]:
        own, base = (values(by_name[name], row["mask"], "recall@10") for name in (row["system"], "b"))
        pairs = list(product(own, base, range(12)))
        both = mean([a[case] * b[case] for a, b, case in pairs])
        alone = mean([a[case] * (1 - b[case]) for a, b, case in pairs])
        assert (row["both"], row["system_only"]) == (pytest.approx(both), pytest.approx(alone))
        assert sum(row[key] for key in ("both", "system_only", "reference_only", "neither")) == pytest.approx(1)


def test_paired_seeds_cancel_what_they_have_in_common() -> None:
    """The i-th seed of b is the i-th of a with one case more; whatever the seeds do, the difference does not change."""
    random = np.random.default_rng(3)
    ranks = random.integers(0, 20, size=(3, 12))
    ranks[:, 0] = 15
    better = ranks.copy()
    better[:, 0] = 0
    systems = [System("a", [table(rank) for rank in ranks]), System("b", [table(rank) for rank in better])]
    (row, *_) = compare_systems(systems, "a", PROTOCOL._replace(pair_seeds=True))["comparisons"]
    assert (row["over"], row["seeds_error"]) == ("paired seeds and cases", 0)
    (loose, *_) = compare_systems(systems, "a", PROTOCOL)["comparisons"]
    assert loose["difference"] == pytest.approx(row["difference"]) == pytest.approx(1 / 12)
    assert loose["seeds_error"] > 0
    assert row["high"] - row["low"] < loose["high"] - loose["low"]
    (uneven, *_) = compare_systems(
        [System("a", systems[0].tables[:2]), systems[1]], "a", PROTOCOL._replace(pair_seeds=True)
    )["comparisons"]
    assert uneven["over"] == "seeds and cases"


def test_one_row_a_side_is_compared_over_cases(systems: list[System]) -> None:
    one = System("one", systems[0].tables[:1])
    report = compare_systems([systems[2], one], "c", PROTOCOL)
    assert {row["over"] for row in report["comparisons"]} == {"cases"}
    assert {row["name"]: row["num_seeds"] for row in report["systems"]} == {"c": 1, "one": 1}
    assert all(found["agreement"] == {} for found in report["systems"])


def test_equal_systems_are_not_different(systems: list[System]) -> None:
    twin = System("twin", systems[0].tables)
    report = compare_systems([systems[0], twin], "a", PROTOCOL)
    assert all(row["difference"] == 0 and not row["is_significant"] for row in report["comparisons"])
    assert {row["num_won"] + row["num_lost"] for row in report["slices"]} == {0}
    assert all("no difference" in found["text"] for found in report["verdicts"])
    hits = np.array(values(systems[0], "none", "recall@10"))
    both = (hits[0] * hits[1]).mean()
    assert report["systems"][0]["agreement"]["none"] == pytest.approx(both / hits.mean())


def test_a_clear_difference_is_said_to_be_one() -> None:
    good, bad = (System(name, [table(np.full(12, rank))]) for name, rank in (("good", 0), ("bad", 19)))
    report = compare_systems([bad, good], "bad", PROTOCOL)
    texts = {found["text"] for found in report["verdicts"]}
    assert all(text.startswith("good is better than bad: recall@10 +1.0000") for text in texts)
    turned = compare_systems([bad, good], "good", PROTOCOL)
    assert all(found["text"].startswith("bad is worse than good") for found in turned["verdicts"])
    mixed = [
        {**report["comparisons"][0], "difference": sign, "metric": name, "is_significant": True, "p_holm": 0.01}
        for sign, name in ((0.1, "recall@10"), (-0.1, "ndcg@10"))
    ]
    assert verdict(mixed).startswith("good is better and worse than bad: recall@10 +.1000")


def test_overlap_of_nothing() -> None:
    assert hit_overlap(np.zeros((1, 3)), np.zeros((2, 3))) == {
        "both": 0,
        "system_only": 0,
        "reference_only": 0,
        "neither": 1,
    }
