"""The health of semantic IDs through the command line: proxy, examples, figures, gates, and tables side by side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import RUNNER, works

from genrec.artifacts import load_artifact
from genrec.cli import app
from genrec.data.dataset import Dataset
from genrec.quantization.comparison import flat_figures
from genrec.semantic_ids.table import from_codes, load_health, load_semantic_ids, save_semantic_ids
from oracles.proxy_oracle import share_and_chance

NUM_ITEMS = 80


def shows(*words: str) -> str:
    result = RUNNER.invoke(app, list(words))
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def fails(*words: str, code: int) -> tuple[str, str]:
    result = RUNNER.invoke(app, list(words))
    assert result.exit_code == code, result.output + repr(result.exception)
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stdout, result.stderr


def tokenize(road: Path, output: Path, *more: str) -> list[str]:
    words = ["tokenizer=residual_kmeans", f"tokenizer.embeddings={road}/e", "tokenizer.codebook_sizes=[12,12,12]"]
    return ["tokenize", f"dataset={road}/d", f"output={output}", *words, *more]


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets d and other, embeddings e of d, and two tables a and b of d."""
    folder = tmp_path_factory.mktemp("health")
    for name, seed in (("d", 0), ("other", 1)):
        size = ["source.num_users=120", f"source.num_items={NUM_ITEMS}", "source.num_categories=4"]
        works("prepare", "synthetic", *size, f"source.seed={seed}", f"output={folder}/{name}")
    works("embed", f"dataset={folder}/d", f"output={folder}/e", "embedding=tfidf", "embedding.dimensions=16")
    works(*tokenize(folder, folder / "a"))
    works(*tokenize(folder, folder / "b", "tokenizer.codebook_sizes=[8,8,8]", "figures=false"))
    return folder


def test_health_json_holds_the_proxy_the_examples_and_what_the_figures_draw(road: Path) -> None:
    artifact, ids = load_semantic_ids(road / "a")
    health = load_health(artifact)
    dataset = Dataset.load(road / "d")
    codes = [tuple(row) for row in ids.codes[:, :3].tolist()]
    for name, window in (("last", 1), ("recent", 5)):
        for depth, entry in enumerate(health["proxy"][name]["depths"], start=1):
            slow = share_and_chance(dataset.train().to_lists(), codes, depth, window)
            assert entry["share"] == pytest.approx(np.mean(slow["shared"]))
            assert entry["by_chance"] == pytest.approx(np.mean(slow["chance"]))
    assert len(health["proxy"]["recent"]["depths"]) == 3
    titles = dict(zip(dataset.item_ids, dataset.items["title"], strict=True))
    assert {len(example["prefix"]) for example in health["examples"]} == {1, 2}
    for example in health["examples"]:
        assert all(titles[item["item_id"]] == item["title"] for item in example["items"])
    assert flat_figures(health)["proxy.recent.depths.1.lift"] > 0
    figures = {name.removeprefix("figures/") for name in artifact.files if name.startswith("figures/")}
    drawn = ("usage", "levels", "nodes", "residuals", "purity", "neighbours", "proxy")
    assert figures == {f"{name}.{suffix}" for name in drawn for suffix in ("svg", "csv")}
    plain, _ = load_semantic_ids(road / "b")
    assert not [name for name in plain.files if name.startswith("figures/")]


def test_the_artifact_is_the_same_again_and_what_is_shown(road: Path, tmp_path: Path) -> None:
    shown = shows(*tokenize(road, tmp_path / "s"))
    assert load_artifact(tmp_path / "s").identity == load_artifact(road / "a").identity
    assert "depth 1 next item shares with last 1" in shown
    assert "depth 3 next item shares with last 5" in shown
    assert "examples of prefixes" in shown
    assert "(largest)" in shown
    example = load_health(load_artifact(tmp_path / "s"))["examples"][0]
    assert example["items"][0]["title"][:20] in shown
    assert f"figures with their data are in {tmp_path}/s/figures" in shown


def test_a_failed_gate_shows_the_health_before_the_error(road: Path, tmp_path: Path) -> None:
    words = tokenize(road, tmp_path / "s", "gates.max_collision_rate=0", "gates.min_proxy_lift=1000", "proxy.window=3")
    out, line = fails(*words, code=4)
    assert "depth 3 next item shares with last 3" in out
    assert "collision rate" in out
    assert "examples of prefixes" in out
    assert "a gate failed, nothing was written" in out
    assert "collision rate at most 0" in line
    assert "proxy lift of depth 1 at least 1e+03" in line
    assert "raise tokenizer.codebook_sizes" in line
    out, _ = fails(*words, "--json", code=4)
    assert json.loads(out)["health"]["collisions"]["rate"] > 0
    assert not (tmp_path / "s").exists()
    _, line = fails(*tokenize(road, tmp_path / "s", "gates.min_proxy_lift=-1"), code=2)
    assert "min_proxy_lift" in line
    _, line = fails(*tokenize(road, tmp_path / "s", "proxy.window=0"), code=2)
    assert "proxy.window" in line


def test_codes_that_came_with_the_data(tmp_path: Path) -> None:
    """No vectors and no titles: what can be told is told. Training leaves out the last two events of a user."""
    (tmp_path / "events.json").write_text(json.dumps({"u": list("abcdab"), "v": list("acbd"), "w": list("bad")}))
    codes = {name: [f"<a_{at // 2}>", f"<b_{at % 2}>"] for at, name in enumerate("abcd")}
    (tmp_path / "codes.json").write_text(json.dumps(codes))
    source = ["source=letter", "source.interactions=events.json", "source.codes=codes.json", "order.by=file"]
    core = ["filter.min_user_interactions=0", "filter.min_item_interactions=0"]
    works("prepare", *source, *core, f"raw_dir={tmp_path}", f"output={tmp_path}/d")
    words = ["tokenize", "tokenizer=imported", f"dataset={tmp_path}/d", f"output={tmp_path}/s"]
    assert "a | b" in shows(*words)
    health = load_health(load_artifact(tmp_path / "s"))
    found = health["proxy"]
    assert found["num_positions"] == 3 + 1  # a b c d and a c
    assert [entry["share"] for entry in found["last"]["depths"]] == [2 / 4, 0.0]
    assert health["examples"][0] == {
        "place": "largest",
        "prefix": [0],
        "num_items": 2,
        "items": [
            {"item_id": "a", "title": None, "training_interactions": 2},
            {"item_id": "b", "title": None, "training_interactions": 2},
        ],
    }
    assert sorted(path.stem for path in (tmp_path / "s" / "figures").glob("*.svg")) == [
        "levels",
        "nodes",
        "proxy",
        "usage",
    ]
    (tmp_path / "events.json").write_text(json.dumps({"u": list("abc"), "v": list("dba")}))
    works("prepare", *source, *core, f"raw_dir={tmp_path}", f"output={tmp_path}/short")
    short = ["tokenize", "tokenizer=imported", f"dataset={tmp_path}/short", f"output={tmp_path}/t", "figures=false"]
    _, line = fails(*short, "gates.min_proxy_lift=0.5", code=4)
    assert "found none: no next item to count" in line
    assert works(*short)["proxy"] is None


def test_tables_side_by_side(road: Path, tmp_path: Path) -> None:
    tables = [f"tables.a={road}/a", f"tables.b={road}/b"]
    found = works("inspect", "ids", *tables, f"tables.same={road}/a", f"output={tmp_path}/compare.json")
    assert json.loads((tmp_path / "compare.json").read_text()) == found
    assert found["tables"]["b"]["codebook_sizes"][:3] == [8, 8, 8]
    for name in "ab":
        assert found["tables"][name]["figures"] == flat_figures(load_health(load_artifact(road / name)))
    alike = {tuple(pair["tables"]): pair["depths"] for pair in found["alike"]}
    assert set(alike) == {("a", "b"), ("a", "same"), ("b", "same")}
    assert [entry["nmi"] for entry in alike["a", "same"]] == pytest.approx([1.0, 1.0])
    assert alike["a", "b"] == alike["b", "same"] or alike["a", "b"][0]["nmi"] < 1
    assert found["best"]["levels.1.unexplained"] == ["a", "same"]
    shown = shows("inspect", "ids", *tables)
    assert "proxy.recent.depths.1.lift" in shown
    assert "* " in shown
    assert "a and b" in shown
    many = shows("inspect", "ids", *tables, *(f"tables.c{at}={road}/a" for at in range(3)))
    assert "health of a, b, c0, c1\n" in many
    assert "health of c2\n" in many
    assert many.count("proxy.recent.depths.1.lift ") == 2
    _, line = fails("inspect", "ids", *tables, f"output={tmp_path}/compare.json", code=2)
    assert "overwrite=true" in line
    assert "seconds" in shows("inspect", "ids", *tables, "--dry-run")


def test_a_table_of_an_earlier_version(road: Path, tmp_path: Path) -> None:
    artifact, ids = load_semantic_ids(road / "a")
    dataset = load_artifact(road / "d")
    old = {key: value for key, value in load_health(artifact).items() if key not in ("proxy", "examples", "neighbours")}
    codes, _ = from_codes(ids.codes)
    save_semantic_ids(tmp_path / "old", codes, parents={"dataset": dataset}, health=old)
    save_semantic_ids(tmp_path / "bare", codes, parents={"dataset": dataset})
    shown = shows("inspect", "ids", f"tables.a={road}/a", f"tables.old={tmp_path}/old", f"tables.bare={tmp_path}/bare")
    assert "the health of old has no neighbours, proxy: it was written by an earlier version" in shown
    assert "the health of bare has no collisions, levels" in shown
    row = next(line for line in shown.splitlines() if line.startswith("proxy.last.depths.1.lift"))
    assert row.split()[-2:] == ["-", "-"]


def test_tables_that_cannot_be_compared(road: Path, tmp_path: Path) -> None:
    _, line = fails("inspect", "ids", f"tables.a={road}/a", code=2)
    assert "expected two tables or more, found a" in line
    assert "tables.NAME=PATH" in line
    _, line = fails("inspect", "ids", code=2)
    assert "found none" in line
    ids, _ = from_codes(np.arange(NUM_ITEMS)[:, None])
    save_semantic_ids(tmp_path / "foreign", ids, parents={"dataset": load_artifact(road / "other")})
    _, line = fails("inspect", "ids", f"tables.a={road}/a", f"tables.foreign={tmp_path}/foreign", code=5)
    assert "tables 'a' and 'foreign' are of different datasets" in line
    _, line = fails("inspect", "ids", f"tables.a={road}/a", f"tables.none={tmp_path}/none", code=3)
    assert f"{tmp_path}/none" in line
    _, line = fails("inspect", "ids", f"tables.a={road}/a", f"tables.e={road}/e", code=3)
    assert "wrong kind of artifact" in line
