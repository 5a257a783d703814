"""``genrec tokenize``: embeddings, or the codes that came with the data -> semantic IDs and their health."""

from __future__ import annotations

from dataclasses import asdict

from genrec.artifacts import Artifact
from genrec.config import training
from genrec.config.load import to_plain
from genrec.data.dataset import Dataset
from genrec.embeddings.store import load_embeddings
from genrec.pipeline.collisions import collision_rows, resolve_collisions
from genrec.pipeline.imports import import_codes, import_rows
from genrec.pipeline.quantisers import build_quantiser, training_facts
from genrec.quantization.diagnostics import check_gates, health, health_rows
from genrec.semantic_ids.table import from_codes, save_semantic_ids
from genrec.terminal import Outcome, Progress, Table


def tokenize(config: training.TokenizeConfig, *, progress: Progress) -> Outcome:
    """Writes a semantic_ids artifact, unless a gate fails; its health is checked first."""
    dataset = Dataset.load(config.dataset)
    parents: dict[str, Artifact] = {"dataset": dataset.artifact}
    categories = dataset.items["categories"].to_list()
    vectors = codebooks = decode = None
    if config.tokenizer.embeddings is not None:
        parents["embeddings"], vectors = load_embeddings(config.tokenizer.embeddings, dataset.artifact)
    if isinstance(config.tokenizer, training.ImportedTokenizer):
        codes, account = import_codes(config.tokenizer, dataset)
        ids, report = from_codes(codes, collisions=config.tokenizer.collisions, reserve=config.tokenizer.reserve)
        facts = {"imported": account} if account else {}
        rows = import_rows(account, report, codes)
    else:
        assert vectors is not None
        quantiser = build_quantiser(config.tokenizer)
        codes = quantiser.fit(vectors, progress=progress).encode(vectors, progress=progress)
        codebooks, decode = quantiser.state(), quantiser.decode
        ids, report, moves = resolve_collisions(config.tokenizer, quantiser, vectors, codes)
        facts, rows = {**moves, **training_facts(quantiser)}, []
    found = health(
        codes, ids.codes, codebook_sizes=ids.codebook_sizes, vectors=vectors, decode=decode, categories=categories
    )
    rows += [*health_rows(found), *collision_rows(ids, report)]
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
            **({"imported": facts["imported"]} if "imported" in facts else {}),
        },
        (Table(f"{config.output}: health", ("what", "value", "remark"), tuple(rows), left=("what", "remark")),),
        next=f"genrec train dataset={config.dataset} semantic_ids={config.output} run=runs/{config.dataset.name}",
    )
