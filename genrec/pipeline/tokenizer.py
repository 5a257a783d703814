"""``genrec tokenize``: embeddings, or the codes that came with the data -> semantic IDs and their health."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from genrec.artifacts import Artifact
from genrec.config import training
from genrec.config.load import to_plain
from genrec.data.dataset import Dataset
from genrec.embeddings.store import load_embeddings
from genrec.errors import DataError
from genrec.pipeline.collisions import collision_rows, resolve_collisions
from genrec.pipeline.quantisers import build_quantiser, training_facts
from genrec.pipeline.republish import republish
from genrec.quantization.diagnostics import check_gates, health, health_rows
from genrec.quantization.residual_kmeans import ResidualKMeans
from genrec.semantic_ids.table import CollisionReport, SemanticIds, build_semantic_ids, from_codes, save_semantic_ids
from genrec.terminal import Outcome, Progress, Table


def tokenize(config: training.TokenizeConfig, *, progress: Progress) -> Outcome:
    """Writes a semantic_ids artifact, unless a gate fails; its health is checked first."""
    if isinstance(config.tokenizer, training.PublishedTokenizer):
        return republish(config, config.tokenizer)
    dataset = Dataset.load(config.dataset)
    parents: dict[str, Artifact] = {"dataset": dataset.artifact}
    categories = dataset.items["categories"].to_list()
    if isinstance(config.tokenizer, training.ImportedTokenizer):
        codes = dataset.item_codes()
        if codes is None:
            fix = "prepare it from a source with codes, or use tokenizer=residual_kmeans"
            raise DataError("the dataset came without semantic IDs", where=config.dataset, fix=fix)
        ids, report = from_codes(codes, collisions=config.tokenizer.collisions, reserve=config.tokenizer.reserve)
        codebooks, facts = None, {}
        found = health(codes, ids.codes, codebook_sizes=ids.codebook_sizes, categories=categories)
    else:
        embeddings, vectors = load_embeddings(config.tokenizer.embeddings, dataset.artifact)
        parents["embeddings"] = embeddings
        quantiser = build_quantiser(config.tokenizer)
        codes = quantiser.fit(vectors, progress=progress).encode(vectors, progress=progress)
        codebooks = quantiser.state()
        if isinstance(quantiser, ResidualKMeans):
            assert isinstance(config.tokenizer, training.ResidualKMeansTokenizer)
            ids, report, facts = resolve_collisions(config.tokenizer, quantiser, vectors, codes)
        else:
            sizes, reserve = quantiser.codebook_sizes, config.tokenizer.reserve
            ids, report = build_semantic_ids(codes, sizes, codebooks=codebooks, reserve=reserve)
            facts = training_facts(quantiser)
        found = health(
            codes,
            ids.codes,
            codebook_sizes=ids.codebook_sizes,
            vectors=vectors,
            decode=quantiser.decode,
            categories=categories,
        )
    check_gates(found, **asdict(config.gates))
    artifact = save_semantic_ids(
        config.output,
        ids,
        parents=parents,
        codebooks=codebooks,
        health={**found, "collision_policy": asdict(report), **facts, "tokenizer": to_plain(config.tokenizer)},
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
        },
        (_health_table(config, found, ids, report),),
        next=f"genrec train dataset={config.dataset} semantic_ids={config.output} run=runs/{config.dataset.name}",
    )


def _health_table(
    config: training.TokenizeConfig, found: dict[str, Any], ids: SemanticIds, report: CollisionReport
) -> Table:
    rows = [*health_rows(found), *collision_rows(ids, report)]
    return Table(f"{config.output}: health", ("what", "value", "remark"), tuple(rows), left=("what", "remark"))
