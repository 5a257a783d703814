"""From a column of the item table to numbers: which values have a number of their own, and those of each item.

Knows Polars and NumPy, and nothing of models or configuration.
"""
# N items, V most values of an item

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Int64

from genrec.errors import ConfigError

MISSING, OTHER, NUM_RESERVED = 0, 1, 2  # numbers that are no value's own


def feature_values(items: pl.DataFrame, name: str, *, where: str = "key 'model.item_features'") -> pl.Series:
    """The distinct values of each item, without those that are empty: List(String) [N].

    Args:
        items: the item table; columns of strings, or of lists of strings, are features.
        name: of the column.
        where: the key that named it, for messages.

    Raises:
        ConfigError: no such column.

    >>> feature_values(pl.DataFrame({"brand": ["BIC", None, " "]}), "brand").to_list()
    [['BIC'], [], []]
    """
    columns = [column for column in items.columns if column != "item_id" and items.schema[column] in _DTYPES]
    if name not in columns:
        raise ConfigError(
            "the items have no such column of text",
            where=where,
            expected=f"any of {', '.join(columns) or 'none'}",
            found=name,
        )
    column = items.get_column(name)
    if column.dtype == pl.String:
        column = column.to_frame().select(pl.concat_list(name)).to_series()
    word = pl.element().str.strip_chars()
    values = column.list.eval(word.filter(word != "")).list.unique(maintain_order=True)
    return values.to_frame().select(pl.col(name).fill_null(pl.lit([], dtype=pl.List(pl.String)))).to_series()


def build_vocabulary(values: pl.Series, *, min_count: int, known: Sequence[str] = ()) -> tuple[str, ...]:
    """The values with a number of their own: those that are known, then others that are frequent enough, by name.

    Args:
        values: of each item, from `feature_values`.
        min_count: items that a value needs.
        known: values that have theirs already, and keep them.

    >>> build_vocabulary(pl.Series([["pen"], ["ink", "pen"], ["ink"], ["cap"]]), min_count=2, known=["pad"])
    ('pad', 'ink', 'pen')
    """
    counts = values.explode().drop_nulls().value_counts(name="count")
    frequent = counts.filter(pl.col("count") >= min_count).to_series(0).to_list()
    return (*known, *sorted(set(frequent) - set(known)))


def value_numbers(values: pl.Series, vocabulary: Sequence[str]) -> Int64[np.ndarray, "N V"]:
    """The numbers of each item's values, ascending, padded with -1 at the end.

    A value of the vocabulary has its place there plus 2. All other values of an item together have the number 1, and an
    item without any value has 0.

    Args:
        values: of each item, from `feature_values`.
        vocabulary: from `build_vocabulary`.

    >>> value_numbers(pl.Series([["pen", "ink", "cap", "lid"], [], ["ink"]]), ["ink", "pen"]).tolist()
    [[1, 2, 3], [0, -1, -1], [2, -1, -1]]
    """
    numbers = {value: number for number, value in enumerate(vocabulary, start=NUM_RESERVED)}
    rows = [sorted({numbers.get(value, OTHER) for value in row}) or [MISSING] for row in values.to_list()]
    table = np.full((len(rows), max(map(len, rows), default=1)), -1, dtype=np.int64)
    for row, own in zip(table, rows, strict=True):
        row[: len(own)] = own
    return table


_DTYPES = (pl.String, pl.List(pl.String))
