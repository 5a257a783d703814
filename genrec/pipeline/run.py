"""``genrec run`` and ``genrec quickstart``: the whole road, several commands in a row."""

from __future__ import annotations

from genrec.config import models, recipe, schema, training
from genrec.pipeline.embed import embed
from genrec.pipeline.evaluate import evaluate
from genrec.pipeline.prepare import prepare
from genrec.pipeline.sections import keys_of
from genrec.pipeline.stages import Stages, collaborative_of, id_files, initial_of, raw_files
from genrec.pipeline.tokenizer import tokenize
from genrec.pipeline.train import train
from genrec.runs import remove_run
from genrec.terminal import Outcome, Progress

# Small enough for a minute on two cores: 500 items in 32 x 32 x 32 codes.
CODEBOOK_SIZES = (32, 32, 32)
MODEL = models.HierarchicalModel(
    joint_depth=4,
    memory=models.MemorySection(followers=256),
    width=64,
    hidden=256,
    depth_hidden=128,
    history_length=20,
)
OPTIMIZER = training.OptimizerSection(learning_rate=1e-3, node_weight_decay=3.0, item_weight_decay=3.0)


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
                optimizer=OPTIMIZER,
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


def run(config: recipe.RecipeConfig, *, progress: Progress) -> Outcome:
    """Runs the commands of a recipe in order, and leaves out those whose configuration and inputs are as last time."""
    stages = Stages(config.output)
    start = initial_of(config.train)
    aligned = collaborative_of(config.tokenize)
    raw = raw_files(config.prepare)
    dataset = stages.run("prepare", config.prepare, config.prepare.output, raw, prepare, progress)
    inputs = {"dataset": dataset.identity}
    if config.embed is not None:
        embeddings = stages.run("embed", config.embed, config.embed.output, inputs, embed, progress)
        table_inputs = {**inputs, "embeddings": embeddings.identity}
    else:
        table_inputs = dict(inputs)
    table_inputs |= {**id_files(config.tokenize), **aligned}
    table = stages.run("tokenize", config.tokenize, config.tokenize.output, table_inputs, tokenize, progress)
    stages.train(config.train, {**inputs, "semantic_ids": table.identity, **start}, progress)
    # Always: it takes seconds, and its table is what a recipe is run for.
    with keys_of("evaluate"):
        stages.outcomes["evaluate"] = evaluate(config.evaluate, progress=progress)
    used_again = tuple(f"{name}: unchanged, used again" for name in stages.reused)
    outcomes = stages.outcomes
    recommender = config.train.run / "recommender"
    follow = f"genrec recommend dataset={config.prepare.output} recommender={recommender} output=top.parquet"
    return Outcome(
        {**{name: outcome.summary for name, outcome in outcomes.items()}, "reused": stages.reused},
        tuple(shown for outcome in outcomes.values() for shown in outcome.tables),
        notes=(*used_again, *outcomes["evaluate"].notes, f"everything is in {config.output}"),
        next=follow,
    )
