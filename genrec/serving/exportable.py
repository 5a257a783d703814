"""What can be exported of a search: one face for beam searches, searches by value, dense ones and hybrids.

Must not know files or formats.
"""
# N items, k candidates

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from genrec.decoding.catalogue_search import CatalogueSearch
from genrec.decoding.generator import CandidateGenerator
from genrec.decoding.hybrid import Hybrid
from genrec.decoding.selection import Select
from genrec.decoding.value_guided_generator import ValueGuidedGenerator
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.serving.dense_graph import DenseGraph, side_of, side_tensors
from genrec.serving.graph import (
    CatalogueGraph,
    SearchGraph,
    Widths,
    catalogue_tensors,
    check_supported,
    popularity_tensors,
)
from genrec.serving.hybrid_graph import HybridGraph, HybridSizes
from genrec.serving.value_graph import ValueGuidedGraph, check_guided


@dataclass(frozen=True, eq=False)
class Exportable:
    """A search, and the graph that answers as it does.

    Attributes:
        search: what was evaluated.
        trie: of its items; None for a dense one, which knows no codes.
        settings: keys of `search` beside num_candidates that the graph is made for.
        seed: of the noise of its search; None where there is none.
        history_length: last items of a history that make a difference.
        facts: of the recommender, as JSON values.
        method: how it finds items, to follow "finds items" in the model card.
        tensors: all that the graph reads of the catalogue, by input name.
        graph: (widths of the trie, None where there is none; k; how the best are chosen) -> the graph.
    """

    search: CatalogueSearch
    trie: SemanticIdTrie | None
    settings: dict[str, Any]
    seed: int | None
    history_length: int
    facts: dict[str, Any]
    method: str
    tensors: dict[str, Tensor]
    graph: Callable[[Any, int, Select], CatalogueGraph]


def exportable(search: CatalogueSearch, *, where: object = None) -> Exportable:
    """What is exported of a search.

    Args:
        search: of a recommender of any kind.
        where: of the recommender, for errors.

    Raises:
        ConfigError: it cannot be exported.
    """
    if isinstance(search, Hybrid):
        return _of_hybrid(search, where)
    if isinstance(search, ValueGuidedGenerator):
        return _of_value_guided(search, where)
    if isinstance(search, CandidateGenerator):
        return _of_generator(search, where)
    return _of_dense(search, where)


def _of_generator(search: CandidateGenerator, where: object) -> Exportable:
    model: Any = search.scorer
    check_supported(model, where=where)

    def graph(widths: Widths, k: int, select: Select) -> CatalogueGraph:
        return SearchGraph(model, widths=widths, beam_width=search.beam_width, num_candidates=k, select=select)

    return Exportable(
        search=search,
        trie=search.trie,
        settings={"name": "beam", "beam_width": search.beam_width},
        seed=None,
        history_length=search.max_history,
        facts=model.facts,
        method=f"by a beam search of width {search.beam_width} over the trie of the catalogue",
        tensors=catalogue_tensors(model, search.train_counts.cpu().numpy()),
        graph=graph,
    )


def _of_value_guided(search: ValueGuidedGenerator, where: object) -> Exportable:
    trees: Any = search.trees
    model, head = trees.model, trees.head
    check_guided(model, where=where)

    def graph(widths: Widths, k: int, select: Select) -> CatalogueGraph:
        how: dict[str, Any] = {"settings": search.settings, "seed": search.seed}
        return ValueGuidedGraph(model, head, widths=widths, num_candidates=k, select=select, **how)

    settings = {"name": "value_guided", **asdict(search.settings)}
    return Exportable(
        search=search,
        trie=search.trie,
        settings=settings,
        seed=search.seed,
        history_length=search.max_history,
        facts=model.facts,
        method=f"by a search by the value of {search.settings.node_budget} prefixes of the trie of the catalogue",
        tensors=catalogue_tensors(model, search.train_counts.cpu().numpy()),
        graph=graph,
    )


def _of_dense(search: CatalogueSearch, where: object) -> Exportable:
    side = side_of(search, where=where)
    return Exportable(
        search=search,
        trie=None,
        settings={},
        seed=None,
        history_length=side.history_length,
        facts=side.facts,
        method="by the scores of all of them",
        tensors=side_tensors(side) | popularity_tensors(search.train_counts.cpu().numpy()),
        graph=lambda _, k, select: DenseGraph(side, num_candidates=k, select=select),
    )


def _of_hybrid(search: Hybrid, where: object) -> Exportable:
    own, side = _of_generator(search.generative, where), side_of(search.dense, where=where)
    settings, model = search.settings, search.generative.scorer

    def graph(widths: Widths, k: int, select: Select) -> CatalogueGraph:
        sizes = HybridSizes(widths, search.generative.beam_width, k)
        return HybridGraph(model, side, settings, sizes, select=select)

    facts = {"name": "hybrid", **asdict(settings), "generative": own.facts, "dense": side.facts}
    return Exportable(
        search=search,
        trie=own.trie,
        settings=own.settings,
        seed=None,
        history_length=max(own.history_length, side.history_length),
        facts=facts,
        method=f"{own.method} and by what {side.facts['name']} says of all items, put together by {settings.method}",
        tensors=own.tensors | side_tensors(side),
        graph=graph,
    )
