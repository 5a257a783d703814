"""A recommender of any kind, from its folder to the search that is evaluated and served."""

from __future__ import annotations

from pathlib import Path

from genrec.artifacts import Artifact, load_artifact
from genrec.baselines.base import count_items
from genrec.config.training import SearchSection
from genrec.data.dataset import Dataset
from genrec.decoding.catalogue_search import CatalogueSearch
from genrec.errors import ConfigError
from genrec.models.sasrec import Sasrec
from genrec.pipeline.recommenders import KIND, build_generator, load_dense, load_recommender, load_served
from genrec.pipeline.train_dense import build_dense_generator


def open_recommender(
    path: Path, dataset: Dataset, search: SearchSection, *, semantic_ids: Path | None = None
) -> tuple[Artifact, CatalogueSearch]:
    """The artifact and its search.

    Args:
        path: folder of a recommender.
        dataset: what it was trained on.
        search: how it searches.
        semantic_ids: a later version of its semantic IDs, whose items are recommended; None: those of the dataset.

    Raises:
        ArtifactError: missing, incomplete, corrupt or of another kind.
        LineageError: trained on something else.
        ConfigError: a version of semantic IDs for a recommender that has none.
    """
    counts = count_items(dataset.train(), dataset.num_items)
    artifact = load_artifact(path, kind=KIND)
    if artifact.facts.get("name") == Sasrec.name:
        if semantic_ids is not None:
            what, fix = "this recommender has no semantic IDs", "leave out semantic_ids"
            raise ConfigError(what, where="key 'semantic_ids'", found=Sasrec.name, fix=fix)
        artifact, dense = load_dense(path, dataset)
        return artifact, build_dense_generator(dense, dataset, counts, batch_size=search.batch_size, index=search.index)
    item_ids = None
    if semantic_ids is None:
        artifact, model = load_recommender(path, dataset)
    else:
        served = load_served(path, dataset, semantic_ids)
        artifact, model, counts, item_ids = served.artifact, served.model, served.move(counts), served.item_ids
    width, size = search.beam_width, search.batch_size
    generator = build_generator(model, dataset, counts, beam_width=width, batch_size=size, item_ids=item_ids)
    return artifact, generator
