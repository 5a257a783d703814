"""The recommender artifact, and the candidate generator that is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from genrec.artifacts import Artifact, load_artifact, write_artifact
from genrec.data.dataset import Dataset
from genrec.decoding.generator import CandidateGenerator
from genrec.errors import LineageError
from genrec.files import read_json, write_json
from genrec.models.hierarchical import HierarchicalRecommender
from genrec.models.recommender import build_from
from genrec.semantic_ids.table import load_semantic_ids
from genrec.semantic_ids.trie import SemanticIdTrie

KIND = "recommender"


def save_recommender(
    path: Path, model: HierarchicalRecommender, *, facts: Mapping[str, Any], parents: Mapping[str, Artifact]
) -> Artifact:
    """Writes weights.safetensors and model.json; replaces what an earlier part of the same run wrote."""
    with write_artifact(path, kind=KIND, facts=facts, parents=parents, overwrite=True) as writer:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, writer.path("weights.safetensors"))
        write_json(writer.path("model.json"), model.facts)
    return writer.artifact


def load_recommender(path: Path, dataset: Dataset) -> tuple[Artifact, HierarchicalRecommender]:
    """A trained recommender on the semantic IDs it was trained on, found where its manifest says.

    Raises:
        ArtifactError: missing, incomplete, corrupt or of another kind.
        LineageError: trained on other semantic IDs, or on another dataset.
    """
    artifact = load_artifact(path, kind=KIND)
    table, ids = load_semantic_ids(artifact.parent_paths["semantic_ids"], dataset.artifact)
    if ids.identity != artifact.facts["semantic_ids"]:
        raise LineageError(
            "the recommender was trained on other semantic IDs",
            where=path,
            expected=artifact.facts["semantic_ids"][:12],
            found=f"{ids.identity[:12]} in {table.path}",
            fix="train again, or bring back the semantic IDs it was trained on",
        )
    trie = SemanticIdTrie.build(ids.codes, ids.codebook_sizes)
    model = build_from(read_json(artifact.file("model.json")), trie)
    model.load_state_dict(load_file(artifact.file("weights.safetensors")))
    return artifact, model.eval()


def build_generator(
    model: HierarchicalRecommender, dataset: Dataset, counts: np.ndarray, *, beam_width: int, batch_size: int = 64
) -> CandidateGenerator:
    """The candidate generator of a recommender."""
    return CandidateGenerator(
        model,
        model.trie,
        item_ids=dataset.item_ids.to_list(),
        train_counts=counts,
        beam_width=beam_width,
        max_history=model.settings.history_length,
        batch_size=batch_size,
    )
