"""From rank counts to a report: metrics with intervals, tie bounds, slices, paired comparisons.

A pure function of the per-case table, so a stored evaluation can be summarised again under another tie rule or
reference. Knows Polars and NumPy; must not know models, data folders or how a table is displayed.
"""

# C cases, M metrics, R resamples

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import polars as pl
import scipy.sparse as sp

from genrec.errors import ConfigError, DataError
from genrec.evaluation.metrics import TIE_RULES, check_cutoffs, check_tie_rule, metric_values, ranks
from genrec.evaluation.significance import (
    bootstrap_means,
    bootstrap_p_value,
    check_confidence,
    holm,
    percentile_interval,
    sign_flip_p_value,
    smallest_detectable_effect,
    standard_error,
)
from genrec.evaluation.slices import NOVELTY_LABELS, POPULARITY_LABELS, length_bucket_names

MASKS = {"none": ("num_greater", "num_tied"), "seen": ("num_greater_masked", "num_tied_masked")}
SLICE_COLUMNS = {
    "target_popularity": POPULARITY_LABELS,
    "history_length_bucket": length_bucket_names(),
    "target_novelty": NOVELTY_LABELS,
}
CUTOFFS = (1, 5, 10, 20, 50)
TIE_RULE = "pessimistic"
CONFIDENCE = 0.95
REFERENCE = "item_knn"
POWER = 0.8


class SummaryOptions(TypedDict, total=False):
    """The keyword arguments of `summarise` that a user chooses."""

    cutoffs: Sequence[int]
    tie_rule: str
    num_resamples: int
    confidence: float
    seed: int
    reference: str | None


def summarise(
    cases: pl.DataFrame,
    *,
    num_items: int,
    cutoffs: Sequence[int] = CUTOFFS,
    tie_rule: str = TIE_RULE,
    num_resamples: int = 1000,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    reference: str | None = REFERENCE,
) -> dict[str, Any]:
    """The report of an evaluation.

    Intervals are percentile bootstraps over cases; all models share the resamples. Each model is compared with the
    reference on the same cases: difference and interval by paired bootstrap, p-values by paired bootstrap and by
    sign-flip permutation. Holm's correction runs over the permutation p-values of all comparisons in the report.
    Comparisons, slices and tie bounds are given for recall and NDCG at the primary cut-off: 10, or the largest cut-off
    if 10 is not among them.

    Args:
        cases: table of `genrec.evaluation.evaluate.rank_cases`.
        num_items: N, items of the catalogue.
        cutoffs: k of the metrics, at most N.
        tie_rule: rank of a target among items of equal score.
        num_resamples: bootstrap resamples, and sign patterns of the permutation test.
        confidence: level of intervals and tests.
        seed: of resamples and sign patterns.
        reference: the model that others are compared with; None: no comparisons.

    Returns:
        Plain JSON types: protocol, models, num_cases, num_empty_history, num_target_unseen_in_train,
        num_target_outside_catalogue, num_target_in_history, num_fewer_candidates (cases with fewer unseen items than
        the largest cut-off), rows (one a model and mask), slices, comparisons.

    Raises:
        DataError: no cases, or models ranked on different cases.
        ConfigError: a cut-off above N, an unknown tie rule or reference.
    """
    tables = _split_models(cases)
    cutoffs = check_protocol(
        list(tables),
        num_items=num_items,
        cutoffs=cutoffs,
        tie_rule=tie_rule,
        confidence=confidence,
        reference=reference,
    )
    primary = 10 if 10 in cutoffs else cutoffs[-1]
    first = next(iter(tables.values()))
    rank = {
        (model, mask): ranks(table[greater].to_numpy(), table[tied].to_numpy(), tie_rule)
        for model, table in tables.items()
        for mask, (greater, tied) in MASKS.items()
    }
    metrics = {key: metric_values(values, cutoffs) for key, values in rank.items()}
    shown = (f"recall@{primary}", f"ndcg@{primary}")
    means = _bootstrap(metrics, num_resamples, seed)
    return {
        "protocol": {
            "ranking": "full",
            "num_items": num_items,
            "cutoffs": list(cutoffs),
            "primary_cutoff": primary,
            "masks": list(MASKS),
            "tie_rule": tie_rule,
            "intervals": "percentile bootstrap over cases, the same resamples for all models",
            "p_values": "two-sided paired sign-flip permutation, Holm over all comparisons of the report",
            "num_resamples": num_resamples,
            "confidence": confidence,
            "power": POWER,
            "seed": seed,
            "reference": reference,
        },
        "models": list(tables),
        **_case_facts(first, num_items, cutoffs[-1]),
        "rows": _rows(tables, metrics, means, primary, confidence),
        "slices": _slices(first, metrics, shown),
        "comparisons": _comparisons(metrics, means, shown, reference, confidence, seed),
    }


def check_models(models: Sequence[str]) -> None:
    """Raises ConfigError if there are none."""
    if not models:
        raise ConfigError("no models to evaluate", fix="name at least one")


def check_protocol(
    models: Sequence[str],
    *,
    num_items: int,
    cutoffs: Sequence[int] = CUTOFFS,
    tie_rule: str = TIE_RULE,
    confidence: float = CONFIDENCE,
    reference: str | None = REFERENCE,
    **_resampling: Any,
) -> tuple[int, ...]:
    """The cut-offs in ascending order, after a check of what does not need a ranking.

    Arguments as in `summarise`, and the names of the models.

    Raises:
        ConfigError: no models, a cut-off above N, an unknown tie rule or reference, a confidence outside (0, 1).
    """
    check_models(models)
    check_tie_rule(tie_rule)
    check_confidence(confidence)
    if reference is not None and reference not in models:
        raise ConfigError(
            "the reference is not among the models",
            expected=f"one of {', '.join(models)}, or none",
            found=repr(reference),
            fix="add it to the models or choose another reference",
        )
    return check_cutoffs(cutoffs, num_items)


def report_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """The main table of a report as text, header first: one row a (model, mask), metrics at the primary cut-off.

    The last two columns are the recall difference to the reference and its Holm-corrected p-value.

    >>> metric = {"mean": 0.0972, "low": 0.089, "high": 0.1055}
    >>> report = {
    ...     "protocol": {"primary_cutoff": 10, "reference": None},
    ...     "rows": [{"model": "item_knn", "mask": "none", "metrics": {"recall@10": metric, "ndcg@10": metric}}],
    ...     "comparisons": [],
    ... }
    >>> report_rows(report)[1]
    ('item_knn', 'none', '.0972', '.0890-.1055', '.0972', '.0890-.1055', '', '')
    """
    protocol = report["protocol"]
    shown = [f"{name}@{protocol['primary_cutoff']}" for name in ("recall", "ndcg")]
    found = {(row["model"], row["mask"]): row for row in report["comparisons"] if row["metric"] == shown[0]}
    against = f"against {protocol['reference']}" if protocol["reference"] else "against reference"
    table = [("model", "seen mask", shown[0], "interval", shown[1], "interval", against, "p (Holm)")]
    for row in report["rows"]:
        cells = [row["model"], row["mask"]]
        for name in shown:
            metric = row["metrics"][name]
            cells += [_short(metric["mean"]), f"{_short(metric['low'])}-{_short(metric['high'])}"]
        other = found.get((row["model"], row["mask"]))
        cells += ["", ""] if other is None else [_short(other["difference"], "+"), f"{other['p_holm']:.3f}"]
        table.append(tuple(cells))
    return table


def _short(value: float, sign: str = "") -> str:
    return f"{value:{sign}.4f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:{sign}.4f}"


def _split_models(cases: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Model name to its cases, in the order of the table; all on the same cases."""
    if cases.is_empty():
        raise DataError("no evaluation cases", fix="choose a split that has some")
    names = cases["model"].unique(maintain_order=True).to_list()
    tables = {name: cases.filter(pl.col("model") == name) for name in names}
    keys = ["case_index", "user_index", "target"]
    first = tables[names[0]].select(keys)
    for name, table in tables.items():
        if not table.select(keys).equals(first):
            raise DataError(
                f"models {names[0]!r} and {name!r} were ranked on different cases", fix="evaluate them anew"
            )
    return tables


def _case_facts(table: pl.DataFrame, num_items: int, largest_cutoff: int) -> dict[str, int]:
    popularity = table["target_popularity"].cast(pl.String)
    return {
        "num_cases": table.height,
        "num_empty_history": int((table["history_length"] == 0).sum()),
        "num_target_unseen_in_train": int((popularity == "unseen").sum()),
        "num_target_outside_catalogue": int((popularity == "outside").sum()),
        "num_target_in_history": int((table["target_novelty"].cast(pl.String) == "repeat").sum()),
        # A long history can leave fewer unseen items than k, where masked recall is 1 whatever the model does. Repeats
        # in a history make this an upper bound.
        "num_fewer_candidates": int((num_items - table["history_length"] < largest_cutoff).sum()),
    }


_Metrics = dict[tuple[str, str], dict[str, np.ndarray]]


def _bootstrap(metrics: _Metrics, num_resamples: int, seed: int) -> dict[tuple[str, str], np.ndarray]:
    """(model, mask) to bootstrap means [R, M], all from the same resamples."""
    # Most ranks lie beyond every cut-off: the columns are mostly zero.
    blocks = [sp.csr_matrix(np.column_stack(list(columns.values()))) for columns in metrics.values()]
    means = bootstrap_means(sp.csr_matrix(sp.hstack(blocks)), num_resamples=num_resamples, seed=seed)
    return dict(zip(metrics, np.split(means, len(metrics), axis=1), strict=True))


def _rows(
    tables: dict[str, pl.DataFrame],
    metrics: _Metrics,
    means: dict[tuple[str, str], np.ndarray],
    primary: int,
    confidence: float,
) -> list[dict[str, Any]]:
    rows = []
    for (model, mask), columns in metrics.items():
        low, high = percentile_interval(means[model, mask], confidence=confidence)
        greater, tied = (tables[model][column].to_numpy() for column in MASKS[mask])
        bounds = {rule: metric_values(ranks(greater, tied, rule), (primary,)) for rule in TIE_RULES}
        rows.append(
            {
                "model": model,
                "mask": mask,
                "metrics": {
                    name: {"mean": float(values.mean()), "low": float(low[at]), "high": float(high[at])}
                    for at, (name, values) in enumerate(columns.items())
                },
                "tie_bounds": {
                    name: {rule: float(bounds[rule][name].mean()) for rule in TIE_RULES}
                    for name in (f"recall@{primary}", f"ndcg@{primary}")
                },
            }
        )
    return rows


def _slices(table: pl.DataFrame, metrics: _Metrics, shown: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for column in SLICE_COLUMNS:
        labels = np.asarray(table[column].cast(pl.String).to_list())
        for label in SLICE_COLUMNS[column]:
            chosen = np.flatnonzero(labels == label)
            if len(chosen) == 0:
                continue
            for (model, mask), columns in metrics.items():
                row = {"slice": column, "label": label, "model": model, "mask": mask, "num_cases": len(chosen)}
                for name in shown:
                    values = columns[name][chosen]
                    row[name] = float(values.mean())
                    row[f"{name}_standard_error"] = standard_error(values)
                rows.append(row)
    return rows


def _comparisons(
    metrics: _Metrics,
    means: dict[tuple[str, str], np.ndarray],
    shown: Sequence[str],
    reference: str | None,
    confidence: float,
    seed: int,
) -> list[dict[str, Any]]:
    keys = [(model, mask, name) for model, mask in metrics for name in shown if model != reference]
    if reference is None or not keys:
        return []
    names = list(next(iter(metrics.values())))
    differences = np.column_stack(
        [metrics[model, mask][name] - metrics[reference, mask][name] for model, mask, name in keys]
    )
    resampled = np.column_stack(
        [(means[model, mask] - means[reference, mask])[:, names.index(name)] for model, mask, name in keys]
    )
    low, high = percentile_interval(resampled, confidence=confidence)
    p_bootstrap = bootstrap_p_value(resampled)
    p_permutation = sign_flip_p_value(differences, num_permutations=len(resampled), seed=seed)
    p_holm = holm(p_permutation)
    significance = 1.0 - confidence
    return [
        {
            "model": model,
            "reference": reference,
            "mask": mask,
            "metric": name,
            "difference": float(differences[:, at].mean()),
            "low": float(low[at]),
            "high": float(high[at]),
            "p_bootstrap": float(p_bootstrap[at]),
            "p_permutation": float(p_permutation[at]),
            "p_holm": float(p_holm[at]),
            "is_significant": bool(p_holm[at] <= significance),
            "smallest_detectable_effect": smallest_detectable_effect(
                differences[:, at], significance=significance, power=POWER
            ),
        }
        for at, (model, mask, name) in enumerate(keys)
    ]
