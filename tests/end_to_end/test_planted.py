"""A catalogue whose best possible recommender is known: the hierarchical recommender gets there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genrec.cli import app

# Few items and many histories, so that what is left to the optimum is the model's fault and not the data's.
PLANTED = [
    *("prepare.source.num_users=3000", "prepare.source.num_items=40", "prepare.source.num_categories=4"),
    *(
        "embed.embedding.dimensions=32",
        "tokenize.tokenizer.codebook_sizes=[8,8]",
        "tokenize.gates.max_collision_rate=1",
    ),
    *("train.model.hidden=128", "train.model.dropout_input=0.1", "train.model.dropout_blocks=0.1"),
    *("train.model.dropout_depth=0.1", "train.optimizer.node_weight_decay=0.05", "train.accelerator=cpu"),
    *("train.stopping.max_epochs=10", "train.stopping.validate_every=235", "train.optimizer.learning_rate=2e-3"),
    *("evaluate.num_resamples=100", "evaluate.num_permutations=100"),
]


@pytest.mark.slow
@pytest.mark.parametrize("joint_depth", [1, 3])
def test_the_optimum_of_a_planted_catalogue_is_reached(joint_depth: int, tmp_path: Path) -> None:
    words = [*PLANTED, f"train.model.joint_depth={joint_depth}", "train.model.memory.followers=0"]
    result = CliRunner().invoke(app, ["run", "synthetic", *words, f"output={tmp_path / 'out'}", "--json"])
    assert result.exit_code == 0, result.output + repr(result.exception)
    rows = json.loads(result.stdout)["evaluate"]["rows"]
    of = {row["model"]: row["metrics"] for row in rows if row["mask"] == "none"}
    for metric in ("recall@10", "ndcg@10"):
        best = of["optimum"][metric]["mean"]
        assert of["item_knn"][metric]["mean"] < 0.9 * best, "too easy to tell anything"
        assert 0.98 * best <= of["hierarchical"][metric]["mean"] <= 1.01 * best
