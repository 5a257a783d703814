"""Sources by name, and options that are checked before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from genrec.data.sources.registry import SOURCES, read_source, source_options
from genrec.errors import ConfigError, DataError, StorageError


def test_options_of_every_source() -> None:
    for name in SOURCES:
        assert "raw_dir" not in source_options(name)
        assert "columns" not in source_options(name)
    assert source_options("amazon_2018") == {"reviews": True, "meta": False, "skip_bad_lines": False}
    assert {"user_column", "timestamp_unit", "categories_separator"} <= set(source_options("table"))


def test_names_and_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown source 'amazon2018'; did you mean 'amazon_2018'\? .*one of amazon"):
        read_source("amazon2018", tmp_path)
    with pytest.raises(ConfigError, match=r"source letter: unknown option 'code'; did you mean 'codes'\? \(accepted"):
        read_source("letter", tmp_path, interactions="a", code="b")
    with pytest.raises(ConfigError, match="source amazon_2023_splits: missing options train, validation"):
        read_source("amazon_2023_splits", tmp_path, test="a")


def test_a_folder_that_may_not_be_looked_at(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read: File name too long; check the path"):
        read_source("letter", tmp_path / ("a" * 300), interactions="x")
    with pytest.raises(ConfigError, match=r"missing option interactions; set source\.interactions=\.\.\."):
        read_source("letter", tmp_path)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: there is no such folder; set raw_dir=\.\.\. to the folder"):
        read_source("movielens_100k", tmp_path / "nowhere")


def test_the_synthetic_source_needs_no_folder(tmp_path: Path) -> None:
    raw = read_source("synthetic", tmp_path / "nowhere", num_users=5)
    assert raw.interactions.collect()["user_id"].n_unique() == 5
