"""The values of a sweep: every spelling is the same space, every value has its key's type, what is wrong is named."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.config.load import from_values
from genrec.config.space import RangeSection, read_space
from genrec.config.training import TrainConfig
from genrec.errors import ConfigError


def build(values: Mapping[str, Any]) -> TrainConfig:
    return from_values(TrainConfig, {"train": {"dataset": "d", "run": "r"}, "space": values})


@given(st.floats(1e-6, 1e3), st.floats(1.001, 1e3), st.integers(2, 12), st.booleans())
def test_a_range_rises_from_end_to_end(low: float, factor: float, num: int, log: bool) -> None:
    values = RangeSection(low=low, high=low * factor, log=log, num=num).values()
    assert values[0] == low
    assert values[-1] == low * factor
    assert len(values) == num
    assert list(values) == sorted(set(values))
    ratios = [b / a if log else b - a for a, b in itertools.pairwise(values)]
    expected = factor ** (1 / (num - 1)) if log else low * (factor - 1) / (num - 1)
    # At least three significant digits are kept of the values between the ends.
    assert ratios == pytest.approx([expected] * (num - 1), abs=0.011 * (factor if log else low * factor))


def test_dotted_keys_and_sections_are_the_same_space() -> None:
    dotted = {"optimizer.learning_rate": [1, 0.5], "optimizer.warmup": {"low": 0, "high": 0.1, "num": 3}}
    nested = {"optimizer": {"learning_rate": [1, 0.5], "warmup": {"low": 0, "high": 0.1, "num": 3}}}
    expected = {"optimizer.learning_rate": (1.0, 0.5), "optimizer.warmup": (0.0, 0.05, 0.1)}
    for space in (dotted, nested):
        found = read_space(space, build)
        assert found == expected
        assert all(type(value) is float for values in found.values() for value in values)


def test_the_later_of_two_spellings_counts() -> None:
    space = {"optimizer.warmup": [0.1], "optimizer": {"warmup": [0.2, 0.3]}}
    assert read_space(space, build) == {"optimizer.warmup": (0.2, 0.3)}


def test_ranges_are_whole_where_their_key_is() -> None:
    space = {
        "model.width": {"low": 32, "high": 256, "log": True, "num": 4},
        "model.num_layers": {"low": 1, "high": 3, "num": 9},
        "model.dropout_input": {"low": 0, "high": 1, "num": 3},
        "optimizer.average": [None, 0.99],
        "compile": [True, False],
        "loss.level_weights": [[1, 2], None],
    }
    assert read_space(space, build) == {
        "model.width": (32, 64, 128, 256),
        "model.num_layers": (1, 2, 3),
        "model.dropout_input": (0.0, 0.5, 1.0),
        "optimizer.average": (None, 0.99),
        "compile": (True, False),
        "loss.level_weights": ([1.0, 2.0], None),
    }


def test_variants_bring_their_keys_along() -> None:
    space = {"model.name": ["encoder_decoder", "decoder_only"], "model.dropout": [0.1, 0.2]}
    assert read_space(space, build)["model.dropout"] == (0.1, 0.2), "not a key of the default variant"
    with pytest.raises(ConfigError, match=r"space: unknown key 'model\.dropout'"):
        read_space({**space, "model.name": ["decoder_only", "sasrec"]}, build)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ({"optimizer.lr": [1]}, r"space: unknown key 'optimizer\.lr'"),
        ({"optimizer": {"learning_rates": [1]}}, "did you mean 'learning_rate'"),
        ({"model.width": [8, "a"]}, r"space: key 'model\.width' has the wrong type \(expected integer, found 'a'\)"),
        ({"model.dropout_input": [0.5, 2]}, "expected at least 0 and at most 1, found 2"),
        ({"model.width": {"low": 8, "high": 9.5}}, "expected integer"),
        ({"model.width": 8}, r"key 'space\.model\.width': no values to search .*found 8"),
        ({"model.width": []}, "no values to search"),
        ({"model": ["sasrec"]}, r"key 'space\.model': a section cannot be searched"),
        ({"optimizer.warmup": {"low": 0.2, "high": 0.1}}, r"key 'space\.optimizer\.warmup': not a range"),
        ({"optimizer.warmup": {"low": 0, "high": 0.1, "log": True}}, "expected 0 < low < high"),
        ({"optimizer.warmup": {"low": 0, "hihg": 0.1}}, r"unknown key 'hihg'; did you mean 'high'"),
        ({"optimizer.warmup": {"low": 0, "high": 0.1, "num": 1}}, "key 'num' is out of range"),
        ({"optimizer.warmup": {"low": 0}}, r"missing value: high"),
    ],
)
def test_what_is_wrong_is_named(space: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        read_space(space, build)
