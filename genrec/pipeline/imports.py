"""Semantic IDs that others made: read, matched with the items of the dataset, and accounted for."""

from __future__ import annotations

from typing import Any

import numpy as np

from genrec.config import training
from genrec.data.dataset import Dataset
from genrec.data.item_table import TextPolicy, build_item_codes
from genrec.data.sources.codes import codes_frame, pad_rows, read_codes, read_item_map, read_rows
from genrec.errors import ConfigError, DataError
from genrec.files import sha256_file
from genrec.semantic_ids.table import CollisionReport

OF_A_FILE = {"key_offset": 0, "item_map": None, "ragged": "error"}


def import_codes(config: training.ImportedTokenizer, dataset: Dataset) -> tuple[np.ndarray, dict[str, Any]]:
    """The codes, int32 [N, L], rows by item_index, and what health.json says of the file that they are from.

    Raises:
        DataError: the dataset came without codes; a file cannot be read; an item of the dataset has no codes (the first
            and their number); rows differ in length.
        ConfigError: options of a file without one.
    """
    if config.path is None:
        unused = [name for name, default in OF_A_FILE.items() if getattr(config, name) != default]
        if unused:
            what = f"tokenizer.{unused[0]} says how a file is read"
            raise ConfigError(what, fix="set tokenizer.path=... to the file, or leave it out")
        codes = dataset.item_codes()
        if codes is None:
            fix = "set tokenizer.path=... to a file of codes, or use tokenizer=residual_kmeans"
            raise DataError("the dataset came without semantic IDs", where=dataset.artifact.path, fix=fix)
        return codes, {}
    return _from_file(config, dataset)


def _from_file(config: training.ImportedTokenizer, dataset: Dataset) -> tuple[np.ndarray, dict[str, Any]]:
    assert config.path is not None
    path = config.path
    if config.ragged == "pad":
        rows, num_padded = pad_rows(read_rows(path, offset=config.key_offset, offset_key="tokenizer.key_offset"))
        frame = codes_frame(rows)
    else:
        fix = "set tokenizer.ragged=pad to give the items with fewer codes one of their own"
        frame = read_codes(path, offset=config.key_offset, offset_key="tokenizer.key_offset", ragged_fix=fix)
        num_padded = 0
    facts: dict[str, Any] = {"sha256": sha256_file(path), "num_entries": len(frame)}
    if config.item_map is not None:
        item_of = read_item_map(config.item_map)
        frame = frame.with_columns(frame["item_id"].replace_strict(item_of, default=None)).drop_nulls("item_id")
        facts["item_map_sha256"] = sha256_file(config.item_map)
        facts["num_keys_without_item_id"] = facts["num_entries"] - len(frame)
    fix = "get codes for every item, or set tokenizer.item_map=... to the item ids of the file's keys"
    codes, account = build_item_codes(dataset.item_ids, frame, TextPolicy(), where=path, fix=fix)
    facts |= {"num_not_in_dataset": account["codes_unused"], "num_matched": len(codes), "num_padded": num_padded}
    return codes, facts


def import_rows(facts: dict[str, Any], report: CollisionReport, codes: np.ndarray) -> list[tuple[str, str, str]]:
    """(name, value, remark) of what was imported; nothing for codes that came with the dataset."""
    if not facts:
        return []
    left = facts["num_not_in_dataset"]
    rows = [
        ("entries of the file", f"{facts['num_entries']:,}", "ok"),
        ("items matched", f"{facts['num_matched']:,}", "ok"),
        ("entries not in the dataset", f"{left:,}", "note: left out" if left else "ok"),
    ]
    if "num_keys_without_item_id" in facts:
        unknown = facts["num_keys_without_item_id"]
        rows.append(("keys that the map lacks", f"{unknown:,}", "note: left out" if unknown else "ok"))
    if facts["num_padded"]:
        rows.append(("entries filled up", f"{facts['num_padded']:,}", "note: they had fewer codes than others"))
    sizes = " x ".join(str(int(size) + 1) for size in codes.max(axis=0))
    return [
        *rows,
        ("levels and sizes found", f"{codes.shape[1]}: {sizes}", "ok"),
        ("distinct rows", f"{report.num_buckets:,} of {report.num_items:,}", "ok"),
        ("items that share their row", f"{report.num_colliding:,}", "ok"),
    ]
