"""Which bundle answers: the one that `current` leads to, changed while the server runs, and back if it cannot be used.

A root is a bundle itself, or a folder of versions:

    root/versions/1  root/versions/2  root/current -> versions/2

A rollback leaves `versions/2.withdrawn` beside the version that it leaves, so that a later one does not go back to it.
`publish` and `rollback` write that layout; a server only reads it. Both change `current` by one rename, so a reader
finds the old version or the new one. Anything else that swaps a folder by renaming is noticed too.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from genrec.errors import ArtifactError, GenrecError, RunError

CURRENT, VERSIONS, MANIFEST = "current", "versions", "manifest.json"
WITHDRAWN = ".withdrawn"

logger = logging.getLogger(__name__)

Load = Callable[[Path], Any]  # a folder -> a generator, or an exception that says why not


@dataclass(frozen=True, eq=False)
class Version:
    """A generator that has passed its check, with what an answer says of it.

    Attributes:
        generator: what answers.
        folder: where it was read from.
        model: version of the weights.
        catalogue: version of the items.
        created: when the bundle was written, seconds since 1970.
        max_k: items that an answer can have.
        titles: by item id; empty if the bundle has none.
        tags: items that have each tag, those of most items first; empty if the bundle has none.
    """

    generator: Any
    folder: Path
    model: str
    catalogue: str
    created: float
    max_k: int
    titles: Mapping[str, str]
    tags: Mapping[str, int]

    def title(self, item_id: str) -> str | None:
        """The title of an item, if there is one."""
        return self.titles.get(item_id)


class Versions:
    """The version that answers now.

    Args:
        root: a bundle or a folder of versions.
        load: reads a bundle, with all checks it has.

    Raises:
        GenrecError: there is no usable bundle at the start; afterwards, the last good one stays.
    """

    def __init__(self, root: Path, load: Load) -> None:
        self.root = root
        self._load = load
        self._seen = _look(root)
        self.current = open_version(root, load)
        self.problem: str | None = None  # why the newest bundle is not the one that answers

    def refresh(self) -> str | None:
        """Looks for another bundle and takes it if it is sound; blocks as long as loading takes.

        Returns:
            "swapped", "refused" (see `problem`), or None when there is nothing new.
        """
        seen = _look(self.root)
        if seen is None or seen == self._seen:
            return None
        self._seen = seen
        try:
            version = open_version(self.root, self._load)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the new bundle, the old one goes on
            self.problem = f"{type(error).__name__}: {error}" if not isinstance(error, GenrecError) else str(error)
            logger.error("the new bundle is refused, %s goes on: %s", self.current.folder, self.problem)
            return "refused"
        self.current, self.problem = version, None
        logger.info("now answering from %s (model %s, catalogue %s)", version.folder, version.model, version.catalogue)
        return "swapped"


def open_version(root: Path, load: Load) -> Version:
    """Loads the bundle that `root` leads to and asks it one question.

    Raises:
        GenrecError: no bundle, or one that cannot be used.
    """
    folder = bundle_folder(root).resolve()
    generator = load(folder)
    check_answers(generator, folder)
    return Version(
        generator=generator,
        folder=folder,
        model=str(generator.version.model),
        catalogue=str(generator.version.catalogue),
        created=datetime.fromisoformat(json.loads((folder / MANIFEST).read_text("utf-8"))["created"]).timestamp(),
        max_k=generator.limits.max_candidates,
        titles=dict(zip(generator.item_ids, generator.titles or (), strict=False)),
        tags={tag: len(items) for tag, items in sorted((generator.tags or {}).items(), key=lambda pair: -len(pair[1]))},
    )


def bundle_folder(root: Path) -> Path:
    """`root` itself if it is a bundle, else its `current`.

    Raises:
        ArtifactError: neither is there.
    """
    if (root / MANIFEST).is_file():
        return root
    if (root / CURRENT / MANIFEST).is_file():
        return root / CURRENT
    expected = f"a folder with {MANIFEST}, or with {CURRENT}/{MANIFEST}"
    raise ArtifactError("no bundle here", where=root, expected=expected, fix="check the path, or export one first")


def check_answers(generator: Any, folder: Path) -> None:
    """Raises ArtifactError unless an empty history and a known item get an item of finite score each."""
    found = generator.recommend([[], generator.item_ids[:1]], 1)
    for items, scores in zip(found.item_ids, found.scores, strict=True):
        if len(items) != 1 or len(scores) != 1 or not math.isfinite(scores[0]):
            raise ArtifactError(
                "the bundle does not answer", where=folder, expected="one item and a finite score", found=f"{items}"
            )


def publish(root: Path, bundle: Path, load: Load) -> Path:
    """Copies a bundle into `root` as its next version, checks the copy, and lets `current` lead to it.

    Returns:
        The folder of the version.

    Raises:
        GenrecError: the copy cannot be used; nothing has changed then.
    """
    source = bundle_folder(bundle).resolve()
    folder = root / VERSIONS
    if (root / MANIFEST).exists():
        raise RunError("this is a bundle, and no folder of versions", where=root, fix="choose another output")
    if root.is_dir() and not folder.is_dir() and any(root.iterdir()):
        fix = "choose another output, or an empty folder"
        raise RunError("there are other things in this folder", where=root, expected=f"a folder {VERSIONS}", fix=fix)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".partial-{secrets.token_hex(8)}"
    try:
        shutil.copytree(source, partial)
        open_version(partial, load)
        target = folder / str(max(_numbers(root), default=0) + 1)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _lead_to(root, target)
    return target


def rollback(root: Path, load: Load, *, version: int | None = None) -> Path:
    """Lets `current` lead to the version before the one it leads to that no rollback has left, or to a given one.

    Returns:
        The folder of the version.

    Raises:
        GenrecError: there is none, or it cannot be used; nothing has changed then.
    """
    now, numbers = (root / CURRENT).resolve().name, _numbers(root)
    folder = root / VERSIONS
    if version is None:
        earlier = [number for number in numbers if now.isdecimal() and number < int(now)]
        earlier = [number for number in earlier if not (folder / f"{number}{WITHDRAWN}").exists()]
        if not earlier:
            found = f"{CURRENT} -> {now}"
            raise RunError("there is no earlier version", where=root, found=found, fix="name one: version=N")
        version = max(earlier)
    elif version not in numbers:
        known = ", ".join(map(str, sorted(numbers)))
        raise RunError("there is no such version", where=root, expected=known, found=version)
    target = folder / str(version)
    open_version(target, load)
    if now.isdecimal() and int(now) > version:
        (folder / f"{now}{WITHDRAWN}").touch()
    (folder / f"{version}{WITHDRAWN}").unlink(missing_ok=True)
    _lead_to(root, target)
    return target


def _numbers(root: Path) -> Sequence[int]:
    folder = root / VERSIONS
    if not folder.is_dir():
        raise RunError("this is no folder of versions", where=root, fix="publish a bundle there first")
    return [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]


def _lead_to(root: Path, target: Path) -> None:
    link = root / f".{CURRENT}-{secrets.token_hex(8)}"
    link.symlink_to(target.relative_to(root), target_is_directory=True)
    try:
        link.replace(root / CURRENT)
    except OSError:
        link.unlink(missing_ok=True)
        raise


def _look(root: Path) -> tuple[Any, ...] | None:
    """What tells one bundle from the next without reading it; None while there is none, as between two renames."""
    try:
        folder = bundle_folder(root).resolve()
        facts = (folder / MANIFEST).stat()
    except (GenrecError, OSError):
        return None
    return os.fspath(folder), facts.st_ino, facts.st_mtime_ns, facts.st_size


def age(version: Version) -> float:
    """Seconds since the bundle of a version was written."""
    return max(0.0, time.time() - version.created)
