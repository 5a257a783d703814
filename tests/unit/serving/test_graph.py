"""The search as one function of tensors gives what the candidate generator gives, for any catalogue that fits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from bundles import (
    LENGTH,
    NUM_ITEMS,
    SIZES,
    catalogue,
    decoder_only,
    encoder_decoder,
    generator_of,
    hierarchical,
    requests,
)

from genrec.data.sequences import Ragged
from genrec.decoding.generator import CandidateGenerator
from genrec.errors import ConfigError
from genrec.models.settings import MemorySettings
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.serving.bundle import padded
from genrec.serving.graph import SearchGraph, Widths, catalogue_tensors, check_supported, model_tensors, select_by_topk

MEMORY = MemorySettings(followers=5)
MODELS = {
    "codes alone": lambda codes: hierarchical(codes, node_embeddings=False, item_embeddings=False),
    "joint, with a memory": lambda codes: hierarchical(codes, joint_depth=2, memory=MEMORY),
    "all codes at once": lambda codes: hierarchical(codes, joint_depth=3, memory=MEMORY),
    "over the vocabulary": lambda codes: hierarchical(codes, normalisation="vocabulary"),
    "flat": decoder_only,
    "tiger": encoder_decoder,
    "tiger, causal": lambda codes: encoder_decoder(codes, encoder="causal", item_embeddings=True, temperature=0.7),
    "tiger, gated": lambda codes: encoder_decoder(
        codes, activation="gated_gelu", normalisation="vocabulary", node_embeddings=False, num_buckets=4, max_distance=9
    ),
}


def asked(generator: CandidateGenerator, given: dict[str, Any], k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the generator that is evaluated answers."""
    found = generator.search(
        Ragged.from_lists(given["histories"]),
        k,
        deny=torch.from_numpy(padded(given["denied"])),
        allow=torch.from_numpy(given["allow"]),
    )
    return found.item_index, found.score.float()


def answer(graph: SearchGraph, generator: CandidateGenerator, given: dict[str, Any]) -> tuple[Any, Any]:
    tensors = catalogue_tensors(generator.scorer, generator.train_counts.numpy())
    lengths = torch.tensor([len(row) for row in given["histories"]])
    rows = [torch.from_numpy(padded(given[name])) for name in ("histories", "denied")]
    with torch.inference_mode():
        return graph(rows[0], lengths, rows[1], torch.from_numpy(given["allow"]), tensors)


@pytest.mark.parametrize("shared", [False, True], ids=["unique", "shared"])
@pytest.mark.parametrize("kind", MODELS)
def test_the_graph_answers_as_the_generator(kind: str, shared: bool) -> None:
    model = MODELS[kind](catalogue(shared=shared))
    generator, given = generator_of(model), requests(NUM_ITEMS)
    expected = asked(generator, given, 8)
    assert (expected[0] < 0).any(), "a request that cannot fill its list"
    graph = SearchGraph(model, widths=Widths.of(model.trie, spare_children=1), beam_width=8, num_candidates=8)
    items, scores = answer(graph.eval(), generator, given)
    torch.testing.assert_close(scores, expected[1], rtol=0, atol=1e-5)
    assert torch.equal(items, expected[0])
    for row, denied, allow in zip(items.tolist(), given["denied"], given["allow"], strict=True):
        found = {item for item in row if item >= 0}
        assert not found & set(denied)
        assert all(allow[item] for item in found)


def test_topk_chooses_as_the_search_does_where_nothing_is_tied() -> None:
    model = MODELS["joint, with a memory"](catalogue())
    generator, given = generator_of(model), requests(NUM_ITEMS)
    sizes: dict[str, Any] = {"widths": Widths.of(model.trie), "beam_width": 8, "num_candidates": 5}
    items, _ = answer(SearchGraph(model, **sizes, select=select_by_topk).eval(), generator, given)
    assert torch.equal(items, asked(generator, given, 5)[0])


@pytest.mark.parametrize("kind", ["joint, with a memory", "flat", "tiger, causal"])
def test_one_graph_serves_later_catalogues(kind: str) -> None:
    """Weights of the graph's own model serve, all that belongs to the catalogue comes with it."""
    before, after = MODELS[kind](catalogue(30)), MODELS[kind](catalogue(NUM_ITEMS))
    after.load_adapted(before.state_dict(), torch.arange(30))
    if hasattr(after, "memory"):
        after.memory.take_over({name: tensor for name, tensor in before.memory.named_buffers()}, torch.arange(30))
    widths = Widths.of(before.trie, spare_children=3)
    widths.check(after.trie)
    graph = SearchGraph(before, widths=widths, beam_width=8, num_candidates=8).eval()
    generator, given = generator_of(after), requests(NUM_ITEMS)
    items, scores = answer(graph, generator, given)
    expected = asked(generator, given, 8)
    assert torch.equal(items, expected[0])
    torch.testing.assert_close(scores, expected[1], rtol=0, atol=1e-5)
    assert (items >= 30).any()
    assert before.trie.num_items == 30, "the model keeps its own trie"


def test_what_does_not_belong_to_the_catalogue_is_the_same_over_every_catalogue() -> None:
    before, after = (hierarchical(catalogue(size), memory=MEMORY) for size in (30, NUM_ITEMS))
    after.load_adapted(before.state_dict(), torch.arange(30))
    own = model_tensors(after)
    prefixes = [name for name, _ in after.named_buffers() if ".prefixes_" in name or "_scale" in name]
    others = [name for name in after.state_dict() if name not in own and name not in prefixes]
    assert len(others) > 20
    assert all(torch.equal(before.state_dict()[name], after.state_dict()[name]) for name in others)


def test_a_catalogue_that_is_too_wide_needs_a_graph_of_its_own() -> None:
    narrow = SemanticIdTrie.build(catalogue(12), SIZES)
    wide = SemanticIdTrie.build(catalogue(100), SIZES)
    Widths.of(wide).check(narrow)
    with pytest.raises(ConfigError, match="does not fit into the graph"):
        Widths.of(narrow, spare_children=1).check(wide)
    shared = SemanticIdTrie.build(catalogue(12, shared=True), SIZES)
    with pytest.raises(ConfigError, match="leave out graph"):
        Widths.of(narrow, spare_children=9).check(shared)
    with pytest.raises(ConfigError, match="codebooks"):
        Widths.of(narrow).check(SemanticIdTrie.build(catalogue(12), (4, 5, 7)))


def test_what_cannot_be_exported_is_one_clear_error() -> None:
    check_supported(hierarchical(catalogue()))
    with pytest.raises(ConfigError, match="exported yet"):
        check_supported(SimpleNamespace(name="t5"))
    with pytest.raises(ConfigError, match="the time between events"):
        check_supported(hierarchical(catalogue(), time_gaps=True))
    model = hierarchical(catalogue())
    with pytest.raises(ConfigError, match="8 beams cannot return"):
        SearchGraph(model, widths=Widths.of(model.trie), beam_width=8, num_candidates=9)


def test_a_small_catalogue_fills_lists_with_padding() -> None:
    model = hierarchical(catalogue(5))
    generator = generator_of(model)
    given = {"histories": [[0, 1], []], "denied": [[], [0]], "allow": np.ones((2, 5), dtype=bool)}
    graph = SearchGraph(model, widths=Widths.of(model.trie), beam_width=8, num_candidates=8).eval()
    items, scores = answer(graph, generator, given)
    assert items[1].tolist() == [1, 2, 3, 4, -1, -1, -1, -1]
    assert scores[1, 4:].isneginf().all()
    assert sorted(items[0].tolist()) == [-1, -1, -1, 0, 1, 2, 3, 4]
    assert LENGTH > 2
