"""Two or more systems on the same cases: differences with intervals, wins and losses by slice, hits in common.

A pure function of per-case ranks. A system is one row of an evaluation, or several that differ in their seed alone.
Knows NumPy and Polars; must not know folders, artifacts or how a table is displayed.
"""

# S seeds of a system, C cases, U users among them

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from genrec.evaluation.metrics import count_values
from genrec.evaluation.seed_effects import two_level_test
from genrec.evaluation.significance import (
    bootstrap_means,
    bootstrap_p_value,
    holm,
    percentile_interval,
    sign_flip_p_value,
    smallest_detectable_effect,
    standard_errors,
)
from genrec.evaluation.summary import CATEGORY_COLUMN, MASKS, POWER, SLICE_COLUMNS

FEW_SEEDS = 3


class ComparisonProtocol(NamedTuple):
    """How systems are compared.

    Attributes:
        cutoff: k of recall and NDCG.
        tie_rule: rank of a target among items of equal score.
        num_resamples: bootstrap resamples.
        num_permutations: sign patterns of the permutation test.
        confidence: level of intervals and tests.
        seed: of both.
        pair_seeds: the i-th seeds of two systems belong together, because one was tuned from the other or both began
            alike; what they have in common then cancels. Of systems with other numbers of seeds they do not.
    """

    cutoff: int = 10
    tie_rule: str = "pessimistic"
    num_resamples: int = 1_000
    num_permutations: int = 10_000
    confidence: float = 0.95
    seed: int = 0
    pair_seeds: bool = False

    @property
    def metrics(self) -> tuple[str, str]:
        return f"recall@{self.cutoff}", f"ndcg@{self.cutoff}"


@dataclass(frozen=True, eq=False)
class System:
    """What is compared.

    Attributes:
        name: of the system.
        tables: for each seed the rows of one model of the case table, in the order of the cases.
        has_seeds: it is trained, so another seed would give something else; a count-based baseline has none.
    """

    name: str
    tables: Sequence[pl.DataFrame]
    has_seeds: bool = True

    def values(self, protocol: ComparisonProtocol) -> dict[tuple[str, str], np.ndarray]:
        """[S, C] of each mask and metric."""
        found: dict[tuple[str, str], np.ndarray] = {}
        for mask, (greater, tied) in MASKS.items():
            by_seed = [
                count_values(table[greater].to_numpy(), table[tied].to_numpy(), (protocol.cutoff,), protocol.tie_rule)
                for table in self.tables
            ]
            for name in protocol.metrics:
                found[mask, name] = np.stack([columns[name] for columns in by_seed])
        return found


def compare_systems(systems: Sequence[System], reference: str, protocol: ComparisonProtocol) -> dict[str, Any]:
    """All systems against the reference, on the same cases (docs/methods.md section 6).

    Where a side has two seeds or more, the test and its interval are those of `two_level_test`; otherwise those over
    users alone (paired bootstrap, paired sign flips), which do not contain what another seed would change. Holm's
    correction runs over all comparisons.

    Args:
        systems: two or more, one of them the reference; all tables hold the same cases in the same order.
        reference: name of a system.
        protocol: see there.

    Returns:
        Plain JSON types: protocol, systems (name, seeds, means by mask and metric, of each seed too), comparisons,
        slices (differences, wins, ties and losses), overlap (shares of the cases whose target is hit by both, one or
        none), verdicts (one a system and mask).
    """
    values = {system.name: system.values(protocol) for system in systems}
    first = systems[0].tables[0]
    users = first["user_index"].to_numpy()
    others = [system for system in systems if system.name != reference]
    (base,) = (system for system in systems if system.name == reference)
    comparisons = [row for other in others for row in _compare(other, base, values, users, protocol)]
    corrected = holm([row["p_value"] for row in comparisons])
    for row, p_holm in zip(comparisons, corrected.tolist(), strict=True):
        row["p_holm"] = p_holm
        row["is_significant"] = p_holm <= 1 - protocol.confidence
    return {
        "protocol": {
            "masks": list(MASKS),
            "power": POWER,
            "reference": reference,
            "correction": f"Holm over {len(comparisons)} comparisons",
            **protocol._asdict(),
        },
        "num_cases": first.height,
        "num_users": first["user_index"].n_unique(),
        "systems": [_system_facts(system, values[system.name]) for system in systems],
        "comparisons": comparisons,
        "slices": [row for other in others for row in slice_rows(first, values[other.name], values[reference], other)],
        "overlap": [
            {"system": other.name, "mask": mask, **hit_overlap(values[other.name][key], values[reference][key])}
            for other in others
            for mask in MASKS
            for key in [(mask, protocol.metrics[0])]
        ],
        "verdicts": [
            {"system": other.name, "mask": mask, "text": verdict([r for r in comparisons if _is_of(r, other, mask)])}
            for other in others
            for mask in MASKS
        ],
    }


def _is_of(row: Mapping[str, Any], system: System, mask: str) -> bool:
    return row["system"] == system.name and row["mask"] == mask


def _system_facts(system: System, values: Mapping[tuple[str, str], np.ndarray]) -> dict[str, Any]:
    return {
        "name": system.name,
        "num_seeds": len(system.tables),
        "has_seeds": system.has_seeds,
        "means": [
            {
                "mask": mask,
                "metric": metric,
                "mean": float(found.mean()),
                "by_seed": found.mean(axis=1).tolist(),
            }
            for (mask, metric), found in values.items()
        ],
        "agreement": _agreement(values),
    }


def _agreement(values: Mapping[tuple[str, str], np.ndarray]) -> dict[str, float]:
    """Of the hits of one seed, the share that another seed has too: mean over pairs; what any overlap is to be held
    against. Empty for a single seed."""
    found = {}
    for (mask, metric), hits in values.items():
        if metric.startswith("recall") and len(hits) > 1 and hits.any():
            both = np.mean([(a * b).mean() for a, b in combinations(hits, 2)])
            found[mask] = float(both / hits.mean())
    return found


def _compare(
    system: System,
    reference: System,
    values: Mapping[str, Mapping[tuple[str, str], np.ndarray]],
    users: np.ndarray,
    protocol: ComparisonProtocol,
) -> list[dict[str, Any]]:
    """One row a mask and metric; all share resamples and sign patterns."""
    own, base = values[system.name], values[reference.name]
    keys = list(own)
    differences = np.column_stack([own[key].mean(axis=0) - base[key].mean(axis=0) for key in keys])
    resampled = bootstrap_means(differences, users, num_resamples=protocol.num_resamples, seed=protocol.seed)
    low, high = percentile_interval(resampled, confidence=protocol.confidence)
    p_bootstrap = bootstrap_p_value(resampled)
    p_flips = sign_flip_p_value(differences, users, num_permutations=protocol.num_permutations, seed=protocol.seed)
    rows = []
    for at, key in enumerate(keys):
        significance = 1 - protocol.confidence
        row = {
            "system": system.name,
            "reference": reference.name,
            "mask": key[0],
            "metric": key[1],
            "difference": float(differences[:, at].mean()),
            "over": "cases",
            "low": float(low[at]),
            "high": float(high[at]),
            "p_value": float(p_flips[at]),
            "p_bootstrap": float(p_bootstrap[at]),
            "smallest_detectable_effect": smallest_detectable_effect(
                differences[:, at], users, significance=significance, power=POWER
            ),
        }
        if len(own[key]) * len(base[key]) > 1 and len(np.unique(users)) > 1:
            is_paired = protocol.pair_seeds and len(own[key]) == len(base[key])
            sides = (own[key] - base[key], np.zeros_like(base[key][:1])) if is_paired else (own[key], base[key])
            found = two_level_test(*sides, users, confidence=protocol.confidence)
            row |= {
                "over": "paired seeds and cases" if is_paired else "seeds and cases",
                "low": found.low,
                "high": found.high,
                "p_value": found.p_value,
                "cases_alone": {"low": row["low"], "high": row["high"], "p_value": row["p_value"]},
                "cases_error": found.cases_error,
                "seeds_error": found.seeds_error,
                "degrees": found.degrees,
                "smallest_detectable_effect": found.smallest_detectable_effect(significance=significance, power=POWER),
            }
        rows.append(row)
    return rows


def slice_rows(
    cases: pl.DataFrame,
    own: Mapping[tuple[str, str], np.ndarray],
    base: Mapping[tuple[str, str], np.ndarray],
    system: System,
) -> list[dict[str, Any]]:
    """Differences of the means over seeds by slice, with their standard error over users, and how many cases are won.

    A case is won where the mean over the seeds is higher than the reference's, lost where it is lower.
    """
    users, rows = cases["user_index"].to_numpy(), []
    cases = cases.with_columns(pl.lit("all").cast(pl.Enum(["all"])).alias("all"))
    for column in ("all", *SLICE_COLUMNS, CATEGORY_COLUMN):
        kind = cases.schema.get(column)
        if not isinstance(kind, pl.Enum):  # an evaluation without categories
            continue
        labels = cases[column].cast(pl.String).to_numpy()
        for label in kind.categories:
            chosen = np.flatnonzero(labels == label)
            if not len(chosen):
                continue
            for mask, metric in own:
                difference = (
                    own[mask, metric][:, chosen].mean(axis=0) - base[mask, metric][:, chosen].mean(axis=0)
                ).round(12)
                (error,) = standard_errors(difference[:, None], users[chosen])
                rows.append(
                    {
                        "system": system.name,
                        "slice": column,
                        "label": str(label),
                        "mask": mask,
                        "metric": metric,
                        "num_cases": len(chosen),
                        "difference": float(difference.mean()),
                        "standard_error": error,
                        "num_won": int((difference > 0).sum()),
                        "num_tied": int((difference == 0).sum()),
                        "num_lost": int((difference < 0).sum()),
                    }
                )
    return rows


def hit_overlap(own: np.ndarray, base: np.ndarray) -> dict[str, float]:
    """Shares of the cases that both hit, one alone, or none; over all pairs of a seed of one and a seed of the other.

    Args:
        own: [S_a, C] 1 for a hit, 0 for a miss.
        base: [S_b, C] likewise.

    >>> hit_overlap(np.array([[1.0, 1.0, 0.0, 0.0]]), np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]))
    {'both': 0.125, 'system_only': 0.375, 'reference_only': 0.125, 'neither': 0.375}
    """
    a, b = own.mean(axis=0), base.mean(axis=0)
    both = float((a * b).mean())
    only, other = float(a.mean()) - both, float(b.mean()) - both
    return {"both": both, "system_only": only, "reference_only": other, "neither": 1 - both - only - other}


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """One sentence of the comparisons of one system and mask, recall first.

    >>> row = {
    ...     "system": "b", "reference": "a", "mask": "none", "metric": "recall@10", "difference": 0.0031, "low": 0.001,
    ...     "high": 0.005, "p_holm": 0.02, "is_significant": True, "over": "cases", "smallest_detectable_effect": 0.002,
    ... }
    >>> verdict([row])
    'b is better than a: recall@10 +.0031 [+.0010, +.0050], p = 0.020 after Holm'
    """
    found = [row for row in rows if row["is_significant"]]
    name, reference = rows[0]["system"], rows[0]["reference"]
    if not found:
        reach = rows[0]["smallest_detectable_effect"]
        seen = (
            ""
            if reach is None
            else f"; a true difference of {signed(reach).lstrip('+')} would be found in {POWER:.0%} of such tests"
        )
        return f"no difference between {name} and {reference} can be shown: {_numbers(rows[0])}{seen}"
    signs = {row["difference"] > 0 for row in found}
    how = "better and worse than" if len(signs) > 1 else "better than" if signs == {True} else "worse than"
    rest = [row["metric"] for row in rows if not row["is_significant"]]
    text = f"{name} is {how} {reference}: {', '.join(map(_numbers, found))}"
    return text + (f"; no difference can be shown in {', '.join(rest)}" if rest else "")


def _numbers(row: Mapping[str, Any]) -> str:
    interval = f"[{signed(row['low'])}, {signed(row['high'])}]"
    chance = "p < .001" if row["p_holm"] < 0.001 else f"p = {row['p_holm']:.3f}"
    return f"{row['metric']} {signed(row['difference'])} {interval}, {chance} after Holm"


def signed(value: float) -> str:
    """Four digits with a sign, without the zero before the point."""
    return f"{value:+.4f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:+.4f}"
