"""The runtime of a bundle, on the bundle that format 1 is kept by: exact, sceptical of files, and alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundles import GOLDEN, LENGTH, NUM_ITEMS, requests

from genrec.serving import runtime

pytest.importorskip("onnxruntime", reason="needs the extra `export`")


@pytest.fixture(scope="module")
def generator() -> runtime.CandidateGenerator:
    return runtime.CandidateGenerator.load(GOLDEN)


def check_exhaustive(generator: runtime.CandidateGenerator, seed: int, rows: int) -> None:
    """Every list is what the ranking of the whole catalogue leaves under the constraint: beams cover the catalogue."""
    given = requests(NUM_ITEMS, rows=rows, seed=seed)
    everything = np.ones_like(given["allow"])
    whole, scores = generator.search(given["histories"], [[]] * rows, everything)
    items, found = generator.search(given["histories"], given["denied"], given["allow"])
    assert (whole >= 0).all()
    for row in range(rows):
        may = given["allow"][row].copy()
        may[given["denied"][row]] = False
        expected = may[whole[row]]
        count = expected.sum()
        assert items[row, :count].tolist() == whole[row][expected].tolist()
        np.testing.assert_allclose(found[row, :count], scores[row][expected], atol=1e-5)
        assert (items[row, count:] == -1).all()


def test_the_certificate_of_the_golden_bundle(generator: runtime.CandidateGenerator) -> None:
    certificate = runtime.check_parity(generator)
    assert certificate["passed"]
    assert certificate["num_identical"] == certificate["num_probes"] == 12


def test_parity_fails_on_other_scores_and_on_items_in_another_order(tmp_path: Path) -> None:
    with np.load(GOLDEN / "probes.npz") as arrays:
        probes = {key: arrays[key] for key in arrays.files}
    row = int((probes["item_index"] >= 0).sum(axis=1).argmax())
    for name in ("score", "item_index"):
        shutil.copytree(GOLDEN, tmp_path / name)
        changed = probes[name].copy()
        if name == "score":
            changed[row, 0] += 1e-3
        else:
            changed[row, [0, 5]] = changed[row, [5, 0]]
        np.savez(tmp_path / name / "probes.npz", **(probes | {name: changed}))
        certificate = runtime.check_parity(runtime.CandidateGenerator.load(tmp_path / name, verify=False))
        assert not certificate["passed"]


def test_constraints_are_exact(generator: runtime.CandidateGenerator) -> None:
    check_exhaustive(generator, seed=1, rows=50)


@pytest.mark.slow
def test_constraints_are_exact_ten_thousand_times(generator: runtime.CandidateGenerator) -> None:
    for seed in range(100):
        check_exhaustive(generator, seed=seed, rows=100)
    assert generator.num_items == NUM_ITEMS


def test_item_ids_in_item_ids_out(generator: runtime.CandidateGenerator) -> None:
    found = generator.recommend([["i3", "nope", "i7"], [], ["gone"]], 4, exclude=[["i1"], ["i0", "x"], []])
    assert [len(row) for row in found.item_ids] == [4, 4, 4]
    assert found.num_unknown == [1, 1, 1]
    assert found.is_popular == [False, True, True]
    assert found.item_ids[1] == ["i1", "i2", "i3", "i4"], "counts fall with the number, ties by index"
    assert found.scores[1][:2] == [36.0, 35.0]
    assert "i1" not in found.item_ids[0]
    assert found.scores[0] == sorted(found.scores[0], reverse=True)
    alone = generator.recommend([["i3", "i7"]], 4, exclude=[["i1"]])
    assert alone.item_ids[0] == found.item_ids[0], "a batch changes nothing"
    assert generator.titles is not None
    assert generator.titles[3] == "Item i3"
    assert generator.codes.shape == (NUM_ITEMS, 3)


def test_constraints_by_item_id(generator: runtime.CandidateGenerator) -> None:
    found = generator.recommend([["i3"], ["i3"], ["i3"]], 5, allow=[["i9", "i4", "?"], None, []], exclude_seen=True)
    assert set(found.item_ids[0]) == {"i9", "i4"}
    assert "i3" not in found.item_ids[1]
    assert found.item_ids[2] == []
    assert found.num_unknown == [1, 0, 0]


def test_long_histories_are_cut_after_unknown_items_went(generator: runtime.CandidateGenerator) -> None:
    shown = [f"i{item}" for item in range(LENGTH)]
    long = generator.recommend([["i30", "i31", *shown[:3], "?", *shown[3:]]], 5)
    assert long.item_ids == generator.recommend([shown], 5).item_ids


def test_requests_that_cannot_be_served(generator: runtime.CandidateGenerator) -> None:
    assert generator.recommend([], 3).item_ids == []
    for k in (0, NUM_ITEMS + 1):
        with pytest.raises(runtime.RequestError, match=f"expected 1 to {NUM_ITEMS}, found {k}"):
            generator.recommend([["i1"]], k)
    with pytest.raises(runtime.RequestError, match="exclude needs one list a history"):
        generator.recommend([["i1"]], 3, exclude=[])


@pytest.mark.parametrize("name", ["model.onnx", "catalogue.npz", "items.json"])
def test_a_corrupt_bundle_is_one_clear_error(name: str, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "b")
    content = bytearray((tmp_path / "b" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "b" / name).write_bytes(content)
    with pytest.raises(runtime.BundleError, match=f"{name}: corrupt, its sha256 is not the manifest's; bring back"):
        runtime.CandidateGenerator.load(tmp_path / "b")
    (tmp_path / "b" / name).unlink()
    with pytest.raises(runtime.BundleError, match=f"{name}: missing"):
        runtime.CandidateGenerator.load(tmp_path / "b")


def test_other_format_versions_and_other_folders_say_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(runtime.BundleError, match="no manifest"):
        runtime.CandidateGenerator.load(tmp_path)
    shutil.copytree(GOLDEN, tmp_path / "b")
    path = tmp_path / "b" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["facts"]["bundle_format"] = 2
    path.write_text(json.dumps(manifest))
    with pytest.raises(runtime.BundleError, match="its checksum does not fit"):
        runtime.CandidateGenerator.load(tmp_path / "b")
    del manifest["checksum"]
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps(manifest | {"checksum": hashlib.sha256(text.encode()).hexdigest()}))
    with pytest.raises(runtime.BundleError, match="bundle format 2, and this runtime reads format 1; run"):
        runtime.CandidateGenerator.load(tmp_path / "b")


def test_the_copy_in_a_bundle_needs_numpy_and_onnxruntime_alone_and_writes_nothing_at_home(tmp_path: Path) -> None:
    """In a fresh process in which everything else that is installed cannot be imported."""
    code = f"""
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top, mine = name.partition(".")[0], {{"runtime", "numpy", "onnxruntime"}}
        if top not in mine | sys.stdlib_module_names and not top.startswith("_"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, {str(tmp_path / "alone")!r})
import runtime
sys.exit(runtime.main([{str(GOLDEN)!r}, "--history", "i3,i7,zzz", "-k", "3"]))
"""
    home = tmp_path / "home"
    (tmp_path / "alone").mkdir()
    home.mkdir()
    shutil.copy(runtime.__file__, tmp_path / "alone")
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    words = [sys.executable, "-B", "-I", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    assert done.stdout.startswith("i")
    assert "1 unknown item ids were ignored" in done.stderr
    assert list(home.rglob("*")) == []


def test_without_onnxruntime_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(runtime.BundleError, match="onnxruntime, which is not installed; pip install"):
        runtime.CandidateGenerator.load(GOLDEN)


def test_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert runtime.main([str(GOLDEN), "--history", "i3", "-k", "2", "--allow", "i3,i5", "--keep-seen"]) == 0
    assert {line.split("\t")[0] for line in capsys.readouterr().out.splitlines()} == {"i3", "i5"}
    assert runtime.main([str(GOLDEN), "--parity"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"]
    assert runtime.main([str(GOLDEN), "-k", "99"]) == 2
    assert runtime.main([str(tmp_path)]) == 3
    assert capsys.readouterr().err.count("\n") == 2
