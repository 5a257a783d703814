"""The recommender artifact, generative or dense, and the search that is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Int64
from safetensors.torch import load_file, save_file

from genrec.artifacts import Artifact, check_parent, load_artifact, write_artifact
from genrec.data.dataset import Dataset
from genrec.data.overlap import match_rows
from genrec.decoding.generator import CandidateGenerator
from genrec.errors import ConfigError, LineageError
from genrec.evaluation.dense_generator import DenseGenerator
from genrec.files import read_json, write_json
from genrec.models.recommender import build_from
from genrec.models.sasrec import Sasrec
from genrec.models.value_head import ValueHead
from genrec.pipeline.features import describe_items
from genrec.pipeline.published import load_published
from genrec.semantic_ids.table import SemanticIds, load_semantic_ids
from genrec.semantic_ids.trie import SemanticIdTrie

KIND = "recommender"
WEIGHTS = "weights.safetensors"
VALUE_WEIGHTS, VALUE_FACTS = "value_head.safetensors", "value_head.json"


def save_recommender(
    path: Path,
    model: Any,
    *,
    facts: Mapping[str, Any],
    parents: Mapping[str, Artifact],
    value_head: ValueHead | None = None,
) -> Artifact:
    """Writes weights.safetensors and model.json, and those of a value head; replaces what the same run wrote before."""
    parts = {WEIGHTS: (model, "model.json")}
    if value_head is not None:
        parts[VALUE_WEIGHTS] = (value_head, VALUE_FACTS)
    with write_artifact(path, kind=KIND, facts=facts, parents=parents, overwrite=True) as writer:
        for file, (module, described) in parts.items():
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
            save_file(weights, writer.path(file))
            write_json(writer.path(described), module.facts)
    return writer.artifact


def load_value_head(artifact: Artifact, trie: SemanticIdTrie) -> ValueHead | None:
    """The value head that lies beside a recommender; None: there is none.

    Args:
        artifact: a recommender.
        trie: any version of its semantic IDs: codes alone name the prefixes that a head values.
    """
    if VALUE_WEIGHTS not in artifact.files:
        return None
    head = ValueHead.from_facts(read_json(artifact.file(VALUE_FACTS)), trie)
    head.load_state_dict(load_file(artifact.file(VALUE_WEIGHTS)))
    return head.eval()


def load_recommender(path: Path, dataset: Dataset) -> tuple[Artifact, Any]:
    """A trained recommender on the semantic IDs it was trained on, found where its manifest says.

    Raises:
        ArtifactError: missing, incomplete, corrupt or of another kind.
        LineageError: trained on other semantic IDs, or on another dataset.
    """
    artifact, ids = _trained_on(path, dataset)
    model = _build(artifact, ids)
    model.load_state_dict(_weights(artifact))
    return artifact, model.eval()


@dataclass(frozen=True, eq=False)
class Served:
    """A trained recommender over a later version of its semantic IDs.

    Attributes:
        artifact: the recommender.
        model: over the items of the version.
        item_ids: N of them.
        places: item_index here of each of the O items that it was trained on, -1 where it is retired.
    """

    artifact: Artifact
    model: Any
    item_ids: list[str]
    places: Int64[np.ndarray, " O"]

    def move(self, counts: Int64[np.ndarray, " O"]) -> Int64[np.ndarray, " N"]:
        """A number of each item, 0 of those that are new."""
        moved = np.zeros(len(self.item_ids), dtype=counts.dtype)
        moved[self.places[self.places >= 0]] = counts[self.places >= 0]
        return moved


def load_served(path: Path, dataset: Dataset, semantic_ids: Path) -> Served:
    """A trained recommender on any version of its semantic IDs, without training.

    Weights of items follow their ids, weights of nodes the codes of their prefixes, and so does a memory. New items and
    nodes have vectors of 0 and no followers: what is said of them is what their codes say, and their features in the
    item table of the version. A value that training did not know is among the others.

    Args:
        path: the recommender.
        dataset: what it was trained on.
        semantic_ids: the version.

    Raises:
        ArtifactError: missing, incomplete, corrupt or of another kind.
        LineageError: another table, another dataset, or an item whose published ID moved.
    """
    artifact, trained = _trained_on(path, dataset)
    published = load_published(semantic_ids, dataset)
    table, names = published.version.table, list(published.version.item_ids)
    _check_identity(artifact, table.identity, where=path, found_in=semantic_ids)
    places = match_rows(dataset.item_ids, pl.Series(names, dtype=pl.String))
    is_here = places >= 0
    if not np.array_equal(trained.codes[is_here], table.codes[places[is_here]]):
        raise LineageError(
            "items have other semantic IDs than the recommender was trained on",
            where=semantic_ids,
            fix="use a version that descends from those it was trained on",
        )
    model, state, moves = _build(artifact, table), _weights(artifact), torch.from_numpy(places)
    model.load_adapted(state, moves)
    if getattr(model, "memory", None) is not None:
        inner = "memory."
        kept = {name.removeprefix(inner): tensor for name, tensor in state.items() if name.startswith(inner)}
        model.memory.take_over(kept, moves)
    if getattr(model, "features", None) is not None:
        model.features.describe(describe_items(model.features.vocabularies, published.items))
    return Served(artifact, model.eval(), names, places)


def load_dense(path: Path, dataset: Dataset) -> tuple[Artifact, Sasrec]:
    """A trained dense recommender on the dataset it was trained on.

    Raises:
        ArtifactError: missing, incomplete, corrupt or of another kind.
        ConfigError: not a dense one.
        LineageError: trained on another dataset.
    """
    artifact = load_artifact(path, kind=KIND)
    name = artifact.facts.get("name")
    if name != Sasrec.name:
        raise ConfigError("not a dense recommender", where=path, expected=Sasrec.name, found=name)
    check_parent(artifact, "dataset", dataset.artifact)
    model = Sasrec.from_facts(read_json(artifact.file("model.json")))
    model.load_state_dict(_weights(artifact))
    return artifact, model.eval()


def _trained_on(path: Path, dataset: Dataset) -> tuple[Artifact, SemanticIds]:
    artifact = load_artifact(path, kind=KIND)
    if "semantic_ids" not in artifact.parents:
        raise ConfigError(
            "this recommender has no semantic IDs, so no search over codes",
            where=path,
            found=artifact.facts.get("name"),
            fix="give one that was trained on semantic IDs",
        )
    table, ids = load_semantic_ids(artifact.parent_paths["semantic_ids"], dataset.artifact)
    _check_identity(artifact, ids.identity, where=path, found_in=table.path)
    return artifact, ids


def _check_identity(artifact: Artifact, identity: str, *, where: Path, found_in: Path) -> None:
    if identity != artifact.facts["semantic_ids"]:
        raise LineageError(
            "the recommender was trained on other semantic IDs",
            where=where,
            expected=artifact.facts["semantic_ids"][:12],
            found=f"{identity[:12]} in {found_in}",
            fix="train again, or bring back the semantic IDs it was trained on",
        )


def _build(artifact: Artifact, ids: SemanticIds) -> Any:
    trie = SemanticIdTrie.build(ids.codes, ids.codebook_sizes)
    return build_from(read_json(artifact.file("model.json")), trie)


def _weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    return load_file(artifact.file(WEIGHTS))


def build_generator(
    model: Any,
    dataset: Dataset,
    counts: np.ndarray,
    *,
    beam_width: int,
    batch_size: int = 64,
    item_ids: Sequence[str] | None = None,
) -> CandidateGenerator:
    """The candidate generator of a recommender, whose items are `item_ids` instead of the dataset's where given."""
    return CandidateGenerator(
        model,
        model.trie,
        item_ids=dataset.item_ids.to_list() if item_ids is None else item_ids,
        train_counts=counts,
        beam_width=beam_width,
        max_history=model.settings.history_length,
        batch_size=batch_size,
    )


def build_dense_generator(
    model: Sasrec,
    dataset: Dataset,
    counts: np.ndarray,
    *,
    batch_size: int = 64,
    index: str = "flat",
    **index_options: int,
) -> DenseGenerator:
    """The search of a dense recommender, as it is now, with options of `DenseIndex`."""
    return DenseGenerator(
        model,
        item_ids=dataset.item_ids.to_list(),
        train_counts=counts,
        max_history=model.settings.history_length,
        batch_size=batch_size,
        index=index,
        **index_options,
    )
