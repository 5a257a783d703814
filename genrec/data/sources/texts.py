"""Item descriptions as the release files hold them -> plain text in the columns of `RAW_ITEMS`.

Web pages leave entities and mark-up in titles and descriptions; both are undone, since they are noise to every text
encoder. Every source cleans its texts here, once, so that a text does not depend on the format it came in. Knows
nothing of files.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import polars as pl

from genrec.data.schema import RAW_ITEMS
from genrec.data.sources.json_lines import BadRecord

_SCRIPT = re.compile(r"<(script|style)\b[^>]*>.*?(</\1\s*>|$)", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<!--.*?-->", re.DOTALL)


def clean_text(value: str) -> str | None:
    """`value` without entities (undone once), tags, scripts and runs of white space; None if nothing is left.

    >>> clean_text("Salt &amp; <b>Pepper</b><br/> 5 < 6")
    'Salt & Pepper 5 < 6'
    >>> clean_text(" &nbsp; ") is None
    True
    """
    text = html.unescape(value) if "&" in value else value
    if "<" in text:
        text = _TAG.sub(" ", _SCRIPT.sub(" ", text))
    # An escaped lone surrogate (half an emoji) cannot be stored as utf-8.
    text = " ".join(text.encode("utf-8", errors="replace").decode("utf-8").split())
    return text or None


def text_of(value: Any, field: str) -> str | None:
    """A string, or the strings of a list joined by blanks, cleaned; BadRecord for anything else."""
    return clean_text(" ".join(_strings(value, field)))


def texts_of(value: Any, field: str) -> list[str]:
    """The different strings of a (nested) list, cleaned, in their order.

    >>> texts_of([["Beauty", "Skin Care"], ["Beauty", "Face &amp; Body"]], "categories")
    ['Beauty', 'Skin Care', 'Face & Body']
    """
    cleaned = (clean_text(text) for text in _strings(value, field))
    return list(dict.fromkeys(text for text in cleaned if text is not None))


def _strings(value: Any, field: str) -> Iterator[str]:
    if value is None:
        return
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _strings(entry, field)
    else:
        raise BadRecord(f"field {field!r} is neither text nor a list of texts", found=type(value).__name__)


def clean_items(table: pl.DataFrame) -> pl.DataFrame:
    """A table of `RAW_ITEMS` whose texts are as a file holds them, cleaned."""
    rows = table.select(list(RAW_ITEMS)).iter_rows()
    return items_frame(
        (item, text_of(title, "title"), text_of(brand, "brand"), texts_of(words, "categories"), text_of(more, "text"))
        for item, title, brand, words, more in rows
    )


def items_frame(rows: Iterable[Sequence[Any]]) -> pl.DataFrame:
    """Rows (item_id, title, brand, categories, description) as a table of `RAW_ITEMS`; no categories are null."""
    table = pl.DataFrame(list(rows), schema=dict(RAW_ITEMS), orient="row")
    categories = pl.col("categories")
    return table.with_columns(pl.when(categories.list.len() > 0).then(categories))
