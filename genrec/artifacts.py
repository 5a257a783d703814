"""Artifact folders: written whole or not at all, and read only if every byte is the one that was written.

An artifact is a folder of files and a ``manifest.json``, written last, with its kind, facts, parents and the sha256 of
every file. It is built in a hidden sibling (``.NAME.partial-*``) under a lock (``.NAME.lock``) and renamed into place,
so a folder without a manifest is never an artifact, and what a killed writer left is removed by the next one.

Knows JSON and files; NumPy only for checking that arrays were written whole. It must not know what the kinds mean, nor
import torch or Polars.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from genrec import __version__
from genrec.errors import ArtifactError, LineageError, RunError, StorageError
from genrec.files import (
    hold_lock,
    is_debris,
    plain_json,
    pretty_json,
    reading,
    sync,
    utc_now,
    writing,
    writing_by_others,
)
from genrec.files import read_json as read_json
from genrec.files import sha256_file as sha256_file
from genrec.files import write_json as write_json

FORMAT_VERSION = 1
MANIFEST = "manifest.json"

_IDENTITY_KEYS = ("kind", "format_version", "facts", "parents", "files")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Artifact:
    """A complete artifact on disk.

    Attributes:
        path: absolute folder.
        kind: what it is, for instance "dataset".
        identity: sha256 (hex) of kind, format version, facts, parents' identities and files' hashes: the same content
            has the same identity wherever and whenever it was written.
        facts: JSON values that readers need and that are part of the identity.
        parents: identity of each artifact this one was made from, by its role.
        files: ``{"sha256": hex, "size": bytes}`` by relative posix name.
        parent_paths: where each parent is, found beside the artifact if they were moved together, or was.
    """

    path: Path
    kind: str
    identity: str
    facts: dict[str, Any]
    parents: dict[str, str]
    files: dict[str, dict[str, Any]]
    parent_paths: dict[str, str] = field(default_factory=dict, compare=False)

    def file(self, name: str) -> Path:
        """Path of one of the files; ArtifactError if the artifact has no such file."""
        if name not in self.files:
            raise ArtifactError(f"the {self.kind} has no file {name!r}", where=self.path, found=", ".join(self.files))
        return self.path / name


class ArtifactWriter:
    """What the body of ``with write_artifact(...) as writer`` works with.

    Attributes:
        facts: may be filled until the end of the block.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.facts: dict[str, Any] = dict(facts)
        self._folder = folder
        self._names: set[str] = set()
        self._artifact: Artifact | None = None

    def path(self, name: str) -> Path:
        """Where to write the file `name` (relative, with ``/``); its sub-folders are made.

        Raises:
            ArtifactError: the name would lie outside the folder, or is the manifest's.
        """
        _check_name(name)
        self._names.add(name)
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def artifact(self) -> Artifact:
        """The artifact, once the block was left without an exception."""
        if self._artifact is None:
            raise ArtifactError("the artifact is not complete yet", where=self._folder)
        return self._artifact


@contextmanager
def write_artifact(
    path: Path | str,
    *,
    kind: str,
    facts: Mapping[str, Any] | None = None,
    parents: Mapping[str, Artifact] | None = None,
    overwrite: bool = False,
) -> Iterator[ArtifactWriter]:
    """Writes an artifact: the folder appears, complete, when the block is left, or not at all.

    Args:
        path: folder to make; its parent folders are made as needed. An empty folder may already be there.
        kind: what it is.
        facts: JSON values; `writer.facts` may be filled in the block.
        parents: the artifacts it is made from, by role.
        overwrite: replace an artifact of the same kind that is there. The old one is removed only after the new one is
            in place, and stays if anything fails.

    Raises:
        RunError: something is there already, or of another kind; it is, holds or is inside of one of the parents; it is
            inside of any artifact; or another process is writing it.
        StorageError: disk full, no permission, read-only, or an input/output error while writing.
        ArtifactError: facts are not JSON, a file that was asked for was not written, or something is not a plain file.
    """
    target = Path(path).resolve()
    plain_json(facts or {}, where="facts")  # before the hours of work that the block may take
    with writing(target):
        _check_place(target, parents or {})
        target.parent.mkdir(parents=True, exist_ok=True)
    with hold_lock(_sibling(target, "lock"), what="the artifact", where=target):
        with writing(target):
            _clear_leftovers(target)
            _check_free(target, kind=kind, overwrite=overwrite)
            token = secrets.token_hex(8)
            partial = _sibling(target, f"partial-{token}")
            partial.mkdir()
        try:
            writer = ArtifactWriter(partial, facts or {})
            with writing_by_others(target, inside=partial):
                yield writer
            with writing(target):
                manifest = _seal(writer, target=target, kind=kind, parents=parents or {})
                _check_free(target, kind=kind, overwrite=overwrite)
                _publish(partial, target, _sibling(target, f"old-{token}"))
            writer._artifact = _from_manifest(target, manifest)
        finally:
            _remove(partial)
    logger.info("wrote %s %s (%s)", kind, target, manifest["identity"][:12])


def load_artifact(path: Path | str, *, kind: str | None = None, verify: bool = True) -> Artifact:
    """Reads and checks an artifact.

    Args:
        path: its folder.
        kind: the kind it has to be.
        verify: hash every file; otherwise only names and sizes are compared.

    Raises:
        ArtifactError: missing, incomplete, corrupt (the file is named), of another kind, or written by a newer version.
        StorageError: a file cannot be read.
    """
    folder = Path(path).resolve()
    with reading(folder):
        artifact = _from_manifest(folder, _read_manifest(folder))
    if kind is not None and artifact.kind != kind:
        raise ArtifactError("wrong kind of artifact", where=folder, expected=repr(kind), found=repr(artifact.kind))
    with reading(folder):
        present = dict(_walk(folder))
        present.pop(MANIFEST)
        fix = "restore it from a copy, or write the artifact again"
        if missing := sorted(artifact.files.keys() - present.keys()):
            raise ArtifactError("a file of the artifact is missing", where=folder / missing[0], fix=fix)
        if extra := sorted(
            name for name in present.keys() - artifact.files.keys() if not is_debris(present[name].name)
        ):
            raise ArtifactError("this file is not part of the artifact", where=folder / extra[0], fix="move it away")
        for name, recorded in artifact.files.items():
            size = present[name].stat().st_size
            if size != recorded["size"]:
                expected = f"{recorded['size']} bytes"
                raise ArtifactError("corrupt file", where=folder / name, expected=expected, found=size, fix=fix)
            if verify and (digest := sha256_file(present[name])) != recorded["sha256"]:
                expected = f"sha256 {recorded['sha256']}"
                raise ArtifactError("corrupt file", where=folder / name, expected=expected, found=digest, fix=fix)
    return artifact


def check_parent(child: Artifact, name: str, parent: Artifact) -> None:
    """Raises LineageError unless `child` was made from exactly `parent` in the role `name`."""
    found = f"{parent.kind} {parent.path} with identity {parent.identity[:12]}"
    if name not in child.parents:
        raise LineageError(
            f"the {child.kind} names no {name!r} among its parents",
            where=child.path,
            expected=", ".join(child.parents) or "no parents at all",
            found=found,
            fix=f"write the {child.kind} again from this {parent.kind}",
        )
    if child.parents[name] != parent.identity:
        raise LineageError(
            f"the {child.kind} was made from another {name!r}",
            where=child.path,
            expected=f"identity {child.parents[name][:12]}, once at {child.parent_paths.get(name)}",
            found=found,
            fix=f"use the {name!r} it was made from, or write the {child.kind} again from this one",
        )


def check_outside_artifacts(path: Path | str) -> None:
    """Raises RunError if `path` lies inside of an artifact, which a file more would make corrupt."""
    target = Path(path).resolve()
    with writing(target):
        for folder in target.parents:
            if _is_artifact(folder):
                fix = "choose a place outside of it"
                raise RunError("this is inside of an artifact", where=target, found=f"artifact {folder}", fix=fix)


def write_report(path: Path | str, value: object, *, overwrite: bool = False) -> None:
    """Writes a JSON file that a user has named; its parent folders are made as needed.

    Raises:
        RunError: the file is there and `overwrite` is off; a folder has its name; or it is inside of an artifact.
        StorageError: it cannot be written; what was there stays.
    """
    target = Path(path).resolve()
    check_outside_artifacts(target)
    with writing(target):
        if target.is_dir():
            raise RunError("there is a folder where the file should go", where=target, fix="choose another name")
        if target.exists() and not overwrite:
            raise RunError("already there", where=target, fix="choose another name, or set overwrite=true")
        target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, value)


def _sibling(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}.{suffix}")


def _check_name(name: str) -> None:
    parts = name.split("/")
    if "\\" in name or "\0" in name or PurePosixPath(name).is_absolute() or {"", ".", ".."} & set(parts):
        raise ArtifactError("a file's name has to be relative and inside the artifact", found=repr(name))
    if name == MANIFEST:
        raise ArtifactError("this name is reserved", found=repr(name))


def _walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """All that is not a folder, as (relative posix name, path), sorted."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path, f"{prefix}{path.name}/")
        else:
            yield prefix + path.name, path


def _seal(writer: ArtifactWriter, *, target: Path, kind: str, parents: Mapping[str, Artifact]) -> dict[str, Any]:
    """Checks and syncs everything in the folder, then writes the manifest. Returns the manifest."""
    folder = writer._folder
    for name in sorted(writer._names):
        if not (folder / name).exists():
            raise ArtifactError(f"the file {name!r} was asked for and not written", where=target)
    files = {}
    for name, path in _walk(folder):
        if is_debris(path.name) and name not in writer._names:
            continue
        _check_name(name)
        if path.is_symlink() or not path.is_file():
            raise ArtifactError("not a plain file", where=target / name)
        _check_whole(path, target / name)
        sync(path)
        files[name] = {"sha256": sha256_file(path), "size": path.stat().st_size}
    manifest: dict[str, Any] = {
        "kind": kind,
        "format_version": FORMAT_VERSION,
        "identity": "",
        "genrec_version": __version__,
        "created": utc_now(),
        "facts": plain_json(writer.facts, where="facts"),
        "parents": {
            name: {
                "identity": parent.identity,
                "path": str(parent.path),
                "relative": Path(os.path.relpath(parent.path, target)).as_posix(),
            }
            for name, parent in sorted(parents.items())
        },
        "files": files,
    }
    manifest["identity"] = _identity(manifest)
    manifest["checksum"] = _digest(manifest)
    (folder / MANIFEST).write_text(pretty_json(manifest), "utf-8")
    for path in (folder / MANIFEST, *(entry for entry in folder.rglob("*") if entry.is_dir()), folder):
        sync(path)
    return manifest


def _check_whole(path: Path, where: Path) -> None:
    """NumPy does not report it when the last buffer (up to 4 KiB) of an array cannot be written."""
    if path.suffix != ".npy":
        return
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        fix = "check free space, quota and file-size limit"
        raise StorageError(f"the array was not written whole: {error}", where=where, fix=fix) from error


def _is_artifact(folder: Path) -> bool:
    """Whether the folder holds our manifest; other programs name theirs so too, but without our keys."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        manifest = read_json(folder / MANIFEST)
    except (ArtifactError, StorageError):
        return True  # corrupt or closed: its folder is left alone
    return isinstance(manifest, dict) and set(_IDENTITY_KEYS) <= manifest.keys()


def _check_place(target: Path, parents: Mapping[str, Artifact]) -> None:
    if target == target.parent:
        raise RunError("an artifact needs a folder of its own", where=target, fix="choose another output")
    for name, parent in parents.items():
        if target.is_relative_to(parent.path) or parent.path.is_relative_to(target):
            raise RunError(
                f"the output must not touch the {parent.kind} it is made from",
                where=target,
                found=f"{name} {parent.path}",
                fix="choose another output",
            )
    check_outside_artifacts(target)


def _check_free(target: Path, *, kind: str, overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise RunError("there is a file where the artifact should go", where=target, fix="choose another name")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise RunError("already there", where=target, fix="choose another folder, remove it, or set overwrite=true")
    fix = "choose another folder, or remove it yourself"
    if not _is_artifact(target):
        raise RunError("not overwritten, because this folder is not an artifact", where=target, fix=fix)
    try:
        found = read_json(target / MANIFEST)["kind"]
    except ArtifactError as error:
        what = "not overwritten, because its kind cannot be told"
        raise RunError(what, where=target, found=f"a corrupt {MANIFEST}", fix=fix) from error
    if found != kind:
        what = "not overwritten, because it is another kind of artifact"
        raise RunError(what, where=target, expected=repr(kind), found=repr(found), fix="choose another output")


def _publish(partial: Path, target: Path, old: Path) -> None:
    """Renames `partial` to `target`; an artifact that is there goes to `old` first, and back if the renaming fails."""
    replaced = (target / MANIFEST).is_file()
    try:
        if replaced:
            target.rename(old)
        partial.rename(target)
    except BaseException:
        if replaced and not target.exists():
            old.rename(target)
        raise
    sync(target.parent)
    if replaced:
        (old / MANIFEST).unlink()  # first, so that a half-removed folder cannot pass for an artifact
        _remove(old)


def _leftovers(target: Path) -> list[tuple[str, Path]]:
    """What killed writers of this target left beside it: ("partial" or "old", folder)."""
    pattern = re.compile(re.escape(f".{target.name}.") + "(partial|old)-[0-9a-f]{16}")
    matches = ((pattern.fullmatch(path.name), path) for path in sorted(target.parent.iterdir()))
    return [(match[1], path) for match, path in matches if match]


def _clear_leftovers(target: Path) -> None:
    """Undoes what killed writers of this target began; under the lock, nobody else is at work."""
    for kind, path in _leftovers(target):
        if kind == "old" and (path / MANIFEST).is_file() and not target.exists():
            logger.warning("restoring %s, which a killed process was about to replace", target)
            path.rename(target)
        else:
            logger.warning("removing %s, left by a killed process", path)
            shutil.rmtree(path)


def _remove(folder: Path) -> None:
    """Removes a folder that is no longer needed; failing to is not worth losing an artifact or another exception."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        logger.warning("could not remove %s; remove it yourself", folder)


def _digest(value: object) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _identity(manifest: Mapping[str, Any]) -> str:
    content = {key: manifest[key] for key in _IDENTITY_KEYS}
    content["parents"] = {name: parent["identity"] for name, parent in manifest["parents"].items()}
    return _digest(content)


def _manifest_path(folder: Path) -> Path:
    """Path of the manifest, or an ArtifactError that says why there is none."""
    if folder.is_dir():
        if (folder / MANIFEST).is_file():
            return folder / MANIFEST
        inside = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))  # <run>/recommender, say
        hint = f"did you mean {folder / inside[0]}? Otherwise " if inside else ""
        fix = f"{hint}write it again if its writer was stopped, or check the path"
        raise ArtifactError("not a complete artifact: it has no manifest.json", where=folder, fix=fix)
    if folder.exists():
        raise ArtifactError("an artifact is a folder, and this is a file", where=folder)
    fix = "check the path, or write it first"
    for kind, old in _leftovers(folder) if folder.parent.is_dir() else ():
        if kind == "old":
            fix = f"a process was killed while it replaced it: rename {old} to {folder.name}"
    raise ArtifactError("no such artifact", where=folder, fix=fix)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = _manifest_path(folder)
    manifest = read_json(path)
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        expected = f"format version <= {FORMAT_VERSION}"
        raise ArtifactError(
            "written by a newer genrec", where=path, expected=expected, found=version, fix="upgrade genrec"
        )
    fix = "restore the artifact from a copy, or write it again"
    if not isinstance(manifest, dict) or not {*_IDENTITY_KEYS, "identity", "checksum"} <= manifest.keys():
        raise ArtifactError("corrupt manifest: keys are missing", where=path, fix=fix)
    content = {key: value for key, value in manifest.items() if key != "checksum"}
    # The text too, so that not even a space can change unnoticed.
    if _digest(content) != manifest["checksum"] or path.read_text("utf-8") != pretty_json(manifest):
        raise ArtifactError("corrupt manifest: its checksum does not fit its content", where=path, fix=fix)
    if _identity(manifest) != manifest["identity"]:
        raise ArtifactError("corrupt manifest: its identity does not fit its content", where=path, fix=fix)
    for name in manifest["files"]:
        _check_name(name)
    return manifest


def _from_manifest(folder: Path, manifest: Mapping[str, Any]) -> Artifact:
    return Artifact(
        path=folder,
        kind=manifest["kind"],
        identity=manifest["identity"],
        facts=manifest["facts"],
        parents={name: parent["identity"] for name, parent in manifest["parents"].items()},
        files=manifest["files"],
        parent_paths={name: _find_parent(folder, parent) for name, parent in manifest["parents"].items()},
    )


def _find_parent(folder: Path, parent: Mapping[str, str]) -> str:
    """Where a parent is: beside its child, if they were moved or copied together, or where it was."""
    beside = Path(os.path.normpath(folder / parent.get("relative", ".")))
    try:
        is_there = read_json(beside / MANIFEST)["identity"] == parent["identity"]
    except (ArtifactError, StorageError, KeyError, TypeError):
        is_there = False
    return str(beside) if is_there else parent["path"]
