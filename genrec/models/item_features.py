"""Learnt vectors of what is known of items, such as brand and categories: a part of an item's input vector.

x_t += sum_f mean_{v in f(i_t)} F_f[v], with a table F_f for each feature f and f(i) the values of item i: the mean,
since an item may have several categories. Must not know where values come from; their names are kept for those who
describe other items.
"""
# R items in any shape, N items of the catalogue, V most values of an item, n values, D width

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from genrec.data.item_features import NUM_RESERVED


class FeatureValues(NamedTuple):
    """What a feature says of the items of a catalogue.

    Attributes:
        vocabulary: names of the rows of the table from the third on. The first row is that of items without a value,
            the second that of all values that are not in the vocabulary.
        numbers: rows of the table that each item has, one or more, padded with -1 at the end.
    """

    vocabulary: Sequence[str]
    numbers: Int64[Tensor, "N V"]


def blank_features(facts: Mapping[str, Any], num_items: int) -> dict[str, FeatureValues]:
    """The features that `ItemFeatures.facts` describe, of items without any value: a state is loaded over them."""
    return {
        name: FeatureValues(of["vocabulary"], torch.zeros(num_items, of["most"], dtype=torch.int64))
        for name, of in facts.items()
    }


class ItemFeatures(nn.Module):
    """Tables that start at 0, so that training begins as without them; a value that it never shows stays 0.

    Args:
        features: by name.
        width: D.
    """

    def __init__(self, features: Mapping[str, FeatureValues], width: int) -> None:
        super().__init__()
        self.vocabularies = {name: tuple(values.vocabulary) for name, values in features.items()}
        self.tables = nn.ParameterDict()
        for name, values in features.items():
            self.tables[name] = nn.Parameter(torch.zeros(NUM_RESERVED + len(values.vocabulary), width))
            self.register_buffer(f"numbers_{name}", values.numbers)

    @property
    def facts(self) -> dict[str, Any]:
        """Names of the values, and how many an item has at most, as plain JSON values."""
        return {
            name: {"vocabulary": list(vocabulary), "most": self.numbers(name).shape[1]}
            for name, vocabulary in self.vocabularies.items()
        }

    def numbers(self, name: str) -> Int64[Tensor, "N V"]:
        """The rows of the table of a feature that each item has, padded with -1 at the end."""
        return self.get_buffer(f"numbers_{name}")

    def describe(self, numbers: Mapping[str, Int64[Tensor, "N V"]]) -> None:
        """Says what the items are, in place of what was known of them.

        Args:
            numbers: of each feature, as in `FeatureValues`; V may be another than before.
        """
        for name, table in self.tables.items():
            self.register_buffer(f"numbers_{name}", numbers[name].to(table.device))

    def forward(self, items: Int64[Tensor, "*R"]) -> Float[Tensor, "*R D"]:
        """What the features add to the vectors of items."""
        total = []
        for name, table in self.tables.items():
            numbers = self.numbers(name)[items.reshape(-1)]
            is_value = (numbers >= 0).to(table.dtype)
            shares = is_value / is_value.sum(dim=1, keepdim=True)
            total.append(F.embedding_bag(numbers.clamp(min=0), table, mode="sum", per_sample_weights=shares))
        return torch.stack(total).sum(dim=0).view(*items.shape, -1)
