"""``--dry-run``: what a command would read, and how much work that is."""

from __future__ import annotations

import glob
from dataclasses import asdict
from pathlib import Path
from typing import Any

from genrec.artifacts import load_artifact
from genrec.config import (
    comparison,
    export,
    finetune,
    fusion,
    recipe,
    report,
    reproduce,
    schema,
    search,
    serving,
    sources,
    training,
)
from genrec.data.dataset import Dataset
from genrec.pipeline.ledger import resolve
from genrec.pipeline.prepare import raw_folder
from genrec.pipeline.recommend_source import check_source
from genrec.pipeline.sweep_space import training_space
from genrec.serving.swap import bundle_folder

_SECONDS = (
    type(None),
    schema.InspectIdsConfig,
    comparison.CompareConfig,
    report.ReportConfig,
    export.TritonConfig,
    serving.DiffConfig,
    serving.RollbackConfig,
)


def expected_cost(config: Any = None) -> list[str]:
    """Lines for ``--dry-run``: what a command would read, and how much work that is.

    Raises:
        ArtifactError: what the command would read is not there.
        ConfigError, LineageError: a recommender to start from does not fit.
    """
    if isinstance(config, schema.PrepareConfig):
        return _prepare_cost(config)
    if isinstance(config, recipe.RecipeConfig | reproduce.ReproduceConfig | schema.QuickstartConfig):
        return _road_cost(config)
    if isinstance(config, _SECONDS):
        return ["seconds"]
    if isinstance(config, schema.CatalogueAppendConfig | schema.CatalogueRetireConfig | export.TrieConfig):
        table = load_artifact(config.semantic_ids, verify=False)
        return [f"reads {table.facts['num_items']:,} items"]
    if isinstance(config, serving.ServeConfig | serving.PublishConfig | training.RecommendConfig):
        return _answering_cost(config)
    dataset = Dataset.load(config.dataset, verify=False)
    if isinstance(config, schema.EvaluateConfig | fusion.FuseConfig | search.FrontierConfig | search.DiagnoseConfig):
        return _search_cost(config, dataset)
    if isinstance(config, schema.SweepConfig):
        return _sweep_cost(config, dataset)
    if isinstance(config, training.TrainConfig | finetune.FinetuneConfig):
        return _training_cost(config, dataset)
    return [f"reads {dataset.num_items:,} items"]


def _search_cost(
    config: schema.EvaluateConfig | fusion.FuseConfig | search.FrontierConfig | search.DiagnoseConfig, dataset: Dataset
) -> list[str]:
    items = f"{dataset.num_items:,} items"
    if isinstance(config, schema.EvaluateConfig):
        rankings = len(config.models) + len(config.recommenders)
        return [f"ranks {items} for {dataset.facts[f'num_{config.split}']:,} {config.split} cases, {rankings} times"]
    if isinstance(config, fusion.FuseConfig):
        times = len(config.weights) * (len(config.constants) if config.method == "rank_fusion" else 1)
        return [f"searches {items} for at most {dataset.facts['num_validation']:,} validation cases, {times} times"]
    if isinstance(config, search.FrontierConfig):
        return [f"searches {items} for {_at_most(config.max_cases)} validation cases, once a setting"]
    verb = "scores all" if config.exact else "searches"
    return [f"{verb} {items} for {_at_most(config.max_cases)} {config.split} cases"]


def _at_most(number: int | None) -> str:
    return "all" if number is None else f"at most {number:,}"


def _road_cost(config: recipe.RecipeConfig | reproduce.ReproduceConfig | schema.QuickstartConfig) -> list[str]:
    """Of several commands in a row."""
    if isinstance(config, schema.QuickstartConfig):
        return ["about a minute on two cores"]
    if isinstance(config, recipe.RecipeConfig):
        initial = config.train.initial
        starts = [] if initial is None else [f"starts from {load_artifact(initial, verify=False).path}"]
        epochs = f"trains for at most {config.train.stopping.max_epochs} epochs"
        return [*_prepare_cost(config.prepare), epochs, *starts]
    if config.cell is None and config.claim is None:
        return ["seconds"]
    plan = resolve(config)
    times = f", {len(config.seeds)} times" if plan.train is not None else ""
    return [*_prepare_cost(plan.prepare), f"{plan.claim.cost}{times}"]


def _answering_cost(config: serving.ServeConfig | serving.PublishConfig | training.RecommendConfig) -> list[str]:
    if isinstance(config, serving.PublishConfig):
        return [f"copies {bundle_folder(config.bundle)} and answers its probes"]
    if isinstance(config, serving.ServeConfig):
        return [f"serves {bundle_folder(config.bundle)} until it is told to end"]
    check_source(config)
    if config.bundle is not None:
        return [f"answers the users of {config.users} from {bundle_folder(config.bundle)}, in {config.shards} parts"]
    assert config.dataset is not None
    return [f"reads {Dataset.load(config.dataset, verify=False).num_items:,} items"]


def _training_cost(config: training.TrainConfig | finetune.FinetuneConfig, dataset: Dataset) -> list[str]:
    times, events = config.stopping.max_epochs, dataset.facts["num_train"]
    if isinstance(config, training.TrainConfig):
        return [f"reads {events:,} training events at most {times} times", *_warm_start(config, dataset)]
    requests = events if config.targets == "all" else dataset.num_users
    return [f"answers at most {requests:,} requests {times} times, for {config.rollout.updates} updates each"]


def _prepare_cost(config: schema.PrepareConfig) -> list[str]:
    raw_dir = raw_folder(config)
    names = [value for value in asdict(config.source).values() if isinstance(value, str)]
    found = {Path(match) for name in names for match in glob.glob(str(raw_dir / name))}
    files = sorted(file for file in found if file.is_file())
    if isinstance(config.source, sources.SyntheticSource):
        return [f"makes {config.source.num_users:,} histories of {config.source.num_items:,} items"]
    if not files:
        return [f"finds no raw file in {raw_dir}" + ("; would download the card's" if config.download else "")]
    size = sum(file.stat().st_size for file in files)
    # Measured on two cores: ten million events of Parquet take 9 s and 1.9 GB.
    return [f"reads {len(files)} files, {size / 1e6:,.1f} MB; a million events take about 1 s and 0.2 GB"]


def _sweep_cost(config: schema.SweepConfig, dataset: Dataset) -> list[str]:
    """For trainings after what the sweep would refuse."""
    if config.target == "train":
        training_space(config)
        times = config.num_trials + config.num_seeds - 1
        return [f"trains at most {times} times on {dataset.facts['num_train']:,} events, one after the other"]
    items, cases = dataset.num_items, dataset.facts["num_validation"]
    return [f"ranks {items:,} items for {cases:,} validation cases, at most {config.num_trials} times"]


def _warm_start(config: training.TrainConfig, dataset: Dataset) -> tuple[str, ...]:
    """What training would take over, or why it would refuse to."""
    if config.initial is None or config.semantic_ids is None:
        return ()
    from genrec.pipeline.warm_start import plan_warm_start  # needs torch
    from genrec.semantic_ids.table import load_semantic_ids

    _, ids = load_semantic_ids(config.semantic_ids, dataset.artifact, num_items=dataset.num_items, verify=False)
    return plan_warm_start(config.initial, dataset, ids, asdict(config.model), verify=False).notes
