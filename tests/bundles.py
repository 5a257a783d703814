"""A tiny catalogue, recommenders over it and bundles of them, for whoever tests what leaves the lab.

`python tests/bundles.py FOLDER` writes the golden bundle again (under a minute, most of it tracing); with `flat` or
`tiger` as a further word that of a decoder-only or encoder-decoder recommender, with METHOD SIDE FORMAT that of a
hybrid, with `dense SIDE FORMAT` that of the side alone, and with `guided KIND FORMAT` that of a search by value.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from genrec.artifacts import write_artifact
from genrec.baselines.item_knn import DirectedItemKnn
from genrec.data.sequences import Ragged
from genrec.decoding.catalogue_search import CatalogueSearch
from genrec.decoding.generator import CandidateGenerator
from genrec.decoding.hybrid import Hybrid
from genrec.decoding.pool import HybridSettings
from genrec.decoding.value_guided_generator import ValueGuidedGenerator
from genrec.decoding.value_guided_settings import ValueGuidedSettings
from genrec.evaluation.baseline_generator import BaselineGenerator
from genrec.evaluation.dense_generator import DenseGenerator
from genrec.models.decoder_only import DecoderOnlyRecommender
from genrec.models.encoder_decoder import EncoderDecoderRecommender
from genrec.models.hierarchical import HierarchicalRecommender
from genrec.models.path_trees import build_tree_scorer
from genrec.models.sasrec import Sasrec
from genrec.models.settings import (
    DecoderOnlySettings,
    EncoderDecoderSettings,
    HierarchicalSettings,
    MemorySettings,
    SasrecSettings,
    ValueHeadSettings,
)
from genrec.models.value_head import ValueHead
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.serving import bundle
from genrec.serving.exportable import exportable
from genrec.serving.graph import Widths
from genrec.serving.runtime import BUNDLE_FORMAT

GOLDEN = Path(__file__).parent / "golden" / "bundle_1"
NUM_ITEMS, SIZES, LENGTH = 36, (4, 5, 6), 6


def catalogue(num_items: int = NUM_ITEMS, *, seed: int = 0, shared: bool = False) -> np.ndarray:
    """Codes [N, 3]; the first rows are the same for every number of items, as of a catalogue that grows."""
    draw = np.random.default_rng(seed)
    every = np.stack(np.unravel_index(draw.permutation(np.prod(SIZES)), SIZES), axis=1).astype(np.int32)
    codes = every[:num_items]
    if shared:
        codes[3] = codes[7]
    return codes


def randomised(model: Any, num_items: int) -> Any:
    """With random weights, as it is when most items and nodes have been trained."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    seen = torch.arange(num_items) % 5 != 0
    model.mark_trained(seen, seen)
    return model.eval()


def hierarchical(codes: np.ndarray, **settings: Any) -> HierarchicalRecommender:
    """Width 16, one block; with a memory if `settings` have one."""
    small: dict[str, Any] = {"width": 16, "num_heads": 2, "num_layers": 1, "hidden": 24, "depth_hidden": 20}
    torch.manual_seed(0)
    trie = SemanticIdTrie.build(codes, SIZES)
    values = HierarchicalSettings(**(small | {"history_length": LENGTH} | settings))
    model = randomised(HierarchicalRecommender(trie, values), len(codes))
    if model.memory is not None:
        draw = np.random.default_rng(1)
        similarity = draw.random((len(codes), len(codes))) * (draw.random((len(codes), len(codes))) < 0.4)
        model.remember(sp.csr_matrix(similarity), draw.integers(6, size=len(codes)))
    return model


def decoder_only(codes: np.ndarray, **settings: Any) -> DecoderOnlyRecommender:
    small: dict[str, Any] = {"width": 16, "num_layers": 1, "num_heads": 2, "hidden": 24, "history_length": LENGTH}
    torch.manual_seed(0)
    model = DecoderOnlyRecommender(SemanticIdTrie.build(codes, SIZES), DecoderOnlySettings(**(small | settings)))
    return randomised(model, len(codes))


def encoder_decoder(codes: np.ndarray, **settings: Any) -> EncoderDecoderRecommender:
    small: dict[str, Any] = {"width": 16, "encoder_layers": 2, "decoder_layers": 2, "num_heads": 3, "head_width": 4}
    values = EncoderDecoderSettings(**(small | {"hidden": 24, "history_length": LENGTH} | settings))
    torch.manual_seed(0)
    return randomised(EncoderDecoderRecommender(SemanticIdTrie.build(codes, SIZES), values), len(codes))


def ids_and_counts(num_items: int) -> tuple[list[str], np.ndarray]:
    """Counts fall with item_index, but for ties."""
    return [f"i{item}" for item in range(num_items)], np.maximum(num_items - np.arange(num_items) // 2, 1)


def generator_of(model: Any, *, beam_width: int = 8) -> CandidateGenerator:
    ids, counts = ids_and_counts(model.trie.num_items)
    return CandidateGenerator(
        model, model.trie, item_ids=ids, train_counts=counts, beam_width=beam_width, max_history=LENGTH
    )


def sasrec(num_items: int, **settings: Any) -> DenseGenerator:
    """The search of a dense recommender; it reads fewer items than the others here."""
    small: dict[str, Any] = {"width": 16, "num_layers": 1, "num_heads": 2, "hidden": 24, "history_length": LENGTH - 2}
    torch.manual_seed(3)
    model = Sasrec(num_items, SasrecSettings(**(small | settings)))
    with torch.no_grad():
        model.item_embeddings.normal_(std=0.5)
    ids, counts = ids_and_counts(num_items)
    length = model.settings.history_length
    return DenseGenerator(model.eval(), item_ids=ids, train_counts=counts, max_history=length)


def item_knn(num_items: int, **constants: Any) -> BaselineGenerator:
    """Fitted to histories that never show the last item; many scores are tied, and exactly so in any order of sums."""
    draw = np.random.default_rng(4)
    rows = [draw.integers(num_items - 1, size=draw.integers(2, 6)).tolist() for _ in range(num_items)]
    exact: dict[str, Any] = {"decay": 0.5, "history_decay": 0.5, "source_power": 0.0, "target_power": 0.0}
    model = DirectedItemKnn(**({"window": 3, "history_length": LENGTH + 1} | exact | constants))
    model.fit(Ragged.from_lists(rows), num_items=num_items)
    ids, counts = ids_and_counts(num_items)
    return BaselineGenerator(model, item_ids=ids, train_counts=counts)


def guided_of(model: Any, *, seed: int = 0, **settings: Any) -> ValueGuidedGenerator:
    """The search by the value of a head with random weights."""
    torch.manual_seed(5)
    head = ValueHead(model.trie, ValueHeadSettings(width=16)).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=0.5)
    ids, counts = ids_and_counts(model.trie.num_items)
    how = ValueGuidedSettings(**({"node_budget": 24, "initial_width": 4} | settings))
    served: dict[str, Any] = {"item_ids": ids, "train_counts": counts, "max_history": LENGTH}
    return ValueGuidedGenerator(build_tree_scorer(model, head), model, model.trie, settings=how, seed=seed, **served)


GUIDED: dict[str, Any] = {
    "joint": lambda: guided_of(
        hierarchical(catalogue(shared=True), joint_depth=2, memory=MemorySettings(followers=5)), rank_by="mixture"
    ),
    "flat": lambda: guided_of(decoder_only(catalogue()), seed=3, selections_per_round=2),
}


SIDES: dict[str, Any] = {"sasrec": sasrec, "item_knn": item_knn}


def hybrid_of(generative: CandidateGenerator, dense: Any, method: str, **settings: Any) -> Hybrid:
    values: dict[str, Any] = {"weight": 0.7, "constant": 5.0} | settings
    return Hybrid(generative, dense, HybridSettings(method, **values))


def requests(num_items: int, *, rows: int = 12, seed: int = 0) -> dict[str, Any]:
    """Histories, one of them empty, denied items and allowed sets, some of which leave little."""
    draw = np.random.default_rng(seed)
    histories = [draw.integers(num_items, size=draw.integers(1, LENGTH + 1)).tolist() for _ in range(rows)]
    histories[1] = []
    denied = [draw.integers(num_items, size=draw.integers(0, 9)).tolist() for _ in range(rows)]
    allow = draw.random((rows, num_items)) < draw.choice([0.1, 0.6, 1.0], size=(rows, 1))
    return {"histories": histories, "denied": denied, "allow": allow}


def write_bundle(
    folder: Path, search: CatalogueSearch, *, num_candidates: int, version: str = "golden", form: str = "onnx"
) -> None:
    """A bundle as `genrec export` writes it, without the artifacts that it would descend from."""
    source = exportable(search)
    facts: dict[str, Any] = {"bundle_format": BUNDLE_FORMAT, "format": form}
    codes, widths = np.zeros((search.num_items, 0), dtype=np.int32), None
    if (trie := source.trie) is not None:
        codes = trie.prefix_codes(trie.num_levels)[trie.item_leaves].numpy()
        widths = Widths.of(trie, spare_children=2)
    with write_artifact(folder, kind=bundle.KIND, facts=facts, overwrite=True) as writer:
        graph = bundle.write_graph(writer, search, widths=widths, num_candidates=num_candidates, form=form)
        titles = [f"Item {item}" for item in search.item_ids]
        found = bundle.write_catalogue(writer, source.tensors, codes, item_ids=search.item_ids, titles=titles)
        known = {"model_version": version, "catalogue_version": found}
        config = bundle.describe(search, graph, **known, format=form, metrics={}, configuration={})
        bundle.write_runtime(writer, config)
        asked = requests(search.num_items)
        asked["histories"] = [row[-source.history_length :] for row in asked["histories"]]
        bundle.write_probes(writer, search, num_candidates, **asked)
        writer.facts |= known


def golden_generator() -> CandidateGenerator:
    """That of the golden bundle: its beams cover the catalogue, so that its lists are exhaustive."""
    model = hierarchical(catalogue(), joint_depth=2, memory=MemorySettings(followers=5))
    return generator_of(model, beam_width=NUM_ITEMS)


if __name__ == "__main__":
    folder, words = Path(sys.argv[1]), sys.argv[2:]
    others = {"flat": decoder_only, "tiger": encoder_decoder}
    if len(words) == 1:
        write_bundle(folder, generator_of(others[words[0]](catalogue())), num_candidates=8, version=words[0])
    elif words:
        method, side, form = words
        search: Any = GUIDED[side]() if method == "guided" else SIDES[side](NUM_ITEMS)
        if method not in ("dense", "guided"):
            search = hybrid_of(generator_of(hierarchical(catalogue(shared=True), joint_depth=2)), search, method)
        write_bundle(folder, search, num_candidates=6, version=" ".join(words), form=form)
    else:
        write_bundle(folder, golden_generator(), num_candidates=NUM_ITEMS)
