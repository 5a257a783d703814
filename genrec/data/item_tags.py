"""From columns of the item table to tags that requests filter by: "brand=BIC", or one for each step of a category path.

Knows Polars, and nothing of bundles or requests.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from genrec.data.item_features import feature_values


def tags_of(items: pl.DataFrame, columns: Sequence[str], *, where: str) -> dict[str, list[int]]:
    """Of each tag, "column=value", the rows that have it, ascending; tags are sorted.

    Values are as in the table, without white space around them; empty ones are no tags.

    Args:
        items: the item table, row i is item_index i.
        columns: of strings, or of lists of strings.
        where: the key that named them, for messages.

    Raises:
        ConfigError: no such column.

    >>> items = pl.DataFrame({"brand": ["BIC", None, "BIC "], "categories": [["Office", "Pens"], ["Office"], []]})
    >>> tags_of(items, ["brand", "categories"], where="key 'tags'")
    {'brand=BIC': [0, 2], 'categories=Office': [0, 1], 'categories=Pens': [0]}
    """
    tags: dict[str, list[int]] = {}
    for column in dict.fromkeys(columns):
        for row, values in enumerate(feature_values(items, column, where=where).to_list()):
            for value in values:
                tags.setdefault(f"{column}={value}", []).append(row)
    return dict(sorted(tags.items()))
