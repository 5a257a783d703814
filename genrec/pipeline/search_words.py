"""How ``genrec inspect search`` speaks of items and prefixes, whatever the search: ids, titles, codes, examples."""
# N items, L levels

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from genrec.data.dataset import Dataset
from genrec.decoding.scorer import Candidates
from genrec.semantic_ids.trie import SemanticIdTrie


@dataclass(frozen=True)
class Words:
    """How items and prefixes are shown: ids, titles, codes [N, L], and the training counts [N] that choose examples."""

    dataset: Dataset
    trie: SemanticIdTrie
    counts: np.ndarray
    codes: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset, trie: SemanticIdTrie, counts: np.ndarray) -> Words:
        """With the codes of the trie."""
        return cls(dataset, trie, counts, trie.prefix_codes(trie.num_levels)[trie.item_leaves].numpy())

    @property
    def num_levels(self) -> int:
        return self.trie.num_levels

    def item(self, index: int) -> dict[str, Any]:
        return {
            "item_index": index,
            "item_id": self.dataset.item_ids[index],
            "title": self.dataset.items["title"][index],
            "semantic_id": self.codes[index].tolist(),
        }

    def prefix(self, depth: int, node: int, log_prob: float, place: int | None) -> dict[str, Any]:
        """A prefix of `depth` codes; its example is the item below it with the most training interactions."""
        first, end = (int(position) for position in self.trie.item_ranges(depth, torch.tensor(node)))
        items = self.trie.item_order[first:end].numpy()
        example = int(items[np.argmax(self.counts[items])])
        return {
            "place": place,
            "prefix": self.codes[example, :depth].tolist(),
            "log_prob": finite(log_prob),
            "num_items": end - first,
            "example": {"item_id": self.dataset.item_ids[example], "title": self.dataset.items["title"][example]},
        }

    def recommendations(self, found: Candidates, target: int, k: int) -> list[dict[str, Any]]:
        """The first k of the list of one request."""
        pairs = zip(found.item_index[0, :k].tolist(), found.score[0, :k].tolist(), strict=True)
        return [
            {"place": place, **self.item(item), "score": score, "is_target": item == target}
            for place, (item, score) in enumerate(pairs, 1)
            if item >= 0
        ]


def finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
