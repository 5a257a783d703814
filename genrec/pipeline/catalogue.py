"""``genrec catalogue append`` and ``retire``: a catalogue that changes from day to day without training.

Both write the next version of published semantic IDs. Codebooks and the IDs that items have stay, so the
recommender that was trained on an earlier version takes the later one as it is.
"""
# N fitted vectors, M new items, L levels

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from genrec.artifacts import check_parent
from genrec.config import schema
from genrec.config.sources import ItemColumnsSection
from genrec.data.dataset import Dataset
from genrec.data.item_table import TextPolicy, build_items
from genrec.data.sources.tables import read_items
from genrec.errors import ConfigError, DataError, GateError, MissingFileError, StorageError
from genrec.pipeline.catalogue_tables import drift_table, version_summary, version_table
from genrec.pipeline.new_vectors import embed_new_items
from genrec.pipeline.published import DESCRIPTION, Published, load_published, save_version
from genrec.pipeline.quantisers import Quantiser, load_quantiser
from genrec.quantization.drift import drift
from genrec.seeding import generator
from genrec.semantic_ids.collisions import Errors
from genrec.semantic_ids.versions import Placement, Version, append_items, retire_items, some_ids
from genrec.terminal import Outcome, Progress

# A remedy of `genrec prepare`; a version has all of the items that were given, or is not written.
_SKIPPING = re.compile(r",? or set source\.skip_bad_lines=true to leave such \w+ out")
MAX_FITTED = 100_000  # of the fitted items that drift is measured against


class Encoded(NamedTuple):
    """What the quantiser makes of new items.

    Attributes:
        codes: integers [M, l].
        errors, mean_error: see `place_items`.
        drift: see `drift`; None without items.
    """

    codes: np.ndarray
    errors: Errors | None
    mean_error: float
    drift: dict[str, Any] | None


_NOTHING = Encoded(np.empty((0, 0), dtype=np.int32), None, 0.0, None)


def append(config: schema.CatalogueAppendConfig, *, progress: Progress) -> Outcome:
    """Gives new items semantic IDs by the codebooks there are, and says whether these still fit."""
    before = load_published(config.semantic_ids, _open(config.dataset), config.embeddings)
    given = _read_new(config.items, config.source)
    skipped = _check_new(given["item_id"].to_list(), before, config)
    given = given.filter(~pl.col("item_id").is_in(skipped))
    described = _describe(given, before.dataset)
    names = described["item_id"].to_list()
    back = sorted(set(names) & set(before.version.retired_ids))
    fresh = described.filter(~pl.col("item_id").is_in(back))
    encoded = _encode(config, before, fresh, progress) if len(fresh) else _NOTHING
    after, placed = append_items(
        before.version,
        fresh["item_id"].to_list(),
        encoded.codes,
        returning=back,
        errors=encoded.errors,
        mean_error=encoded.mean_error,
    )
    found = encoded.drift
    number = before.number + 1
    new_rows = described.with_columns(pl.lit(number, dtype=before.items.schema["origin"]).alias("origin"))
    items = pl.concat([before.items, new_rows.sort("item_id")])
    assert items["item_id"].to_list() == list(after.item_ids)
    change = {"name": "append", "added": len(fresh), "returned": len(back), "skipped": len(skipped)}
    placing = _placing(placed, after)
    artifact = save_version(
        config.output,
        before,
        after,
        rows=items,
        change=change,
        health={"placing": placing, "drift": found, "tokenizer": before.tokenizer},
        overwrite=config.overwrite,
    )
    warnings = _warnings(found, config.drift)
    summary = {**version_summary(config.output, artifact, after), **change, "placing": placing, "drift": found}
    tables = [version_table(config.output, number, summary)]
    if found is not None:
        tables.append(drift_table(found, dict(zip(fresh["item_id"], fresh["title"], strict=True))))
    return Outcome(
        {**summary, "warnings": warnings}, tuple(tables), notes=tuple(warnings), next=_recommend_with(config.output)
    )


def retire(config: schema.CatalogueRetireConfig, *, progress: Progress) -> Outcome:
    """Takes items out of the table; their semantic IDs stay theirs."""
    before = load_published(config.semantic_ids, _open(config.dataset), config.embeddings)
    if (config.items is None) == (config.ids is None):
        raise ConfigError(
            "the items to retire are needed once", where="keys 'items' and 'ids'", fix="set items=... or ids=..."
        )
    named = _split(config.ids or "") if config.items is None else _read_ids(config.items, config.source)
    gone = list(dict.fromkeys(named))
    known = set(before.version.item_ids)
    unknown = [name for name in gone if name not in known]
    if unknown and config.missing == "error":
        raise DataError(
            f"{len(unknown)} of {len(gone)} items to retire are not in the catalogue",
            where=config.semantic_ids,
            found=some_ids(unknown),
            fix="leave them out, or set missing=skip",
        )
    after = retire_items(before.version, gone)
    items = before.items.filter(pl.col("item_id").is_in(list(after.item_ids)))
    change = {"name": "retire", "retired": len(gone) - len(unknown), "skipped": len(unknown)}
    artifact = save_version(
        config.output,
        before,
        after,
        rows=items,
        change=change,
        health={"tokenizer": before.tokenizer},
        overwrite=config.overwrite,
    )
    summary = {**version_summary(config.output, artifact, after), **change}
    table = version_table(config.output, before.number + 1, summary)
    return Outcome(summary, (table,), next=_recommend_with(config.output))


def _open(path: Path | None) -> Dataset | None:
    return None if path is None else Dataset.load(path)


def _read_new(path: Path, source: ItemColumnsSection) -> pl.DataFrame:
    table = _read_table(path, source)
    twice = table.filter(pl.col("item_id").is_duplicated())["item_id"].unique(maintain_order=True).to_list()
    if twice:
        raise DataError(f"{len(twice)} item ids are there more than once", where=path, found=some_ids(twice))
    return table.sort("item_id")


def _read_table(path: Path, source: ItemColumnsSection) -> pl.DataFrame:
    try:
        return read_items(path, **asdict(source))
    except MissingFileError as error:
        raise MissingFileError("there is no such file", where=path, fix="set items=... to the file of items") from error
    except DataError as error:
        error.args = (_SKIPPING.sub("", str(error)),)
        if "missing column" in str(error):
            error.args = (f"{error}; set source.item_id_column=... to the column of the item id",)
        raise


def _split(ids: str) -> list[str]:
    """Ids as they are typed: text, so that 007 is not the number 7; brackets and quotes of a list may be there.

    >>> _split("[a, '007']"), _split("12,007")
    (['a', '007'], ['12', '007'])
    """
    return [name.strip().strip("'\"") for name in ids.strip().removeprefix("[").removesuffix("]").split(",")]


def _read_ids(path: Path, source: ItemColumnsSection) -> list[str]:
    if path.suffix != ".txt":
        return _read_table(path, source)["item_id"].to_list()
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise StorageError(f"cannot read the file: {error.strerror}", where=path) from error
    except UnicodeDecodeError as error:
        raise DataError("item ids are not UTF-8", where=path, fix="save the file as UTF-8") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError("the file has no item id", where=path, expected="one a line")
    return names


def _check_new(names: Sequence[str], before: Published, config: schema.CatalogueAppendConfig) -> list[str]:
    """The ids that are in the catalogue already, if these may be skipped."""
    known = set(before.version.item_ids)
    there = [name for name in names if name in known]
    if there and config.existing == "error":
        raise DataError(
            f"{len(there)} of {len(names)} items are in the catalogue already",
            where=config.items,
            found=some_ids(there),
            fix="leave them out, or set existing=skip",
        )
    return there


def _describe(given: pl.DataFrame, dataset: Dataset) -> pl.DataFrame:
    """Descriptions with the text that the dataset's items have, by id."""
    policy = TextPolicy(fields=tuple(dataset.facts["policy"]["text"]["fields"]))
    return build_items(given["item_id"], given, policy)[0].select(DESCRIPTION)


def _encode(
    config: schema.CatalogueAppendConfig, before: Published, fresh: pl.DataFrame, progress: Progress
) -> Encoded:
    """Raises GateError where the codebooks are not to be used any more."""
    quantiser = _quantiser(before)
    stored, vectors = _embed(config, before, fresh, progress)
    codes = quantiser.encode(vectors, progress=progress)
    found = drift(
        _some_rows(stored),
        vectors,
        encode=quantiser.encode,
        decode=quantiser.decode,
        names=fresh["item_id"].to_list(),
    )
    _check_drift(found, config.drift)
    errors = quantiser.last_level_errors(vectors, codes)
    return Encoded(codes, errors, errors.mean_error, found)


def _quantiser(before: Published) -> Quantiser:
    if not before.has_codebooks:
        raise DataError(
            "the semantic IDs were imported without codebooks, so new items cannot be encoded",
            where=before.artifact.path,
            fix="prepare the newer data with the codes of all items, and use tokenizer=imported",
        )
    return load_quantiser(before.artifact)


def _embed(
    config: schema.CatalogueAppendConfig, before: Published, fresh: pl.DataFrame, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """What the codebooks were fitted on, and the new items' vectors.

    The embeddings may be of an older dataset than the table: codebooks stay when a newer one is published. Texts are
    put together as they were there.
    """
    embeddings, stored = before.load_embeddings()
    dataset = before.dataset
    if embeddings.parents["dataset"] != dataset.artifact.identity:
        dataset = Dataset.load(embeddings.parent_paths["dataset"])
        check_parent(embeddings, "dataset", dataset.artifact)
    vectors = embed_new_items(
        embeddings,
        stored,
        dataset,
        _describe(fresh, dataset),
        vectors=config.vectors,
        vector_ids=config.vector_ids,
        progress=progress,
    )
    return stored, vectors


def _some_rows(stored: np.ndarray) -> np.ndarray:
    if len(stored) <= MAX_FITTED:
        return stored
    return stored[np.sort(generator(0).choice(len(stored), MAX_FITTED, replace=False))]


def _placing(placed: Placement, after: Version) -> dict[str, Any]:
    has_suffix = after.table.collisions in ("suffix", "reassign_or_suffix")
    suffixed = int((placed.codes[:, -1] > 0).sum()) if has_suffix else 0
    facts: dict[str, Any] = {"moved": int(placed.is_moved.sum()), "suffixed": suffixed}
    if has_suffix:
        size = after.table.codebook_sizes[-1]
        last = np.concatenate([after.table.codes[:, -1], after.retired_codes[:, -1]])
        facts |= {"largest_suffix": int(last.max()), "suffix_size": size}
    return facts


def _ratio(found: dict[str, Any]) -> float:
    """Of the first level; see `drift`. Fitted items without any error are far from everything else."""
    ratio = found["levels"][0]["ratio"]
    return float("inf") if ratio is None else ratio


def _check_drift(found: dict[str, Any], limits: schema.DriftSection) -> None:
    if limits.max_ratio is None or found["num_items"] < limits.min_items or _ratio(found) <= limits.max_ratio:
        return
    raise GateError(
        "the codebooks no longer fit the new items",
        where="drift of the first level",
        expected=f"at most {limits.max_ratio:g} times the fitted items' mean squared error",
        found=f"{_ratio(found):.3g}",
        fix="embed and tokenize again, and train; or raise drift.max_ratio=...",
    )


def _warnings(found: dict[str, Any] | None, limits: schema.DriftSection) -> list[str]:
    if found is None or found["num_items"] < limits.min_items or _ratio(found) <= limits.warn_ratio:
        return []
    line = (
        f"the first level leaves {_ratio(found):.3g} times the mean squared error of the fitted items "
        f"(drift.warn_ratio={limits.warn_ratio:g}): the codebooks fit the new items badly; embed and tokenize again "
        "when it is time to train"
    )
    return [line]


def _recommend_with(output: Path) -> str:
    return f"genrec recommend dataset=... recommender=... semantic_ids={output} output=..."
