"""``genrec embed``: item text or signals -> embeddings artifact."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict

import numpy as np

from genrec.config import schema
from genrec.config.load import to_plain
from genrec.data.dataset import Dataset
from genrec.errors import ConfigError, GenrecError
from genrec.terminal import Outcome, Progress, Table


def embed(config: schema.EmbedConfig, *, progress: Progress) -> Outcome:
    """Item text or signals -> embeddings artifact."""
    from genrec.embeddings.combine import combine
    from genrec.embeddings.store import save_embeddings

    dataset = Dataset.load(config.dataset)
    chosen = config.embedding
    parts = chosen.parts if isinstance(chosen, schema.CombinedEmbedding) else {chosen.name: chosen}
    if not isinstance(chosen, schema.CombinedEmbedding) and chosen.weight != 1:
        raise ConfigError(
            "a single embedding has no weight", where="key 'embedding.weight'", fix="use embedding=combined"
        )
    if not parts:
        raise ConfigError("nothing to combine", where="key 'embedding.parts'", expected="at least one part")
    is_combined = isinstance(chosen, schema.CombinedEmbedding)
    blocks = {}
    for name, part in parts.items():
        with _keys_of(name) if is_combined else nullcontext():
            blocks[name] = _embed_one(part, dataset, progress)
    facts = {name: {**to_plain(part), "dimensions": blocks[name].shape[1]} for name, part in parts.items()}
    if is_combined:
        facts = {name: {"part": name, **fact} for name, fact in facts.items()}
        vectors = combine([(name, block, parts[name].weight) for name, block in blocks.items()])
    else:
        vectors = blocks[chosen.name]
    artifact = save_embeddings(
        config.output,
        vectors,
        dataset=dataset.artifact,
        num_items=dataset.num_items,
        blocks=facts,
        overwrite=config.overwrite,
    )
    zero = int((~vectors.any(axis=1)).sum())
    sizes = {"num_items": vectors.shape[0], "dimensions": vectors.shape[1], "num_zero_rows": zero}
    labels = ("items", "dimensions", "items without a vector")
    rows = tuple((label, f"{value:,}") for label, value in zip(labels, sizes.values(), strict=True))
    summary = {"output": str(config.output), "identity": artifact.identity, **sizes}
    return Outcome(summary, (Table(f"{config.output}", ("what", "value"), rows, left=("what",)),))


@contextmanager
def _keys_of(part: str) -> Iterator[None]:
    """In the block, a remedy names the keys of a part as they are in a combination."""
    try:
        yield
    except GenrecError as error:
        error.args = (re.sub(r"\bembedding\.(?=[a-z])", f"embedding.parts.{part}.", str(error)),)
        raise


def _embed_one(part: schema.Embedding, dataset: Dataset, progress: Progress) -> np.ndarray:
    from genrec.embeddings.cooccurrence import embed_cooccurrence
    from genrec.embeddings.precomputed import read_precomputed
    from genrec.embeddings.sentence import embed_sentences
    from genrec.embeddings.tfidf import embed_tfidf

    options = {key: value for key, value in asdict(part).items() if key not in ("name", "weight")}
    if isinstance(part, schema.PrecomputedEmbedding):
        return read_precomputed(part.path, dataset.item_ids.to_list(), ids=part.ids).vectors
    if isinstance(part, schema.CooccurrenceEmbedding):
        return embed_cooccurrence(dataset.train(), num_items=dataset.num_items, **options)
    texts = dataset.items["text"].to_list()
    if isinstance(part, schema.TfidfEmbedding):
        return embed_tfidf(texts, **options)
    return embed_sentences(texts, **options, progress=lambda done, total: progress("texts", done, total))
