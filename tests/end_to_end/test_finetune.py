"""`genrec finetune` through the command line: rewards rise, values guide searches, and what must be refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import RUNNER, fails, works
from safetensors.numpy import load_file

from genrec.cli import app
from genrec.data.dataset import Dataset

HIERARCHICAL = ["model.width=16", "model.hidden=32", "model.depth_hidden=16", "model.num_heads=2"]
MEMORY = ["model.memory.followers=20", "model.joint_depth=2"]
FLAT = ["model.width=16", "model.num_layers=2", "model.num_heads=2", "model.hidden=24"]
SHORT = ["stopping.max_cases=60", "optimizer.batch_size=16", "accelerator=cpu"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dataset d, embeddings e, semantic IDs s and the run t of a recommender with a memory."""
    folder = tmp_path_factory.mktemp("road")
    size = ["source.num_users=200", "source.num_items=80", "source.num_categories=4"]
    works("prepare", "synthetic", *size, f"output={folder}/d")
    works("embed", f"dataset={folder}/d", f"output={folder}/e", "embedding=tfidf", "embedding.dimensions=16")
    words = ["tokenizer=residual_kmeans", f"tokenizer.embeddings={folder}/e", "tokenizer.codebook_sizes=[12,12,12]"]
    works("tokenize", f"dataset={folder}/d", f"output={folder}/s", *words)
    train(folder, folder / "t", *HIERARCHICAL, *MEMORY)
    return folder


def train(road: Path, run: Path, *words: str) -> None:
    places = [f"dataset={road}/d", f"semantic_ids={road}/s", f"run={run}"]
    works("train", *places, "model.history_length=8", "stopping.max_epochs=4", *SHORT, *words)


def tune_words(road: Path, run: Path, *more: str, initial: Path | None = None) -> list[str]:
    initial = road / "t" if initial is None else initial
    return ["finetune", f"dataset={road}/d", f"initial={initial}/recommender", f"run={run}", *SHORT, *more]


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "recommender" / "weights.safetensors")


@pytest.fixture(scope="module")
def valued(road: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("valued") / "run"
    found = works(*tune_words(road, run, "mode=value", f"embeddings={road}/e", "stopping.max_epochs=3"))
    assert found["value_fit"] > found["initial"]["value_fit"]
    return run


def test_the_reward_rises_and_the_better_weights_are_kept(road: Path, tmp_path: Path) -> None:
    words = [
        "rollout.method=sample",
        "anchor=0",
        "kl.weight=0.01",
        "optimizer.learning_rate=3e-3",
        "rewards.prefix_depth=1",
    ]
    words += ["stopping.max_epochs=3", "rollout.updates=2", "kl.refresh_every=10"]
    found = works(*tune_words(road, tmp_path / "run", *words))
    panel = records(tmp_path / "run")
    assert panel[-1]["train_reward"] > panel[1]["train_reward"] + 0.03
    watched = ("recall@1", "recall@5", "recall@10", "recall@50", "coverage@50", "level_1_coverage@50")
    assert all(set(watched) <= set(record) for record in panel)
    trained = ("kl", "entropy", "zero_signal_share", "duplicate_share", "sibling_variance_level_1", "clip_share")
    assert all({f"train_{name}" for name in trained} <= set(record) for record in panel[1:])
    best = max(record["recall@10"] for record in panel)
    assert found["initial"]["recall@10"] == panel[0]["recall@10"]
    assert found["recall@10"] >= best
    manifest = json.loads((tmp_path / "run" / "recommender" / "manifest.json").read_text())
    assert set(manifest["parents"]) == {"dataset", "semantic_ids", "initial"}
    if found["best_step"]:
        shares = json.loads((tmp_path / "run" / "interpolation.json").read_text())
        assert [line["share"] for line in shares["shares"]] == [0, 0.25, 0.5, 0.75, 1]
        assert found["recall@10"] == max(line["recall@10"] for line in shares["shares"])
    again = works(*tune_words(road, tmp_path / "run", *words), "--resume")
    assert again["identity"] == found["identity"]


def test_a_worse_policy_is_not_shipped(road: Path, tmp_path: Path) -> None:
    words = ["optimizer.learning_rate=0.5", "optimizer.clip_norm=null", "anchor=0", "kl.weight=0"]
    words += ["value.train=true", f"embeddings={road}/e"]
    result = RUNNER.invoke(app, tune_words(road, tmp_path / "run", *words))
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert "the initial recommender has the best validation recall@10, so its weights are kept" in result.output
    before, after = weights(road / "t"), weights(tmp_path / "run")
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert "the value head of the best weights has learnt nothing yet and is left out" in result.output
    assert not (tmp_path / "run" / "recommender" / "value_head.json").exists()


def test_values_guide_searches(road: Path, valued: Path, tmp_path: Path) -> None:
    before, after = weights(road / "t"), weights(valued)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    words = [f"dataset={road}/d", "models=[]", "num_resamples=100", "cutoffs=[10]", "search.num_candidates=10"]
    tables = {}
    searches = {
        "beam": ["search.beam_width=20"],
        "log_prob": ["search=value_guided", "search.node_budget=80"],
        "value": ["search=value_guided", "search.node_budget=120", "search.rank_by=mixture"],
        "everything": ["search=value_guided", "search.node_budget=1000"],
    }
    for name, search in searches.items():
        output = f"output={tmp_path}/{name}"
        tables[name] = works("evaluate", *words, f"recommenders.mine={valued}/recommender", output, *search)
    costs = {name: table["nodes_per_request"]["mine"] for name, table in tables.items()}
    recall = {name: table["rows"][0]["metrics"]["recall@10"]["mean"] for name, table in tables.items()}
    assert costs["log_prob"] <= 80
    assert costs["value"] <= 120
    assert recall["log_prob"] > 0.5 * recall["beam"] > 0
    assert abs(recall["everything"] - recall["beam"]) < 0.05
    search = ["search=value_guided", "search.node_budget=80"]
    own = [f"dataset={road}/d", f"recommender={valued}/recommender"]
    assert works("recommend", *own, f"output={tmp_path}/lists.parquet", *search)["num_users"] == 200
    line = fails("recommend", *own[:1], f"recommender={road}/t/recommender", f"output={tmp_path}/x", *search, code=2)
    assert "value head" in line
    assert "genrec finetune mode=value" in line
    constants = ["weights=[0.5]", "search.beam_width=20", "cutoff=10"]
    works("fuse", f"dataset={road}/d", f"generative={valued}/recommender", f"output={tmp_path}/hybrid", *constants)
    line = fails("recommend", *own[:1], f"recommender={tmp_path}/hybrid", f"output={tmp_path}/x", *search, code=2)
    assert "a hybrid searches by beams" in line


def test_the_tree_of_a_request_can_be_looked_at(road: Path, valued: Path) -> None:
    dataset = Dataset.load(road / "d")
    words = ["inspect", "search", f"dataset={road}/d", f"recommender={valued}/recommender", "search=value_guided"]
    verdicts = set()
    for user in dataset.user_ids[:12]:
        found = works(*words, f"user={user}", "search.node_budget=48", "search.num_candidates=5")
        verdicts.add(found["target"]["verdict"])
        nodes = found["nodes"]
        assert found["num_forwarded"] <= 48
        assert nodes[0]["parent"] is None
        for node in nodes[1:]:
            assert nodes[node["parent"]]["prefix"] == node["prefix"][:-1]
            target = found["target"]["semantic_id"]
            assert node["is_target"] == (node["prefix"] == target[: len(node["prefix"])])
        depths = [len(node["prefix"]) for node in nodes if node["is_target"]]
        lost = found["target"]["lost_at_level"]
        assert lost == (None if max(depths) == len(found["target"]["semantic_id"]) else max(depths) + 1)
    assert len(verdicts) > 1
    shown = RUNNER.invoke(app, [*words, f"user={dataset.user_ids[0]}", "search.node_budget=48"])
    assert shown.exit_code == 0, shown.output + repr(shown.exception)
    assert "the tree: " in shown.output


def test_a_killed_run_goes_on_bit_equal(road: Path, valued: Path, tmp_path: Path) -> None:
    """With value-guided rollouts, a head that learns, hints and several updates."""
    more = ["rollout.method=value_guided", "rollout.updates=2", "stopping.validate_every=8", f"embeddings={road}/e"]
    more += ["hints.share=0.5", "objective.sibling_weight=1", "targets=last", "stopping.max_epochs=2"]
    works(*tune_words(road, tmp_path / "whole", *more, initial=valued))
    words = tune_words(road, tmp_path / "run", *more, initial=valued)
    command = [sys.executable, "-m", "genrec", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=dict(os.environ))
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.is_file() and metrics.read_bytes().count(b"\n") >= 2:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    works(*words, "--resume")
    for name in ("weights.safetensors", "value_head.safetensors"):
        before, after = (load_file(tmp_path / run / "recommender" / name) for run in ("whole", "run"))
        assert all(np.array_equal(before[key], after[key]) for key in before)
    timeless = [[{**record, "targets_per_second": 0} for record in records(tmp_path / run)] for run in ("whole", "run")]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("kind", ["decoder_only", "encoder_decoder"])
def test_flat_recommenders_are_tuned_too(road: Path, tmp_path: Path, kind: str) -> None:
    sizes = FLAT if kind == "decoder_only" else ["model.width=16", "model.num_heads=2"]
    train(road, tmp_path / "t", f"model={kind}", *sizes, "model.normalisation=vocabulary", "stopping.max_epochs=1")
    words = ["targets=last", "objective=step_preference", "rollout.method=stochastic_beam", "precision=bf16-mixed"]
    found = works(*tune_words(road, tmp_path / "run", *words, initial=tmp_path / "t"))
    assert found["last_step"] > 0


@pytest.mark.parametrize("kind", ["decoder_only", "encoder_decoder"])
def test_flat_recommenders_have_values(road: Path, tmp_path: Path, kind: str) -> None:
    """A head is trained, guides rollouts and then the search that is evaluated."""
    sizes = FLAT if kind == "decoder_only" else ["model.width=16", "model.num_heads=2"]
    train(road, tmp_path / "t", f"model={kind}", *sizes, "stopping.max_epochs=1")
    value = ["mode=value", f"embeddings={road}/e", "targets=last", "stopping.max_epochs=2"]
    found = works(*tune_words(road, tmp_path / "v", *value, initial=tmp_path / "t"))
    assert found["value_fit"] > found["initial"]["value_fit"]
    search = ["node_budget=24", "initial_width=4"]
    tuned = [
        "rollout.method=value_guided",
        *(f"rollout.value_guided.{word}" for word in search),
        f"embeddings={road}/e",
    ]
    works(*tune_words(road, tmp_path / "run", *tuned, "targets=last", initial=tmp_path / "v"))
    words = [f"dataset={road}/d", f"recommenders.mine={tmp_path}/v/recommender", "models=[]", "cutoffs=[5]"]
    words += ["search=value_guided", *(f"search.{word}" for word in search), "search.num_candidates=5"]
    rows = works("evaluate", *words, f"output={tmp_path}/evaluation")["rows"]
    assert 0 < rows[0]["metrics"]["recall@5"]["mean"] <= 1


REFUSED = {
    "stopping.validate_every=4": ["stopping.validate_every=3", "rollout.updates=2"],
    "rollout.updates=1": ["mode=value", "rollout.updates=2"],
    "embeddings=": ["rollout.method=value_guided"],
    "rewards.exact_hit=1": ["rewards.exact_hit=0"],
    "the ratio token": ["objective.clipping=ecpo", "objective.ratio=sequence"],
    "half the budget": ["rollout.method=value_guided", "rollout.value_guided.node_budget=20", "embeddings=E"],
    "no semantic IDs": [],
}


@pytest.mark.parametrize("expected", REFUSED)
def test_what_does_not_go_together_is_refused(road: Path, tmp_path: Path, expected: str) -> None:
    words = [f"embeddings={road}/e" if word == "embeddings=E" else word for word in REFUSED[expected]]
    if not words:
        places = [f"dataset={road}/d", f"run={tmp_path}/dense", "model=sasrec", "model.width=16", "model.hidden=16"]
        works("train", *places, "stopping.max_epochs=1", "model.num_heads=2", *SHORT, "loss=gbce")
    initial = None if words else tmp_path / "dense"
    assert expected in fails(*tune_words(road, tmp_path / "run", *words, initial=initial), code=2)
    assert not (tmp_path / "run").exists()
