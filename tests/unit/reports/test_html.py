"""Markup: what is text is escaped, what is drawn says its numbers, pages need nothing from anywhere."""

from __future__ import annotations

import base64
import csv
import io
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.reports.charts import Dot, Series, bars, dots, lines, ticks
from genrec.reports.html import VOID, Html, element, page, table, text_of

HOSTILE = """<script>alert("x")</script> & 'quotes' </td></table>"""


class Checker(HTMLParser):
    """Every tag is closed where it was opened; keeps tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def check(markup: str) -> Checker:
    checker = Checker()
    checker.feed(markup)
    checker.close()
    assert checker.open == []
    return checker


@settings(max_examples=examples(60))
@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"])), st.text(alphabet="<>&\"' ax/"))
def test_text_comes_back_as_it_was(first: str, second: str) -> None:
    made = element("p", first, element("b", second, title=second), data_own=first)
    checker = check(str(made))
    assert [tag for tag, _ in checker.tags] == ["p", "b"]
    assert "".join(checker.words) == first + second
    assert (checker.tags[0][1]["data-own"], checker.tags[1][1]["title"]) == (first, second)


def test_contents_of_all_kinds() -> None:
    assert text_of([None, "<", [1, 2.5], Html("<br>"), (part for part in ("a", "&"))]) == "&lt;12.5<br>a&amp;"
    assert str(element("input", type_="text", hidden=True, value=None)) == '<input type="text" hidden>'


def test_a_table_has_a_head_for_every_row_and_column() -> None:
    checker = check(str(table(HOSTILE, ("name", "n"), [(HOSTILE, 1), ("b", 2)], strong=[1])))
    heads = [attributes["scope"] for tag, attributes in checker.tags if tag == "th"]
    assert heads == ["col", "col", "row", "row"]
    assert [attributes.get("class") for tag, attributes in checker.tags if tag == "tr"] == [None, None, "strong"]
    assert checker.words.count(HOSTILE) == 2


def figure_data(markup: str) -> list[list[str]]:
    """The CSV file inside of a figure."""
    (encoded,) = re.findall(r'href="data:text/csv;base64,([^"]*)"', markup)
    return list(csv.reader(io.StringIO(base64.b64decode(encoded).decode())))


def test_lines_carry_their_numbers() -> None:
    series = [Series("a", [(1, 0.1), (5, 0.3)], [(0.05, 0.2), (0.2, 0.4)]), Series(HOSTILE, [(1, 0.2), (5, 0.1)])]
    made = str(lines("Curve", "curve", series, x_label="k", y_label="recall", x_ticks=[1, 5], mark=(5, "kept")))
    checker = check(made)
    tips = [attributes["data-tip"] for tag, attributes in checker.tags if tag == "circle"]
    assert tips == ["a, 1: 0.1 [0.05, 0.2]", "a, 5: 0.3 [0.2, 0.4]", f"{HOSTILE}, 1: 0.2", f"{HOSTILE}, 5: 0.1"]
    rows = figure_data(made)
    assert rows[0] == ["series", "k", "recall", "low", "high"]
    assert rows[1] == ["a", "1", "0.1", "0.05", "0.2"]
    assert [row[0] for row in rows[1:]] == ["a", "a", HOSTILE, HOSTILE]
    first, second = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', made)[:2]
    assert float(first[0]) < float(second[0])
    assert float(first[1]) > float(second[1]), "up is more"


def test_dots_stand_where_their_values_are() -> None:
    rows = [Dot("x", -0.1, -0.2, 0.0), Dot("y", 0.2), Dot(HOSTILE, 0.05, 0.0, 0.1)]
    made = str(dots("Differences", "differences", rows, x_label="difference", zero=True))
    check(made)
    places = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', made)]
    assert sorted(places) == [places[0], places[2], places[1]]
    assert figure_data(made)[1:] == [
        ["x", "-0.1", "-0.2", "0.0"],
        ["y", "0.2", "", ""],
        [HOSTILE, "0.05", "0.0", "0.1"],
    ]


def test_bars_add_up() -> None:
    made = str(bars("Overlap", "overlap", [("a", [("both", 0.2), ("one", 0.1)])], x_label="share"))
    check(made)
    found = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', made)
    (x, width), (next_x, next_width) = [(float(a), float(b)) for a, b in found]
    assert x + width == pytest.approx(next_x, abs=0.2)
    assert width == pytest.approx(2 * next_width, abs=0.3)


@settings(max_examples=examples(60))
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_inside(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert 1 <= len(found) <= 7
    slack = 1e-6 * span + 4 * math.ulp(
        max(abs(low), abs(low + span))
    )  # a far away span is narrower than floats resolve
    assert all(low - slack <= tick <= low + span + slack for tick in found)
    assert found == sorted(set(found))


def test_a_flat_line_is_drawn() -> None:
    flat = str(lines("Flat", "flat", [Series("a", [(1, 0.0), (2, 0.0)])], x_label="x", y_label="y"))
    assert len(set(re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', flat))) == 1
    assert "nan" not in flat + str(dots("One", "one", [Dot("a", 0.0)], x_label="x"))


def test_a_page_needs_nothing_from_anywhere() -> None:
    made = page(HOSTILE, element("main", element("h1", HOSTILE)))
    checker = check(made)
    for tag, attributes in checker.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), (tag, attributes)
    assert "@import" not in made
    assert "http" not in made.replace("http-equiv", "")
    assert HOSTILE in checker.words
