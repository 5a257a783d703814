"""``genrec evaluate``: dataset and models -> evaluation artifact and one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from genrec.artifacts import Artifact
from genrec.baselines.base import Baseline, Ranker, count_items
from genrec.baselines.item_knn import DirectedItemKnn
from genrec.baselines.markov import LastItemMarkov
from genrec.baselines.planted import PlantedOptimum
from genrec.baselines.popularity import Popularity, RecentPopularity
from genrec.config import schema
from genrec.config.load import to_plain, to_yaml
from genrec.data.dataset import Dataset
from genrec.data.sequences import Cases
from genrec.data.synthetic import catalogue_of
from genrec.errors import ConfigError, DataError
from genrec.evaluation.evaluate import evaluate_models, save_evaluation
from genrec.evaluation.summary import CUTOFFS, check_models, report_rows
from genrec.processes import is_follower, together
from genrec.terminal import Outcome, Progress, Table


def evaluate(config: schema.EvaluateConfig, *, progress: Progress) -> Outcome:
    """Dataset -> evaluation artifact and the table of its rows."""
    dataset = Dataset.load(config.dataset)
    check_models([*config.models, *config.recommenders])
    models, notes = _fit_models(config, dataset)
    parents = {"dataset": dataset.artifact}
    for name, path in config.recommenders.items():
        parents[f"recommender {name}"], models[name] = _open_recommender(path, config, dataset)
    cases = dataset.cases(config.split)
    train = dataset.train()
    cutoffs = config.cutoffs or tuple(k for k in CUTOFFS if k <= dataset.num_items)
    reference = config.reference or ("item_knn" if "item_knn" in models else None)
    with together(config.devices, "evaluate", config_text=to_yaml(config)) as team:
        evaluation = evaluate_models(
            models,
            cases,
            train_counts=count_items(train, dataset.num_items),
            batch_size=config.batch_size,
            progress=progress,
            team=team,
            cutoffs=cutoffs,
            tie_rule=config.ties,
            num_resamples=config.num_resamples,
            num_permutations=config.num_permutations,
            confidence=config.confidence,
            seed=config.seed,
            reference=reference,
        )
    if is_follower(config.devices):
        return Outcome({})
    report = evaluation.report
    report["split"] = config.split
    report["left_out"] = list(notes)
    report["configuration"] = to_plain(config)
    artifact = save_evaluation(config.output, evaluation, parents=parents, overwrite=config.overwrite)
    summary = {
        "output": str(config.output),
        "identity": artifact.identity,
        "num_cases": report["num_cases"],
        "rows": report["rows"],
        "comparisons": report["comparisons"],
        "left_out": list(notes),
    }
    generative = [
        path for name, path in config.recommenders.items() if "semantic_ids" in parents[f"recommender {name}"].parents
    ]
    what = f"search recommender={generative[0]}" if generative else "user"
    user = dataset.user_ids[int(cases.user_index[0])]
    follow = f"genrec inspect {what} dataset={config.dataset} user={user} split={config.split}"
    summary["nodes_per_request"] = nodes = _nodes_per_request(models)
    notes += [f"{name}: {cost:,.1f} prefixes read for a request" for name, cost in nodes.items()]
    notes += [*_index_notes(models, cases, config), *_case_notes(report)]
    return Outcome(summary, _report_tables(report, config), notes=tuple(notes), next=follow)


def _fit_models(config: schema.EvaluateConfig, dataset: Dataset) -> tuple[dict[str, Ranker], list[str]]:
    """The fitted rows of the table, and one line for each that the data cannot carry."""
    train, timestamps = dataset.train(), dataset.train_timestamps()
    models: dict[str, Ranker] = {}
    notes = []
    for name in config.models:
        if name == "recent_popularity" and timestamps is None:
            notes.append("recent_popularity is left out: the data have no timestamps")
            if config.models == ("recent_popularity",) and not config.recommenders:
                raise DataError("the data have no timestamps, which recent_popularity needs", where=config.dataset)
            continue
        models[name] = _build_model(name, config, dataset).fit(
            train, num_items=dataset.num_items, timestamps=timestamps
        )
    return models, notes


def _open_recommender(path: Path, config: schema.EvaluateConfig, dataset: Dataset) -> tuple[Artifact, Ranker]:
    # Torch is loaded for recommenders only.
    from genrec.evaluation.search_ranker import GeneratorRanker
    from genrec.pipeline.open_recommender import open_recommender

    artifact, generator = open_recommender(path, dataset, config.search)
    return artifact, GeneratorRanker(generator, config.search.num_candidates or config.search.beam_width)


def _nodes_per_request(models: Mapping[str, Ranker]) -> dict[str, float]:
    """What the search of each generative recommender costs: at most, or of a search by value as measured."""
    costs = {
        name: getattr(getattr(model, "generator", None), "nodes_per_request", None) for name, model in models.items()
    }
    return {name: float(cost) for name, cost in costs.items() if cost is not None}


def _index_notes(models: Mapping[str, Ranker], cases: Cases, config: schema.EvaluateConfig) -> list[str]:
    """How much of the exact lists approximate indexes find."""
    if config.search.index == "flat" or not config.recommenders:
        return []
    from genrec.evaluation.dense_generator import DenseGenerator
    from genrec.evaluation.search_ranker import GeneratorRanker

    notes, k = [], config.search.num_candidates or config.search.beam_width
    histories = cases.take(np.flatnonzero(cases.histories.lengths > 0)).histories
    for name, model in models.items():
        if isinstance(model, GeneratorRanker) and isinstance(model.generator, DenseGenerator):
            share = model.generator.index_recall(histories, k)
            notes.append(f"{name}: the {config.search.index} index finds {share:.1%} of the exact {k} best items")
    return notes


def _build_model(name: str, config: schema.EvaluateConfig, dataset: Dataset) -> Baseline:
    if name == "popularity":
        return Popularity()
    if name == "recent_popularity":
        return RecentPopularity(**asdict(config.recent_popularity))
    if name == "markov":
        return LastItemMarkov()
    if name == "item_knn":
        return DirectedItemKnn(**asdict(config.item_knn))
    source = dict(dataset.artifact.facts["source"])
    if source.pop("name") != "synthetic":
        raise ConfigError(
            "the optimum is known for a synthetic catalogue only", where="key 'models'", fix="leave it out"
        )
    return PlantedOptimum(catalogue_of(**source), dataset.item_ids.to_list())


def _report_tables(report: dict[str, Any], config: schema.EvaluateConfig) -> tuple[Table, ...]:
    """The headline; every cut-off, one table a mask; and what the tie rule does, where it does something."""
    header, *rows = report_rows(report)
    cases, items = report["num_cases"], report["protocol"]["num_items"]
    title = f"{config.dataset}, {config.split}: {cases:,} cases, full ranking of {items:,} items"
    caption = f"intervals: {config.confidence:.0%} bootstrap over users; equal scores: {config.ties} ranks"
    tables = [Table(title, header, tuple(rows), left=header[:2], caption=caption)]
    names = [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in report["protocol"]["cutoffs"]]
    columns = ("model", *(name.replace("recall", "R").replace("ndcg", "N") for name in names))
    for mask, label in (("none", "no mask"), ("seen", "seen items masked")):
        cells = tuple(
            (row["model"], *(short(row["metrics"][name]["mean"]) for name in names))
            for row in report["rows"]
            if row["mask"] == mask
        )
        tables.append(Table(f"every cut-off, {label}", columns, cells, left=columns[:1]))
    tied = [row for row in report["rows"] if _depends_on_ties(row)]
    if tied:
        rules = list(tied[0]["tie_bounds"])
        first = report["protocol"]["primary_cutoff"]
        columns = (
            "model",
            "seen mask",
            *(f"{metric}@{first} {rule}" for metric in "RN" for rule in ("pess.", "mid", "opt.")),
        )
        assert len(rules) == 2
        cells = tuple(
            (
                row["model"],
                row["mask"],
                *(short(value) for name in rules for value in row["tie_bounds"][name].values()),
            )
            for row in tied
        )
        tables.append(Table("equal scores: what the tie rule decides", columns, cells, left=columns[:2]))
    return tuple(tables)


def _depends_on_ties(row: dict[str, Any]) -> bool:
    return any(len({short(value) for value in bounds.values()}) > 1 for bounds in row["tie_bounds"].values())


def short(value: float) -> str:
    """Four digits, without the zero before the point."""
    return f"{value:.4f}".removeprefix("0")


def _case_notes(report: dict[str, Any]) -> tuple[str, ...]:
    texts = {
        "num_empty_history": "cases have an empty history and were served by popularity",
        "num_target_unseen_in_train": "targets never occur in training",
        "num_target_outside_catalogue": "targets are outside the catalogue and count as misses",
        "num_target_in_history": "targets are in their own history (repeats): always misses under the seen mask",
        "num_fewer_candidates": "cases have fewer unseen items than the largest cut-off",
    }
    return tuple(f"{report[name]:,} {text}" for name, text in texts.items() if report[name])
