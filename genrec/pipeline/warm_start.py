"""Where ``genrec train initial=...`` starts: an older recommender, whose items and nodes are found in newer data.

Rows of items follow the users' own item ids, rows of nodes the codes of their prefixes, rows of codes the codes; what
would give them another meaning is refused. Knows artifacts and models; must not know how training goes on.
"""
# O items of the older dataset, N of the newer one, L levels

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Int64
from safetensors.torch import load_file

from genrec.artifacts import Artifact, check_parent, load_artifact
from genrec.data.dataset import Dataset
from genrec.data.overlap import count_leaks, match_rows
from genrec.errors import ArtifactError, ConfigError, LineageError
from genrec.files import read_json
from genrec.models.node_embeddings import keep_rows
from genrec.models.settings import HierarchicalSettings
from genrec.pipeline.recommenders import KIND
from genrec.semantic_ids.table import SemanticIds, load_semantic_ids
from genrec.semantic_ids.trie import SemanticIdTrie

# Settings that give no weight another shape or place, beside the rates of dropout and most of a memory's.
MAY_DIFFER = ("normalisation", "temperature", "history_length", "attention", "gradient_checkpointing")
KEEP_IDS = "keep the published semantic IDs (tokenizer=imported), or train from scratch, without initial"


class Overlap(NamedTuple):
    """How many things are in both, in the newer data only, and in the older only."""

    shared: int
    new: int
    gone: int


@dataclass(frozen=True, eq=False)
class WarmStart:
    """An older recommender and where its items are now; made by `plan_warm_start`.

    Attributes:
        artifact: the older recommender.
        places: [O] item_index now of each of its items, -1 where it is gone.
        items: overlap of the catalogues.
        nodes: overlap of the tries, all depths together; what is known has an item that is shared below it.
        settings: (old, new) value of each setting that differs.
        num_leaked: events held out now that the older recommender was trained on.
    """

    artifact: Artifact
    places: Int64[np.ndarray, " O"]
    items: Overlap
    nodes: Overlap
    settings: dict[str, tuple[Any, Any]]
    num_leaked: int

    @property
    def summary(self) -> dict[str, Any]:
        """For machines."""
        return {
            "recommender": str(self.artifact.path),
            "identity": self.artifact.identity,
            "items": self.items._asdict(),
            "nodes": self.nodes._asdict(),
            "settings": {name: list(values) for name, values in self.settings.items()},
            "num_leaked": self.num_leaked,
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """For people."""
        told = [f"starts from {self.artifact.path}: {_say('items', self.items)}; {_say('nodes', self.nodes)}"]
        told += [f"model.{name} was {old} there and is {new}" for name, (old, new) in self.settings.items()]
        return (*told, *self.warnings)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know before training."""
        if not self.num_leaked:
            return ()
        return (
            f"{self.num_leaked:,} held-out events were training events of the initial recommender: "
            "what is measured on them flatters it; split both datasets in the same way",
        )

    @property
    def vocabularies(self) -> dict[str, list[str]]:
        """The values that its item features know, by feature."""
        features = read_json(self.artifact.file("model.json")).get("features", {})
        return {name: of["vocabulary"] for name, of in features.items()}

    def load_into(self, model: Any) -> None:
        """Gives `model`, over the newer data, the older weights; `mark_trained` comes afterwards."""
        take_over(model, load_file(self.artifact.file("weights.safetensors")), self.places)


def plan_warm_start(
    path: Path, dataset: Dataset, ids: SemanticIds, model: Mapping[str, Any], *, verify: bool = True
) -> WarmStart:
    """Finds the items of the recommender at `path` in newer data, without reading its weights.

    Args:
        path: the older recommender; its manifest says where its dataset and its semantic IDs are.
        dataset: the newer one.
        ids: its semantic IDs.
        model: the settings to train with, `name` among them.
        verify: hash all files.

    Raises:
        ArtifactError: the recommender, or what it was made from, is missing or corrupt.
        ConfigError: a setting differs that its weights do not allow.
        LineageError: its dataset or its semantic IDs were replaced; no item is in both; a shared item has other codes.
    """
    artifact = load_artifact(path, kind=KIND, verify=verify)
    settings = compare_settings(read_json(artifact.file("model.json")), model, where=path)
    older, old_ids = _made_from(artifact, verify=verify)
    places = match_rows(older.item_ids, dataset.item_ids)
    check_same_ids(old_ids, ids, places, older.item_ids, where=path)
    shared = int((places >= 0).sum())
    return WarmStart(
        artifact=artifact,
        places=places,
        items=Overlap(shared, len(ids.codes) - shared, len(places) - shared),
        nodes=_compare_nodes(old_ids, ids, places),
        settings=settings,
        num_leaked=count_leaks(older, dataset),
    )


def take_over(model: Any, state: Mapping[str, torch.Tensor], places: Int64[np.ndarray, " O"]) -> None:
    """Loads the weights of a model of equal settings over other items, and possibly other numbers of codes.

    A code that the older model did not have keeps its random start; one that no level has any more is dropped. A node
    with none but new items below it is new: its codes may have been those of an item that is gone.

    Args:
        model: over the newer items.
        state: `state_dict` of the older model.
        places: item_index of `model` of each item there, -1 where it is gone.
    """
    by_code = {id(table) for table in model.code_tables}
    adapted = dict(state)
    for name, own in model.named_parameters():
        if id(own) in by_code:
            adapted[name] = keep_rows(state[name], own)
    model.load_adapted(adapted, torch.from_numpy(places))
    paths = model.trie.path_nodes(torch.from_numpy(places[places >= 0]))
    nodes = model.node_embeddings
    with torch.no_grad():
        for level in nodes.levels:
            is_new = torch.ones_like(nodes.is_trained(level)).index_fill(0, paths[:, level], False)
            nodes.rows[str(level)][is_new] = 0
            nodes.is_trained(level)[is_new] = False


def compare_settings(old: Mapping[str, Any], new: Mapping[str, Any], *, where: object) -> dict[str, tuple[Any, Any]]:
    """(old, new) value of each setting that differs and may.

    Args:
        old: facts of the older recommender; a setting that its version did not have has its default.
        new: the settings to train with.
        where: the older recommender, for messages.

    Raises:
        ConfigError: a setting differs on which the weights depend.
    """
    known = _flat(asdict(HierarchicalSettings(transition_embeddings=False))) | _flat(old)
    differing = {name: (known.get(name), value) for name, value in _flat(new).items() if known.get(name) != value}
    free = {name for name, values in differing.items() if _may_differ(name, *values)}
    if fixed := [name for name in differing if name not in free]:
        first, *more = fixed
        expected, found = differing[first]
        keys = " ".join(f"model.{name}={_plain(differing[name][0])}" for name in fixed)
        raise ConfigError(
            f"key {'model.' + first!r} is not that of the initial recommender"
            + (f", nor {'is' if len(more) == 1 else 'are'} {', '.join(more)}" if more else ""),
            where=where,
            expected=_plain(expected),
            found=_plain(found),
            fix=f"set {keys}, or give the config.yaml of its run first",
        )
    return {name: values for name, values in differing.items() if name in free}


def _may_differ(name: str, old: Any, new: Any) -> bool:
    """What a memory holds is made anew of the newer data, but its gains and floors are weights: it is there or not."""
    if name == "memory.followers":
        return bool(old) == bool(new)
    is_rate = name.rpartition(".")[2].startswith("dropout")
    return name in MAY_DIFFER or is_rate or name.startswith("memory.")


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by the keys they have on the command line, in the types of JSON."""
    flat = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": of_inner for inner, of_inner in _flat(value).items()}
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return flat


def check_same_ids(
    old: SemanticIds, new: SemanticIds, places: Int64[np.ndarray, " O"], item_ids: pl.Series, *, where: object
) -> None:
    """Raises LineageError unless some items are shared and all of these have the codes they had.

    Args:
        old, new: the tables.
        places: row of `new` of each item of `old`, -1 where it is gone.
        item_ids: of the items of `old`, for messages.
        where: the older recommender, for messages.
    """
    shared = np.flatnonzero(places >= 0)
    if not len(shared):
        raise LineageError(
            "the dataset has no item of the initial recommender",
            where=where,
            expected=f"items such as {item_ids[0]!r}",
            fix="prepare both datasets with the same item ids, or train from scratch, without initial",
        )
    if old.num_levels != new.num_levels:
        raise LineageError(
            "the semantic IDs have another number of levels than those of the initial recommender",
            where=where,
            expected=f"codebook sizes {list(old.codebook_sizes)}",
            found=list(new.codebook_sizes),
            fix=KEEP_IDS,
        )
    before, after = old.codes[shared], new.codes[places[shared]]
    moved = np.flatnonzero((before != after).any(axis=1))
    if len(moved):
        first = int(moved[0])
        raise LineageError(
            f"{len(moved):,} of {len(shared):,} shared items have other semantic IDs than in the initial recommender",
            where=where,
            expected=f"for instance {before[first].tolist()} for item {item_ids[int(shared[first])]!r}",
            found=after[first].tolist(),
            fix=KEEP_IDS,
        )


def _made_from(artifact: Artifact, *, verify: bool) -> tuple[Dataset, SemanticIds]:
    """What a recommender was trained on: row i of its weights is row i of these."""
    try:
        dataset = Dataset.load(artifact.parent_paths["dataset"], verify=verify)
        table, ids = load_semantic_ids(artifact.parent_paths["semantic_ids"], verify=verify)
    except ArtifactError as error:
        what = f"cannot read what the initial recommender was trained on: {error}"
        raise ArtifactError(what, where=artifact.path) from error
    check_parent(artifact, "dataset", dataset.artifact)
    check_parent(artifact, "semantic_ids", table)
    return dataset, ids


def _compare_nodes(old: SemanticIds, new: SemanticIds, places: Int64[np.ndarray, " O"]) -> Overlap:
    before, after = _count_nodes(old.codes, old), _count_nodes(new.codes, new)
    shared = _count_nodes(old.codes[places >= 0], old)
    return Overlap(shared, after - shared, before - shared)


def _count_nodes(codes: np.ndarray, table: SemanticIds) -> int:
    trie = SemanticIdTrie.build(codes, table.codebook_sizes)
    return sum(trie.num_nodes(level + 1) for level in range(trie.num_levels))


def _say(what: str, overlap: Overlap) -> str:
    return f"{overlap.shared:,} {what} known, {overlap.new:,} new, {overlap.gone:,} gone"


def _plain(value: Any) -> str:
    """As it is typed on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_plain, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
