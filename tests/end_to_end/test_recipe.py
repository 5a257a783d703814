"""A recipe: everything in one command, and only what has changed the next time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import RUNNER, works

from genrec.cli import app

SMALL = [
    *("prepare.source.num_users=120", "prepare.source.num_items=80", "prepare.source.num_categories=4"),
    *("embed.embedding.dimensions=16", "tokenize.tokenizer.codebook_sizes=[12,12,12]", "train.stopping.max_epochs=2"),
    *("train.model.width=16", "train.model.hidden=32", "train.model.depth_hidden=16", "train.model.num_heads=2"),
    *("train.accelerator=cpu", "evaluate.num_resamples=100", "evaluate.num_permutations=200"),
]
STAGES = ["prepare", "embed", "tokenize", "train"]


def recipe(output: Path, *more: str) -> list[str]:
    return ["run", "synthetic", *SMALL, f"output={output}", *more]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    output = tmp_path_factory.mktemp("recipe") / "out"
    return output, works(*recipe(output))


def test_only_what_has_changed_runs_again(made: tuple[Path, dict[str, object]]) -> None:
    output, first = made
    assert first["reused"] == []
    assert {row["model"] for row in first["evaluate"]["rows"]} >= {"hierarchical", "item_knn", "optimum"}
    again = works(*recipe(output))
    assert again["reused"] == STAGES
    assert again["evaluate"]["rows"] == first["evaluate"]["rows"]
    assert works(*recipe(output, "train.seed=1"))["reused"] == STAGES[:3]
    assert works(*recipe(output, "train.seed=1", "tokenize.tokenizer.seed=3"))["reused"] == STAGES[:2]
    weights = output / "train" / "recommender" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert works(*recipe(output, "train.seed=1", "tokenize.tokenizer.seed=3"))["reused"] == STAGES[:3]


def test_a_run_that_was_cut_off_goes_on(made: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    output = tmp_path / "out"
    works(*recipe(output))
    record = json.loads((output / "recipe.json").read_text())
    del record["train"]  # as if the process had been killed before the recommender was written
    (output / "recipe.json").write_text(json.dumps(record))
    found = works(*recipe(output))
    assert found["reused"] == STAGES[:3]
    assert json.loads((output / "train" / "status.json").read_text())["num_resumed"] == 1
    assert found["evaluate"]["rows"] == made[1]["evaluate"]["rows"]


@pytest.mark.slow
def test_training_that_starts_from_a_recommender_runs_again_with_another_one(tmp_path: Path) -> None:
    works(*recipe(tmp_path / "earlier"))
    initial = tmp_path / "earlier" / "train" / "recommender"
    words = recipe(tmp_path / "out", f"train.initial={initial}", "train.seed=5")
    plan = works(*words, "--dry-run")
    assert f"starts from {initial}" in plan["expected_cost"]
    first = works(*words)
    assert first["train"]["initial"]["items"] == {"shared": 80, "new": 0, "gone": 0}
    assert works(*words)["reused"] == STAGES
    works(*recipe(tmp_path / "earlier", "train.seed=1"))
    assert works(*words)["reused"] == STAGES[:3]
    shutil.rmtree(tmp_path / "earlier")
    result = RUNNER.invoke(app, words)
    assert result.exit_code == 3
    assert "no such artifact" in result.stderr


def test_the_recipe_decides_the_folders(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, recipe(tmp_path / "out", "prepare.output=elsewhere"))
    assert result.exit_code == 2
    assert "'prepare.output' is decided by the recipe; set output=..." in result.stderr
    result = RUNNER.invoke(app, [*recipe(tmp_path / "out"), "--dry-run"])
    assert result.exit_code == 0
    assert f"output: {tmp_path}/out/semantic_ids" in result.stdout
    assert not (tmp_path / "out").exists()


def test_remedies_name_the_section_of_the_recipe(tmp_path: Path) -> None:
    words = ["run", "giftcards", f"output={tmp_path / 'out'}"]
    shown = RUNNER.invoke(app, [*words, f"prepare.raw_dir={tmp_path / 'nowhere'}"])
    assert shown.exit_code == 3
    assert "set raw_dir=" in shown.output
    assert "in a recipe, its keys begin with 'prepare.'" in " ".join(shown.output.split())
    shown = RUNNER.invoke(app, [*words, f"raw_dir={tmp_path}"])
    assert shown.exit_code == 2
    assert "did you mean 'prepare.raw_dir'?" in shown.output
