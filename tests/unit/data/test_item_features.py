"""Values of item columns, their vocabulary, and the numbers of each item."""

from __future__ import annotations

import polars as pl
import pytest

from genrec.data.item_features import build_vocabulary, feature_values, value_numbers
from genrec.errors import ConfigError

ITEMS = pl.DataFrame(
    {
        "item_index": pl.Series([0, 1, 2, 3, 4, 5], dtype=pl.UInt32),
        "item_id": list("abcdef"),
        "brand": ["BIC", " BIC ", None, "", "HP", "Zed"],
        "categories": [["Pens", "Ink"], ["Ink", " Pens", "Ink"], [], None, ["", "Rare", "Odd"], ["Pens"]],
    }
)


def test_values_are_stripped_distinct_and_may_be_missing() -> None:
    assert feature_values(ITEMS, "brand").to_list() == [["BIC"], ["BIC"], [], [], ["HP"], ["Zed"]]
    expected = [["Pens", "Ink"], ["Ink", "Pens"], [], [], ["Rare", "Odd"], ["Pens"]]
    assert feature_values(ITEMS, "categories").to_list() == expected


@pytest.mark.parametrize("name", ["category", "item_id", "item_index"])
def test_a_column_that_is_no_feature_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"expected any of brand, categories, found {name}\)"):
        feature_values(ITEMS, name)


def test_rare_values_have_no_number_of_their_own() -> None:
    values = feature_values(ITEMS, "categories")
    assert build_vocabulary(values, min_count=1) == ("Ink", "Odd", "Pens", "Rare")
    assert build_vocabulary(values, min_count=2) == ("Ink", "Pens")
    assert build_vocabulary(values, min_count=3) == ("Pens",)
    assert build_vocabulary(values, min_count=4) == ()


def test_known_values_keep_their_numbers_whether_they_are_there_or_not() -> None:
    values = feature_values(ITEMS, "brand")
    vocabulary = build_vocabulary(values, min_count=1, known=("Zed", "Gone"))
    assert vocabulary == ("Zed", "Gone", "BIC", "HP")
    assert value_numbers(values, vocabulary).tolist() == [[4], [4], [0], [0], [5], [2]]


def test_other_values_count_once_and_missing_ones_are_a_value() -> None:
    numbers = value_numbers(feature_values(ITEMS, "categories"), ("Ink", "Pens"))
    assert numbers.tolist() == [[2, 3], [2, 3], [0, -1], [0, -1], [1, -1], [3, -1]]


def test_the_order_of_items_and_values_does_not_matter() -> None:
    values = feature_values(ITEMS, "categories")
    turned = values.list.reverse().reverse()
    vocabulary = build_vocabulary(values, min_count=1)
    assert build_vocabulary(turned, min_count=1) == vocabulary
    assert value_numbers(turned, vocabulary).tolist() == value_numbers(values, vocabulary).tolist()[::-1]
