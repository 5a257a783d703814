"""Hybrids and dense recommenders as graphs answer as the searches do that were evaluated."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundles import (
    LENGTH,
    NUM_ITEMS,
    SIDES,
    catalogue,
    decoder_only,
    encoder_decoder,
    generator_of,
    hierarchical,
    hybrid_of,
    requests,
    sasrec,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.baselines.popularity import Popularity
from genrec.data.sequences import Ragged
from genrec.decoding.catalogue_search import CatalogueSearch
from genrec.decoding.pool import METHODS
from genrec.decoding.selection import select_best
from genrec.errors import ConfigError
from genrec.evaluation.baseline_generator import BaselineGenerator
from genrec.evaluation.dense_generator import DenseGenerator
from genrec.serving.bundle import describe, model_card, padded
from genrec.serving.exportable import exportable
from genrec.serving.graph import Widths
from genrec.serving.runtime import CandidateGenerator, check_parity
from genrec.serving.torch_runtime import TorchGenerator

PROJECT = Path(__file__).resolve().parents[3]


KINDS: dict[str, Any] = {
    "hierarchical": lambda codes: hierarchical(codes, joint_depth=2),
    "flat": decoder_only,
    "tiger": encoder_decoder,
}


@cache
def models(shared: bool, kind: str = "hierarchical") -> tuple[Any, dict[str, Any]]:
    """A beam search and both dense sides over the same items; the sides read fewer and more items than it does."""
    generator = generator_of(KINDS[kind](catalogue(shared=shared)))
    return generator, {name: make(NUM_ITEMS) for name, make in SIDES.items()}


def asked(search: CatalogueSearch, asking: dict[str, Any], k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the search answers, request by request, because a dense index takes one allowed set."""
    rows = zip(asking["histories"], asking["denied"], asking["allow"], strict=True)
    found = [
        search.search(
            Ragged.from_lists([history]), k, deny=torch.from_numpy(padded([denied])), allow=torch.from_numpy(allow)
        )
        for history, denied, allow in rows
    ]
    return torch.cat([part.item_index for part in found]), torch.cat([part.score.float() for part in found])


def answer(search: CatalogueSearch, asking: dict[str, Any], k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What its graph answers, all requests at once, and rows no longer than a runtime gives them."""
    source = exportable(search)
    widths = None if source.trie is None else Widths.of(source.trie, spare_children=1)
    rows = [row[-source.history_length :] for row in asking["histories"]]
    lengths = torch.tensor([len(row) for row in rows])
    given_rows = [torch.from_numpy(padded(part)) for part in (rows, asking["denied"])]
    with torch.inference_mode():
        graph = source.graph(widths, k, select_best).eval()
        return graph(given_rows[0], lengths, given_rows[1], torch.from_numpy(asking["allow"]), source.tensors)


def check(search: CatalogueSearch, asking: dict[str, Any], k: int) -> torch.Tensor:
    items, scores = answer(search, asking, k)
    expected = asked(search, asking, k)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected[1], rtol=0, atol=1e-5)
    assert torch.equal(items, expected[0])
    return items


@settings(max_examples=examples(36))
@given(
    method=st.sampled_from(METHODS),
    kind=st.sampled_from(sorted(KINDS)),
    side=st.sampled_from(sorted(SIDES)),
    shared=st.booleans(),
    weight=st.sampled_from([0.0, 0.3, 1.0, 4.0]),
    prefix_value=st.sampled_from(["sum", "max"]),
    k=st.integers(1, 8),
    seed=st.integers(0, 1000),
)
def test_the_graph_of_a_hybrid_answers_as_the_hybrid(
    method: str, kind: str, side: str, shared: bool, weight: float, prefix_value: str, k: int, seed: int
) -> None:
    generator, sides = models(shared, kind)
    hybrid = hybrid_of(generator, sides[side], method, weight=weight, prefix_value=prefix_value)
    asking = requests(NUM_ITEMS, rows=3, seed=seed)
    asking["histories"][2] *= 2  # longer than what any of them reads
    items = check(hybrid, asking, k)
    for row, denied, allow in zip(items.tolist(), asking["denied"], asking["allow"], strict=True):
        found = {item for item in row if item >= 0}
        assert not found & set(denied)
        assert all(allow[item] for item in found)


@pytest.mark.parametrize("side", SIDES)
def test_a_dense_side_alone(side: str) -> None:
    search = models(False)[1][side]
    asking = requests(NUM_ITEMS, seed=1)
    asking["histories"][2] *= 3
    assert (check(search, asking, 8) < 0).any(), "a request that cannot fill its list"
    items = check(search, asking, NUM_ITEMS + 3)
    assert (items[:, -3:] == -1).all(), "lists longer than the catalogue"


def test_an_item_without_neighbours_is_nobodys_candidate() -> None:
    search = models(False)[1]["item_knn"]
    assert search.model.similarity_[NUM_ITEMS - 1].nnz == 0
    asking = {"histories": [[NUM_ITEMS - 1], [1]], "denied": [[], []], "allow": np.ones((2, NUM_ITEMS), dtype=bool)}
    items = check(search, asking, 5)
    assert items[0].tolist() == [-1] * 5
    assert (items[1] >= 0).any()


def test_facts_of_both_sides_are_in_the_description() -> None:
    generator, sides = models(False)
    hybrid = hybrid_of(generator, sides["item_knn"], "mixture")
    graph = {"beam_width": 8, "num_candidates": 6}
    known = {"model_version": "m", "catalogue_version": "c", "metrics": {"recall@10": 0.1}}
    config = describe(hybrid, graph, **known)
    assert config["history_length"] == LENGTH + 1, "the longer of both"
    model = config["model"]
    assert (model["name"], model["method"], model["weight"]) == ("hybrid", "mixture", 0.7)
    assert (model["generative"]["name"], model["dense"]["name"]) == ("hierarchical", "item_knn")
    assert model["dense"]["window"] == 3
    assert "by a beam search of width 8 over the trie" in model_card(config)
    assert "put together by mixture" in model_card(config)
    config = describe(sides["sasrec"], graph, **known)
    assert config["catalogue"] == {"num_items": NUM_ITEMS, "num_levels": 0}
    assert "semantic IDs" not in model_card(config)


def test_what_cannot_be_exported_is_one_clear_error() -> None:
    generator, sides = models(False)
    ids, counts = generator.item_ids, generator.train_counts.numpy()
    with pytest.raises(ConfigError, match=r"8, the beam width.*found 9"):
        answer(hybrid_of(generator, sides["sasrec"], "mixture"), requests(NUM_ITEMS), 9)
    exact = sasrec(NUM_ITEMS)
    index = DenseGenerator(exact.model, item_ids=ids, train_counts=counts, max_history=4, index="hnsw")
    for search in (index, hybrid_of(generator, index, "rescoring")):
        with pytest.raises(ConfigError, match=r"search\.index=flat"):
            exportable(search, where="there")
    popular = Popularity().fit(Ragged.from_lists([[0]]), num_items=NUM_ITEMS)
    other = BaselineGenerator(popular, item_ids=ids, train_counts=counts)
    with pytest.raises(ConfigError, match="Popularity"):
        exportable(hybrid_of(generator, other, "mixture"), where="there")
    gaps = generator_of(hierarchical(catalogue(), time_gaps=True))
    with pytest.raises(ConfigError, match=r"there: .*the time between events"):
        exportable(hybrid_of(gaps, sides["sasrec"], "mixture"), where="there")


TRACED = (
    "rank_fusion item_knn onnx",
    "mixture sasrec onnx",
    "mixture item_knn torch_export",
    "rescoring sasrec torch_export",
    "in_beam item_knn onnx",
    "dense sasrec onnx",
    "dense sasrec torch_export",
)


@pytest.mark.slow
@pytest.mark.parametrize("words", TRACED)
def test_traced_graphs_answer_the_probes(words: str, tmp_path: Path) -> None:
    """In a process of its own, because the checks of shapes that tests install cannot be traced."""
    if words.endswith("onnx"):
        pytest.importorskip("onnx", reason="needs the extra `export`")
    program = [sys.executable, str(PROJECT / "tests" / "bundles.py"), str(tmp_path / "b"), *words.split()]
    options: dict[str, Any] = {"cwd": PROJECT, "capture_output": True, "text": True, "check": False}
    done = subprocess.run(program, **options, env={**os.environ, "PYTHONPATH": str(PROJECT)})
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "b"
    bundle = CandidateGenerator.load(folder) if words.endswith("onnx") else TorchGenerator(folder)
    parity = check_parity(bundle)
    assert parity["passed"], parity
    assert parity["num_identical"] == parity["num_probes"] == 12
    found = bundle.recommend([["i1", "i2", "gone"], []], 4, exclude=[["i5"], ["i0"]])
    assert found.num_unknown == [1, 0]
    assert found.item_ids[1] == ["i1", "i2", "i3", "i4"]


def test_the_weight_matters() -> None:
    """Graphs of other weights find other lists, so that agreement above is no accident."""
    generator, sides = models(False)
    asking = requests(NUM_ITEMS, seed=2)
    lists = [asked(hybrid_of(generator, sides["sasrec"], "mixture", weight=w), asking, 8)[0] for w in (0.0, 4.0)]
    assert not torch.equal(*lists)
