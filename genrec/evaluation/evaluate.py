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
import scipy.sparse as sp

from genrec.artifacts import Artifact, load_artifact, write_artifact
from genrec.data.sequences import Cases, Ragged
from genrec.errors import ConfigError, DataError
from genrec.evaluation.metrics import RankCounts, Scores, check_cutoffs, parse_metric, rank_counts, ranks
from genrec.evaluation.slices import length_labels, novelty_labels, popularity_labels
from genrec.evaluation.summary import CUTOFFS, SLICE_COLUMNS, SummaryOptions, check_models, check_protocol, summarise

KIND = "evaluation"
EMPTY_HISTORY_MODEL = "popularity for empty histories"


class Ranker(Protocol):
    """Anything that scores the whole catalogue for a batch of histories."""

    def scores(self, histories: Ragged) -> Scores:
        """[B, N], higher is better; see `genrec.evaluation.metrics.Scores`."""
        ...


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
    **summary: Unpack[SummaryOptions],
) -> Evaluation:
    """Full-ranking evaluation of several models on the same cases (METHODS section 6).

    Every case is ranked against the whole catalogue, with and without the items of its history, from one scoring pass.
    The denominator is all cases: a target outside the catalogue or never recommended is a miss. A case with an empty
    history is ranked by training popularity under every model, and counted in the report.

    Args:
        models: name to fitted model, in the order of the table.
        cases: what to predict; histories hold item indices in [0, N), unknown items left out.
        train_counts: [N] training interactions of each item.
        batch_size: cases scored at once.
        progress: called with (model, cases done, cases in all) after every batch.
        **summary: the keyword arguments of `genrec.evaluation.summary.summarise`: cutoffs, tie_rule, num_resamples,
            confidence, seed, reference.

    Raises:
        DataError: no cases, an index outside the catalogue, scores of a wrong shape or not finite.
        ConfigError: no models, a cut-off above N, an unknown tie rule or reference.
    """
    # Before the work, not after it.
    check_protocol(list(models), num_items=len(train_counts), **summary)
    _check_lists(models, summary.get("cutoffs", CUTOFFS))
    frame = rank_cases(models, cases, train_counts=train_counts, batch_size=batch_size, progress=progress)
    return Evaluation(frame, summarise(frame, num_items=len(train_counts), **summary))


def rank_cases(
    models: Mapping[str, Ranker],
    cases: Cases,
    *,
    train_counts: np.ndarray,
    batch_size: int = 1024,
    progress: Callable[[str, int, int], None] | None = None,
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
        ranked = _rank_model(name, model, cases, counts, batch_size, progress)._asdict()
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
    function, cutoff = parse_metric(metric)
    check_cutoffs((cutoff,), len(train_counts))
    ranked = _rank_model("model", model, cases, _check_inputs(cases, train_counts), batch_size, None)
    chosen = ranked[2:] if exclude_seen else ranked[:2]
    return float(function(ranks(*chosen, tie_rule), cutoff).mean())


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
                fix="widen the search or choose smaller cutoffs",
            )


def _check_inputs(cases: Cases, train_counts: np.ndarray) -> np.ndarray:
    num_items = len(train_counts)
    if len(cases) == 0:
        raise DataError("no evaluation cases", fix="choose a split that has some")
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
    batch_size: int,
    progress: Callable[[str, int, int], None] | None,
) -> RankCounts:
    lengths = cases.histories.lengths
    served, empty = np.flatnonzero(lengths > 0), np.flatnonzero(lengths == 0)
    ranked = RankCounts(*np.empty((4, len(cases)), dtype=np.int64))
    popularity = sp.csr_matrix((len(empty), len(train_counts))), train_counts
    for column, values in zip(
        ranked, rank_counts(popularity, cases.target[empty], model=EMPTY_HISTORY_MODEL), strict=True
    ):
        column[empty] = values
    for start in range(0, len(served), batch_size):
        rows = served[start : start + batch_size]
        batch = cases.take(rows)
        scores = model.scores(batch.histories)
        shape = scores[0].shape if isinstance(scores, tuple) else scores.shape
        if shape != (len(batch), len(train_counts)):
            raise DataError(
                "wrong shape of scores",
                where=f"model {name!r}",
                expected=(len(batch), len(train_counts)),
                found=shape,
            )
        seen_row, seen_item, _ = batch.histories.flat()
        counts = rank_counts(scores, batch.target, (seen_row, seen_item), model=name)
        if isinstance(model, SearchRanker):
            masked = rank_counts(model.masked_scores(batch.histories), batch.target, (seen_row, seen_item), model=name)
            counts = RankCounts(*counts[:2], *masked[2:])
        for column, values in zip(ranked, counts, strict=True):
            column[rows] = values
        if progress is not None:
            progress(name, len(empty) + start + len(rows), len(cases))
    return ranked


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
