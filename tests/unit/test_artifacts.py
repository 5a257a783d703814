"""An artifact is there whole or not at all, and no byte of it changes unnoticed."""
# ruff: noqa: PT012 - what raises is often the end of a block of `write_artifact`, so the block belongs to the test

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import genrec
from examples import examples
from genrec.artifacts import (
    FORMAT_VERSION,
    Artifact,
    check_outside_artifacts,
    check_parent,
    load_artifact,
    read_json,
    write_artifact,
    write_report,
)
from genrec.errors import ArtifactError, LineageError, RunError, StorageError

PROJECT = Path(genrec.__file__).parents[1]
MEMORY = Path("/dev/shm")  # spares the many small artifacts of one test the waiting for a disk
FILES = {"values.bin": bytes(range(100)), "sequences/offsets.bin": b"\x00\x01", "empty": b""}


def write(
    path: Path | str,
    files: Mapping[str, bytes] = FILES,
    *,
    kind: str = "thing",
    facts: Mapping[str, Any] | None = None,
    parents: Mapping[str, Artifact] | None = None,
    overwrite: bool = False,
) -> Artifact:
    with write_artifact(path, kind=kind, facts=facts, parents=parents, overwrite=overwrite) as writer:
        for name, data in files.items():
            writer.path(name).write_bytes(data)
    return writer.artifact


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def python(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process that is killed, if need be, when the block ends."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=PROJECT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_line(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    if process.stdout.readline().strip() != line:
        raise AssertionError(process.stderr.read())


# --- writing and reading ---


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    parent = write(tmp_path / "parent", kind="dataset")
    with write_artifact(tmp_path / "a/b", kind="thing", facts={"n": 1}, parents={"dataset": parent}) as writer:
        np.save(writer.path("sequences/offsets.npy"), np.arange(5))
        np.save(writer.path("none.npy"), np.zeros((0, 3), dtype=np.float32))
        pl.DataFrame({"x": [1, 2]}).write_parquet(writer.path("x.parquet"))
        writer.facts["sizes"] = (256, 256)
        assert not (tmp_path / "a/b").exists()
    artifact = load_artifact(tmp_path / "a/b", kind="thing")
    assert artifact == writer.artifact
    assert artifact.facts == {"n": 1, "sizes": [256, 256]}
    assert artifact.parents == {"dataset": parent.identity}
    assert artifact.parent_paths == {"dataset": str(tmp_path / "parent")}
    assert sorted(artifact.files) == ["none.npy", "sequences/offsets.npy", "x.parquet"]
    assert np.load(artifact.file("sequences/offsets.npy")).tolist() == [0, 1, 2, 3, 4]
    assert load_artifact(tmp_path / "a/b", verify=False) == artifact
    assert sorted(os.listdir(tmp_path / "a")) == ["b"]


def test_the_manifest_says_it_all(tmp_path: Path) -> None:
    artifact = write(tmp_path / "a", facts={"n": 1})
    manifest = read_json(tmp_path / "a/manifest.json")
    assert manifest["genrec_version"] == genrec.__version__
    assert manifest["format_version"] == FORMAT_VERSION
    assert manifest["created"].endswith("+00:00")
    for name, data in FILES.items():
        assert manifest["files"][name] == {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    content = {"facts": {"n": 1}, "files": manifest["files"], "format_version": 1, "kind": "thing", "parents": {}}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert artifact.identity == hashlib.sha256(text.encode()).hexdigest()


def test_file_names_what_is_there(tmp_path: Path) -> None:
    artifact = write(tmp_path / "a")
    with pytest.raises(ArtifactError, match=r"the thing has no file 'x' \(found empty, sequences/offsets.bin"):
        artifact.file("x")


def test_an_artifact_without_files_and_an_empty_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert load_artifact(write(tmp_path / "a", {}).path).files == {}


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert write(tmp_path / "link").path == tmp_path / "disk"
    assert (tmp_path / "link").is_symlink()
    assert load_artifact(tmp_path / "link").path == tmp_path / "disk"


def test_permissions_are_the_users_usual_ones(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        folder = write(tmp_path / "a").path
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o750
    assert (folder / "manifest.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "name", ["", "/etc/x", "../x", "a/../../x", "a//b", "./a", "a/", "a/.", "..", "a\\b", "a\0", "manifest.json"]
)
def test_names_that_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError) as raised, write_artifact(tmp_path / "a", kind="thing") as writer:
        writer.path(name)
    assert repr(name) in str(raised.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["..x", "...", "a/manifest.json", "a b", "ä", "x" * 200])
def test_names_that_are_odd_and_fine(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a", {name: b"data"})
    assert load_artifact(tmp_path / "a").file(name).read_bytes() == b"data"


def test_a_file_that_was_asked_for_has_to_be_written(tmp_path: Path) -> None:
    with (
        pytest.raises(ArtifactError, match=r"/a: the file 'codes\.npy' was asked for and not written"),
        write_artifact(tmp_path / "a", kind="thing") as writer,
    ):
        writer.path("codes.npy")
    assert os.listdir(tmp_path) == []


def test_links_and_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("x")
    with (
        pytest.raises(ArtifactError, match=r"/a/x: not a plain file"),
        write_artifact(tmp_path / "a", kind="thing") as writer,
    ):
        writer.path("x").symlink_to(tmp_path / "outside")
    with (
        pytest.raises(StorageError, match=r"/a/x\.npy: the array was not written whole: .*Python objects"),
        write_artifact(tmp_path / "a", kind="thing") as writer,
    ):
        np.save(writer.path("x.npy"), np.array([{}, None]), allow_pickle=True)
    assert os.listdir(tmp_path) == ["outside"]


@pytest.mark.parametrize("early", [True, False])
def test_facts_have_to_be_json(tmp_path: Path, early: bool) -> None:
    facts = {"level": {"share": float("nan")}}
    with (
        pytest.raises(ArtifactError, match=r"facts\.level\.share: not a JSON value"),
        write_artifact(tmp_path / "a", kind="thing", facts=facts if early else None) as writer,
    ):
        assert not early, "a fact known before the block is checked before the work"
        writer.facts.update(facts)
    assert os.listdir(tmp_path) == []


def test_the_artifact_is_only_known_when_it_is_complete(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "a", kind="thing") as writer:
        with pytest.raises(ArtifactError, match="not complete yet"):
            _ = writer.artifact
        complete = writer
    assert complete.artifact.path == tmp_path / "a"


# --- identity ---

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
facts_values = st.dictionaries(st.text(max_size=5), json_values, min_size=1, max_size=3)
files_values = st.dictionaries(
    st.text("abc", min_size=1, max_size=4), st.binary(min_size=1, max_size=9), min_size=1, max_size=3
)


def reverse_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reverse_keys(value[key]) for key in reversed(value)}
    return [reverse_keys(item) for item in value] if isinstance(value, list) else value


@settings(max_examples=examples(12), deadline=None)
@given(facts_values, files_values, st.data())
def test_identity_is_the_content(facts: dict[str, Any], files: dict[str, bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        root = Path(folder)
        parents = {"p": write(root / "p", {}), "q": write(root / "q", {"x": b""})}
        first = write(root / "one", files, facts=facts, parents=parents)
        assert load_artifact(first.path) == first

        # Neither place, nor time, nor the order of keys, files and parents.
        manifest_time = read_json(first.path / "manifest.json")["created"]
        others = {name: parents[name] for name in "qp"}
        second = write(root / "deep/two", reverse_keys(files), facts=reverse_keys(facts), parents=others)
        shutil.move(second.path, root / "moved")
        assert load_artifact(root / "moved").identity == first.identity
        assert manifest_time <= read_json(root / "moved/manifest.json")["created"]

        # But every fact, byte, name, kind and parent.
        changed_facts, changed_files = copy.deepcopy(facts), dict(files)
        key = data.draw(st.sampled_from(sorted(facts)))
        changed_facts[key] = data.draw(json_values.filter(lambda value: json.dumps(value) != json.dumps(facts[key])))
        name = data.draw(st.sampled_from(sorted(files)))
        position = data.draw(st.integers(0, len(files[name]) - 1))
        flipped = bytearray(files[name])
        flipped[position] ^= data.draw(st.integers(1, 255))
        changed_files[name] = bytes(flipped)
        swapped = {"p": parents["q"], "q": parents["p"]}
        variants = [
            write(root / "v1", files, facts=changed_facts, parents=parents),
            write(root / "v2", changed_files, facts=facts, parents=parents),
            write(root / "v3", {**files, "new": b""}, facts=facts, parents=parents),
            write(root / "v4", files, facts=facts, parents=parents, kind="other"),
            write(root / "v5", files, facts=facts, parents=swapped),
            write(root / "v6", files, facts=facts, parents={"p": parents["p"]}),
            write(root / "v7", files, facts=facts, parents={"p": parents["p"], "r": parents["q"]}),
        ]
        if not isinstance(changed_facts[key], list | dict) or changed_facts != facts:
            assert variants[0].identity != first.identity
        assert len({artifact.identity for artifact in (first, *variants[1:])}) == 7


# --- what is not as it was written ---


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write(tmp_path / "a", facts={"share": 0.5, "n": 10, "small": 1e-05, "on": True})


def assert_corrupt(folder: Path, name: str) -> str:
    with pytest.raises(ArtifactError) as raised:
        load_artifact(folder)
    assert str(folder / name) in str(raised.value)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("flip", [0x01, 0x20])
def test_any_flipped_byte_is_found_and_its_file_named(artifact: Artifact, flip: int) -> None:
    for name in (*artifact.files, "manifest.json"):
        path = artifact.path / name
        good = path.read_bytes()
        for position in range(len(good)):
            bad = bytearray(good)
            bad[position] ^= flip
            path.write_bytes(bad)
            assert_corrupt(artifact.path, name)
        path.write_bytes(good)
    assert load_artifact(artifact.path) == artifact


def test_a_changed_space_in_the_manifest_is_found(artifact: Artifact) -> None:
    path = artifact.path / "manifest.json"
    text = path.read_text()
    for changed in (text + "\n", text.replace("\n  ", "\n\t", 1), text.replace("1e-05", "1E-05"), text.rstrip()):
        assert changed != text
        path.write_text(changed)
        assert "its checksum does not fit" in assert_corrupt(artifact.path, "manifest.json")


def test_the_message_of_a_corrupt_file(artifact: Artifact) -> None:
    path = artifact.path / "values.bin"
    path.write_bytes(b"\xff" + FILES["values.bin"][1:])
    expected, found = (hashlib.sha256(data).hexdigest() for data in (FILES["values.bin"], path.read_bytes()))
    assert assert_corrupt(artifact.path, "values.bin") == (
        f"{path}: corrupt file (expected sha256 {expected}, found {found}); "
        "restore it from a copy, or write the artifact again"
    )


@pytest.mark.parametrize("verify", [True, False])
def test_truncated_lengthened_removed_and_extra_files(artifact: Artifact, verify: bool) -> None:
    def refuse(words: str) -> None:
        with pytest.raises(ArtifactError) as raised:
            load_artifact(artifact.path, verify=verify)
        assert words in str(raised.value)

    path = artifact.path / "values.bin"
    for data in (FILES["values.bin"][:-1], FILES["values.bin"] + b"x", b""):
        path.write_bytes(data)
        refuse(f"{path}: corrupt file (expected 100 bytes, found {len(data)})")
    path.unlink()
    refuse(f"{path}: a file of the artifact is missing")
    path.write_bytes(FILES["values.bin"])
    extra = artifact.path / "sequences/notes.txt"
    extra.write_text("mine")
    refuse(f"{extra}: this file is not part of the artifact")
    extra.unlink()
    assert load_artifact(artifact.path, verify=verify) == artifact


def test_without_verification_bytes_are_not_read(artifact: Artifact) -> None:
    (artifact.path / "values.bin").write_bytes(bytes(100))
    assert load_artifact(artifact.path, verify=False) == artifact
    assert_corrupt(artifact.path, "values.bin")


def test_what_is_no_artifact(artifact: Artifact, tmp_path: Path) -> None:
    def refuse(path: Path, words: str, kind: str | None = None) -> None:
        with pytest.raises(ArtifactError) as raised:
            load_artifact(path, kind=kind)
        assert words in str(raised.value)
        assert str(path) in str(raised.value)
        assert raised.value.exit_code == 3

    refuse(tmp_path / "absent", "no such artifact; check the path, or write it first")
    refuse(tmp_path / "absent/too", "no such artifact")
    refuse(artifact.path / "values.bin", "an artifact is a folder, and this is a file")
    refuse(artifact.path, "wrong kind of artifact (expected 'dataset', found 'thing')", kind="dataset")
    (artifact.path / "manifest.json").unlink()
    refuse(artifact.path, "not a complete artifact: it has no manifest.json; write it again")
    (artifact.path / "recommender").mkdir()
    (artifact.path / "recommender" / "manifest.json").touch()
    refuse(artifact.path, f"did you mean {artifact.path}/recommender? Otherwise write it again")


def forge(artifact: Artifact, **changes: object) -> None:
    """A manifest with other content and the checksum that fits it."""
    path = artifact.path / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    del manifest["checksum"]
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps(manifest | {"checksum": hashlib.sha256(text.encode()).hexdigest()}, indent=2) + "\n")


def test_a_newer_format_is_refused(artifact: Artifact) -> None:
    forge(artifact, format_version=FORMAT_VERSION + 1)
    assert assert_corrupt(artifact.path, "manifest.json").endswith(
        "written by a newer genrec (expected format version <= 1, found 2); upgrade genrec"
    )


def test_forged_manifests_are_refused(artifact: Artifact) -> None:
    path = artifact.path / "manifest.json"
    forge(artifact)
    assert load_artifact(artifact.path) == artifact  # the forger knows the trade
    forge(artifact, facts={"n": 11})
    assert "its identity does not fit" in assert_corrupt(artifact.path, "manifest.json")
    path.write_text("[]\n")
    assert "keys are missing" in assert_corrupt(artifact.path, "manifest.json")
    path.write_text("{}\n")
    assert "keys are missing" in assert_corrupt(artifact.path, "manifest.json")


# --- lineage ---


def test_parents_have_to_fit(tmp_path: Path) -> None:
    right = write(tmp_path / "right", kind="dataset", facts={"seed": 1})
    wrong = write(tmp_path / "wrong", kind="dataset", facts={"seed": 2})
    child = write(tmp_path / "child", kind="embeddings", parents={"dataset": right})
    check_parent(load_artifact(child.path), "dataset", load_artifact(right.path))
    shutil.copytree(right.path, tmp_path / "copy")
    check_parent(child, "dataset", load_artifact(tmp_path / "copy"))
    elsewhere = write(tmp_path / "child 2", kind="embeddings", parents={"dataset": load_artifact(tmp_path / "copy")})
    assert elsewhere.identity == child.identity
    with pytest.raises(LineageError) as raised:
        check_parent(child, "dataset", wrong)
    assert raised.value.exit_code == 5
    assert str(raised.value) == (
        f"{child.path}: the embeddings was made from another 'dataset' "
        f"(expected identity {right.identity[:12]}, once at {right.path}, "
        f"found dataset {wrong.path} with identity {wrong.identity[:12]}); "
        "use the 'dataset' it was made from, or write the embeddings again from this one"
    )
    with pytest.raises(LineageError, match=r"names no 'semantic_ids' among its parents \(expected dataset, found"):
        check_parent(child, "semantic_ids", right)
    with pytest.raises(LineageError, match="expected no parents at all"):
        check_parent(right, "dataset", wrong)


# --- failures ---


@pytest.mark.parametrize("error", [ValueError("boom"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_an_exception_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), write_artifact(tmp_path / "a", kind="thing") as writer:
        writer.path("sub/x").write_text("half")
        raise error
    assert os.listdir(tmp_path) == []


def test_an_exception_keeps_the_old_one(tmp_path: Path) -> None:
    write(tmp_path / "a")
    before = contents(tmp_path)
    with (
        pytest.raises(ValueError, match="boom"),
        write_artifact(tmp_path / "a", kind="thing", overwrite=True) as writer,
    ):
        writer.path("x").write_text("half")
        assert load_artifact(tmp_path / "a").kind == "thing"
        raise ValueError("boom")
    assert contents(tmp_path) == before


def test_what_is_there_is_not_replaced_unless_told(tmp_path: Path) -> None:
    old = write(tmp_path / "a")
    before = contents(tmp_path)
    with pytest.raises(RunError) as raised:
        write(tmp_path / "a", {"new": b"1"})
    assert str(raised.value) == (
        f"{tmp_path / 'a'}: already there; choose another folder, remove it, or set overwrite=true"
    )
    assert contents(tmp_path) == before
    new = write(tmp_path / "a", {"new": b"1"}, overwrite=True)
    assert new.identity != old.identity
    assert load_artifact(tmp_path / "a") == new
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_what_is_no_artifact_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("x")
    before = contents(tmp_path)
    for name in ("home", "file"):
        with pytest.raises(RunError):
            write(tmp_path / name, overwrite=overwrite)
    with pytest.raises(StorageError, match=r"cannot write: (File exists|Not a directory)"):
        write(tmp_path / "file/a", overwrite=overwrite)
    assert contents(tmp_path) == before


def test_another_kind_is_never_replaced(tmp_path: Path) -> None:
    dataset = write(tmp_path / "a", kind="dataset")
    with pytest.raises(RunError) as raised:
        write(tmp_path / "a", kind="embeddings", overwrite=True)
    assert str(raised.value) == (
        f"{tmp_path / 'a'}: not overwritten, because it is another kind of artifact "
        "(expected 'embeddings', found 'dataset'); choose another output"
    )
    assert load_artifact(tmp_path / "a") == dataset
    (tmp_path / "a/manifest.json").write_text("torn")
    with pytest.raises(RunError, match=r"its kind cannot be told \(found a corrupt manifest\.json\); .* remove it"):
        write(tmp_path / "a", kind="dataset", overwrite=True)
    assert sorted(os.listdir(tmp_path / "a")) == ["empty", "manifest.json", "sequences", "values.bin"]


def test_a_folder_with_a_manifest_of_another_program(tmp_path: Path) -> None:
    (tmp_path / "extension").mkdir()
    (tmp_path / "extension/manifest.json").write_text('{"name": "of a browser", "manifest_version": 3}')
    with pytest.raises(RunError, match="this folder is not an artifact"):
        write(tmp_path / "extension", overwrite=True)
    assert write(tmp_path / "extension/a").kind == "thing"


def test_parents_are_never_touched(tmp_path: Path) -> None:
    parent = write(tmp_path / "data/g2", kind="dataset")
    (tmp_path / "link").symlink_to(parent.path)
    before = contents(tmp_path)
    for target in ("data/g2", "link", "data", "data/g2/inside", "link/deep/inside"):
        with pytest.raises(RunError, match=r"must not touch the dataset it is made from .*; choose another output"):
            write(tmp_path / target, kind="dataset", parents={"dataset": parent}, overwrite=True)
    assert contents(tmp_path) == before
    assert write(tmp_path / "data/g3", kind="dataset", parents={"dataset": parent}).parents


def test_nothing_is_written_inside_of_an_artifact(tmp_path: Path) -> None:
    folder = write(tmp_path / "a").path
    (tmp_path / "link").symlink_to(folder)
    words = rf"a/\S+: this is inside of an artifact \(found artifact {folder}\); choose a place outside of it"
    for inside in (folder / "x", folder / "sequences/deep/x.json", tmp_path / "link/x"):
        for write_inside in (check_outside_artifacts, write, lambda path: write_report(path, {}, overwrite=True)):
            with pytest.raises(RunError, match=words):
                write_inside(inside)
    assert load_artifact(folder).file("empty").exists()
    check_outside_artifacts(folder)
    (folder / "manifest.json").write_text("torn")
    with pytest.raises(RunError, match="inside of an artifact"):
        check_outside_artifacts(folder / "x")


def test_reports(tmp_path: Path) -> None:
    path = tmp_path / "new/report.json"
    write_report(path, {"n": 1})
    with pytest.raises(RunError, match=r"report\.json: already there; choose another name, or set overwrite=true"):
        write_report(path, {"n": 2})
    assert read_json(path) == {"n": 1}
    write_report(path, {"n": 2}, overwrite=True)
    assert read_json(path) == {"n": 2}
    with pytest.raises(RunError, match="there is a folder where the file should go"):
        write_report(tmp_path, {}, overwrite=True)
    with pytest.raises(StorageError, match="choose another path"):
        write_report(path / "x.json", {})


@pytest.mark.parametrize("overwrite", [True, False])
def test_the_root_is_no_place_for_an_artifact(overwrite: bool) -> None:
    with pytest.raises(RunError, match=r"^/: an artifact needs a folder of its own; choose another output"):
        write("/", overwrite=overwrite)


CLOSED_FOLDER = """
import os, shutil, sys, tempfile
from genrec.artifacts import check_outside_artifacts, load_artifact, write_artifact, write_report
from genrec.errors import StorageError
from genrec.runs import RunDirectory, read_metrics, remove_run
def write(path):
    with write_artifact(path, kind="thing", overwrite=True):
        pass
def run(path, **options):
    with RunDirectory.open(path, command="train", config_text="", **options):
        pass
with tempfile.TemporaryDirectory() as folder:
    run(folder)  # imports what it needs as long as that can be read
if os.geteuid() == 0:  # root may search every folder
    os.seteuid(65534)
root = tempfile.mkdtemp()
closed = os.path.join(root, "closed")
write(os.path.join(closed, "a"))
run(os.path.join(closed, "run"))
os.chmod(closed, 0)
calls = [write, load_artifact, run, remove_run, read_metrics, lambda path: run(path, resume=True),
         lambda path: run(root + "/ok", inputs=[path])]
file_calls = [check_outside_artifacts, lambda path: write_report(path, {})]
for name in ("", "a", "run", "new", "new/deep"):
    for call in (calls + file_calls if name else calls):
        try:
            call(os.path.join(closed, name))
        except StorageError as error:
            assert "Permission denied" in str(error) and "check permissions" in str(error), error
            print("refused")
        else:
            print(name, call, "passed")
os.chmod(closed, 0o700)
shutil.rmtree(root)
"""


def test_a_folder_that_may_not_be_searched() -> None:
    with python(CLOSED_FOLDER) as process:
        output, errors = process.communicate(timeout=60)
    assert errors == ""
    assert output.splitlines() == ["refused"] * (7 + 4 * 9)


def test_what_desktops_leave_behind_is_no_part_of_an_artifact(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "a", kind="thing") as writer:
        writer.path("x/Thumbs.db").write_text("asked for")
        (writer.path("x/y").parent / ".DS_Store").write_text("desktop")
        writer.path("x/y").write_text("y")
    assert sorted(writer.artifact.files) == ["x/Thumbs.db", "x/y"]
    for name in (".DS_Store", ".nfs000000000001a2b300000001", "Thumbs.db", "x/.nfs1"):
        (tmp_path / "a" / name).write_text("left behind")
    for verify in (True, False):
        assert load_artifact(tmp_path / "a", verify=verify) == writer.artifact
    (tmp_path / "a/x/Thumbs.db").write_text("changed")
    with pytest.raises(ArtifactError, match=r"x/Thumbs\.db: corrupt file"):
        load_artifact(tmp_path / "a")


def test_something_that_appears_during_the_work_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="already there"), write_artifact(tmp_path / "a", kind="thing") as writer:
        writer.path("x").write_text("mine")
        (tmp_path / "a").mkdir()
        (tmp_path / "a/theirs").write_text("theirs")
    assert contents(tmp_path) == {"a/theirs": b"theirs"}


def failing_at(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, except that its call with this number (from 0) fails."""
    calls = itertools.count()

    def call(*arguments: Any, **options: Any) -> Any:
        if next(calls) == number:
            raise OSError(5, "Input/output error")
        return function(*arguments, **options)

    return call


@pytest.mark.parametrize(
    ("function", "overwrite", "num_calls"),
    # two files, the manifest, two folders, and the folder around; one renaming more where an old artifact gives way
    [("fsync", False, 6), ("fsync", True, 6), ("rename", False, 1), ("rename", True, 2)],
)
def test_a_failure_at_any_system_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, overwrite: bool, num_calls: int
) -> None:
    """Fails the first call of a function of the operating system, then the second, ... until none is left to fail."""
    files = {"x": b"1", "sub/y": b"2"}
    new = write(tmp_path / "new", files).identity
    old = write(tmp_path / "old").identity
    for number in range(num_calls + 1):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        if overwrite:
            write(folder / "a")
        with monkeypatch.context() as patch:
            patch.setattr(os, function, failing_at(number, getattr(os, function)))
            if number == num_calls:
                assert write(folder / "a", files, overwrite=overwrite).identity == new
                continue
            with pytest.raises(StorageError) as raised:
                write(folder / "a", files, overwrite=overwrite)
        message = f"{folder / 'a'}: cannot write: Input/output error; check permissions, and run it again"
        assert str(raised.value) == message
        if (folder / "a").exists():
            assert load_artifact(folder / "a").identity in ((old, new) if overwrite else (new,))
        else:
            assert not overwrite
            assert os.listdir(folder) == []
        assert write(folder / "a", files, overwrite=True).identity == new
        assert os.listdir(folder) == ["a"]


# --- killed writers ---

WRITE_AND_WAIT = """
import sys
from genrec.artifacts import write_artifact
with write_artifact(sys.argv[1], kind="thing", overwrite=sys.argv[2] == "True") as writer:
    writer.path("sub/x").write_text("theirs")
    print("writing", flush=True)
    sys.stdin.readline()
print("written", flush=True)
"""


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_in_the_middle_of_writing(tmp_path: Path, overwrite: bool) -> None:
    target = tmp_path / "a"
    old = write(target) if overwrite else None
    with python(WRITE_AND_WAIT, target, overwrite) as process:
        wait_for_line(process, "writing")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert any(name.startswith(".a.partial-") for name in os.listdir(tmp_path))
    if overwrite:
        assert load_artifact(target) == old
    else:
        assert not target.exists()
        with pytest.raises(ArtifactError, match="no such artifact"):
            load_artifact(target)
    new = write(target, {"x": b"mine"}, overwrite=overwrite)
    assert load_artifact(target) == new
    assert os.listdir(tmp_path) == ["a"]


KILLED_BETWEEN_RENAMES = """
import os, sys
from genrec.artifacts import write_artifact
rename = os.rename
def rename_and_wait(source, target):
    rename(source, target)
    print("renamed", flush=True)
    sys.stdin.readline()
os.rename = rename_and_wait
with write_artifact(sys.argv[1], kind="thing", overwrite=True) as writer:
    pass
"""


def test_killed_while_the_old_one_is_swapped_out(tmp_path: Path) -> None:
    target = tmp_path / "a"
    old = write(target)
    with python(KILLED_BETWEEN_RENAMES, target) as process:
        wait_for_line(process, "renamed")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not target.exists()
    with pytest.raises(ArtifactError, match=r"a process was killed while it replaced it: rename .*\.a\.old-\w+ to a$"):
        load_artifact(target)
    with pytest.raises(RunError, match="already there"):
        write(target)  # it is restored first, so it is there
    assert load_artifact(target) == old
    assert os.listdir(tmp_path) == ["a"]


def test_leftovers_of_other_artifacts_are_left_alone(tmp_path: Path) -> None:
    others = [".b.partial-0123456789abcdef", ".a.partial-x", ".a.b.partial-0123456789abcdef", "a.partial", ".a.old"]
    for name in others:
        (tmp_path / name).mkdir()
    write(tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "a"])


# --- simultaneous writers ---


def test_a_living_writer_is_not_disturbed(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with python(WRITE_AND_WAIT, target, False) as process:
        wait_for_line(process, "writing")
        during = contents(tmp_path)
        for overwrite in (False, True):
            with pytest.raises(RunError) as raised:
                write(target, overwrite=overwrite)
            assert f"{target}: the artifact is in use (found process {process.pid} on" in str(raised.value)
            assert contents(tmp_path) == during
        write(tmp_path / "b")  # another target in the same folder
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        wait_for_line(process, "written")
        assert process.wait() == 0
    assert load_artifact(target).file("sub/x").read_text() == "theirs"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_one_process_cannot_write_the_same_artifact_twice_at_once(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "a", kind="thing") as writer:
        writer.path("x").write_text("outer")
        with pytest.raises(RunError, match="in use"):
            write(tmp_path / "a")
        write(tmp_path / "inner", {"y": b""})
    assert load_artifact(tmp_path / "a").file("x").read_text() == "outer"
    assert sorted(os.listdir(tmp_path)) == ["a", "inner"]


RACE = """
import sys
from genrec.artifacts import write_artifact
from genrec.errors import RunError
sys.stdin.readline()
won = 0
while won < 5:
    try:
        with write_artifact(sys.argv[1], kind="thing", overwrite=True) as writer:
            for name in ("x", "y"):
                writer.path(name).write_text(sys.argv[2])
        won += 1
    except RunError as error:
        assert "in use" in str(error), error
"""


def test_racing_writers_leave_one_whole_artifact(tmp_path: Path) -> None:
    with python(RACE, tmp_path / "a", "1") as one, python(RACE, tmp_path / "a", "2") as two:
        processes = (one, two)
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        results = [process.communicate(timeout=60) for process in processes]
    assert results == [("", ""), ("", "")]
    artifact = load_artifact(tmp_path / "a")
    assert artifact.file("x").read_text() == artifact.file("y").read_text()
    assert os.listdir(tmp_path) == ["a"]


# --- a full disk ---

LIBRARIES = """
import numpy as np, polars as pl
from safetensors.numpy import save_file
values = np.random.default_rng(0).random(100_000)
frame = pl.DataFrame({"x": values})
def text(path):
    with open(path, "w") as file:
        file.writelines("0123456789" for _ in range(80_000))
LIBRARIES = {
    "x.parquet": frame.write_parquet,
    "sink.parquet": lambda path: frame.lazy().sink_parquet(path),
    "x.csv": frame.write_csv,
    "x.ndjson": frame.write_ndjson,
    "x.ipc": frame.write_ipc,
    "x.npy": lambda path: np.save(path, values),
    "small.npy": lambda path: np.save(path, values[:120]),
    "x.npz": lambda path: np.savez(path, values=values),
    "x.bin": values.tofile,
    "x.txt": text,
    "x.safetensors": lambda path: save_file({"values": values}, path),
}
"""

FILE_SIZE_LIMIT = (
    LIBRARIES
    + """
import json, os, resource, signal, sys
from genrec.artifacts import load_artifact, write_artifact
from genrec.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
result = {}
os.chdir(sys.argv[1])
with write_artifact("old", kind="thing") as writer:
    writer.path("x").write_text("old")
before = writer.artifact
for name, write in LIBRARIES.items():
    for target in ("old", "new"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000 if name == "small.npy" else 200_000, hard))
        try:
            with write_artifact(target, kind="thing", overwrite=True) as writer:
                write(writer.path(name))
        except StorageError as error:
            result[name] = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert os.listdir() == ["old"], os.listdir()
        assert load_artifact("old") == before
with write_artifact("new", kind="thing") as writer:
    for name, write in LIBRARIES.items():
        write(writer.path(name))
print(json.dumps(result))
"""
)


@pytest.fixture(scope="module")
def failures_at_a_file_size_limit(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    with python(FILE_SIZE_LIMIT, tmp_path_factory.mktemp("limit")) as process:
        output, errors = process.communicate(timeout=100)
    assert errors == ""
    return json.loads(output)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *(
            (f"x.{suffix}", "cannot write: File too large")
            for suffix in ("parquet", "csv", "ndjson", "ipc", "npz", "txt")
        ),
        ("sink.parquet", "cannot write: File too large"),
        ("x.safetensors", "cannot write: File too large"),
        ("x.npy", "cannot write: 100000 requested and "),
        ("x.bin", "cannot write: 100000 requested and "),
        ("small.npy", "the array was not written whole: mmap length is greater than file size"),
    ],
)
def test_a_file_that_cannot_grow(failures_at_a_file_size_limit: dict[str, str], name: str, reason: str) -> None:
    """The small array is the treacherous one: NumPy loses its tail without an error."""
    message = failures_at_a_file_size_limit[name]
    assert reason in message
    assert "/new" in message
    assert ".partial-" not in message
    assert "check free space, quota and file-size limit" in message


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["x.parquet", "sink.parquet", "x.csv", "x.ipc", "x.npy", "x.bin", "x.txt"])
def test_a_full_disk(tmp_path: Path, name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(LIBRARIES, namespace)
    write(tmp_path / "a")
    before = contents(tmp_path)
    with (
        pytest.raises(StorageError) as raised,
        write_artifact(tmp_path / "a", kind="thing", overwrite=True) as writer,
    ):
        path = writer.path(name)
        path.symlink_to("/dev/full")
        namespace["LIBRARIES"][name](path)
    reason = "100000 requested and 0 written" if name == "x.bin" else "No space left on device"
    assert str(raised.value) == (
        f"{tmp_path / 'a'}: cannot write: {reason}; check free space, quota and file-size limit, and run it again"
    )
    assert contents(tmp_path) == before


def test_errors_of_reading_inside_the_block_are_not_ours(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), write_artifact(tmp_path / "a", kind="thing"):
        (tmp_path / "raw.json").read_text()
    with pytest.raises(PermissionError), write_artifact(tmp_path / "a", kind="thing"):
        raise PermissionError(13, "Permission denied", str(tmp_path / "raw.json"))
    with pytest.raises(FileNotFoundError), write_artifact(tmp_path / "a", kind="thing"):
        pl.scan_csv(tmp_path / "raw.csv").collect()
    assert os.listdir(tmp_path) == []


def test_parents_that_moved_along_are_found(tmp_path: Path) -> None:
    parent = write(tmp_path / "a" / "parent")
    child = write(tmp_path / "a" / "runs" / "child", parents={"origin": parent})
    assert child.parent_paths == {"origin": str(parent.path)}
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copied = load_artifact(tmp_path / "b" / "runs" / "child")
    assert copied.parent_paths == {"origin": str(tmp_path / "b" / "parent")}
    assert copied.identity == child.identity
    write(tmp_path / "b" / "parent", {"other": b"1"}, overwrite=True)  # not what the child was made from
    assert load_artifact(copied.path).parent_paths == {"origin": str(parent.path)}
    shutil.rmtree(tmp_path / "a" / "parent")
    assert load_artifact(child.path).parent_paths == {"origin": str(parent.path)}
