"""Titles and descriptions without what web pages leave in them."""

from __future__ import annotations

import polars as pl
import pytest

from genrec.data.schema import RAW_ITEMS, check_frame
from genrec.data.sources.json_lines import BadRecord
from genrec.data.sources.texts import clean_text, items_frame, text_of, texts_of


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("AT&amp;T 210 Phone", "AT&T 210 Phone"),
        ("Caf&eacute; &#39;n&#x27; tea", "Café 'n' tea"),
        ('<div class="aplus"> <br>Gift<br/>Card</div>', "Gift Card"),
        ("&lt;b&gt;Bold&lt;/b&gt; text", "Bold text"),
        ("fits 5 < 6 and 7 > 3", "fits 5 < 6 and 7 > 3"),
        ("I <3 you", "I <3 you"),
        ("a<script>var x = '<b>';</script>b<style>p {}", "a b"),
        ("one\u00a0 two\n\tthree", "one two three"),
        ("<!-- hidden --> seen", "seen"),
        (" <br> ", None),
        ("", None),
        ("half \ud83d emoji", "half ? emoji"),
    ],
)
def test_clean_text(raw: str, clean: str | None) -> None:
    assert clean_text(raw) == clean


def test_texts_of_lists() -> None:
    assert text_of(["Soft.", "", "Red &amp; blue."], "d") == "Soft. Red & blue."
    assert text_of(None, "d") is None
    assert texts_of([["A", "B"], ["A", "<b>C</b>", ""]], "c") == ["A", "B", "C"]
    assert texts_of("A", "c") == ["A"]
    for value in ({"a": 1}, 5, [["a", {}]], True):
        with pytest.raises(BadRecord, match="field 'c' is neither text nor a list of texts"):
            texts_of(value, "c")


def test_items_frame_has_the_types_of_the_schema() -> None:
    frame = items_frame([("1", "t", None, ["a", "b"], None), ("2", None, "b", [], "d")])
    check_frame(frame, RAW_ITEMS, where="items")
    assert frame["categories"].to_list() == [["a", "b"], None]
    assert items_frame([]).schema == pl.Schema(RAW_ITEMS)
