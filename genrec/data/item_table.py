"""From item descriptions to the catalogue: one row an item, its text, and imported semantic IDs.

Knows Polars and NumPy, and nothing of interactions, files or configuration objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import polars as pl

from genrec.data.filters import require_choice
from genrec.data.schema import ITEMS, RAW_ITEMS, check_frame
from genrec.errors import DataError

TEXT_FIELDS = ("title", "brand", "categories", "description")
_RAW_CODES = {"item_id": pl.String, "codes": pl.List(pl.Int32)}


@dataclass(frozen=True)
class TextPolicy:
    """What becomes of item descriptions.

    Attributes:
        fields: which of title, brand, categories and description make an item's `text`, in this order.
        duplicates: two differing rows of one item id are an "error", or the "first" in file order wins. Identical rows
            collapse in either case.
    """

    fields: tuple[str, ...] = TEXT_FIELDS
    duplicates: str = "error"

    def __post_init__(self) -> None:
        for name in self.fields:
            require_choice("text.fields", name, TEXT_FIELDS)
        require_choice("text.duplicates", self.duplicates, ("error", "first"))


def assemble_text(items: pl.DataFrame, fields: tuple[str, ...] = TEXT_FIELDS) -> pl.Series:
    """The fields that are not empty, joined by ". "; categories are joined by ", ".

    Args:
        items: has the columns of `RAW_ITEMS`, plain text.
        fields: any of `TEXT_FIELDS`, in the order wanted.

    Returns:
        String [N], "" where every field is empty.

    >>> row = {"item_id": ["i"], "title": ["A pen."], "brand": [None], "categories": [["Office", "Pens"]]}
    >>> assemble_text(pl.DataFrame(row | {"description": ["Blue ink."]})).to_list()
    ['A pen. Office, Pens. Blue ink.']
    """
    pieces = []
    for name in fields:
        column = items.get_column(name)
        if name == "categories":
            word = pl.element().str.strip_chars()
            column = column.cast(pl.List(pl.String)).list.eval(word.filter(word != "")).list.join(", ")
        words = column.cast(pl.String).str.strip_chars()
        pieces.append(words.set(words == "", None).alias(name))
    if not pieces:
        return pl.Series("text", [""] * len(items), dtype=pl.String)

    def join(left: pl.Expr, right: pl.Expr) -> pl.Expr:
        # a title that ends in a full stop does not get a second one
        both = pl.concat_str(left.str.strip_chars_end(". "), right, separator=". ")
        return pl.coalesce(both, left, right)

    text = reduce(join, [pl.col(name) for name in fields])
    return pl.DataFrame(pieces).select(text.fill_null("").alias("text")).to_series()


def build_items(
    item_ids: pl.Series, descriptions: pl.DataFrame | None, policy: TextPolicy, *, where: object = "items"
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The catalogue: every item of `item_ids` in its order, described where a description is known.

    Args:
        item_ids: String [N], distinct; row i becomes item_index i.
        descriptions: `RAW_ITEMS`, or None.
        policy: text fields and duplicates.
        where: file name for messages.

    Returns:
        items: columns `ITEMS`, sorted by item_index.
        facts: descriptions_repeated (rows beyond the first of an item id), descriptions_unused (of items that are not
            in `item_ids`), items_without_description.

    Raises:
        DataError: a column is absent, or two rows of one item differ and the policy is "error".
    """
    catalogue = pl.DataFrame({"item_id": item_ids}).with_row_index("item_index").cast({"item_index": pl.UInt32})
    if descriptions is None:
        descriptions = pl.DataFrame(schema=RAW_ITEMS)
    check_frame(descriptions, RAW_ITEMS, where=where)
    used = descriptions.select(list(RAW_ITEMS)).join(catalogue, on="item_id", how="semi", maintain_order="left")
    once = _one_row_an_item(used, policy.duplicates, where=where)
    items = catalogue.join(once, on="item_id", how="left").sort("item_index")
    items = items.with_columns(assemble_text(items, policy.fields)).select(list(ITEMS))
    facts = {
        "descriptions_repeated": len(used) - len(once),
        "descriptions_unused": len(descriptions) - len(used),
        "items_without_description": len(items) - len(once),
    }
    return items, facts


def build_item_codes(
    item_ids: pl.Series,
    codes: pl.DataFrame,
    policy: TextPolicy,
    *,
    where: object = "item codes",
    fix: str = "import codes for every item, or none",
) -> tuple[np.ndarray, dict[str, int]]:
    """Imported semantic IDs, rows by item_index.

    Args:
        item_ids: String [N], distinct; row i is item_index i.
        codes: columns item_id (String) and codes (List(Int32)).
        policy: what to do with repeated item ids.
        where: file name for messages.
        fix: what to do about items without codes, for the message.

    Returns:
        codes: int32 [N, L], non-negative.
        facts: codes_repeated and codes_unused, as in `build_items`.

    Raises:
        DataError: an item has no codes, the lengths differ, a code is null or negative, or two rows of an item differ.
    """
    check_frame(codes, _RAW_CODES, where=where)
    catalogue = pl.DataFrame({"item_id": item_ids}).with_row_index("item_index")
    used = codes.select(list(_RAW_CODES)).join(catalogue, on="item_id", how="semi", maintain_order="left")
    once = _one_row_an_item(used, policy.duplicates, where=where)
    table = catalogue.join(once, on="item_id", how="left").sort("item_index")
    missing = table.filter(pl.col("codes").is_null()).get_column("item_id")
    if len(missing):
        raise DataError(
            f"{len(missing)} of {len(table)} items have no codes, the first is {missing[0]!r}",
            where=where,
            found=f"codes of {len(codes)}, such as {codes['item_id'][0]!r}" if len(codes) else "none",
            fix=fix,
        )
    lengths = table.get_column("codes").list.len()
    if lengths.min() != lengths.max() or not lengths.min():
        raise DataError("codes must have one length", where=where, found=f"{lengths.min()} to {lengths.max()}")
    flat = table.get_column("codes").list.explode()
    if flat.null_count() or int(flat.min()) < 0:  # pyright: ignore[reportArgumentType]
        raise DataError("a code is null or negative", where=where, expected="integers from 0")
    facts = {"codes_repeated": len(used) - len(once), "codes_unused": len(codes) - len(used)}
    return flat.to_numpy().astype(np.int32).reshape(len(table), -1), facts


def _one_row_an_item(rows: pl.DataFrame, duplicates: str, *, where: object) -> pl.DataFrame:
    """Rows with distinct item_id, in file order of their first appearance."""
    repeated = rows.get_column("item_id").is_duplicated()
    if duplicates == "error" and repeated.any():
        # only the repeated rows are compared in full: this is slow for lists of strings
        distinct = rows.filter(repeated).unique(maintain_order=True)
        differing = distinct.filter(distinct.get_column("item_id").is_duplicated()).get_column("item_id")
        if len(differing):
            raise DataError(
                f"{differing.n_unique()} item ids have rows that differ, the first is {differing[0]!r}",
                where=where,
                fix="remove the repeated rows, or set text.duplicates=first",
            )
    return rows.unique("item_id", keep="first", maintain_order=True)
