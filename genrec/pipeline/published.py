"""Versions of published semantic IDs on disk: the first one, whose rows are a dataset's items, and those after it.

A later version is a semantic_ids artifact of the same table identity, with `retired.parquet` (item_id, codes, the
version in which the item went) and, unless its rows are those of a dataset again, `items.parquet` (row i of the codes
belongs to its row i: the item's description and the version that added it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec.artifacts import Artifact, check_parent
from genrec.data.dataset import Dataset
from genrec.data.schema import ITEMS
from genrec.embeddings.store import load_embeddings
from genrec.errors import ArtifactError
from genrec.semantic_ids.table import ITEMS as ITEMS_FILE
from genrec.semantic_ids.table import load_codebooks, load_health, load_semantic_ids, save_semantic_ids
from genrec.semantic_ids.versions import Version

RETIRED_FILE = "retired.parquet"
CODEBOOKS_FILE = "codebooks.safetensors"
DESCRIPTION = tuple(name for name in ITEMS if name != "item_index")
_ORIGIN = pl.UInt32


@dataclass(frozen=True, eq=False)
class Published:
    """One version.

    Attributes:
        artifact: of it.
        dataset: what the first rows came from.
        number: 1 for a table as the tokenizer made it.
        version: ids and codes.
        items: item_id, title, brand, categories, description, text, and origin: the version that added it.
        retired_in: the version in which each retired item went, by its id.
        embeddings: folder of what the codebooks were fitted on; None for an imported table.
    """

    artifact: Artifact
    dataset: Dataset
    number: int
    version: Version
    items: pl.DataFrame
    retired_in: Mapping[str, int]
    embeddings: Path | None

    def load_embeddings(self, *, verify: bool = True) -> tuple[Artifact, np.ndarray]:
        """What the codebooks were fitted on; only for a table that has some.

        Raises:
            ArtifactError, DataError: as `genrec.embeddings.store.load_embeddings`.
            LineageError: others than it was made from.
        """
        assert self.embeddings is not None, "an imported table"
        artifact, vectors = load_embeddings(self.embeddings, verify=verify)
        check_parent(self.artifact, "embeddings", artifact)
        return artifact, vectors

    @property
    def has_codebooks(self) -> bool:
        """Whether new items can be encoded: false for an imported table."""
        return CODEBOOKS_FILE in self.artifact.files

    @property
    def codebooks(self) -> dict[str, np.ndarray] | None:
        """The arrays of the quantiser, by name."""
        return load_codebooks(self.artifact) if self.has_codebooks else None

    @property
    def tokenizer(self) -> dict[str, Any]:
        """The section that the codebooks were made with: what restores the quantiser."""
        return load_health(self.artifact)["tokenizer"]


def load_published(path: Path, dataset: Dataset | None = None, embeddings: Path | None = None) -> Published:
    """Reads a version.

    Args:
        path: its folder.
        dataset: what it has to be made from; None: found where its manifest says.
        embeddings: folder of what the codebooks were fitted on; None: likewise. Not read yet.

    Raises:
        ArtifactError: it or its dataset is missing, corrupt or of another kind.
        LineageError: it was made from another dataset.
    """
    artifact, table = load_semantic_ids(path)
    if dataset is None:
        dataset = Dataset.load(artifact.parent_paths["dataset"])
    check_parent(artifact, "dataset", dataset.artifact)
    number = int(artifact.facts.get("version", 1))
    if ITEMS_FILE in artifact.files:
        items = pl.read_parquet(artifact.file(ITEMS_FILE))
    else:
        items = dataset.items.select(DESCRIPTION).with_columns(pl.lit(number, dtype=_ORIGIN).alias("origin"))
    if len(items) != table.num_items:
        raise ArtifactError("codes and items differ in number", where=path, expected=len(items), found=table.num_items)
    retired = pl.DataFrame(schema={"item_id": pl.String, "codes": pl.List(pl.Int32), "version": _ORIGIN})
    if RETIRED_FILE in artifact.files:
        retired = pl.read_parquet(artifact.file(RETIRED_FILE))
    names = retired["item_id"].to_list()
    codes = np.array(retired["codes"].to_list(), dtype=np.int32).reshape(-1, table.num_levels)
    version = Version(items["item_id"].to_list(), table, names, codes)
    retired_in = dict(zip(names, retired["version"], strict=True))
    if embeddings is None and "embeddings" in artifact.parents:
        embeddings = Path(artifact.parent_paths["embeddings"])
    return Published(artifact, dataset, number, version, items, retired_in, embeddings)


def save_version(
    path: Path,
    before: Published,
    after: Version,
    *,
    rows: pl.DataFrame | Dataset,
    change: Mapping[str, Any],
    health: Mapping[str, Any],
    write_more: Callable[[Callable[[str], Path]], object] | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Writes the version that comes after another.

    Args:
        path: folder to make.
        before: the version that it descends from.
        after: its ids and codes.
        rows: descriptions of the items, with their origin; or a newer dataset, whose items they are.
        change: JSON facts of what happened.
        health: more of them, for health.json.
        write_more: writes further files, see `save_semantic_ids`.
        overwrite: replace an artifact that is there.
    """
    dataset = rows if isinstance(rows, Dataset) else before.dataset
    parents = {"dataset": dataset.artifact, "previous": before.artifact}
    if before.embeddings is not None:
        parents["embeddings"], _ = before.load_embeddings(verify=False)
    number = before.number + 1
    retired = pl.DataFrame(
        {
            "item_id": pl.Series(list(after.retired_ids), dtype=pl.String),
            "codes": pl.Series(after.retired_codes.tolist(), dtype=pl.List(pl.Int32)),
            "version": pl.Series([before.retired_in.get(name, number) for name in after.retired_ids], dtype=_ORIGIN),
        }
    )

    def write_tables(where: Callable[[str], Path]) -> None:
        retired.write_parquet(where(RETIRED_FILE))
        if isinstance(rows, pl.DataFrame):
            rows.write_parquet(where(ITEMS_FILE))
        if write_more is not None:
            write_more(where)

    return save_semantic_ids(
        path,
        after.table,
        parents=parents,
        codebooks=before.codebooks,
        health={"version": number, "change": dict(change), **health},
        facts={"version": number, "change": dict(change), "num_retired": len(after.retired_ids)},
        write_more=write_tables,
        overwrite=overwrite,
    )
