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
from typing import Any, NamedTuple, Protocol, Unpack, runtime_checkable

import numpy as np
import polars as pl
import scipy.sparse as sp

from genrec.artifacts import Artifact, load_artifact, write_artifact
from genrec.baselines.base import Ranker, best_items
from genrec.baselines.scores import BackoffScores, Scores, empty_scores, shape_of
from genrec.data.sequences import Cases, Ragged
from genrec.errors import ConfigError, DataError
from genrec.evaluation.list_metrics import ListTally, unit_vectors
from genrec.evaluation.metrics import (
    RankCounts,
    check_cutoffs,
    check_tie_rule,
    count_values,
    id_rank_counts,
    parse_metric,
    rank_counts,
)
from genrec.evaluation.slices import category_labels, length_labels, novelty_labels, popularity_labels
from genrec.evaluation.summary import (
    CATEGORY_COLUMN,
    ID_COLUMNS,
    MASKS,
    SLICE_COLUMNS,
    SummaryOptions,
    check_models,
    check_protocol,
    summarise,
)
from genrec.processes import ALONE, Team

KIND = "evaluation"
EMPTY_HISTORY_MODEL = "popularity for empty histories"


@runtime_checkable
class SearchRanker(Ranker, Protocol):
    """A ranker that searches for some items and leaves the others out, so a mask needs a search of its own.

    Attributes:
        num_candidates: the largest cut-off that its lists are long enough for.
    """

    num_candidates: int

    def masked_scores(self, histories: Ragged) -> Scores:
        """[B, N] CSR; as `scores`, from a search that may not return the items of the history."""
        ...


@runtime_checkable
class CodedRanker(SearchRanker, Protocol):
    """A search over semantic IDs, which some items may share.

    Attributes:
        codes: [N] number of each item's code tuple; None where no two items share theirs.
    """

    codes: np.ndarray | None


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        cases: one row a (model, case), models in the order given and cases in theirs; columns of `rank_cases`.
        report: that of `genrec.evaluation.summary.summarise`, and "lists": one row a model, mask and cut-off, see
            `genrec.evaluation.list_metrics.ListTally.rows`. Plain JSON types. What earlier versions wrote has no lists.
    """

    cases: pl.DataFrame
    report: dict[str, Any]


def evaluate_models(
    models: Mapping[str, Ranker],
    cases: Cases,
    *,
    train_counts: np.ndarray,
    categories: Sequence[str | None] | None = None,
    vectors: np.ndarray | None = None,
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
        categories: [N] top-level category of each item, for slices; None for an item: not known; None: no such slices.
        vectors: [N, E] item vectors, in whose space the diversity of lists is measured; None: it is not.
        batch_size: cases scored at once.
        progress: called with (model, cases done, cases in all) after every batch.
        team: processes that share the batches out among them; the result does not depend on how many there are. The
            report is the leader's alone, and empty elsewhere.
        **summary: see `genrec.evaluation.summary.SummaryOptions`.

    Raises:
        DataError: no cases, an index outside the catalogue, scores of a wrong shape or not finite, an item twice in
            a list.
        ConfigError: no models, a cut-off above N or a search's list, an unknown tie rule or reference.
    """
    # Before the work, not after it.
    protocol = check_protocol(list(models), num_items=len(train_counts), **summary)
    _check_lists(models, protocol.cutoffs)
    work = _Work(cases, _check_inputs(cases, train_counts), batch_size, progress, team)
    units = None if vectors is None else unit_vectors(vectors)
    frame, lists = _rank_models(models, work, categories, _Lists(protocol.cutoffs, units))
    if not team.leads:
        return Evaluation(frame, {})
    return Evaluation(frame, summarise(frame, num_items=len(train_counts), **summary) | {"lists": lists})


def rank_cases(
    models: Mapping[str, Ranker],
    cases: Cases,
    *,
    train_counts: np.ndarray,
    categories: Sequence[str | None] | None = None,
    batch_size: int = 1024,
    progress: Callable[[str, int, int], None] | None = None,
    team: Team = ALONE,
) -> pl.DataFrame:
    """The rank counts of every case under every model.

    Arguments and errors as in `evaluate_models`.

    Returns:
        One row a (model, case), models in the order given, cases in theirs: model, case_index, user_index, target,
        history_length, num_greater, num_tied, num_greater_masked, num_tied_masked; where a model has items that share
        their codes, the same of semantic IDs, null for other models: num_greater_id, num_tied_id,
        num_greater_masked_id, num_tied_masked_id; and the slice columns target_popularity, history_length_bucket,
        target_novelty, with categories target_category (Enum).
    """
    work = _Work(cases, _check_inputs(cases, train_counts), batch_size, progress, team)
    return _rank_models(models, work, categories, None)[0]


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
        tie_rule: one of `genrec.evaluation.metrics.ALL_TIE_RULES`.
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
        tie_rule: one of `genrec.evaluation.metrics.ALL_TIE_RULES`.
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
    work = _Work(cases, _check_inputs(cases, train_counts), batch_size, None, team)
    ranked = _rank_model("model", model, work, masks=(mask,))
    greater, tied = (ranked[column] for column in MASKS[mask])
    values = count_values(greater, tied, sorted({cutoff for _, cutoff in parsed.values()}), tie_rule)
    return {name: float(values[name].mean()) for name in parsed}


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


@dataclass(frozen=True)
class _Work:
    """What is ranked, and how it is cut and shared."""

    cases: Cases
    train_counts: np.ndarray
    batch_size: int
    progress: Callable[[str, int, int], None] | None
    team: Team

    @property
    def num_items(self) -> int:
        return len(self.train_counts)


class _Lists(NamedTuple):
    """What is asked of the lists: see `ListTally`."""

    cutoffs: Sequence[int]
    units: np.ndarray | None

    def tally(self, work: _Work) -> ListTally:
        return ListTally(work.num_items, len(work.cases), cutoffs=self.cutoffs, masks=tuple(MASKS), units=self.units)


def _rank_models(
    models: Mapping[str, Ranker], work: _Work, categories: Sequence[str | None] | None, lists: _Lists | None
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """The table of `rank_cases`, and the rows of the lists."""
    check_models(list(models))
    common = _case_columns(work.cases, work.train_counts, categories)
    frames, rows = [], []
    for name, model in models.items():
        tally = None if lists is None else lists.tally(work)
        ranked = _rank_model(name, model, work, tally=tally)
        columns = (pl.Series(column, values, dtype=pl.Int32) for column, values in ranked.items())
        frames.append(common.with_columns(pl.lit(name).alias("model"), *columns))
        if tally is not None:
            rows += [{"model": name} | row for row in tally.rows(work.train_counts)]
    table = pl.concat(frames, how="diagonal")
    ids = [column for pair in ID_COLUMNS.values() for column in pair if column in table.columns]
    return table.select("model", *common.columns[:4], *RankCounts._fields, *ids, *common.columns[4:]), rows


def _rank_model(
    name: str, model: Ranker, work: _Work, *, masks: Sequence[str] = tuple(MASKS), tally: ListTally | None = None
) -> dict[str, np.ndarray]:
    """The columns of the masks, those of semantic IDs too where some are shared; [C] int64 each.

    Every batch is ranked whole by one process, so that scores do not depend on how many there are.
    """
    cases, team, size = work.cases, work.team, work.batch_size
    lengths = cases.histories.lengths
    served, empty = np.flatnonzero(lengths > 0), np.flatnonzero(lengths == 0)
    names = [column for mask in masks for column in MASKS[mask]]
    # For an empty history the popularity of items: that of an ID is not defined, so the counts of items stand for it.
    alike = {ids: items for mask in masks for ids, items in zip(ID_COLUMNS[mask], MASKS[mask], strict=True)}
    names += alike if _shared_codes(model) is not None else []
    ranked = {column: np.zeros(len(cases), dtype=np.int64) for column in names}
    for start in range(team.rank * size, len(served), team.size * size):
        rows = served[start : start + size]
        for column, values in _rank_batch(name, model, work, rows, masks, tally).items():
            ranked[column][rows] = values
        if work.progress is not None:
            work.progress(name, len(empty) + start + len(rows), len(cases))
    ranked = {column: team.total(values) for column, values in ranked.items()}
    popularity = BackoffScores(empty_scores(len(empty), work.num_items), work.train_counts)
    counts = rank_counts(popularity, cases.target[empty], model=EMPTY_HISTORY_MODEL)
    for column, values in ranked.items():
        values[empty] = getattr(counts, alike.get(column, column))
    if tally is not None:
        if team.leads and len(empty):
            one = BackoffScores(empty_scores(1, work.num_items), work.train_counts)
            popular = np.repeat(best_items(one, tally.length)[0], len(empty), axis=0)
            for mask in masks:
                tally.add(mask, empty, popular, model=EMPTY_HISTORY_MODEL)
        tally.gather(team)
    return ranked


def _rank_batch(
    name: str, model: Ranker, work: _Work, rows: np.ndarray, masks: Sequence[str], tally: ListTally | None
) -> dict[str, np.ndarray]:
    """As `_rank_model`, for non-empty histories at once: one scoring, or one search a mask."""
    batch = work.cases.take(rows)
    seen = batch.histories.flat()[:2]
    shape = len(batch), work.num_items

    def checked(scores: Scores) -> Scores:
        if shape_of(scores) != shape:
            raise DataError("wrong shape of scores", where=f"model {name!r}", expected=shape, found=shape_of(scores))
        return scores

    if not isinstance(model, SearchRanker):
        scores = checked(model.scores(batch.histories))
        counts = rank_counts(scores, batch.target, seen, model=name)
        if tally is not None:
            for mask, lists in zip(MASKS, _both_lists(scores, seen, tally.length), strict=True):
                tally.add(mask, rows, lists, model=name)
        return {column: getattr(counts, column) for mask in masks for column in MASKS[mask]}
    ranked, codes = {}, _shared_codes(model)
    for mask in masks:
        search = model.masked_scores if mask == "seen" else model.scores
        scores = checked(search(batch.histories))
        counts = rank_counts(scores, batch.target, seen, model=name)
        ranked |= {column: getattr(counts, column) for column in MASKS[mask]}
        if codes is not None:
            ranked |= zip(ID_COLUMNS[mask], _id_counts(scores, codes, batch, mask, name), strict=True)
        if tally is not None:
            tally.add(mask, rows, best_items(scores, tally.length)[0], model=name)
    return ranked


def _shared_codes(model: Ranker) -> np.ndarray | None:
    return model.codes if isinstance(model, CodedRanker) else None


def _id_counts(scores: Scores, codes: np.ndarray, batch: Cases, mask: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Of semantic IDs; a target that is masked is a miss, though others of its ID may be found."""
    if not isinstance(scores, sp.csr_matrix):
        raise DataError("wrong type of scores", where=f"model {name!r}", expected="CSR", found=type(scores).__name__)
    target = batch.target
    if mask == "seen":
        target = np.where(novelty_labels(target, batch.histories) == "repeat", -1, target)
    return id_rank_counts(scores, codes, target, model=name)


def _both_lists(scores: Scores, seen: tuple[np.ndarray, np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """[B, length] item indices each, without and with the seen items left out.

    One longer list holds both: an item that is left out makes room for at most one other.
    """
    num_rows, num_items = shape_of(scores)
    keys = np.unique(seen[0] * num_items + seen[1])
    most = np.bincount(keys // num_items, minlength=num_rows).max(initial=0)
    lists = best_items(scores, min(length + int(most), num_items))[0]
    hidden = np.isin(lists + num_items * np.arange(num_rows)[:, None], keys) & (lists >= 0)
    order = np.argsort(hidden, axis=1, kind="stable")[:, :length]
    unseen = np.take_along_axis(np.where(hidden, -1, lists), order, axis=1)
    return lists[:, :length], unseen


def _case_columns(cases: Cases, train_counts: np.ndarray, categories: Sequence[str | None] | None) -> pl.DataFrame:
    """case_index, user_index, target, history_length, then the slice columns."""
    lengths = cases.histories.lengths
    slices = {
        "target_popularity": popularity_labels(cases.target, train_counts),
        "history_length_bucket": length_labels(lengths),
        "target_novelty": novelty_labels(cases.target, cases.histories),
    }
    names = dict(SLICE_COLUMNS)
    if categories is not None:
        if len(categories) != len(train_counts):
            raise DataError("one category an item", expected=len(train_counts), found=len(categories))
        slices[CATEGORY_COLUMN], names[CATEGORY_COLUMN] = category_labels(cases.target, categories, train_counts)
    return pl.DataFrame(
        {
            "case_index": np.arange(len(cases), dtype=np.uint32),
            "user_index": np.asarray(cases.user_index, dtype=np.int32),
            "target": np.asarray(cases.target, dtype=np.int32),
            "history_length": lengths.astype(np.int32),
            **{name: pl.Series(labels, dtype=pl.Enum(names[name])) for name, labels in slices.items()},
        }
    )
