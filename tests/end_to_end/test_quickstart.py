"""`genrec quickstart` as the README starts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genrec.cli import app


@pytest.mark.slow
def test_quickstart_trains_a_recommender_between_the_baselines_and_the_optimum(tmp_path: Path) -> None:
    words = ["quickstart", f"output={tmp_path}/q", "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output + repr(result.exception)
    found = json.loads(result.stdout)
    rows = {row["model"]: row["metrics"]["recall@10"] for row in found["evaluate"]["rows"] if row["mask"] == "none"}
    assert rows["popularity"]["high"] < rows["item_knn"]["low"]
    assert rows["item_knn"]["high"] < rows["hierarchical"]["low"]
    assert rows["hierarchical"]["low"] < rows["optimum"]["high"]
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["evaluate"]["rows"] == found["evaluate"]["rows"]
