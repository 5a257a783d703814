"""From a trained recommender to a bundle, to the next day's catalogue in the same graph, and to other engines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import fails, works

from genrec.data.dataset import Dataset
from genrec.semantic_ids.layouts import walk
from genrec.serving.runtime import BundleError, CandidateGenerator, check_parity

pytest.importorskip("onnx", reason="needs the extra `export`")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # tracing takes most of a minute

PROJECT = Path(__file__).resolve().parents[2]
MODEL = ["model.width=16", "model.hidden=32", "model.depth_hidden=16", "model.num_heads=2", "model.history_length=8"]
SHORT = ["stopping.max_epochs=2", "stopping.max_cases=40", "optimizer.batch_size=16", "accelerator=cpu"]
GATES = ["gates.max_collision_rate=1", "gates.max_dead_share=1", "gates.min_perplexity_share=0"]
SEARCH = ["search.beam_width=20", "num_probes=12"]
NUM_ITEMS = 80
IN_PROJECT: dict[str, Any] = {"cwd": PROJECT, "capture_output": True, "text": True, "check": False}


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset d, semantic IDs s, a recommender with a memory, and its bundle b."""
    folder = tmp_path_factory.mktemp("road")
    size = ["source.num_users=150", f"source.num_items={NUM_ITEMS}", "source.num_categories=4"]
    works("prepare", "synthetic", *size, f"output={folder}/d")
    works("embed", f"dataset={folder}/d", f"output={folder}/e", "embedding=tfidf", "embedding.dimensions=16")
    words = ["tokenizer=residual_kmeans", f"tokenizer.embeddings={folder}/e", "tokenizer.codebook_sizes=[8,8,8]"]
    works("tokenize", f"dataset={folder}/d", f"output={folder}/s", *words, *GATES)
    words = [f"dataset={folder}/d", f"semantic_ids={folder}/s", f"run={folder}/run", "model.memory.followers=20"]
    works("train", *words, *MODEL, *SHORT, "model.joint_depth=2")
    made = traced(*places(folder), f"output={folder}/b", *SEARCH)
    assert made["parity"]["passed"]
    assert made["parity"]["num_probes"] == 12
    return folder


def traced(*words: str) -> dict[str, Any]:
    """`genrec export` in a process of its own: the checks of shapes and types that tests install cannot be traced."""
    done = subprocess.run([sys.executable, "-m", "genrec", "export", *words, "--json"], **IN_PROJECT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def places(road: Path) -> list[str]:
    return [f"dataset={road}/d", f"recommender={road}/run/recommender"]


def test_a_bundle_recommends_what_the_recommender_does(road: Path, tmp_path: Path) -> None:
    words = ["k=10", "search.beam_width=20", f"output={tmp_path}/found.parquet"]
    works("recommend", *places(road), *words)
    expected = pl.read_parquet(tmp_path / "found.parquet").group_by("user_id", maintain_order=True).agg("item_id")
    dataset, bundle = Dataset.load(road / "d"), CandidateGenerator.load(road / "b")
    names = dataset.item_ids.to_list()
    histories = [[names[item] for item in row] for row in dataset.histories().to_lists()]
    found = bundle.recommend(histories, 10, exclude_seen=True)
    same = [own == other for own, other in zip(found.item_ids, expected["item_id"].to_list(), strict=True)]
    assert np.mean(same) > 0.95, "the same lists, but for ties"
    words = [sys.executable, "-B", "-I", str(road / "b" / "runtime.py"), str(road / "b"), "--history", histories[0][0]]
    done = subprocess.run([*words, "-k", "3"], capture_output=True, text=True, check=True)
    assert [line.split("\t")[0] in names for line in done.stdout.splitlines()] == [True] * 3


def test_the_next_catalogue_goes_into_the_same_graph(road: Path, tmp_path: Path) -> None:
    """A new item is recommended and a retired one is not, without training or tracing."""
    dataset = Dataset.load(road / "d")
    like = dataset.items[:2].select("title", "brand", "description", pl.col("categories").list.join("|"))
    like.with_columns(pl.Series("item_id", ["new1", "new2"])).write_csv(tmp_path / "new.csv")
    works("catalogue", "append", f"semantic_ids={road}/s", f"items={tmp_path}/new.csv", f"output={tmp_path}/s2")
    gone = dataset.item_ids[5]
    works("catalogue", "retire", f"semantic_ids={tmp_path}/s2", f"ids={gone}", f"output={tmp_path}/s3")
    later = [*places(road), f"semantic_ids={tmp_path}/s3", f"graph={road}/b", f"output={tmp_path}/b3"]
    made = works("export", *later, *SEARCH)
    assert made["parity"]["passed"]
    assert made["num_items"] == NUM_ITEMS + 1
    before, after = CandidateGenerator.load(road / "b"), CandidateGenerator.load(tmp_path / "b3")
    assert (tmp_path / "b3" / "model.onnx").read_bytes() == (road / "b" / "model.onnx").read_bytes()
    assert before.version.model == after.version.model
    assert before.version.catalogue != after.version.catalogue
    assert not after.knows(gone)
    found = after.recommend([[dataset.item_ids[0]]], 20, allow=[["new1", "new2", gone]])
    assert set(found.item_ids[0]) == {"new1", "new2"}


def test_graphs_that_do_not_fit_are_refused(road: Path, tmp_path: Path) -> None:
    words = [*places(road), f"graph={road}/b", f"output={tmp_path}/b2"]
    assert "searches otherwise" in fails("export", *words, "search.beam_width=30", code=2)
    assert "another format" in fails("export", *words, "search.beam_width=20", "format=torch_export", code=2)
    assert not (tmp_path / "b2").exists()


def test_a_bundle_whose_probes_disagree_is_not_written(
    road: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genrec.serving import runtime

    program = Path(runtime.__file__).read_text().replace("TOLERANCE = 1e-4", "TOLERANCE = -1.0")
    (tmp_path / "strict.py").write_text(program)
    monkeypatch.setattr(runtime, "__file__", str(tmp_path / "strict.py"))
    words = [*places(road), f"graph={road}/b", f"output={tmp_path}/b2", *SEARCH]
    assert "does not answer as the recommender does" in fails("export", *words, code=4)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["strict.py"]


def test_a_model_repository_needs_requests_alone(road: Path, tmp_path: Path) -> None:
    import onnxruntime

    works("triton", f"bundle={road}/b", f"output={tmp_path}/models", "model_name=office")
    session = onnxruntime.InferenceSession(tmp_path / "models" / "office" / "1" / "model.onnx")
    with np.load(road / "b" / "probes.npz") as probes:
        feeds = {entry.name: probes[entry.name] for entry in session.get_inputs()}
        items, scores = session.run(["item_index", "score"], feeds)
        assert set(feeds) == {"histories", "lengths", "deny", "allow"}
        np.testing.assert_allclose(scores, probes["score"], atol=1e-4)
        assert np.mean(items == probes["item_index"]) > 0.95
    assert (tmp_path / "models" / "office" / "config.pbtxt").read_text().startswith('name: "office"')


def test_the_trie_for_other_engines(road: Path, tmp_path: Path) -> None:
    works("trie", f"semantic_ids={road}/s", f"output={tmp_path}/trie.npz")
    works("trie", f"semantic_ids={road}/s", f"output={tmp_path}/trie.json", "format=prefixes")
    codes = np.load(road / "s" / "codes.npy")
    with np.load(tmp_path / "trie.npz") as rows:
        assert all(walk(dict(rows), row) for row in codes)
    found = json.loads((tmp_path / "trie.json").read_text())
    first, second = (f"<{level}_{code}>" for level, code in zip("ab", codes[0][:2], strict=True))
    assert second in found[first]
    assert "set overwrite=true" in fails("trie", f"semantic_ids={road}/s", f"output={tmp_path}/trie.json", code=2)
    words = ["trie", f"semantic_ids={road}/s", f"output={tmp_path}/x.json", "format=prefixes", "token=<{code}>"]
    assert "named by level and code" in fails(*words, code=2)


@pytest.mark.parametrize("kind", ["flat", "tiger"])
def test_other_recommenders_are_exported(kind: str, tmp_path: Path) -> None:
    words = [sys.executable, str(PROJECT / "tests" / "bundles.py"), str(tmp_path / "b"), kind]
    done = subprocess.run(words, **IN_PROJECT | {"env": {**os.environ, "PYTHONPATH": str(PROJECT)}})
    assert done.returncode == 0, done.stderr
    assert check_parity(CandidateGenerator.load(tmp_path / "b"))["passed"]


@pytest.mark.parametrize("form", ["torch_export", "aot_inductor"])
def test_the_programs_of_torch(form: str, road: Path, tmp_path: Path) -> None:
    if form == "aot_inductor" and shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("no C++ compiler")
    made = traced(*places(road), f"output={tmp_path}/b", *SEARCH, f"format={form}")
    assert made["parity"]["passed"]
    assert made["parity"]["torch"]
    again = traced(*places(road), f"output={tmp_path}/c", *SEARCH, f"format={form}", f"graph={tmp_path}/b")
    assert again["parity"]["passed"]
    with pytest.raises(BundleError, match=f"its graph is of format {form}"):
        CandidateGenerator.load(tmp_path / "b")


def test_a_program_that_cannot_be_compiled_is_one_line(road: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "genrec", "export", *places(road), f"output={tmp_path}/b", *SEARCH]
    without = {**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([*words, "format=aot_inductor"], **IN_PROJECT | {"env": without})
    assert done.returncode == 2
    assert "AOTInductor cannot compile the graph" in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3
    assert not list(tmp_path.glob("b*"))
