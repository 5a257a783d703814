"""A hybrid as one function of tensors: both sides, their searches and what is made of both.

What puts them together is `decoding.pool`, as where the hybrid is evaluated. Must not know files or formats.
"""
# B requests, T items of a history, D denied items, N items of the catalogue, k candidates, W beams

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from genrec.decoding.pool import DenseOpinion, HybridSettings, find_pool, rank_pool
from genrec.decoding.selection import Select, best_items, select_best
from genrec.errors import ConfigError
from genrec.models.rows import last_columns
from genrec.semantic_ids.constraints import Constraint, mask_of_items
from genrec.serving.dense_graph import Side, read_side, side_inputs
from genrec.serving.graph import CatalogueGraph, Widths, model_inputs, over, read_trie, serve_popular


@dataclass(frozen=True)
class HybridSizes:
    """The sizes of a hybrid's graph.

    Attributes:
        widths: what catalogues have to fit into.
        beam_width: W of the search, and the length of both lists.
        num_candidates: k.

    Raises:
        ConfigError: k out of range.
    """

    widths: Widths
    beam_width: int
    num_candidates: int

    def __post_init__(self) -> None:
        if not 1 <= self.num_candidates <= self.beam_width:
            raise ConfigError(
                "wrong number of candidates",
                where="key 'search.num_candidates'",
                expected=f"1 to {self.beam_width}, the beam width",
                found=self.num_candidates,
                fix="widen the beam, or ask for fewer",
            )


class HybridGraph(CatalogueGraph):
    """Both searches: answers as `Hybrid.search`, from `catalogue_tensors` and `side_tensors`.

    Args:
        model: the generative recommender, in evaluation mode; its trie gives way to the one in the arguments.
        side: the dense one.
        settings: how they are put together.
        sizes: of the graph.
        select: how the best are chosen: `select_best`, or `select_by_topk` for ONNX.
    """

    def __init__(
        self, model: Any, side: Side, settings: HybridSettings, sizes: HybridSizes, *, select: Select = select_best
    ) -> None:
        search = _Search(model, side, settings, sizes, select)
        names = model_inputs(model) | {key: f"side.{name}" for key, name in side_inputs(side).items()}
        super().__init__(search, names, search.history_length)


class _Search(nn.Module):
    """The search with the tables of items and nodes already in place."""

    def __init__(self, model: Any, side: Side, settings: HybridSettings, sizes: HybridSizes, select: Select) -> None:
        super().__init__()
        self.model, self.side, self.settings, self.sizes, self.select = model, side, settings, sizes, select
        self.own_length: int = model.settings.history_length
        self.history_length = max(self.own_length, side.history_length)

    def forward(
        self, histories: Tensor, lengths: Tensor, deny: Tensor, allow: Tensor, catalogue: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        trie = read_trie(catalogue, self.sizes.widths)
        admissible = allow & ~mask_of_items(deny, allow.shape[1])
        scores, log_q = read_side(self.side, self.history_length, histories, lengths, admissible)
        retrieved = None
        if self.settings.unites_lists:
            retrieved, _ = best_items(scores, self.sizes.beam_width, select=self.select)
        own = histories, lengths
        if self.own_length < self.history_length:
            own = last_columns(histories, lengths, self.own_length)
        with over(self.model, trie) as scorer:
            pool, _ = find_pool(
                scorer,
                trie,
                scorer.encode(*own),
                DenseOpinion(log_q, retrieved),
                self.settings,
                beam_width=self.sizes.beam_width,
                constraint=Constraint.build(trie, allow=admissible),
                select=self.select,
            )
        found = rank_pool(pool, self.settings, self.sizes.num_candidates)
        return serve_popular(found.item_index, found.score.float(), lengths == 0, admissible, catalogue)
