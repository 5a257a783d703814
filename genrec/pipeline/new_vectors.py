"""Vectors of items that came after the embeddings were made, by the recipe that these were made with."""
# N items of the dataset, M new ones, E width

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float32

from genrec.artifacts import Artifact
from genrec.config import schema
from genrec.data.dataset import Dataset
from genrec.embeddings.combine import combine
from genrec.embeddings.precomputed import read_precomputed
from genrec.embeddings.rows import is_zero_row
from genrec.embeddings.sentence import embed_sentences
from genrec.embeddings.tfidf import fit_tfidf
from genrec.errors import DataError, LineageError
from genrec.semantic_ids.versions import some_ids
from genrec.terminal import Progress

TOLERANCE = 1e-3  # of the largest entry: more than rounding on another machine, less than any other model
NUM_CHECKED = 16  # texts that a sentence model has to give their old vectors

Block = Mapping[str, Any]


def embed_new_items(
    embeddings: Artifact,
    stored: np.ndarray,
    dataset: Dataset,
    items: pl.DataFrame,
    *,
    vectors: Path | None,
    vector_ids: Path | None,
    progress: Progress,
) -> Float32[np.ndarray, "M E"]:
    """Vectors of new items in the space of the embeddings.

    TF-IDF is fitted again on the texts of the dataset and has to give the stored vectors; new texts are folded in. A
    sentence model has to give some texts the vectors that they have. New items have no training event, so their
    co-occurrence is a row of zeros, as that of an item of the dataset without one. Vectors of a file are, by their
    width, what the file of a precomputed part holds, or whole rows, taken as they are.

    Args:
        embeddings: how the vectors were made.
        stored: float32 [N, E], these vectors.
        dataset: what they were made from.
        items: M new items: item_id and text.
        vectors, vector_ids: file of vectors of the new items, as for `read_precomputed`.
        progress: told of texts.

    Raises:
        LineageError: the recipe does not give the stored vectors any more.
        DataError: precomputed vectors are missing or of another width, or an item has a vector of zeros, which would
            give it any ID.
    """
    blocks: list[Block] = embeddings.facts["blocks"]
    given = None
    if vectors is not None:
        given = read_precomputed(vectors, items["item_id"].to_list(), ids=vector_ids).vectors
    if given is not None and _is_whole(blocks, given.shape[1], stored.shape[1]):
        found = given
    else:
        found = _from_recipe(embeddings, blocks, stored, dataset, items, given, progress)
    zero = items["item_id"].filter(pl.Series(is_zero_row(found))).to_list()
    if zero:
        raise DataError(
            f"{len(zero)} of {len(items)} new items have a vector of zeros, from which no semantic ID can be told",
            where=embeddings.path,
            found=some_ids(zero),
            fix="describe them with words that the catalogue has, leave them out, or set vectors=... to a file",
        )
    return found


def _from_recipe(
    embeddings: Artifact,
    blocks: list[Block],
    stored: np.ndarray,
    dataset: Dataset,
    items: pl.DataFrame,
    given: np.ndarray | None,
    progress: Progress,
) -> np.ndarray:
    """All blocks side by side. A single embedding is not a combination: its rows are as they are."""
    _check_given(embeddings, blocks, given, stored.shape[1])
    # The name of the part tells a combination; older embeddings have none.
    is_combined = "part" in blocks[0] or len(blocks) > 1 or blocks[0]["weight"] != 1
    parts, start = [], 0
    for block in blocks:
        end = start + block["dimensions"]
        known = stored[:, start:end]
        weight = float(block["weight"]) if is_combined else None
        if block["name"] == "precomputed":
            assert given is not None
            part = given
        elif block["name"] == "cooccurrence":
            part = np.zeros((len(items), block["dimensions"]), dtype=np.float32)
        elif block["name"] == "tfidf":
            part = _tfidf(block, weight, known, dataset, items, embeddings.path)
        else:
            part = _sentence(block, weight, known, dataset, items, embeddings.path, progress)
        parts.append((str(start), part, block["weight"]))
        start = end
    return combine(parts) if is_combined else parts[0][1]


def _is_whole(blocks: list[Block], width: int, full_width: int) -> bool:
    precomputed = [block["dimensions"] for block in blocks if block["name"] == "precomputed"]
    return width == full_width and precomputed != [width]


def _check_given(embeddings: Artifact, blocks: list[Block], given: np.ndarray | None, width: int) -> None:
    """A file of vectors is there where it is needed, and of a width that says what it is for."""
    precomputed = [block["dimensions"] for block in blocks if block["name"] == "precomputed"]
    if given is None and precomputed:
        raise DataError(
            "the embeddings were precomputed, so the new items' vectors have to be given",
            where=embeddings.path,
            fix="set vectors=... to an .npy or .parquet file of them",
        )
    if given is not None and (len(precomputed) != 1 or given.shape[1] != precomputed[0]):
        raise DataError(
            "the new items' vectors have another width",
            where="key 'vectors'",
            expected=" or ".join(map(str, sorted({width, *(precomputed if len(precomputed) == 1 else [])}))),
            found=given.shape[1],
        )


def _tfidf(
    block: Block, weight: float | None, known: np.ndarray, dataset: Dataset, items: pl.DataFrame, where: Path
) -> np.ndarray:
    fitted = fit_tfidf(dataset.items["text"].to_list(), **_options(schema.TfidfEmbedding, block))
    _check_same(fitted.vectors, known, weight, "TF-IDF of the texts", where)
    return fitted.fold_in(items["text"].to_list())


def _sentence(
    block: Block,
    weight: float | None,
    known: np.ndarray,
    dataset: Dataset,
    items: pl.DataFrame,
    where: Path,
    progress: Progress,
) -> np.ndarray:
    sample = dataset.items.with_row_index("row").filter(pl.col("text") != "").head(NUM_CHECKED)
    found = embed_sentences(
        [*sample["text"], *items["text"]],
        **_options(schema.SentenceEmbedding, block),
        progress=lambda done, total: progress("texts", done, total),
    )
    _check_same(found[: len(sample)], known[sample["row"].to_numpy()], weight, f"model {block['model']}", where)
    return found[len(sample) :]


def _options(section: type, block: Block) -> dict[str, Any]:
    """What the function of a section takes, from the facts of a block."""
    names = {field.name for field in fields(section)} - {"name", "weight"}
    return {name: block[name] for name in names}


def _check_same(again: np.ndarray, known: np.ndarray, weight: float | None, what: str, where: Path) -> None:
    """Raises LineageError unless vectors made again are the stored ones, up to rounding; a weight of 0 hides them."""
    if weight is not None:
        again = combine([("again", again, weight)]) if weight else np.zeros_like(again)
    limit = TOLERANCE * float(np.abs(known).max())
    largest = float(np.abs(again - known).max()) if again.shape == known.shape else float("inf")
    if not largest <= limit:
        raise LineageError(
            f"the {what} does not give the vectors that the embeddings hold",
            where=where,
            expected=f"differences of at most {limit:.2g}",
            found=f"{largest:.2g}",
            fix="use the versions of packages and models that they were made with, or set vectors=... to a file",
        )
