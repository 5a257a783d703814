"""The search by value as one function of tensors gives what the generator gives, eagerly and in every format."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from bundles import GUIDED, NUM_ITEMS, catalogue, decoder_only, guided_of, hierarchical, requests
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.data.sequences import Ragged
from genrec.decoding.selection import select_best
from genrec.decoding.value_guided_generator import ValueGuidedGenerator
from genrec.decoding.value_guided_settings import RANKINGS
from genrec.errors import ConfigError
from genrec.models.settings import MemorySettings
from genrec.serving.bundle import describe, model_card, padded
from genrec.serving.exportable import exportable
from genrec.serving.graph import Widths, select_by_topk
from genrec.serving.runtime import CandidateGenerator, check_parity
from genrec.serving.torch_runtime import TorchGenerator
from genrec.serving.value_graph import ValueGuidedGraph, check_guided

PROJECT = Path(__file__).resolve().parents[3]
MODELS = {
    "codes alone": lambda codes: hierarchical(codes, node_embeddings=False, item_embeddings=False),
    "joint, with a memory": lambda codes: hierarchical(codes, joint_depth=2, memory=MemorySettings(followers=5)),
    "all codes at once": lambda codes: hierarchical(codes, joint_depth=3),
    "over the vocabulary": lambda codes: hierarchical(codes, normalisation="vocabulary"),
    "flat": decoder_only,
}


@cache
def model_of(kind: str, shared: bool) -> Any:
    return MODELS[kind](catalogue(shared=shared))


def asked(search: ValueGuidedGenerator, asking: dict[str, Any], k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the search answers that is evaluated."""
    deny, allow = torch.from_numpy(padded(asking["denied"])), torch.from_numpy(asking["allow"])
    found = search.search(Ragged.from_lists(asking["histories"]), k, deny=deny, allow=allow)
    return found.item_index, found.score.float()


def answer(
    search: ValueGuidedGenerator, asking: dict[str, Any], k: int, *, select: Any = select_best
) -> tuple[torch.Tensor, torch.Tensor]:
    """What its graph answers."""
    source = exportable(search)
    graph = source.graph(Widths.of(search.trie, spare_children=1), k, select).eval()
    return run(graph, source.tensors, asking)


def run(graph: torch.nn.Module, tensors: dict[str, torch.Tensor], asking: dict[str, Any]) -> Any:
    lengths = torch.tensor([len(row) for row in asking["histories"]])
    rows = [torch.from_numpy(padded(asking[name])) for name in ("histories", "denied")]
    with torch.inference_mode():
        return graph(rows[0], lengths, rows[1], torch.from_numpy(asking["allow"]), tensors)


def check(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-5)
    assert torch.equal(found[0], expected[0])


@st.composite
def budgets(draw: st.DrawFn) -> dict[str, Any]:
    width = draw(st.integers(1, 4))
    return {
        "initial_width": width,
        "node_budget": 6 * width + draw(st.integers(0, 12)),  # a beam search of 3 codes costs at most 3 x its width
        "rank_by": draw(st.sampled_from(RANKINGS)),
        "entropy_weight": draw(st.sampled_from([0.0, 0.1, 1.0])),
        "exploration": draw(st.sampled_from([0.0, 0.3, 1.0])),
        "selections_per_round": draw(st.sampled_from([1, 1, 3])),
    }


@settings(max_examples=examples(36))
@given(st.sampled_from(sorted(MODELS)), st.booleans(), budgets(), st.integers(0, 99))
def test_the_graph_answers_as_the_generator(kind: str, shared: bool, how: dict[str, Any], seed: int) -> None:
    search, asking = guided_of(model_of(kind, shared), seed=seed, **how), requests(NUM_ITEMS, rows=4, seed=seed)
    found = answer(search, asking, 8, select=select_by_topk if seed % 2 else select_best)
    check(found, asked(search, asking, 8))
    for row, denied, allow in zip(found[0].tolist(), asking["denied"], asking["allow"], strict=True):
        items = {item for item in row if item >= 0}
        assert not items & set(denied)
        assert all(allow[item] for item in items)


def test_budgets_seeds_and_histories_make_a_difference() -> None:
    histories = [row for item in range(4) for row in ([item, item + 9], [item + 9, item])]
    asking = {"histories": histories, "denied": [[]] * 8, "allow": np.ones((8, NUM_ITEMS), dtype=bool)}
    small: dict[str, Any] = {"initial_width": 1, "node_budget": 6, "entropy_weight": 0.0}
    lists = [
        answer(guided_of(model_of("codes alone", False), **small | how), asking, 6)[0]
        for how in ({}, {"seed": 1}, {"node_budget": 9}, {"exploration": 0.0})
    ]
    assert all(not torch.equal(lists[0], other) for other in lists[1:])
    assert len({tuple(row) for row in lists[0].tolist()}) > 4


def test_one_graph_serves_later_catalogues() -> None:
    before, after = (hierarchical(catalogue(size), joint_depth=2) for size in (24, 30))
    after.load_adapted(before.state_dict(), torch.arange(24))
    graph = exportable(guided_of(before)).graph(Widths.of(before.trie, spare_children=3), 8, select_best).eval()
    search, asking = guided_of(after), requests(30)
    found = run(graph, exportable(search).tensors, asking)
    check(found, asked(search, asking, 8))
    assert bool((found[0] >= 24).any())
    assert before.trie.num_items == 24, "the model keeps its own trie"


def test_what_cannot_be_exported_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match="in a recommender of this kind") as caught:
        check_guided(SimpleNamespace(name="encoder_decoder"))
    assert "search.name=beam" in str(caught.value)
    with pytest.raises(ConfigError, match="the time between events"):
        exportable(guided_of(hierarchical(catalogue(), time_gaps=True)))
    search = guided_of(model_of("flat", False))
    how: dict[str, Any] = {"widths": Widths.of(search.trie), "seed": 0}
    head = search.trees.head  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ConfigError, match="wrong number of candidates"):
        ValueGuidedGraph(search.scorer, head, settings=search.settings, num_candidates=0, **how)


def test_the_bundle_says_how_it_searches() -> None:
    search = guided_of(model_of("flat", False), seed=7)
    source = exportable(search)
    assert (source.settings["name"], source.settings["node_budget"], source.seed) == ("value_guided", 24, 7)
    graph = {"num_candidates": 8, "beam_width": None}
    config = describe(search, graph, model_version="m", catalogue_version="c", metrics={})
    assert "by a search by the value of 24 prefixes" in " ".join(model_card(config).split())


@pytest.mark.slow
@pytest.mark.timeout(1200)  # tracing takes minutes
@pytest.mark.parametrize(
    ("kind", "form"), [("flat", "onnx"), ("joint", "onnx"), ("joint", "torch_export"), ("joint", "aot_inductor")]
)
def test_exported_graphs_answer_as_the_generator(kind: str, form: str, tmp_path: Path) -> None:
    """In a process of its own: the checks of shapes and types that tests install cannot be traced."""
    pytest.importorskip("onnx", reason="needs the extra `export`")
    if form == "aot_inductor" and shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("needs a C++ compiler")
    words = [sys.executable, str(PROJECT / "tests" / "bundles.py"), str(tmp_path / "b"), "guided", kind, form]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(PROJECT)})
    assert done.returncode == 0, done.stderr
    bundle = (CandidateGenerator if form == "onnx" else TorchGenerator).load(tmp_path / "b")
    assert check_parity(bundle)["passed"]
    search = GUIDED[kind]()
    for seed in range(20):
        asking = requests(NUM_ITEMS, rows=2 + seed % 7, seed=seed)
        if seed % 5 == 0:
            asking = {name: part[:1] for name, part in asking.items()}
        found = bundle.search(asking["histories"], asking["denied"], asking["allow"])
        expected = asked(search, asking, 6)
        np.testing.assert_allclose(found[1], expected[1].numpy(), rtol=0, atol=1e-5)
        assert np.array_equal(found[0], expected[0].numpy())
