"""``genrec quickstart``: the whole road, several commands in a row."""

from __future__ import annotations

from genrec.config import schema, training
from genrec.pipeline.embed import embed
from genrec.pipeline.evaluate import evaluate
from genrec.pipeline.prepare import prepare
from genrec.pipeline.tokenizer import tokenize
from genrec.pipeline.train import train
from genrec.runs import remove_run
from genrec.terminal import Outcome, Progress

# Small enough for a minute on two cores: 500 items in 32 x 32 x 32 codes.
CODEBOOK_SIZES = (32, 32, 32)
MODEL = training.HierarchicalModel(width=64, hidden=256, depth_hidden=128, history_length=20)


def quickstart(config: schema.QuickstartConfig, *, progress: Progress) -> Outcome:
    """prepare -> embed -> tokenize -> train -> evaluate on a planted catalogue whose optimum is known."""
    folder, again = config.output, config.overwrite
    dataset, ids, run = folder / "dataset", folder / "semantic_ids", folder / "train"
    if again and run.exists():
        remove_run(run)
    no_core = schema.FilterSection(min_user_interactions=0, min_item_interactions=0)  # the optimum is of all events
    tokenizer = training.ResidualKMeansTokenizer(embeddings=folder / "embeddings", codebook_sizes=CODEBOOK_SIZES)
    outcomes = {
        "prepare": prepare(
            schema.PrepareConfig(source=config.source, output=dataset, overwrite=again, filter=no_core),
            progress=progress,
        ),
        "embed": embed(
            schema.EmbedConfig(dataset=dataset, output=folder / "embeddings", overwrite=again), progress=progress
        ),
        "tokenize": tokenize(
            training.TokenizeConfig(dataset=dataset, output=ids, overwrite=again, tokenizer=tokenizer),
            progress=progress,
        ),
        "train": train(
            training.TrainConfig(
                dataset=dataset,
                semantic_ids=ids,
                run=run,
                model=MODEL,
                stopping=training.StoppingSection(max_epochs=config.max_epochs),
                accelerator="cpu",
            ),
            progress=progress,
            resume=False,
        ),
        "evaluate": evaluate(
            schema.EvaluateConfig(
                dataset=dataset,
                output=folder / "evaluation",
                overwrite=again,
                models=("popularity", "recent_popularity", "markov", "item_knn", "optimum"),
                recommenders={"hierarchical": run / "recommender"},
                num_resamples=config.num_resamples,
            ),
            progress=progress,
        ),
    }
    notes = (*outcomes["prepare"].notes, *outcomes["evaluate"].notes, f"everything is in {folder}")
    return Outcome(
        {name: outcome.summary for name, outcome in outcomes.items()},
        tuple(table for outcome in outcomes.values() for table in outcome.tables),
        notes=notes,
        next="genrec prepare giftcards download=true   (real data, 0.6 MB)",
    )
