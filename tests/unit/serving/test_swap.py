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
    assert rollback(root) == root / "versions" / "1"
    assert versions.refresh() == "swapped"
    assert versions.current.model == "m1"
    with pytest.raises(RunError, match="no earlier version"):
        rollback(root)


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
