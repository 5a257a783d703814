"""``genrec fuse``: a generative and a dense recommender -> a hybrid, tuned on the validation split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np

from genrec.artifacts import Artifact, write_artifact
from genrec.baselines.base import count_items
from genrec.config.fusion import FuseConfig
from genrec.config.load import to_plain
from genrec.data.dataset import Dataset
from genrec.data.sequences import Cases
from genrec.decoding.hybrid import Found, Hybrid
from genrec.decoding.pool import HybridSettings
from genrec.errors import ConfigError
from genrec.evaluation.evaluate import score_metrics
from genrec.evaluation.search_ranker import GeneratorRanker
from genrec.files import write_json
from genrec.pipeline.evaluate import short
from genrec.pipeline.open_recommender import HYBRID, open_dense_side, open_generative
from genrec.pipeline.recommenders import KIND
from genrec.seeding import generator
from genrec.terminal import Outcome, Progress, Table


def fuse(config: FuseConfig, *, progress: Progress) -> Outcome:
    """Tries the constants on validation and writes those that are best; of equal ones the first."""
    if config.cutoff > config.search.beam_width:
        raise ConfigError(
            "the cut-off is above the beam width",
            where="key 'cutoff'",
            expected=f"at most {config.search.beam_width}",
            found=config.cutoff,
            fix=f"set search.beam_width={config.cutoff}",
        )
    dataset = Dataset.load(config.dataset)
    counts = count_items(dataset.train(), dataset.num_items)
    parents, side = {"dataset": dataset.artifact}, {"item_knn": asdict(config.item_knn)}
    parents["generative"], generative = open_generative(config.generative, dataset, config.search)
    dense_artifact, dense = open_dense_side(config.dense, side["item_knn"], dataset, config.search)
    if dense_artifact is not None:
        parents["dense"], side = dense_artifact, {}
    cases, trials = _cases(config, dataset), list(_trials(config))
    metric, other = (f"{name}@{config.cutoff}" for name in _both(config.metric))
    lines: list[dict[str, Any]] = []
    pools: dict[Any, Found] = {}
    for number, settings in enumerate(trials, start=1):
        ranker = GeneratorRanker(Hybrid(generative, dense, settings, pools=pools), config.cutoff)
        found = score_metrics(
            ranker, cases, train_counts=counts, metrics=(metric, other), exclude_seen=config.exclude_seen
        )
        lines.append({**asdict(settings), **found})
        progress("fuse", number, len(trials))
    best = max(range(len(lines)), key=lambda place: lines[place][metric])
    facts = {"name": HYBRID, **asdict(trials[best]), **side, metric: lines[best][metric]}
    artifact = _save(config, facts, parents, lines)
    return _outcome(config, artifact, lines, best, (metric, other), len(cases))


def _both(metric: str) -> tuple[str, str]:
    return ("recall", "ndcg") if metric == "recall" else ("ndcg", "recall")


def _trials(config: FuseConfig) -> Iterator[HybridSettings]:
    constants = config.constants if config.method == "rank_fusion" else (HybridSettings.constant,)
    for weight, constant in product(config.weights, constants):
        yield HybridSettings(config.method, weight, constant, config.prefix_value)


def _cases(config: FuseConfig, dataset: Dataset) -> Cases:
    cases, limit = dataset.cases("validation"), config.max_cases
    if limit is None or limit >= len(cases):
        return cases
    return cases.take(np.sort(generator(config.seed, 3).choice(len(cases), limit, replace=False)))


def _save(
    config: FuseConfig, facts: dict[str, Any], parents: dict[str, Artifact], lines: list[dict[str, Any]]
) -> Artifact:
    with write_artifact(config.output, kind=KIND, facts=facts, parents=parents, overwrite=config.overwrite) as writer:
        write_json(writer.path("trials.json"), {"configuration": to_plain(config), "trials": lines})
    return writer.artifact


def _outcome(
    config: FuseConfig,
    artifact: Artifact,
    lines: list[dict[str, Any]],
    best: int,
    metrics: tuple[str, str],
    num_cases: int,
) -> Outcome:
    columns = ("weight", *(("constant",) if config.method == "rank_fusion" else ()))
    rows = tuple(
        (*(f"{line[name]:g}" for name in columns), *(short(line[name]) for name in metrics), "best" * (place == best))
        for place, line in enumerate(lines)
    )
    title = f"{config.output}: {config.method} on {num_cases:,} validation cases"
    chosen = {name: lines[best][name] for name in (*columns, *metrics)}
    summary = {"output": str(config.output), "identity": artifact.identity, "method": config.method, **chosen}
    follow = (
        f"genrec evaluate dataset={config.dataset} recommenders.hybrid={config.output} "
        f"output={config.output.with_name(config.output.name + '_evaluation')}"
    )
    return Outcome({**summary, "trials": lines}, (Table(title, (*columns, *metrics, ""), rows),), next=follow)
