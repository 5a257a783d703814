"""Items with equal codes: the policy that a tokenizer's configuration asks for, carried out and told."""

from __future__ import annotations

from typing import Any

import numpy as np

from genrec.config import training
from genrec.pipeline.quantisers import Quantiser
from genrec.semantic_ids.collisions import reassign
from genrec.semantic_ids.table import CollisionReport, SemanticIds, build_semantic_ids


def resolve_collisions(
    config: training.QuantiserTokenizer, quantiser: Quantiser, vectors: np.ndarray, codes: np.ndarray
) -> tuple[SemanticIds, CollisionReport, dict[str, Any]]:
    """The table, what happened to the collisions, and what health.json says of the items that moved."""
    reassignment = None
    if config.collisions != "suffix":
        errors = quantiser.last_level_errors(vectors, codes)
        reassignment = reassign(
            codes,
            quantiser.codebook_sizes,
            errors,
            mean_error=errors.mean_error,
            max_added_distortion=config.max_added_distortion if config.collisions == "reassign_or_suffix" else None,
        )
    ids, report = build_semantic_ids(
        codes,
        quantiser.codebook_sizes,
        codebooks=quantiser.state(),
        collisions=config.collisions,
        reserve=config.reserve,
        reassignment=reassignment,
    )
    return ids, report, {} if reassignment is None else {"moves": reassignment.facts()}


def collision_rows(ids: SemanticIds, report: CollisionReport) -> list[tuple[str, str, str]]:
    """(name, value, remark) of what the policy did."""
    rows = []
    if ids.collisions.startswith("reassign"):
        remark = "ok"
        if report.mean_added is not None:
            remark = f"note: adds {report.mean_added:.3g} of the mean squared error, {report.largest_added:.3g} at most"
        rows.append(("moved to free last codes", f"{report.num_moved:,} items", remark))
    if report.suffix_size is not None:
        rows.append(("suffixes above 0", f"{report.num_suffixed:,} items", "ok"))
        remark = f"largest bucket {report.largest_bucket}, the rest is kept free for later items"
        if report.num_moved:
            remark = "for what did not move; the rest is kept free for later items"
        rows.append(("suffix codes", str(report.suffix_size), remark))
    return rows
