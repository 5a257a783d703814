"""Swapped bundles: the sound ones are taken, the others refused, and a rollback finds the way back."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import fails, works

from genrec.errors import ArtifactError, RunError
from genrec.serving.open_bundle import open_bundle
from genrec.serving.swap import Versions, publish, rollback
from oracles.table_bundle import write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path / "root", write(tmp_path / "one", model="m1", catalogue="c1"), open_bundle)
    return tmp_path / "root"


def test_a_published_version_is_taken_and_rolled_back(root: Path, tmp_path: Path) -> None:
    versions = Versions(root, open_bundle)
    assert (versions.current.model, versions.refresh()) == ("m1", None)
    second = publish(root, write(tmp_path / "two", model="m2", catalogue="c2"), open_bundle)
    assert second == root / "versions" / "2"
    assert versions.refresh() == "swapped"
    assert (versions.current.model, versions.current.catalogue) == ("m2", "c2")
    assert rollback(root, open_bundle) == root / "versions" / "1"
    assert versions.refresh() == "swapped"
    assert versions.current.model == "m1"
    with pytest.raises(RunError, match="no earlier version"):
        rollback(root, open_bundle)


def test_a_rollback_never_goes_back_to_what_one_has_left(root: Path, tmp_path: Path) -> None:
    for number in (2, 3):
        publish(root, write(tmp_path / str(number), model=f"m{number}", catalogue="c"), open_bundle)
        assert rollback(root, open_bundle).name == "1"
    with pytest.raises(RunError, match="expected 1, 2, 3, found 4"):
        rollback(root, open_bundle, version=4)
    assert rollback(root, open_bundle, version=3).name == "3"  # unless it is told so
    assert rollback(root, open_bundle).name == "1"


def test_a_rollback_to_a_corrupt_version_changes_nothing(root: Path, tmp_path: Path) -> None:
    publish(root, write(tmp_path / "two", model="m2", catalogue="c2"), open_bundle)
    file = root / "versions" / "1" / "model.onnx"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ArtifactError, match="sha256"):
        rollback(root, open_bundle)
    assert (root / "current").resolve().name == "2"
    assert sorted(path.name for path in (root / "versions").iterdir()) == ["1", "2"]


def test_a_folder_of_other_things_gets_no_versions(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    with pytest.raises(RunError, match="other things in this folder"):
        publish(tmp_path / "run", write(tmp_path / "b", model="m", catalogue="c"), open_bundle)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_a_bundle_that_cannot_be_used_is_neither_published_nor_taken(root: Path, tmp_path: Path) -> None:
    versions = Versions(root, open_bundle)
    bad = write(tmp_path / "bad", model="m2", catalogue="c2")
    (bad / "model.onnx").write_bytes((bad / "model.onnx").read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="sha256"):
        publish(root, bad, open_bundle)
    assert [path.name for path in (root / "versions").iterdir()] == ["1"]
    assert versions.refresh() is None
    link = root / "link"
    link.symlink_to(bad)
    link.rename(root / "current")  # somebody else's deployment
    assert versions.refresh() == "refused"
    assert "sha256" in str(versions.problem)
    assert versions.current.model == "m1"
    assert versions.refresh() is None  # not tried again until it changes
    publish(root, write(tmp_path / "three", model="m3", catalogue="c3"), open_bundle)
    assert versions.refresh() == "swapped"
    assert (versions.current.model, versions.problem) == ("m3", None)


def test_a_bundle_that_fails_its_own_probes_is_refused(root: Path, tmp_path: Path) -> None:
    spoilt = write(tmp_path / "spoilt", model="m2", catalogue="c2", spoil=True)
    with pytest.raises(ArtifactError, match=r"its own probes .*scores up to 1 off"):
        publish(root, spoilt, open_bundle)


def test_a_plain_folder_may_be_swapped_by_renaming(tmp_path: Path) -> None:
    folder = write(tmp_path / "bundle", model="m1", catalogue="c1")
    versions = Versions(folder, open_bundle)
    folder.rename(tmp_path / "old")
    assert versions.refresh() is None  # between two renames
    write(tmp_path / "next", model="m2", catalogue="c2").rename(folder)
    assert versions.refresh() == "swapped"
    assert versions.current.model == "m2"


def test_the_verbs_publish_and_roll_back(tmp_path: Path) -> None:
    for number in (1, 2):
        bundle = write(tmp_path / f"b{number}", model=f"m{number}", catalogue="c")
        found = works("catalogue", "publish", f"bundle={bundle}", f"output={tmp_path}/root")
        assert found == {"version": f"{tmp_path}/root/versions/{number}"}
    assert works("catalogue", "rollback", f"output={tmp_path}/root")["version"].endswith("versions/1")
    assert "no earlier version" in fails("catalogue", "rollback", f"output={tmp_path}/root", code=2)
    assert "no folder of versions" in fails("catalogue", "rollback", f"output={tmp_path}", code=2)
    words = ["catalogue", "publish", f"output={tmp_path}/b1"]
    assert "this is a bundle" in fails(*words, f"bundle={tmp_path}/b2", code=2)
    assert "no bundle here" in fails(*words, f"bundle={tmp_path}/b3", code=3)


def test_no_bundle_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no bundle here .*current/manifest\.json"):
        Versions(tmp_path, open_bundle)
