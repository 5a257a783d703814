"""FAISS indexes of item vectors: flat (exact), IVF and HNSW (approximate), searched with masks and exact ties.

What an index finds is scored again, so equal vectors have equal scores, and lists are in the order (score descending,
item_index ascending). Must not know models.
"""
# B queries, N items, D width, d denied items of a query, k candidates

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genrec.decoding.scorer import Candidates
from genrec.decoding.selection import rank_items
from genrec.errors import ConfigError

KINDS = ("flat", "ivf", "hnsw")
_faiss: Any = faiss  # its types are incomplete
_SLACK = 8  # fetched beyond what is needed, so that the first search mostly does
_ROUNDING = 1e-5  # of scores between FAISS and here, relative to the largest


class DenseIndex:
    """The items with the largest inner products.

    Args:
        vectors: of the items.
        kind: "flat", "ivf" (lists of a k-means) or "hnsw" (a graph of neighbours).
        num_lists: of IVF; None: about sqrt(N).
        num_probes: lists that IVF looks through.
        num_links: neighbours of a node of HNSW.
        num_visited: nodes that HNSW keeps while it searches, at least as many as are fetched.

    Raises:
        ConfigError: unknown kind.
    """

    def __init__(
        self,
        vectors: Float[Tensor, "N D"],
        kind: str = "flat",
        *,
        num_lists: int | None = None,
        num_probes: int = 8,
        num_links: int = 32,
        num_visited: int = 128,
    ) -> None:
        if kind not in KINDS:
            raise ConfigError("unknown index", expected=" or ".join(KINDS), found=repr(kind))
        self.kind, self.num_probes, self.num_visited = kind, num_probes, num_visited
        self.vectors = vectors.detach().float().cpu().contiguous()
        array = self.vectors.numpy()
        size, width = array.shape
        if kind == "flat":
            self._index = _faiss.IndexFlatIP(width)
        elif kind == "ivf":
            lists = min(size, num_lists or max(1, round(size**0.5)))
            self._index = _faiss.IndexIVFFlat(_faiss.IndexFlatIP(width), width, lists, _faiss.METRIC_INNER_PRODUCT)
            self._index.cp.min_points_per_centroid = 1  # no warning for small catalogues
            self._index.train(array)
        else:
            self._index = _faiss.IndexHNSWFlat(width, num_links, _faiss.METRIC_INNER_PRODUCT)
        self._index.add(array)

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.vectors)

    def search(
        self,
        queries: Float[Tensor, "B D"],
        k: int,
        *,
        deny: Int64[Tensor, "B d"] | None = None,
        allow: Bool[Tensor, " N"] | None = None,
    ) -> Candidates:
        """The k best items of each query that it may get.

        A flat index gives exactly what sorting all scores would. An approximate one never gives a denied item either,
        and searches further where denied items took the places of others.

        Args:
            queries: on the CPU.
            k: length of the lists; padded where fewer items are admissible or found.
            deny: item_index that must not come, -1 as padding, repeats allowed.
            allow: the items that may come; None: all.

        Returns:
            The candidates; an inner product has no probability, so `log_prob` is -inf.

        Raises:
            ConfigError: k below 1.
        """
        if k < 1:
            raise ConfigError("wrong number of candidates", expected="1 or more", found=k)
        num_denied = 0 if deny is None else deny.shape[1]
        wanted = min(self.num_items, k + num_denied + _SLACK)
        array = queries.float().contiguous()
        while True:
            raw, items = self._fetch(array.numpy(), wanted, allow)
            scores = (self.vectors[items.clamp(min=0)] * array.unsqueeze(1)).sum(dim=2)
            scores = scores.masked_fill(items < 0, -torch.inf)
            if deny is not None:
                denied = (items.unsqueeze(2) == deny.unsqueeze(1)).any(dim=2)
                scores = scores.masked_fill(denied, -torch.inf)
            found_items, found = rank_items(items, scores, k)
            if wanted == self.num_items or self._is_complete(raw, items, found):
                return Candidates(found_items, torch.full_like(found, -torch.inf), found)
            wanted = min(self.num_items, 2 * wanted)

    def _fetch(self, queries: np.ndarray, wanted: int, allow: Tensor | None) -> tuple[Tensor, Tensor]:
        """FAISS's scores and items [B, wanted], -1 where it found fewer."""
        options: dict[str, Any] = {}
        if allow is not None:
            bits = np.packbits(allow.cpu().numpy(), bitorder="little")
            options["sel"] = _faiss.IDSelectorBitmap(bits)
        if self.kind == "ivf":
            parameters = _faiss.SearchParametersIVF(nprobe=self.num_probes, **options)
        elif self.kind == "hnsw":
            parameters = _faiss.SearchParametersHNSW(efSearch=max(self.num_visited, wanted), **options)
        else:
            parameters = _faiss.SearchParameters(**options)
        scores, items = self._index.search(queries, wanted, params=parameters)
        return torch.from_numpy(scores), torch.from_numpy(items)

    def _is_complete(self, raw: Tensor, items: Tensor, found: Tensor) -> bool:
        """Whether nothing that was not fetched can belong to a list, not even by an equal score."""
        is_exhausted = items[:, -1] < 0
        margin = _ROUNDING * raw.abs().masked_fill(items < 0, 0).amax(dim=1)
        return bool((is_exhausted | (found[:, -1] > raw[:, -1] + margin)).all())


def recall_of(index: DenseIndex, exact: DenseIndex, queries: Float[Tensor, "B D"], k: int) -> float:
    """Mean share of the exact k best items that an index finds.

    >>> vectors = torch.eye(3)
    >>> recall_of(DenseIndex(vectors, "hnsw"), DenseIndex(vectors), vectors, 1)
    1.0
    """
    found, best = index.search(queries, k).item_index, exact.search(queries, k).item_index
    is_hit = (found.unsqueeze(2) == best.unsqueeze(1)).any(dim=1) & (best >= 0)
    return float((is_hit.sum(dim=1) / (best >= 0).sum(dim=1).clamp(min=1)).mean())
