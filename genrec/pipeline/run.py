"""``genrec run`` and ``genrec quickstart``: the whole road, several commands in a row."""

from __future__ import annotations

import glob
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genrec.artifacts import Artifact, load_artifact
from genrec.config import models, recipe, schema, training
from genrec.config.load import to_plain
from genrec.errors import ArtifactError
from genrec.files import read_json, sha256_file, write_json
from genrec.pipeline.embed import embed
from genrec.pipeline.evaluate import evaluate
from genrec.pipeline.prepare import prepare, raw_folder
from genrec.pipeline.sections import keys_of
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
    stages = _Stages(config.output)
    start = _initial(config.train)
    aligned = _collaborative(config.tokenize)
    raw = _raw_files(config.prepare)
    dataset = stages.run("prepare", config.prepare, config.prepare.output, raw, prepare, progress)
    inputs = {"dataset": dataset.identity}
    if config.embed is not None:
        embeddings = stages.run("embed", config.embed, config.embed.output, inputs, embed, progress)
        table_inputs = {**inputs, "embeddings": embeddings.identity}
    else:
        table_inputs = dict(inputs)
    table_inputs |= {**_id_files(config.tokenize), **aligned}
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


class _Stages:
    """What a recipe has made so far, in recipe.json: configuration, inputs and identity of each artifact."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "recipe.json"
        self.record: dict[str, Any] = read_json(self.path) if self.path.is_file() else {}
        self.outcomes: dict[str, Outcome] = {}
        self.reused: list[str] = []

    def run(
        self,
        name: str,
        config: Any,
        output: Path,
        inputs: dict[str, str],
        command: Callable[..., Outcome],
        progress: Progress,
    ) -> Artifact:
        known = self._known(name, config, output, inputs)
        if known is not None:
            return known
        with keys_of(name):
            self.outcomes[name] = command(config, progress=progress)
        return self._remember(name, config, output, inputs)

    def train(self, config: training.TrainConfig, inputs: dict[str, str], progress: Progress) -> Artifact:
        output = config.run / "recommender"
        known = self._known("train", config, output, inputs)
        if known is not None:
            return known
        # A run that was cut off goes on; one with another configuration or other inputs makes room.
        started = {"config": to_plain(config), "inputs": inputs}
        goes_on = self.record.get("training") == started and config.run.exists()
        if config.run.exists() and not goes_on:
            remove_run(config.run)
        self.record["training"] = started
        self._save()
        with keys_of("train"):
            self.outcomes["train"] = train(config, progress=progress, resume=goes_on)
        return self._remember("train", config, output, inputs)

    def _known(self, name: str, config: Any, output: Path, inputs: dict[str, str]) -> Artifact | None:
        entry = self.record.get(name)
        if entry is None or entry["config"] != to_plain(config) or entry["inputs"] != inputs:
            return None
        try:
            artifact = load_artifact(output)
        except ArtifactError:
            return None  # gone or damaged since: it is made anew
        if artifact.identity != entry["identity"]:
            return None
        self.reused.append(name)
        return artifact

    def _remember(self, name: str, config: Any, output: Path, inputs: dict[str, str]) -> Artifact:
        artifact = load_artifact(output, verify=False)
        self.record[name] = {"config": to_plain(config), "inputs": inputs, "identity": artifact.identity}
        self._save()
        return artifact

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.record)


def _initial(config: training.TrainConfig) -> dict[str, str]:
    """What to start training from; looked for before the work that comes earlier."""
    return {} if config.initial is None else {"initial": load_artifact(config.initial, verify=False).identity}


def _id_files(config: training.TokenizeConfig) -> dict[str, str]:
    """The sha256 of the files of imported semantic IDs that are there."""
    section = config.tokenizer
    files = (section.path, section.item_map) if isinstance(section, training.ImportedTokenizer) else ()
    return {str(path): sha256_file(path) for path in files if path is not None and path.is_file()}


def _collaborative(config: training.TokenizeConfig) -> dict[str, str]:
    """What the codes are aligned with; likewise."""
    folder = getattr(config.tokenizer, "collaborative", None)
    return {} if folder is None else {"collaborative": load_artifact(folder, verify=False).identity}


def _raw_files(config: schema.PrepareConfig) -> dict[str, str]:
    """The sha256 of every raw file that the source names and that is there."""
    folder = raw_folder(config)
    names = [value for value in to_plain(config.source).values() if isinstance(value, str)]
    found = sorted({Path(match) for name in names for match in glob.glob(f"{folder / name}*")})
    return {str(path): sha256_file(path) for path in found if path.is_file()}
