"""Ranks every case under every model in one scoring pass, and keeps the result as an artifact.

The middle of the evaluation: above `metrics` and `slices`, below `summary`'s report. Knows a model only as something
that scores histories; must not know how models are built, configured or displayed.
"""

# C cases, B cases of a batch, N items of the catalogue

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Unpack, runtime_checkable

import numpy as np
import polars as pl

from genrec.artifacts import Artifact, load_artifact, write_artifact
from genrec.baselines.base import Ranker
from genrec.baselines.scores import BackoffScores, Scores, empty_scores, shape_of
from genrec.data.sequences import Cases, Ragged
from genrec.errors import ConfigError, DataError
from genrec.evaluation.metrics import RankCounts, check_cutoffs, check_tie_rule, parse_metric, rank_counts, ranks
from genrec.evaluation.slices import length_labels, novelty_labels, popularity_labels
from genrec.evaluation.summary import MASKS, SLICE_COLUMNS, SummaryOptions, check_models, check_protocol, summarise
from genrec.processes import ALONE, Team

KIND = "evaluation"
EMPTY_HISTORY_MODEL = "popularity for empty histories"


@runtime_checkable
class SearchRanker(Ranker, Protocol):
    """A ranker that searches for some items and leaves the others out, so a mask needs a search of its own."""

    num_candidates: int

    def masked_scores(self, histories: Ragged) -> Scores:
        """[B, N] CSR; as `scores`, from a search that may not return the items of the history."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        cases: one row a (model, case), models in the order given and cases in theirs; columns of `rank_cases`.
        report: protocol, metrics, slices and comparisons; plain JSON types; see `genrec.evaluation.summary`.
    """

    cases: pl.DataFrame
    report: dict[str, Any]


def evaluate_models(
    models: Mapping[str, Ranker],
    cases: Cases,
    *,
    train_counts: np.ndarray,
    batch_size: int = 1024,
    progress: Callable[[str, int, int], None] | None = None,
    team: Team = ALONE,
    **summary: Unpack[SummaryOptions],
) -> Evaluation:
    """Full-ranking evaluation of several models on the same cases (docs/methods.md section 6).

    Every case is ranked against the whole catalogue, with and without the items of its history, from one scoring pass.
    The denominator is all cases: a target outside the catalogue or never recommended is a miss. A case with an empty
    history is ranked by training popularity under every model, and counted in the report.

    Args:
        models: name to fitted model, in the order of the table.
        cases: what to predict; histories hold item indices in [0, N), unknown items left out.
        train_counts: [N] training interactions of each item.
        batch_size: cases scored at once.
        progress: called with (model, cases done, cases in all) after every batch.
        team: processes that share the batches out among them; the result does not depend on how many there are. The
            report is the leader's alone, and empty elsewhere.
        **summary: see `genrec.evaluation.summary.SummaryOptions`.

    Raises:
        DataError: no cases, an index outside the catalogue, scores of a wrong shape or not finite.
        ConfigError: no models, a cut-off above N or a search's list, an unknown tie rule or reference.
    """
    # Before the work, not after it.
    protocol = check_protocol(list(models), num_items=len(train_counts), **summary)
    _check_lists(models, protocol.cutoffs)
    frame = rank_cases(models, cases, train_counts=train_counts, batch_size=batch_size, progress=progress, team=team)
    return Evaluation(frame, summarise(frame, num_items=len(train_counts), **summary) if team.leads else {})


def rank_cases(
    models: Mapping[str, Ranker],
    cases: Cases,
    *,
    train_counts: np.ndarray,
    batch_size: int = 1024,
    progress: Callable[[str, int, int], None] | None = None,
    team: Team = ALONE,
) -> pl.DataFrame:
    """The rank counts of every case under every model.

    Arguments and errors as in `evaluate_models`.

    Returns:
        One row a (model, case), models in the order given, cases in theirs: model, case_index, user_index, target,
        history_length, num_greater, num_tied, num_greater_masked, num_tied_masked, and the slice columns
        target_popularity, history_length_bucket, target_novelty (Enum).
    """
    check_models(list(models))
    counts = _check_inputs(cases, train_counts)
    common = _case_columns(cases, counts)
    frames = []
    for name, model in models.items():
        ranked = _rank_model(name, model, cases, counts, batch_size=batch_size, progress=progress, team=team)
        columns = (pl.Series(column, values, dtype=pl.Int32) for column, values in ranked.items())
        frames.append(common.with_columns(pl.lit(name).alias("model"), *columns))
    order = ["model", *common.columns[:4], *RankCounts._fields, *common.columns[4:]]
    return pl.concat(frames).select(order)


def score_model(
    model: Ranker,
    cases: Cases,
    *,
    train_counts: np.ndarray,
    metric: str = "recall@10",
    exclude_seen: bool = False,
    tie_rule: str = "pessimistic",
    batch_size: int = 1024,
) -> float:
    """One number for one model, as a search over settings needs it: the mean of a metric over all cases.

    Args:
        model: a fitted model.
        cases: as in `evaluate_models`.
        train_counts: [N] training interactions of each item.
        metric: name with cut-off, such as "ndcg@10".
        exclude_seen: leave out the items of the history.
        tie_rule: see `genrec.evaluation.metrics.ranks`.
        batch_size: cases scored at once.

    Raises:
        DataError, ConfigError: as in `evaluate_models`.
    """
    return score_metrics(
        model,
        cases,
        train_counts=train_counts,
        metrics=(metric,),
        exclude_seen=exclude_seen,
        tie_rule=tie_rule,
        batch_size=batch_size,
    )[metric]


def score_metrics(
    model: Ranker,
    cases: Cases,
    *,
    train_counts: np.ndarray,
    metrics: Sequence[str],
    exclude_seen: bool = False,
    tie_rule: str = "pessimistic",
    batch_size: int = 1024,
    team: Team = ALONE,
) -> dict[str, float]:
    """The means of several metrics over all cases, from one ranking, without or with the seen items left out.

    A `SearchRanker` runs the one search that is asked for.

    Args:
        model: a fitted model.
        cases: as in `evaluate_models`.
        train_counts: [N] training interactions of each item.
        metrics: names with cut-off, such as "ndcg@10".
        exclude_seen: leave out the items of the history.
        tie_rule: see `genrec.evaluation.metrics.ranks`.
        batch_size: cases scored at once.
        team: processes that share the batches out among them.

    Returns:
        Name to value, in the order of `metrics`.

    Raises:
        DataError, ConfigError: as in `evaluate_models`.
    """
    parsed = {name: parse_metric(name) for name in metrics}
    for _, cutoff in parsed.values():
        check_cutoffs((cutoff,), len(train_counts))
        _check_lists({"model": model}, (cutoff,))
    check_tie_rule(tie_rule)
    mask = "seen" if exclude_seen else "none"
    counts = _check_inputs(cases, train_counts)
    ranked = _rank_model("model", model, cases, counts, batch_size=batch_size, masks=(mask,), team=team)
    greater, tied = MASKS[mask]
    rank = ranks(ranked[greater], ranked[tied], tie_rule)
    return {name: float(function(rank, cutoff).mean()) for name, (function, cutoff) in parsed.items()}


def save_evaluation(
    path: Path, evaluation: Evaluation, *, parents: Mapping[str, Artifact] | None = None, overwrite: bool = False
) -> Artifact:
    """Writes cases.parquet and report.json as an artifact of kind "evaluation".

    Args:
        path: folder to write.
        evaluation: what to write.
        parents: what it was made from, such as ``{"dataset": dataset}``.
        overwrite: replace an existing folder.

    Raises:
        RunError, StorageError: as in `genrec.artifacts.write_artifact`.
    """
    report = evaluation.report
    facts = {"models": report["models"], "num_cases": report["num_cases"], "protocol": report["protocol"]}
    with write_artifact(path, kind=KIND, facts=facts, parents=parents, overwrite=overwrite) as writer:
        evaluation.cases.write_parquet(writer.path("cases.parquet"))
        text = json.dumps(report, indent=1, allow_nan=False)
        writer.path("report.json").write_text(text + "\n", encoding="utf-8")
    return writer.artifact


def load_evaluation(path: Path) -> Evaluation:
    """Reads what `save_evaluation` wrote.

    Raises:
        ArtifactError: missing, incomplete, corrupt, or of another kind.
    """
    artifact = load_artifact(path, kind=KIND)
    report = json.loads(artifact.file("report.json").read_text(encoding="utf-8"))
    return Evaluation(pl.read_parquet(artifact.file("cases.parquet")), report)


def _check_lists(models: Mapping[str, Ranker], cutoffs: Sequence[int]) -> None:
    largest = max(cutoffs)
    for name, model in models.items():
        if isinstance(model, SearchRanker) and model.num_candidates < largest:
            raise ConfigError(
                f"cut-off {largest} is above the number of candidates",
                where=f"model {name!r}",
                expected=f"at most {model.num_candidates}",
                fix=f"set search.beam_width={largest} search.num_candidates=null, or smaller cut-offs",
            )


def _check_inputs(cases: Cases, train_counts: np.ndarray) -> np.ndarray:
    num_items = len(train_counts)
    if len(cases) == 0:
        raise DataError("no evaluation cases", fix="choose another split, as in split=validation")
    _, seen, _ = cases.histories.flat()
    for what, index, lowest in (("target", cases.target, -1), ("history item", seen, 0)):
        if len(index) and not (index.min() >= lowest and index.max() < num_items):
            raise DataError(
                f"{what} outside the catalogue",
                expected=f"item_index {lowest} to {num_items - 1}",
                found=f"{index.min()} to {index.max()}",
            )
    return np.asarray(train_counts, dtype=np.int64)


def _rank_model(
    name: str,
    model: Ranker,
    cases: Cases,
    train_counts: np.ndarray,
    *,
    batch_size: int,
    progress: Callable[[str, int, int], None] | None = None,
    masks: Sequence[str] = tuple(MASKS),
    team: Team = ALONE,
) -> dict[str, np.ndarray]:
    """The columns of `RankCounts` that belong to the masks, [C] int64 each.

    Every batch is ranked whole by one process, so that scores do not depend on how many there are.
    """
    lengths = cases.histories.lengths
    served, empty = np.flatnonzero(lengths > 0), np.flatnonzero(lengths == 0)
    ranked = {column: np.zeros(len(cases), dtype=np.int64) for mask in masks for column in MASKS[mask]}
    popularity = BackoffScores(empty_scores(len(empty), len(train_counts)), train_counts)
    counts = rank_counts(popularity, cases.target[empty], model=EMPTY_HISTORY_MODEL)
    for start in range(team.rank * batch_size, len(served), team.size * batch_size):
        rows = served[start : start + batch_size]
        for column, values in _rank_batch(name, model, cases.take(rows), len(train_counts), masks).items():
            ranked[column][rows] = values
        if progress is not None:
            progress(name, len(empty) + start + len(rows), len(cases))
    ranked = {column: team.total(values) for column, values in ranked.items()}
    for column, values in ranked.items():
        values[empty] = getattr(counts, column)
    return ranked


def _rank_batch(name: str, model: Ranker, batch: Cases, num_items: int, masks: Sequence[str]) -> dict[str, np.ndarray]:
    """As `_rank_model`, for non-empty histories at once: one scoring, or one search a mask."""
    seen_row, seen_item, _ = batch.histories.flat()

    def counts_of(score: Callable[[Ragged], Scores]) -> RankCounts:
        scores = score(batch.histories)
        expected = len(batch), num_items
        if shape_of(scores) != expected:
            raise DataError("wrong shape of scores", where=f"model {name!r}", expected=expected, found=shape_of(scores))
        return rank_counts(scores, batch.target, (seen_row, seen_item), model=name)

    if isinstance(model, SearchRanker):
        searches = {"none": model.scores, "seen": model.masked_scores}
        counts = {mask: counts_of(searches[mask]) for mask in masks}
    else:
        counts = dict.fromkeys(masks, counts_of(model.scores))
    return {column: getattr(counts[mask], column) for mask in masks for column in MASKS[mask]}


def _case_columns(cases: Cases, train_counts: np.ndarray) -> pl.DataFrame:
    """case_index, user_index, target, history_length, then the slice columns."""
    lengths = cases.histories.lengths
    slices = {
        "target_popularity": popularity_labels(cases.target, train_counts),
        "history_length_bucket": length_labels(lengths),
        "target_novelty": novelty_labels(cases.target, cases.histories),
    }
    return pl.DataFrame(
        {
            "case_index": np.arange(len(cases), dtype=np.uint32),
            "user_index": np.asarray(cases.user_index, dtype=np.int32),
            "target": np.asarray(cases.target, dtype=np.int32),
            "history_length": lengths.astype(np.int32),
            **{name: pl.Series(labels, dtype=pl.Enum(SLICE_COLUMNS[name])) for name, labels in slices.items()},
        }
    )
