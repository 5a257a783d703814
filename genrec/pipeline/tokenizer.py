"""``genrec tokenize``: embeddings, or the codes that came with the data -> semantic IDs and their health."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from genrec.artifacts import Artifact
from genrec.config import training
from genrec.config.load import to_plain
from genrec.data.dataset import Dataset
from genrec.embeddings.store import load_embeddings
from genrec.errors import GateError
from genrec.pipeline.collisions import collision_rows, resolve_collisions
from genrec.pipeline.health import FIGURES, examples_table, facts_of_histories, write_figures
from genrec.pipeline.imports import import_codes, import_rows
from genrec.pipeline.quantisers import build_quantiser, training_facts
from genrec.pipeline.republish import republish
from genrec.quantization.diagnostics import check_gates, health, health_rows
from genrec.semantic_ids.table import from_codes, save_semantic_ids
from genrec.terminal import Outcome, Progress, Table
from genrec.training.rqvae import RqVaeQuantizer


def tokenize(config: training.TokenizeConfig, *, progress: Progress) -> Outcome:
    """Writes a semantic_ids artifact with its health and figures, unless a gate fails.

    Raises:
        GateError: the table is unhealthy; its evidence is the Outcome without an artifact.
    """
    if isinstance(config.tokenizer, training.PublishedTokenizer):
        return republish(config, config.tokenizer)
    dataset = Dataset.load(config.dataset)
    parents: dict[str, Artifact] = {"dataset": dataset.artifact}
    categories = dataset.items["categories"].to_list()
    vectors = codebooks = decode = None
    if config.tokenizer.embeddings is not None:
        parents["embeddings"], vectors = load_embeddings(config.tokenizer.embeddings, dataset.artifact)
    is_imported = isinstance(config.tokenizer, training.ImportedTokenizer)
    if isinstance(config.tokenizer, training.ImportedTokenizer):
        codes, account = import_codes(config.tokenizer, dataset)
        ids, report = from_codes(codes, collisions=config.tokenizer.collisions, reserve=config.tokenizer.reserve)
        facts = {"imported": account} if account else {}
        rows = import_rows(account, report, codes)
    else:
        assert vectors is not None
        quantiser = build_quantiser(config.tokenizer)
        if isinstance(quantiser, RqVaeQuantizer):
            collaborative = _collaborative(config.tokenizer, dataset.artifact, parents)
            quantiser.fit(vectors, progress=progress, collaborative=collaborative)
        else:
            quantiser.fit(vectors, progress=progress)
        codes = quantiser.encode(vectors, progress=progress)
        codebooks, decode = quantiser.state(), quantiser.decode
        ids, report, moves = resolve_collisions(config.tokenizer, quantiser, vectors, codes)
        facts, rows = {**moves, **training_facts(quantiser)}, []
    found = health(
        codes, ids.codes, codebook_sizes=ids.codebook_sizes, vectors=vectors, decode=decode, categories=categories
    )
    found |= facts_of_histories(config, dataset, codes)
    rows += [*health_rows(found), *collision_rows(ids, report)]
    found |= {"collision_policy": asdict(report), **facts, "tokenizer": to_plain(config.tokenizer)}
    title = f"{config.output}: health"
    tables = (
        Table(title, ("what", "value", "remark"), tuple(rows), left=("what", "remark")),
        examples_table(found["examples"]),
    )
    try:
        check_gates(found, **asdict(config.gates), are_given=is_imported)
    except GateError as error:
        error.evidence = Outcome({"health": found}, tables, notes=("a gate failed, nothing was written",))
        raise
    artifact = save_semantic_ids(
        config.output,
        ids,
        parents=parents,
        codebooks=codebooks,
        health=found,
        write_more=partial(write_figures, found) if config.figures else None,
        overwrite=config.overwrite,
    )
    return Outcome(
        {
            "output": str(config.output),
            "identity": artifact.identity,
            "table": ids.identity,
            "codebook_sizes": list(ids.codebook_sizes),
            "collision_rate": found["collisions"]["rate"],
            "collisions": asdict(report),
            "proxy": found["proxy"],
            **({"imported": facts["imported"]} if "imported" in facts else {}),
        },
        tables,
        notes=(f"figures with their data are in {config.output / FIGURES}",) if config.figures else (),
        next=f"genrec train dataset={config.dataset} semantic_ids={config.output} run=runs/{config.dataset.name}",
    )


def _collaborative(section: Any, dataset: Artifact, parents: dict[str, Artifact]) -> np.ndarray | None:
    """The vectors that the codes are aligned with, if any, which become a parent of the table."""
    if section.collaborative is None:
        return None
    parents["collaborative"], vectors = load_embeddings(section.collaborative, dataset)
    return vectors
