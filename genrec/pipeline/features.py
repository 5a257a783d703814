"""From the item table to what a recommender knows of its items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl
import torch
from jaxtyping import Int64
from torch import Tensor

from genrec.data.item_features import build_vocabulary, feature_values, value_numbers
from genrec.errors import ConfigError
from genrec.models.item_features import FeatureValues


def read_features(
    names: Sequence[str], items: pl.DataFrame, *, min_count: int, known: Mapping[str, Sequence[str]]
) -> dict[str, FeatureValues]:
    """The features to train with, and which of their values have vectors of their own.

    Args:
        names: columns of the item table.
        items: row i is item_index i.
        min_count: items that a value needs.
        known: vocabularies of the recommender that training starts from; they keep their places, whatever is there now.

    Raises:
        ConfigError: no such column, or an empty one.
    """
    features = {}
    for name in names:
        values = feature_values(items, name)
        if not values.list.len().sum():
            raise ConfigError("no item has a value of this feature", where="key 'model.item_features'", found=name)
        vocabulary = build_vocabulary(values, min_count=min_count, known=known.get(name, ()))
        features[name] = FeatureValues(vocabulary, torch.from_numpy(value_numbers(values, vocabulary)))
    return features


def describe_items(vocabularies: Mapping[str, Sequence[str]], items: pl.DataFrame) -> dict[str, Int64[Tensor, "N V"]]:
    """What the features of a trained recommender say of other items, by name."""
    return {
        name: torch.from_numpy(value_numbers(feature_values(items, name), vocabulary))
        for name, vocabulary in vocabularies.items()
    }
