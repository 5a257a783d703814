"""From rank counts to a report: metrics with intervals, tie bounds, slices, paired comparisons.

A pure function of the per-case table, so a stored evaluation can be summarised again under another tie rule or
reference. Knows Polars and NumPy; must not know models, data folders or how a table is displayed.
"""

# C cases, M metrics, R resamples of the users

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np
import polars as pl
import scipy.sparse as sp

from genrec.errors import ConfigError, DataError
from genrec.evaluation.metrics import ALL_TIE_RULES, check_cutoffs, check_tie_rule, count_values
from genrec.evaluation.significance import (
    bootstrap_means,
    bootstrap_p_value,
    check_confidence,
    check_resamples,
    holm,
    percentile_interval,
    sign_flip_p_value,
    smallest_detectable_effect,
    standard_errors,
)
from genrec.evaluation.slices import NOVELTY_LABELS, POPULARITY_LABELS, length_bucket_names

MASKS = {"none": ("num_greater", "num_tied"), "seen": ("num_greater_masked", "num_tied_masked")}
ID_COLUMNS = {mask: (f"{greater}_id", f"{tied}_id") for mask, (greater, tied) in MASKS.items()}  # of shared codes
SLICE_COLUMNS = {
    "target_popularity": POPULARITY_LABELS,
    "history_length_bucket": length_bucket_names(),
    "target_novelty": NOVELTY_LABELS,
}
CATEGORY_COLUMN = "target_category"  # a slice column too, with labels that depend on the catalogue
CUTOFFS = (1, 5, 10, 20, 50)
LONG_CUTOFFS = (100, 500)  # of candidate generation
POWER = 0.8


class SummaryOptions(TypedDict, total=False):
    """The keyword arguments of `summarise` that a user chooses; defaults in `EvaluationProtocol`.

    Attributes:
        cutoffs: k of the metrics, at most N.
        tie_rule: rank of a target among items of equal score.
        num_resamples: bootstrap resamples.
        num_permutations: sign patterns of the permutation test; no p-value is below 1 / (1 + num_permutations).
        confidence: level of intervals and tests.
        seed: of resamples and sign patterns.
        reference: the model that others are compared with; None: no comparisons.
    """

    cutoffs: Sequence[int]
    tie_rule: str
    num_resamples: int
    num_permutations: int
    confidence: float
    seed: int
    reference: str | None


class EvaluationProtocol(NamedTuple):
    """`SummaryOptions`, all of them there."""

    cutoffs: Sequence[int] = CUTOFFS
    tie_rule: str = "pessimistic"
    num_resamples: int = 1_000
    num_permutations: int = 10_000
    confidence: float = 0.95
    seed: int = 0
    reference: str | None = "item_knn"


def summarise(cases: pl.DataFrame, *, num_items: int, **options: Unpack[SummaryOptions]) -> dict[str, Any]:
    """The report of an evaluation.

    Metrics are means over cases. Intervals are percentile bootstraps over users, whose cases come and go together; all
    models share the resamples. Each model is compared with the reference on the same cases: difference and interval by
    paired bootstrap, p-values by paired bootstrap and by sign-flip permutation, all over users, as are the standard
    errors of slices and the smallest detectable effects. Holm's correction runs over the permutation p-values of all
    comparisons in the report. Comparisons, slices and tie bounds are given for recall and NDCG at the primary cut-off:
    10, or the largest cut-off if 10 is not among them.

    Args:
        cases: table of `genrec.evaluation.evaluate.rank_cases`.
        num_items: N, items of the catalogue.
        **options: see `SummaryOptions`.

    Returns:
        Plain JSON types: protocol, models, num_cases, num_users, num_empty_history, num_target_unseen_in_train,
        num_target_outside_catalogue, num_target_in_history, num_fewer_candidates (cases with fewer unseen items than
        the largest cut-off), rows (one a model and mask), slices, comparisons. A row has metrics, tie_bounds and, where
        the model has items that share their codes, id_level: the same metrics of semantic IDs, where finding that of
        the target is a hit.

    Raises:
        DataError: no cases, or models ranked on different cases.
        ConfigError: as in `check_protocol`.
    """
    tables = _split_models(cases)
    protocol = check_protocol(list(tables), num_items=num_items, **options)
    cutoffs = protocol.cutoffs
    primary = 10 if 10 in cutoffs else cutoffs[-1]
    first = next(iter(tables.values()))
    metrics = {
        (model, mask): count_values(table[greater].to_numpy(), table[tied].to_numpy(), cutoffs, protocol.tie_rule)
        for model, table in tables.items()
        for mask, (greater, tied) in MASKS.items()
    }
    shown = (f"recall@{primary}", f"ndcg@{primary}")
    users = first["user_index"].to_numpy()
    means = _bootstrap(metrics, users, protocol)
    return {
        "protocol": {
            "ranking": "full",
            "num_items": num_items,
            "primary_cutoff": primary,
            "masks": list(MASKS),
            "intervals": "percentile bootstrap over users, the same resamples for all models",
            "p_values": "two-sided paired sign-flip permutation over users, Holm over all comparisons of the report",
            "power": POWER,
            **protocol._asdict(),
            "cutoffs": list(cutoffs),
        },
        "models": list(tables),
        **_case_facts(first, num_items, cutoffs[-1]),
        "rows": _rows(tables, metrics, means, primary, protocol),
        "slices": _slices(first, metrics, shown),
        "comparisons": _comparisons(metrics, means, users, shown, protocol),
    }


def check_models(models: Sequence[str]) -> None:
    """Raises ConfigError if there are none, or one twice."""
    if not models:
        raise ConfigError("no models to evaluate", fix="set models=[popularity,item_knn]")
    if len(set(models)) < len(models):
        once = list(dict.fromkeys(models))
        twice = next(name for name in once if models.count(name) > 1)
        raise ConfigError(f"model {twice!r} is given twice", fix=f"name it once, as in models=[{','.join(once)}]")


def check_protocol(models: Sequence[str], *, num_items: int, **options: Unpack[SummaryOptions]) -> EvaluationProtocol:
    """All options, the cut-offs in ascending order, after a check of what does not need a ranking.

    Args:
        models: their names, as they were given.
        num_items: N.
        **options: see `SummaryOptions`.

    Raises:
        ConfigError: no models, one twice, a cut-off above N, an unknown tie rule, a reference that is not among the
            models, a confidence outside (0, 1), no resamples or permutations.
    """
    protocol = EvaluationProtocol(**options)
    check_models(models)
    check_tie_rule(protocol.tie_rule)
    check_confidence(protocol.confidence)
    check_resamples(protocol.num_resamples)
    check_resamples(protocol.num_permutations, "num_permutations")
    if protocol.reference is not None and protocol.reference not in models:
        raise ConfigError(
            "the reference is not among the models",
            expected=f"one of {', '.join(models)}",
            found=repr(protocol.reference),
            fix=f"set reference={models[0]}, or add {protocol.reference} to models",
        )
    return protocol._replace(cutoffs=check_cutoffs(protocol.cutoffs, num_items, key="cutoffs"))


def report_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """The main table of a report as text, header first: one row a (model, mask), metrics at the primary cut-off.

    The last two columns are the recall difference to the reference and its Holm-corrected p-value; a report without a
    reference has none of them.

    >>> metric = {"mean": 0.0972, "low": 0.089, "high": 0.1055}
    >>> report = {
    ...     "protocol": {"primary_cutoff": 10, "reference": None, "confidence": 0.95},
    ...     "rows": [{"model": "item_knn", "mask": "none", "metrics": {"recall@10": metric, "ndcg@10": metric}}],
    ...     "comparisons": [],
    ... }
    >>> for row in report_rows(report):
    ...     print(row)
    ('model', 'seen mask', 'R@10', 'R@10 95 %', 'N@10', 'N@10 95 %')
    ('item_knn', 'none', '.0972', '.0890-.1055', '.0972', '.0890-.1055')
    """
    protocol = report["protocol"]
    cutoff, reference, level = protocol["primary_cutoff"], protocol["reference"], f"{100 * protocol['confidence']:g} %"
    shown = (f"recall@{cutoff}", f"ndcg@{cutoff}")
    found = {(row["model"], row["mask"]): row for row in report["comparisons"] if row["metric"] == shown[0]}
    header = ["model", "seen mask", f"R@{cutoff}", f"R@{cutoff} {level}", f"N@{cutoff}", f"N@{cutoff} {level}"]
    table = [(*header, f"R@{cutoff} vs {reference}", "p (Holm)") if reference else tuple(header)]
    for row in report["rows"]:
        cells = [row["model"], row["mask"]]
        for name in shown:
            metric = row["metrics"][name]
            cells += [_short(metric["mean"]), f"{_short(metric['low'])}-{_short(metric['high'])}"]
        if reference:
            other = found.get((row["model"], row["mask"]))
            cells += ["", ""] if other is None else [_short(other["difference"], "+"), f"{other['p_holm']:.3f}"]
        table.append(tuple(cells))
    return table


def _short(value: float, sign: str = "") -> str:
    return f"{value:{sign}.4f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:{sign}.4f}"


def _split_models(cases: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Model name to its cases, in the order of the table; all on the same cases."""
    if cases.is_empty():
        raise DataError("no evaluation cases", fix="choose another split, as in split=validation")
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
        "num_users": table["user_index"].n_unique(),
        "num_empty_history": int((table["history_length"] == 0).sum()),
        "num_target_unseen_in_train": int((popularity == "unseen").sum()),
        "num_target_outside_catalogue": int((popularity == "outside").sum()),
        "num_target_in_history": int((table["target_novelty"].cast(pl.String) == "repeat").sum()),
        # A long history can leave fewer unseen items than k, where masked recall is 1 whatever the model does. Repeats
        # in a history make this an upper bound.
        "num_fewer_candidates": int((num_items - table["history_length"] < largest_cutoff).sum()),
    }


_Metrics = dict[tuple[str, str], dict[str, np.ndarray]]


def _bootstrap(metrics: _Metrics, users: np.ndarray, protocol: EvaluationProtocol) -> dict[tuple[str, str], np.ndarray]:
    """(model, mask) to bootstrap means [R, M], all from the same resamples."""
    # Most ranks lie beyond every cut-off: the columns are mostly zero.
    blocks = [sp.csr_matrix(np.column_stack(list(columns.values()))) for columns in metrics.values()]
    columns = sp.csr_matrix(sp.hstack(blocks))
    means = bootstrap_means(columns, users, num_resamples=protocol.num_resamples, seed=protocol.seed)
    return dict(zip(metrics, np.split(means, len(metrics), axis=1), strict=True))


def _rows(
    tables: dict[str, pl.DataFrame],
    metrics: _Metrics,
    means: dict[tuple[str, str], np.ndarray],
    primary: int,
    protocol: EvaluationProtocol,
) -> list[dict[str, Any]]:
    rows = []
    for (model, mask), columns in metrics.items():
        low, high = percentile_interval(means[model, mask], confidence=protocol.confidence)
        greater, tied = (tables[model][column].to_numpy() for column in MASKS[mask])
        bounds = {rule: count_values(greater, tied, (primary,), rule) for rule in ALL_TIE_RULES}
        row: dict[str, Any] = {
            "model": model,
            "mask": mask,
            "metrics": {
                name: {"mean": float(values.mean()), "low": float(low[at]), "high": float(high[at])}
                for at, (name, values) in enumerate(columns.items())
            },
            "tie_bounds": {
                name: {rule: float(bounds[rule][name].mean()) for rule in ALL_TIE_RULES}
                for name in (f"recall@{primary}", f"ndcg@{primary}")
            },
        }
        ids = [tables[model][column] for column in ID_COLUMNS[mask] if column in tables[model].columns]
        if ids and not ids[0].has_nulls():
            greater, tied = (column.to_numpy() for column in ids)
            values = count_values(greater, tied, protocol.cutoffs, protocol.tie_rule)
            row["id_level"] = {name: float(column.mean()) for name, column in values.items()}
        rows.append(row)
    return rows


def _slices(table: pl.DataFrame, metrics: _Metrics, shown: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    users = table["user_index"].to_numpy()
    for column in (*SLICE_COLUMNS, CATEGORY_COLUMN):
        kind = table.schema.get(column)
        if not isinstance(kind, pl.Enum):
            continue
        labels = np.asarray(table[column].cast(pl.String).to_list())
        for label in kind.categories:
            chosen = np.flatnonzero(labels == label)
            if len(chosen) == 0:
                continue
            values = {(*key, name): columns[name][chosen] for key, columns in metrics.items() for name in shown}
            errors = dict(
                zip(values, standard_errors(np.column_stack(list(values.values())), users[chosen]), strict=True)
            )
            for model, mask in metrics:
                row = {"slice": column, "label": label, "model": model, "mask": mask, "num_cases": len(chosen)}
                for name in shown:
                    row[name] = float(values[model, mask, name].mean())
                    row[f"{name}_standard_error"] = errors[model, mask, name]
                rows.append(row)
    return rows


def _comparisons(
    metrics: _Metrics,
    means: dict[tuple[str, str], np.ndarray],
    users: np.ndarray,
    shown: Sequence[str],
    protocol: EvaluationProtocol,
) -> list[dict[str, Any]]:
    reference, confidence = protocol.reference, protocol.confidence
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
    p_permutation = sign_flip_p_value(
        differences, users, num_permutations=protocol.num_permutations, seed=protocol.seed
    )
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
                differences[:, at], users, significance=significance, power=POWER
            ),
        }
        for at, (model, mask, name) in enumerate(keys)
    ]
