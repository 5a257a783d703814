"""``genrec evaluate``: dataset and models -> evaluation artifact and one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

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
from genrec.embeddings.store import load_embeddings
from genrec.errors import ConfigError, DataError
from genrec.evaluation.evaluate import SearchRanker, evaluate_models, save_evaluation
from genrec.evaluation.summary import CUTOFFS, LONG_CUTOFFS, check_models, report_rows
from genrec.processes import is_follower, together
from genrec.terminal import Outcome, Progress, Table

_METRIC_NAMES = {"recall": "R", "ndcg": "N", "mrr": "MRR"}


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
    categories, vectors = _top_level_categories(dataset.items), None
    if config.embeddings is not None:
        parents["embeddings"], vectors = load_embeddings(config.embeddings, dataset.artifact)
    reference = config.reference or ("item_knn" if "item_knn" in models else None)
    with together(config.devices, "evaluate", config_text=to_yaml(config)) as team:
        evaluation = evaluate_models(
            models,
            cases,
            train_counts=count_items(train, dataset.num_items),
            categories=categories,
            vectors=vectors,
            batch_size=config.batch_size,
            progress=progress,
            team=team,
            cutoffs=config.cutoffs or _standard_cutoffs(models, dataset.num_items),
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
        "lists": report["lists"],
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


def _standard_cutoffs(models: Mapping[str, Ranker], num_items: int) -> tuple[int, ...]:
    """Those that the catalogue has items for, and the lists of all searches are long enough for."""
    shortest = min([num_items, *(model.num_candidates for model in models.values() if isinstance(model, SearchRanker))])
    return tuple(k for k in (*CUTOFFS, *LONG_CUTOFFS) if k <= shortest)


def _top_level_categories(items: pl.DataFrame) -> list[str | None] | None:
    """[N] the first category of each item, None where it has none; None if that would tell no two items apart."""
    if "categories" not in items.columns:
        return None
    first = items.get_column("categories").list.first()
    return first.to_list() if first.drop_nulls().n_unique() > 1 else None


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
    """The headline; every cut-off, one table a mask; the lists; and what the tie rule does, where it does something."""
    header, *rows = report_rows(report)
    cases, items = report["num_cases"], report["protocol"]["num_items"]
    title = f"{config.dataset}, {config.split}: {cases:,} cases, full ranking of {items:,} items"
    ties = "the mean over their orders" if config.ties == "expected" else f"{config.ties} ranks"
    caption = f"intervals: {config.confidence:.0%} bootstrap over users; equal scores: {ties}"
    tables = [Table(title, header, tuple(rows), left=header[:2], caption=caption)]
    cutoffs = report["protocol"]["cutoffs"]
    columns = ("model", "metric", *(f"@{k}" for k in cutoffs))
    for mask, label in (("none", "no mask"), ("seen", "seen items masked")):
        cells = tuple(
            (row["model"], name, *(short(row["metrics"][f"{metric}@{k}"]["mean"]) for k in cutoffs))
            for row in report["rows"]
            if row["mask"] == mask
            for metric, name in _METRIC_NAMES.items()
        )
        tables.append(Table(f"every cut-off, {label}", columns, cells, left=columns[:2]))
    return (*tables, _list_table(report), *_tie_tables(report))


def _list_table(report: dict[str, Any]) -> Table:
    """What is recommended at the primary cut-off, whatever the targets."""
    k = report["protocol"]["primary_cutoff"]
    columns = ("model", "seen mask", "items", "coverage", "Gini", "popularity", "novelty, bits", "diversity")
    cells = tuple(
        (
            row["model"],
            row["mask"],
            f"{row['mean_length']:.4g}",
            short(row["coverage"]),
            short(row["gini"]),
            f"{row['average_popularity']:,.1f}",
            f"{row['novelty']:.2f}",
            "" if row["diversity"] is None else short(row["diversity"]),
        )
        for row in report["lists"]
        if row["cutoff"] == k
    )
    if not any(row[-1] for row in cells):
        columns, cells = columns[:-1], tuple(row[:-1] for row in cells)
    caption = "popularity: training interactions of a recommended item; coverage, Gini: of the whole catalogue"
    return Table(f"the first {k} recommendations", columns, cells, left=columns[:2], caption=caption)


def _tie_tables(report: dict[str, Any]) -> tuple[Table, ...]:
    """One table, or none where no rank depends on the order of equals and no semantic ID is shared."""
    tied = [row for row in report["rows"] if "id_level" in row or _depends_on_ties(row)]
    if not tied:
        return ()
    rules = list(next(iter(tied[0]["tie_bounds"].values())))
    has_ids = any("id_level" in row for row in tied)
    columns = ("model", "seen mask", "metric", *rules, "ID level")
    cells = []
    for row in tied:
        for name, bounds in row["tie_bounds"].items():
            metric, _, k = name.partition("@")
            of_ids = short(row["id_level"][name]) if "id_level" in row else ""
            cells.append(
                (row["model"], row["mask"], f"{_METRIC_NAMES[metric]}@{k}", *map(short, bounds.values()), of_ids)
            )
    if not has_ids:
        columns, cells = columns[:-1], [row[:-1] for row in cells]
    caption = "ID level: the semantic ID of the target is found, which several items share" if has_ids else ""
    title = "equal scores: what the tie rule decides"
    return (Table(title, columns, tuple(cells), left=columns[:3], caption=caption),)


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
