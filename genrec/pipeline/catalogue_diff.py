"""``genrec catalogue diff``: what a later catalogue has that an earlier one has not, before or after it is served."""
# N items, L levels

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genrec.artifacts import Artifact, load_artifact
from genrec.config.serving import DiffConfig
from genrec.errors import ArtifactError
from genrec.files import read_json
from genrec.pipeline.published import load_published
from genrec.semantic_ids.table import KIND as SEMANTIC_IDS
from genrec.semantic_ids.versions import some_ids
from genrec.serving.runtime import CATALOGUE, CONFIG, ITEMS
from genrec.serving.swap import bundle_folder
from genrec.terminal import Outcome, Progress, Table

LABELS = {
    "added": "new items",
    "gone": "items that went",
    "moved": "items with another semantic ID",
    "retitled": "items with another title",
    "retagged": "items with other tags",
}


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Items on one day, as requests and answers name them.

    Attributes:
        folder: where they are.
        version: of them; a semantic ID table has its identity.
        model: version of the model in the same bundle; None: a table, no model.
        codes: the semantic ID of each item, by id.
        titles: by id; empty where there are none.
        tags: by id; None where requests cannot name tags.
    """

    folder: Path
    version: str
    model: str | None
    codes: Mapping[str, tuple[int, ...]]
    titles: Mapping[str, str]
    tags: Mapping[str, frozenset[str]] | None


def diff(config: DiffConfig, *, progress: Progress) -> Outcome:
    """Tells items that came, went, or are described otherwise; writes nothing."""
    before, after = read_catalogue(config.before), read_catalogue(config.after)
    progress("diff", 1, 1)
    found = differences(before, after)
    same_model = None if None in (before.model, after.model) else before.model == after.model
    summary: dict[str, Any] = {
        "before": before.version,
        "after": after.version,
        "num_items_before": len(before.codes),
        "num_items_after": len(after.codes),
        "same_model": same_model,
        **found,
    }
    rows = [("items before", f"{len(before.codes):,}", ""), ("items after", f"{len(after.codes):,}", "")]
    rows += [(label, f"{len(found[name]):,}", some_ids(found[name])) for name, label in LABELS.items() if name in found]
    if same_model is not None:
        rows.append(("model", "the same" if same_model else "another", ""))
    title = f"{before.folder} -> {after.folder}"
    notes = () if "retagged" in found else ("tags are not compared: they are not in both",)
    return Outcome(summary, (Table(title, ("what", "number", "which"), tuple(rows), left=("what", "which")),), notes)


def differences(before: Catalogue, after: Catalogue) -> dict[str, list[str]]:
    """Ids by what happened to them: the keys of `LABELS`, without tags if one side has none; in the order of `after`.

    >>> one = Catalogue(Path(), "1", None, {"a": (0, 1), "b": (2, 0)}, {"a": "Pen"}, None)
    >>> two = Catalogue(Path(), "2", None, {"a": (0, 1), "c": (2, 0)}, {"a": "Red pen"}, None)
    >>> differences(one, two)
    {'added': ['c'], 'gone': ['b'], 'moved': [], 'retitled': ['a']}
    """
    stayed = [item for item in after.codes if item in before.codes]
    found = {
        "added": [item for item in after.codes if item not in before.codes],
        "gone": [item for item in before.codes if item not in after.codes],
        "moved": [item for item in stayed if before.codes[item] != after.codes[item]],
        "retitled": [item for item in stayed if before.titles.get(item, "") != after.titles.get(item, "")],
    }
    if before.tags is not None and after.tags is not None:
        found["retagged"] = [item for item in stayed if before.tags[item] != after.tags[item]]
    return found


def read_catalogue(path: Path) -> Catalogue:
    """Reads the items of a bundle, of the bundle that a folder of versions leads to, or of a semantic ID table.

    Raises:
        ArtifactError: none of these.
    """
    artifact = load_artifact(bundle_folder(path))
    if artifact.kind == SEMANTIC_IDS:
        published = load_published(artifact.path)
        version, titles = published.version, published.items["title"].fill_null("").to_list()
        return Catalogue(path, artifact.identity, None, *_by_id(version.item_ids, version.table.codes, titles), None)
    if artifact.kind == "bundle":
        return _of_bundle(path, artifact)
    raise ArtifactError("no catalogue", where=path, expected="a bundle or semantic IDs", found=artifact.kind)


def _of_bundle(path: Path, artifact: Artifact) -> Catalogue:
    items, config = read_json(artifact.file(ITEMS)), read_json(artifact.file(CONFIG))
    names: list[str] = items["item_ids"]
    with np.load(artifact.file(CATALOGUE), allow_pickle=False) as arrays:
        codes, titles = _by_id(names, arrays["codes"], items.get("titles"))
    tags = None
    if "tags" in items:
        lists: dict[str, list[str]] = {name: [] for name in names}
        for tag, rows in items["tags"].items():
            for row in rows:
                lists[names[row]].append(tag)
        tags = {name: frozenset(own) for name, own in lists.items()}
    return Catalogue(path, config["catalogue_version"], config["model_version"], codes, titles, tags)


def _by_id(
    names: Sequence[str], codes: np.ndarray, titles: Sequence[str] | None
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    return dict(zip(names, map(tuple, codes.tolist()), strict=True)), dict(zip(names, titles or (), strict=False))
