from __future__ import annotations

import numpy as np
import pytest

from genrec.quantization.comparison import alike, best_tables, flat_figures
from genrec.quantization.diagnostics import health


def test_names_are_the_way_through_the_report() -> None:
    codes = np.array([[0, 1], [1, 0], [1, 0], [0, 0]])
    report = {**health(codes, codebook_sizes=(2, 3), categories=[["a"], ["b"], ["a"], None]), "tokenizer": {"seed": 3}}
    report |= {"training": [{"level": 1, "loss": 2.0}], "examples": [{"depth": 1, "num_items": 4}]}
    figures = flat_figures(report)
    assert figures["num_items"] == 4
    assert figures["collisions.rate"] == 0.25
    assert figures["levels.2.size"] == 3
    assert figures["levels.1.perplexity"] == pytest.approx(2.0)
    assert figures["depths.2.nodes"] == 3
    assert figures["purity.last.depths.1.nmi"] == report["purity"]["last"]["depths"][0]["nmi"]
    sections = {name.split(".")[0] for name in figures}
    assert sections == {"num_items", "num_levels", "collisions", "levels", "depths", "purity"}
    assert not {"levels.1.unexplained", "levels.1.level", "levels.1.usage"} & figures.keys()
    assert flat_figures({"is": True, "name": "x", "none": None, "list": [1, 2]}) == {}


def test_the_best_tables() -> None:
    figures = {
        "a": {
            "collisions.rate": 0.1,
            "levels.1.perplexity_share": 0.5,
            "neighbours.depths.1.share": 0.9,
            "num_items": 4,
        },
        "b": {
            "collisions.rate": 0.2,
            "levels.1.perplexity_share": 0.7,
            "neighbours.depths.1.share": 0.1,
            "num_items": 5,
        },
        "c": {"collisions.rate": 0.1, "levels.1.perplexity_share": 0.7, "proxy.recent.depths.1.lift": 3.0},
    }
    assert best_tables(figures) == {"collisions.rate": ["a", "c"], "levels.1.perplexity_share": ["b", "c"]}
    same = {name: {"proxy.last.depths.2.lift": 2.0} for name in "ab"}
    assert best_tables(same) == {}


def test_how_alike() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 6, (400, 3))
    renamed = (codes * 5 + 1) % 7
    for entry in alike(codes, renamed, seed=0):
        assert entry["nmi"] == pytest.approx(1.0)
        assert entry["adjusted"] == pytest.approx(1.0)
        assert entry["by_chance"] < 0.8
    first, second = alike(codes, rng.integers(0, 6, (400, 2)), seed=0)
    assert (first["depth"], second["depth"]) == (1, 2)
    assert abs(first["adjusted"]) < 0.05
    assert first["by_chance"] < second["by_chance"]
    assert [entry["depth"] for entry in alike(codes, codes[:, :1], seed=0)] == [1]
    assert alike(np.arange(5)[:, None], np.arange(5)[:, None], seed=0)[0]["adjusted"] == 0.0, "chance gives 1 as well"
