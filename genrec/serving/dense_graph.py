"""Dense recommenders as functions of tensors: the scores of all items, alone or beside a generative one.

A side keeps what belongs to the catalogue in buffers, which arguments replace. Item-kNN sums in float64, as it does
where it is evaluated, because its scores are often tied. Must not know files or formats.
"""
# B requests, T items of a history, D denied items, N items, k candidates, E neighbours of all items, M most of one

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from genrec.baselines.item_knn import DirectedItemKnn
from genrec.decoding.selection import Select, best_items, select_best
from genrec.errors import ConfigError
from genrec.evaluation.baseline_generator import BaselineGenerator, log_shares, masked_scores
from genrec.evaluation.dense_generator import DenseGenerator
from genrec.models.rows import last_columns
from genrec.models.sasrec import Sasrec
from genrec.semantic_ids.constraints import mask_of_items
from genrec.serving.graph import CatalogueGraph, serve_popular


class DenseScores(NamedTuple):
    """What a side says.

    Attributes:
        scores: what its own list is ranked by; -inf for what may not come.
        log_q: the logarithm of a probability of every item, whatever may come.
    """

    scores: Float[Tensor, "B N"]
    log_q: Float[Tensor, "B N"]


class SasrecSide(nn.Module):
    """Inner products with all items, exactly.

    Args:
        model: in evaluation mode.
    """

    tables = ("model.item_embeddings",)

    def __init__(self, model: Sasrec) -> None:
        super().__init__()
        self.model = model
        self.history_length: int = model.settings.history_length

    @property
    def facts(self) -> dict[str, Any]:
        """Of the model."""
        return self.model.facts

    def forward(
        self, histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"], admissible: Bool[Tensor, "B N"]
    ) -> DenseScores:
        """Of histories of at most `history_length` items."""
        scores = self.model.encode(histories, lengths) @ self.model.item_vectors().T
        return DenseScores(scores.masked_fill(~admissible, -torch.inf), scores.log_softmax(dim=1))


class ItemKnnSide(nn.Module):
    """`DirectedItemKnn` over its whole lists of neighbours, kept as sparse rows.

    Those of a history are laid out in a rectangle, so a request takes memory for T times M of them.

    Args:
        model: fitted.
        floor: see `log_shares`.
    """

    tables = ("starts", "neighbours", "similarities", "slots")

    starts: Tensor
    neighbours: Tensor
    similarities: Tensor
    slots: Tensor
    decays: Tensor

    def __init__(self, model: DirectedItemKnn, *, floor: float) -> None:
        super().__init__()
        self.floor, self.history_length = floor, model.history_length
        self.facts: dict[str, Any] = {"name": model.name, **_constants(model)}
        rows = model.similarity_
        starts = rows.indptr.astype(np.int64)
        # One more entry of nothing, where every place without a neighbour points.
        neighbours, similarities = np.append(rows.indices, 0), np.append(rows.data, 0.0)
        self.register_buffer("starts", torch.from_numpy(starts))
        self.register_buffer("neighbours", torch.from_numpy(neighbours.astype(np.int64)))
        self.register_buffer("similarities", torch.from_numpy(similarities.astype(np.float64)))
        self.register_buffer("slots", torch.arange(max(1, int(np.diff(starts).max(initial=0)))))
        decays = float(model.history_decay) ** np.arange(model.history_length)
        self.register_buffer("decays", torch.from_numpy(decays))

    def forward(
        self, histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"], admissible: Bool[Tensor, "B N"]
    ) -> DenseScores:
        """Of histories of at most `history_length` items."""
        scores = self._sums(histories, lengths, torch.zeros_like(admissible, dtype=torch.float64))
        return DenseScores(masked_scores(scores, admissible), log_shares(scores, self.floor))

    def _sums(self, histories: Tensor, lengths: Tensor, zeros: Tensor) -> Tensor:
        age = lengths.unsqueeze(1) - 1 - torch.arange(histories.shape[1], device=histories.device)
        weight = torch.where(age >= 0, self.decays[age.clamp(min=0)], 0.0)  # [B, T]
        items = histories.clamp(min=0)
        first, end = self.starts[items].unsqueeze(2), self.starts[items + 1].unsqueeze(2)
        places = first + self.slots
        places = torch.where(places < end, places, self.similarities.shape[0] - 1)  # [B, T, M]
        added = self.similarities[places] * weight.unsqueeze(2)
        return zeros.scatter_add(1, self.neighbours[places].flatten(1), added.flatten(1))


Side = SasrecSide | ItemKnnSide


def side_of(search: Any, *, where: object = None) -> Side:
    """What is exported of a dense search.

    Raises:
        ConfigError: it is of a kind that cannot be, or searches an index that is not exact.
    """
    if isinstance(search, BaselineGenerator) and isinstance(search.model, DirectedItemKnn):
        return ItemKnnSide(search.model, floor=search.floor)
    if isinstance(search, DenseGenerator) and isinstance(search.model, Sasrec):
        if search.index.kind != "flat":
            raise ConfigError(
                "the graph looks at every item, and so should the index",
                where=where,
                expected="flat",
                found=search.index.kind,
                fix="search.index=flat",
            )
        return SasrecSide(search.model)
    raise ConfigError(
        "a dense recommender of this kind cannot be exported",
        where=where,
        expected=f"{Sasrec.name}, or {DirectedItemKnn.name} in a hybrid",
        found=type(getattr(search, "model", search)).__name__,
    )


def side_tensors(side: Side) -> dict[str, Tensor]:
    """What a side reads of the catalogue, by input name."""
    return {key: _get(side, name).detach() for key, name in side_inputs(side).items()}


def side_inputs(side: Side) -> dict[str, str]:
    """Input names of those tensors, and their names in the side."""
    return {f"dense_{name.replace('.', '_')}": name for name in side.tables}


def read_side(side: Side, length: int, histories: Tensor, lengths: Tensor, admissible: Tensor) -> DenseScores:
    """What a side says of histories of up to `length` items, of which it may read fewer."""
    if length > side.history_length:
        histories, lengths = last_columns(histories, lengths, side.history_length)
    return side(histories, lengths, admissible)


class DenseGraph(CatalogueGraph):
    """Scores of all items: answers as `DenseGenerator.search`, from `side_tensors` and `popularity_tensors`.

    Args:
        side: what scores the items.
        num_candidates: k.
        select: how the best are chosen: `select_best`, or `select_by_topk` for ONNX.
    """

    def __init__(self, side: Side, *, num_candidates: int, select: Select = select_best) -> None:
        names = {key: f"side.{name}" for key, name in side_inputs(side).items()}
        super().__init__(_Search(side, num_candidates, select), names, side.history_length)


class _Search(nn.Module):
    """The search with the tables of items already in place."""

    def __init__(self, side: Side, num_candidates: int, select: Select) -> None:
        super().__init__()
        self.side, self.num_candidates, self.select = side, num_candidates, select

    def forward(
        self, histories: Tensor, lengths: Tensor, deny: Tensor, allow: Tensor, catalogue: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        admissible = allow & ~mask_of_items(deny, allow.shape[1])
        scores = self.side(histories, lengths, admissible).scores
        items, best = best_items(scores, self.num_candidates, select=self.select)
        return serve_popular(items, best.float(), lengths == 0, admissible, catalogue)


def _constants(model: DirectedItemKnn) -> dict[str, Any]:
    return {name: value for name, value in vars(model).items() if not name.endswith("_")}


def _get(module: nn.Module, name: str) -> Tensor:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}[name]
