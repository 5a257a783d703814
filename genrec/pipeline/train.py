"""``genrec train``: dataset, and semantic IDs for a generative model, -> recommender."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from genrec.artifacts import Artifact
from genrec.baselines.base import count_items
from genrec.baselines.item_knn import DirectedItemKnn
from genrec.config import models, training
from genrec.config.finetune import FinetuneConfig
from genrec.config.load import to_plain, to_yaml
from genrec.data.augment import Augmentation, augment
from genrec.data.batches import Batch, BatchStream
from genrec.data.dataset import Dataset
from genrec.data.sequences import Cases, Ragged
from genrec.errors import ConfigError
from genrec.evaluation.evaluate import score_metrics
from genrec.evaluation.search_ranker import GeneratorRanker
from genrec.models.hierarchical import HierarchicalRecommender
from genrec.models.item_features import FeatureValues
from genrec.pipeline.evaluate import short
from genrec.pipeline.features import read_features
from genrec.pipeline.models import build_model
from genrec.pipeline.objectives import build_objective
from genrec.pipeline.recommenders import build_generator, save_recommender
from genrec.pipeline.setup import Setup
from genrec.pipeline.train_dense import set_up_sasrec
from genrec.pipeline.warm_start import WarmStart, plan_warm_start
from genrec.processes import Team, is_follower, together
from genrec.runs import RunDirectory
from genrec.seeding import fold_in, generator
from genrec.semantic_ids.table import load_semantic_ids
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.terminal import Outcome, Progress, Table
from genrec.training.dropout import dropout_factor
from genrec.training.loop import FitOptions, Stop, TrainingState, fit
from genrec.training.prefix_metrics import prefix_metrics
from genrec.training.recommender_task import RecommenderTask

logger = logging.getLogger(__name__)

MOST_PREFIX_CASES = 1000


class Ready(NamedTuple):
    """All that training needs, before the first step.

    Attributes:
        dataset: what is trained on.
        counts: training interactions of each item.
        setup: the model, its objective and its search.
        stream: the batches.
        task: what a step does.
    """

    dataset: Dataset
    counts: np.ndarray
    setup: Setup
    stream: BatchStream
    task: RecommenderTask


def prepare_training(config: training.TrainConfig) -> Ready:
    """Reads the inputs and builds what is trained."""
    dataset = Dataset.load(config.dataset)
    history = dataset.train()
    counts = count_items(history, dataset.num_items)
    _check_clock(config.model, dataset)
    if isinstance(config.model, models.SasrecModel):
        setup = set_up_sasrec(config, dataset, counts)
    else:
        setup = _set_up_generative(config, dataset, history, counts)
    stream = BatchStream(
        history,
        batch_size=config.optimizer.batch_size,
        max_length=config.model.history_length,
        seed=fold_in(config.seed, 1),
        pairs=config.samples == "pairs",
        change=_change(config.augmentation),
        gaps=getattr(setup.model, "uses_gaps", False),
    )
    return Ready(dataset, counts, setup, stream, _build_task(config, setup, stream))


def fit_options(config: training.TrainConfig, metric: str, *, validate_first: bool) -> FitOptions:
    """How the loop trains."""
    return FitOptions(
        max_epochs=config.stopping.max_epochs,
        validate_every=config.stopping.validate_every,
        patience=config.stopping.patience,
        metric=metric,
        precision=config.precision,
        accelerator=config.accelerator,
        clip_norm=config.optimizer.clip_norm,
        seed=fold_in(config.seed, 2),
        validate_first=validate_first,
        average=config.optimizer.average,
        dropout=_dropout(config.dropout_schedule),
    )


def _change(section: training.AugmentationSection) -> Callable[[Batch, np.random.Generator], Batch] | None:
    how = Augmentation(**asdict(section))
    return (lambda batch, random: augment(batch, how, random)) if how else None


def _dropout(section: training.DropoutSchedule) -> Callable[[float], float] | None:
    if section.start == section.end == 1:
        return None
    return partial(dropout_factor, **asdict(section))


def train(config: training.TrainConfig, *, progress: Progress, resume: bool, stop: Stop | None = None) -> Outcome:
    """Trains a recommender in a run folder; the weights with the best validation become the artifact."""
    dataset, counts, setup, stream, task = prepare_training(config)
    metric = f"{config.stopping.metric}@{config.stopping.cutoff}"
    options = fit_options(config, metric, validate_first=setup.initial is not None)
    # Of the inputs their identities are compared; how many processes share the work is free.
    places = ("run", "dataset", "semantic_ids", "initial", "devices")
    text = to_yaml(config)
    with RunDirectory.open(
        config.run,
        command="train",
        config_text=text,
        inputs=list(setup.parents.values()),
        resume=resume,
        ignore_keys=places,
        leads=not is_follower(config.devices),
    ) as run:
        if setup.initial is not None:
            _tell(setup.initial)
        with together(config.devices, "train", config_text=text, resume=resume) as team:
            validate = _validation(config, setup, dataset, counts, team)
            state = fit(task, stream, validate, run=run, options=options, progress=progress, team=team, stop=stop)
        if not run.leads:
            return Outcome({})
        own = {name: value for name, value in setup.model.facts.items() if name != "features"}  # in model.json alone
        facts = {**own, **setup.facts, metric: state.best_metric, "step": state.best_step}
        artifact = save_recommender(config.run / "recommender", setup.model, facts=facts, parents=setup.parents)
        records = run.metrics()
    return _outcome(config, artifact, state, records, metric, setup)


def _set_up_generative(config: training.TrainConfig, dataset: Dataset, history: Ragged, counts: np.ndarray) -> Setup:
    if config.semantic_ids is None:
        raise ConfigError(
            f"model={config.model.name} needs semantic IDs",
            where="key 'semantic_ids'",
            expected="the folder that tokenize wrote",
            found="null",
            fix="give semantic_ids, or set model=sasrec",
        )
    table, ids = load_semantic_ids(config.semantic_ids, dataset.artifact, num_items=dataset.num_items)
    initial = None
    if config.initial is not None:
        initial = plan_warm_start(config.initial, dataset, ids, asdict(config.model))
    features = _read_features(config.model, dataset, initial)
    model = _build_model(config, SemanticIdTrie.build(ids.codes, ids.codebook_sizes), history, initial, features)
    parents = {"dataset": dataset.artifact, "semantic_ids": table}
    if initial is not None:
        parents["initial"] = initial.artifact
    width = max(config.stopping.beam_width, config.stopping.cutoff)
    num_negatives, seed = config.stopping.prefix_negatives, fold_in(config.seed, 5)
    some = validation_cases(config, dataset).take(slice(0, MOST_PREFIX_CASES))

    def watch() -> dict[str, float]:
        return prefix_metrics(model, some, num_negatives=num_negatives, seed=seed) if num_negatives else {}

    return Setup(
        model=model,
        objective=build_objective(config.loss, model.trie, seed=fold_in(config.seed, 4)),
        parents=parents,
        facts={"semantic_ids": ids.identity},
        open=lambda: build_generator(model, dataset, counts, beam_width=width, batch_size=256),
        watch=watch,
        initial=initial,
    )


def _check_clock(model: models.Model, dataset: Dataset) -> None:
    if isinstance(model, models.HierarchicalModel) and model.time_gaps and not dataset.has_clock:
        raise ConfigError(
            "the data have no timestamps, which time gaps need",
            where=dataset.artifact.path,
            found="key 'model.time_gaps' is true",
            fix="model.time_gaps=false",
        )


def _read_features(model: models.Model, dataset: Dataset, initial: WarmStart | None) -> dict[str, FeatureValues] | None:
    if not isinstance(model, models.HierarchicalModel):
        return None
    known = {} if initial is None else initial.vocabularies
    return read_features(model.item_features, dataset.items, min_count=model.feature_min_count, known=known)


def _build_model(
    config: training.TrainConfig,
    trie: SemanticIdTrie,
    history: Ragged,
    initial: WarmStart | None,
    features: dict[str, FeatureValues] | None,
) -> Any:
    """The model as it is before the first step; a run that is resumed has its checkpoint loaded over it."""
    torch.manual_seed(fold_in(config.seed, 0))
    model = build_model(config.model, trie, features=features)
    if initial is not None:
        initial.load_into(model)
    model.mark_trained(*_trained_items(history, trie.num_items))
    if isinstance(model, HierarchicalRecommender) and model.memory is not None:
        memory = asdict(model.settings.memory)
        memory.pop("followers")
        knn = DirectedItemKnn(**memory).fit(history, num_items=trie.num_items)
        model.remember(knn.similarity_, count_items(history, trie.num_items))
    return model


def _tell(initial: WarmStart) -> None:
    """To the log of the run; what should be known before hours of training, to the screen too."""
    for note in initial.notes:
        logger.log(logging.WARNING if note in initial.warnings else logging.INFO, "%s", note)


def _trained_items(history: Ragged, num_items: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Items that training shows in a history (all but the last of a user), and as targets (all but the first)."""
    _, item, age = history.flat()
    first = np.repeat(history.lengths, history.lengths) - 1
    masks = [np.isin(np.arange(num_items), item[chosen]) for chosen in (age > 0, age < first)]
    return torch.from_numpy(masks[0]), torch.from_numpy(masks[1])


def _build_task(config: training.TrainConfig, setup: Setup, stream: BatchStream) -> RecommenderTask:
    groups = setup.model.parameter_groups(
        weight_decay=config.optimizer.weight_decay,
        node_weight_decay=config.optimizer.node_weight_decay,
        item_weight_decay=config.optimizer.item_weight_decay,
    )
    return RecommenderTask(
        setup.model,
        objective=setup.objective,
        parameter_groups=groups,
        learning_rate=config.optimizer.learning_rate,
        total_steps=config.stopping.max_epochs * stream.num_batches,
        warmup=config.optimizer.warmup,
        final_rate=config.optimizer.final_rate,
        compile=config.compile,
    )


def validation_cases(config: training.TrainConfig | FinetuneConfig, dataset: Dataset) -> Cases:
    """The cases that training is validated on, a sample where there are more than `stopping.max_cases`."""
    cases = dataset.cases("validation")
    limit = config.stopping.max_cases
    if limit is not None and limit < len(cases):
        cases = cases.take(np.sort(generator(config.seed, 3).choice(len(cases), limit, replace=False)))
    return cases


def _validation(
    config: training.TrainConfig, setup: Setup, dataset: Dataset, counts: np.ndarray, team: Team
) -> Callable[[], dict[str, float]]:
    """Recall and NDCG on validation cases by the search that will be shipped, as the model is when it is called.

    Beside them, what else the model's kind has to be watched by.
    """
    cases, cutoff = validation_cases(config, dataset), config.stopping.cutoff
    metrics = (f"recall@{cutoff}", f"ndcg@{cutoff}")

    def validate() -> dict[str, float]:
        search = setup.open()
        ranker, size = GeneratorRanker(search, cutoff), search.batch_size  # a search's batch is the smallest share
        scores = score_metrics(ranker, cases, train_counts=counts, metrics=metrics, batch_size=size, team=team)
        return scores | setup.watch()

    return validate


def _outcome(
    config: training.TrainConfig,
    artifact: Artifact,
    state: TrainingState,
    records: list[dict[str, Any]],
    metric: str,
    setup: Setup,
) -> Outcome:
    initial = setup.initial
    columns = ("step", "train_loss", *(name for name in records[0] if "@" in name), "targets_per_second")
    best = [record for record in records if record["step"] == state.best_step]
    shown = [*records[:: max(1, len(records) // 10)], *best, records[-1]]
    distinct = {record["step"]: record for record in sorted(shown, key=lambda record: record["step"])}
    rows = tuple(tuple(_cell(name, record.get(name)) for name in columns) for record in distinct.values())
    size = sum(parameter.numel() for parameter in setup.model.parameters())
    title = (
        f"{config.run}: {size:,} parameters, best validation {metric} {short(state.best_metric)} at {state.best_step}"
    )
    summary = {
        "recommender": str(config.run / "recommender"),
        "identity": artifact.identity,
        metric: state.best_metric,
        "best_step": state.best_step,
        "last_step": state.step,
        "num_parameters": size,
        "configuration": to_plain(config),
        **({} if initial is None else {"initial": {**initial.summary, metric: records[0][metric]}}),
    }
    name = config.run.name
    follow = (
        f"genrec evaluate dataset={config.dataset} recommenders.{name}={config.run}/recommender "
        f"output={config.run}/evaluation"
    )
    notes = () if initial is None else initial.notes
    return Outcome(summary, (Table(title, columns, rows),), notes=notes, next=follow)


def _cell(name: str, value: float | None) -> str:
    if value is None:  # before the first step there is no loss
        return "-"
    if name in ("step", "targets_per_second"):
        return f"{value:,.0f}"
    return short(value) if "@" in name else f"{value:.4f}"
