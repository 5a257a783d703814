"""A recommender of any kind, from its folder to the search that is evaluated and served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from genrec.artifacts import Artifact, check_parent, load_artifact
from genrec.baselines.base import count_items
from genrec.baselines.item_knn import DirectedItemKnn
from genrec.config.training import Search, ValueGuidedSearch
from genrec.data.dataset import Dataset
from genrec.decoding.catalogue_search import CatalogueSearch
from genrec.decoding.generator import CandidateGenerator
from genrec.decoding.hybrid import DenseSide, Hybrid
from genrec.decoding.pool import HybridSettings
from genrec.decoding.value_guided_generator import ValueGuidedGenerator
from genrec.decoding.value_guided_settings import ValueGuidedSettings
from genrec.errors import ConfigError
from genrec.evaluation.baseline_generator import BaselineGenerator
from genrec.models.path_trees import build_tree_scorer
from genrec.models.sasrec import Sasrec
from genrec.pipeline.recommenders import (
    KIND,
    VALUE_WEIGHTS,
    build_dense_generator,
    build_generator,
    load_dense,
    load_recommender,
    load_served,
    load_value_head,
)

HYBRID = "hybrid"


def open_recommender(
    path: Path, dataset: Dataset, search: Search, *, semantic_ids: Path | None = None
) -> tuple[Artifact, CatalogueSearch]:
    """The artifact and its search.

    Args:
        path: folder of a recommender: generative, dense, or a hybrid of the two.
        dataset: what it was trained on.
        search: how it searches.
        semantic_ids: a later version of its semantic IDs, whose items are recommended; None: those of the dataset.

    Raises:
        ArtifactError: missing, incomplete, corrupt or of another kind.
        LineageError: trained on something else, or a hybrid of others than are there now.
        ConfigError: a version of semantic IDs for a recommender that has none.
    """
    artifact = load_artifact(path, kind=KIND)
    name = artifact.facts.get("name")
    if name not in (HYBRID, Sasrec.name):
        return open_generative(path, dataset, search, semantic_ids=semantic_ids)
    if semantic_ids is not None:
        what, fix = "only a generative recommender follows its semantic IDs", "leave out semantic_ids"
        raise ConfigError(what, where="key 'semantic_ids'", found=f"a {name} in {path}", fix=fix)
    if name == Sasrec.name:
        return _open_dense(path, dataset, search)
    return artifact, _open_hybrid(artifact, dataset, search)


def open_generative(
    path: Path, dataset: Dataset, search: Search, *, semantic_ids: Path | None = None
) -> tuple[Artifact, CandidateGenerator]:
    """As `open_recommender`, of a generative one; ConfigError if it is of another kind."""
    counts, item_ids = count_items(dataset.train(), dataset.num_items), None
    if semantic_ids is None:
        artifact, model = load_recommender(path, dataset)
    else:
        served = load_served(path, dataset, semantic_ids)
        artifact, model, counts, item_ids = served.artifact, served.model, served.move(counts), served.item_ids
    generator = build_generator(
        model, dataset, counts, beam_width=search.beam_width, batch_size=search.batch_size, item_ids=item_ids
    )
    if isinstance(search, ValueGuidedSearch):
        return artifact, guide_by_value(generator, artifact, search)
    return artifact, generator


def guide_by_value(generator: CandidateGenerator, artifact: Artifact, search: Search) -> ValueGuidedGenerator:
    """The search by value of the recommender of a beam search.

    Raises:
        ConfigError: it has no value head, or the budget is too small for its beginning.
    """
    head = load_value_head(artifact, generator.trie)
    if head is None:
        raise ConfigError(
            "a search by value needs a value head, and this recommender has none",
            where=artifact.path,
            expected=VALUE_WEIGHTS,
            found=", ".join(artifact.files),
            fix="train one with genrec finetune mode=value, or leave out search.name=value_guided",
        )
    return ValueGuidedGenerator(
        build_tree_scorer(generator.scorer, head),
        generator.scorer,
        generator.trie,
        settings=ValueGuidedSettings(
            **{field.name: getattr(search, field.name) for field in fields(ValueGuidedSettings)}
        ),
        item_ids=generator.item_ids,
        train_counts=generator.train_counts.cpu().numpy(),
        beam_width=generator.beam_width,
        max_history=generator.max_history,
        batch_size=generator.batch_size,
    )


def open_dense_side(
    path: Path | None, item_knn: Mapping[str, Any], dataset: Dataset, search: Search
) -> tuple[Artifact | None, DenseSide]:
    """The dense recommender at `path`; without a path an item-kNN of these constants, which is fitted here."""
    if path is not None:
        return _open_dense(path, dataset, search)
    history, counts = dataset.train(), count_items(dataset.train(), dataset.num_items)
    model = DirectedItemKnn(**item_knn).fit(history, num_items=dataset.num_items)
    ids = dataset.item_ids.to_list()
    return None, BaselineGenerator(model, item_ids=ids, train_counts=counts, batch_size=search.batch_size)


def _open_dense(path: Path, dataset: Dataset, search: Search) -> Any:
    artifact, model = load_dense(path, dataset)
    counts = count_items(dataset.train(), dataset.num_items)
    names = ("batch_size", "index", "num_probes", "num_visited")
    options = {name: getattr(search, name) for name in names}
    return artifact, build_dense_generator(model, dataset, counts, **options)


def _open_hybrid(artifact: Artifact, dataset: Dataset, search: Search) -> Hybrid:
    if isinstance(search, ValueGuidedSearch):
        what, fix = "a hybrid searches by beams", "search.name=beam, or evaluate its generative recommender"
        raise ConfigError(what, where=artifact.path, expected="beam", found=search.name, fix=fix)
    check_parent(artifact, "dataset", dataset.artifact)
    paths = {name: Path(path) for name, path in artifact.parent_paths.items()}
    parent, generative = open_generative(paths["generative"], dataset, search)
    check_parent(artifact, "generative", parent)
    facts = artifact.facts
    parent, dense = open_dense_side(paths.get("dense"), facts.get("item_knn", {}), dataset, search)
    if parent is not None:
        check_parent(artifact, "dense", parent)
    names = ("method", "weight", "constant", "prefix_value")
    return Hybrid(generative, dense, HybridSettings(**{name: facts[name] for name in names}))
