"""``genrec quickstart``: several commands in a row."""

from __future__ import annotations

from genrec.config import schema
from genrec.pipeline.embed import embed
from genrec.pipeline.evaluate import evaluate
from genrec.pipeline.prepare import prepare
from genrec.terminal import Outcome, Progress


def quickstart(config: schema.QuickstartConfig, *, progress: Progress) -> Outcome:
    """prepare -> embed -> evaluate on a planted catalogue whose optimum is known."""
    folder = config.output
    no_core = schema.FilterSection(min_user_interactions=0, min_item_interactions=0)  # the optimum is of all events
    prepared = prepare(
        schema.PrepareConfig(
            source=config.source, output=folder / "dataset", overwrite=config.overwrite, filter=no_core
        ),
        progress=progress,
    )
    embedded = embed(
        schema.EmbedConfig(dataset=folder / "dataset", output=folder / "embeddings", overwrite=config.overwrite),
        progress=progress,
    )
    evaluated = evaluate(
        schema.EvaluateConfig(
            dataset=folder / "dataset",
            output=folder / "evaluation",
            overwrite=config.overwrite,
            models=("popularity", "recent_popularity", "markov", "item_knn", "optimum"),
            num_resamples=config.num_resamples,
        ),
        progress=progress,
    )
    outcomes = {"prepare": prepared, "embed": embedded, "evaluate": evaluated}
    return Outcome(
        {name: outcome.summary for name, outcome in outcomes.items()},
        tuple(table for outcome in outcomes.values() for table in outcome.tables),
        notes=(*prepared.notes, *evaluated.notes, f"everything is in {folder}"),
        next="genrec prepare giftcards download=true   (real data, 0.6 MB)",
    )
