"""The health of a table of semantic IDs, and the gates it has to pass before any training.

Pure functions of codes, vectors and categories; must not know how the codes were made, networks, configuration or
artifacts. Levels and depths are counted from 1 here, as a reader does: depth d is the prefix (c_1..c_d).
"""
# N items, E width, L levels

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from genrec.embeddings.rows import is_zero_row, row_chunks
from genrec.errors import ConfigError, DataError, GateError
from genrec.quantization.neighbours import mean_row, neighbour_overlap, prefix_indices, prefix_purity

MAX_COLLISION_RATE = 0.3
MIN_PERPLEXITY_SHARE = 0.05
MAX_DEAD_SHARE = 0.5
USAGE_GROUPS = 64
QUANTILES = {"min": 0.0, "p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


def health(
    codes_before: np.ndarray,
    codes_after: np.ndarray | None = None,
    *,
    codebook_sizes: Sequence[int],
    vectors: np.ndarray | None = None,
    decode: Callable[[np.ndarray], np.ndarray] | None = None,
    categories: Sequence[Sequence[str] | None] | None = None,
    max_queries: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """What is to be known about a table before a model is trained on it (docs/methods.md section 1); plain JSON types.

    Args:
        codes_before: integers [N, L] of the quantiser (or of a file), collisions included.
        codes_after: [N, L'] after collisions were resolved, L' >= L; None: not resolved.
        codebook_sizes: K_l of each level of codes_after, or of codes_before where that is all; the first L hold for
            codes_before.
        vectors: float32 [N, E] that were quantised, may be a memory map; needed for the residuals, the share of
            collisions between equal vectors, the rows of zeros, and the neighbours.
        decode: the quantiser's: codes [n, l] to vectors [n, E] for every l <= L; needed for the residuals.
        categories: of each item from the broadest to the finest; None or empty: unknown.
        max_queries: items whose neighbours are looked up; fewer where there are more than 10^10 / N.
        seed: of the sample of queries, and of the shuffle that gives the purity by chance.

    Returns:
        num_items, num_levels, codebook_sizes, zero_rows (items whose vector is zeros)
        collisions: distinct (tuples), rate = 1 - distinct / N, items (that share theirs), largest_bucket; with vectors
            also identical_items (colliding items whose vector equals another's of the bucket) and avoidable_rate, what
            is left of the rate if these are let off
        levels, a list: level, size, used, dead, perplexity = exp(entropy), perplexity_share = perplexity / K_l,
            usage (items a code, means over at most 64 equal groups of codes from the most used to the least used),
            mean_squared_residual = mean |e - decode(c_1..c_l)|^2 and unexplained = that over the mean squared distance
            from the mean vector (None without vectors and decode)
        depths, a list over codes_after (or before): depth, nodes, items under a node (mean_items, min_items, p05_items,
            p25_items, median_items, p75_items, p95_items, max_items), max_children
        resolved: None or num_levels, codebook_sizes, distinct, largest_bucket, moved (items whose first L codes have
            changed)
        purity: None or for `first` and `last`, the broadest and finest category: num_items with one, num_classes, and
            for depth 1 and 2 how alike category and prefix are (`neighbours.similarity`: nmi, by_chance, adjusted);
            None where there are fewer than two classes
        neighbours: None or num_queries, num_neighbours (the exact nearest, by L2), and for depth 1 and 2 the share
            of neighbours with the same prefix, the share of all pairs of items with it (by_chance), and their ratio
            (lift)

    Raises:
        DataError: arrays of different N, wrong shapes or types, or codes outside their level.
        ConfigError: max_queries < 1.
    """
    if max_queries < 1:
        raise ConfigError("health of the codes: wrong max_queries", expected="at least 1", found=max_queries)
    num_items, num_levels = _check(codes_before, codes_after, codebook_sizes)
    sizes = tuple(codebook_sizes)[:num_levels]
    _check_lengths(num_items, vectors, categories)
    prefixes = prefix_indices(codes_before)
    final = prefixes if codes_after is None else prefix_indices(codes_after)
    report: dict[str, Any] = {
        "num_items": num_items,
        "num_levels": num_levels,
        "codebook_sizes": [int(size) for size in sizes],
        "zero_rows": None if vectors is None else int(is_zero_row(vectors).sum()),
        "collisions": _collisions(prefixes[-1], vectors),
        "levels": [_level(codes_before[:, at].astype(np.int64), at, sizes[at]) for at in range(num_levels)],
        "depths": _depths(final),
        "resolved": None,
        "purity": None,
        "neighbours": None,
    }
    if vectors is not None and decode is not None:
        _add_residuals(report["levels"], codes_before, vectors, decode)
    if codes_after is not None:
        counts = np.bincount(final[-1])
        report["resolved"] = {
            "num_levels": codes_after.shape[1],
            "codebook_sizes": [int(size) for size in codebook_sizes],
            "distinct": len(counts),
            "largest_bucket": int(counts.max()),
            "moved": int((codes_after[:, :num_levels] != codes_before).any(axis=1).sum()),
        }
    if categories is not None:
        paths = [tuple(path) if path else None for path in categories]
        report["purity"] = {
            name: prefix_purity([None if path is None else path[at] for path in paths], prefixes[:2], seed)
            for name, at in (("first", 0), ("last", -1))
        }
    if vectors is not None and num_items > 1:
        report["neighbours"] = neighbour_overlap(vectors, prefixes[:2], max_queries, seed)
    return report


def check_gates(
    health: dict[str, Any],
    *,
    max_collision_rate: float = MAX_COLLISION_RATE,
    min_perplexity_share: float = MIN_PERPLEXITY_SHARE,
    max_dead_share: float = MAX_DEAD_SHARE,
    min_proxy_lift: float = 0.0,
    are_given: bool = False,
) -> None:
    """Stops a table that no model should be trained on.

    Args:
        health: of `health`, with that of `proxy.next_item_proxy` as `proxy` where min_proxy_lift is asked for.
        max_collision_rate: of the quantiser's codes, before any resolution; 1 lets all pass.
        min_perplexity_share: perplexity / K_l of every level; 0 lets all pass.
        max_dead_share: unused codes / K_l of every level; 1 lets all pass.
        min_proxy_lift: how much more often than by chance the first code of the next item has to be one of the last
            items'; 0 lets all pass.
        are_given: the codes were imported or published before, so that no key of a quantiser would mend them.

    Raises:
        GateError: names every gate that failed.
        ConfigError: a threshold outside 0..1, or a negative lift.
    """
    for name, value in (
        ("max_collision_rate", max_collision_rate),
        ("min_perplexity_share", min_perplexity_share),
        ("max_dead_share", max_dead_share),
    ):
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"wrong gate {name}", expected="between 0 and 1", found=value)
    if not 0.0 <= min_proxy_lift < np.inf:
        raise ConfigError("wrong gate min_proxy_lift", expected="0 or more", found=min_proxy_lift)
    failed: list[tuple[str, str, str]] = []  # expected, found, fix
    rate = health["collisions"]["rate"]
    if rate > max_collision_rate:
        fix = "raise tokenizer.codebook_sizes or add a level, look for items with equal vectors"
        failed.append((f"collision rate at most {max_collision_rate:.3g}", f"{rate:.3g}", fix))
    fewer = "lower tokenizer.codebook_sizes"
    for entry in health["levels"]:
        name, share, dead = f"level {entry['level']}", entry["perplexity_share"], entry["dead"] / entry["size"]
        if share < min_perplexity_share:
            failed.append((f"{name} perplexity share at least {min_perplexity_share:.3g}", f"{share:.3g}", fewer))
        if dead > max_dead_share:
            failed.append((f"{name} dead codes at most {max_dead_share:.3g}", f"{dead:.3g}", fewer))
    failed.extend(_failed_lift(health.get("proxy"), min_proxy_lift))
    fixes = (
        ["make others with tokenizer=residual_kmeans"] if are_given else list(dict.fromkeys(fix for *_, fix in failed))
    )
    if failed:
        raise GateError(
            "the semantic IDs are unhealthy",
            expected=", ".join(expected for expected, _, _ in failed),
            found=", ".join(found for _, found, _ in failed),
            fix=", ".join(fixes) + ", or relax the gates",
        )


def _failed_lift(proxy: dict[str, Any] | None, at_least: float) -> list[tuple[str, str, str]]:
    lift = None if proxy is None else proxy["recent"]["depths"][0]["lift"]
    if at_least == 0 or (lift is not None and lift >= at_least):
        return []
    found = "none: no next item to count, or no two items share a code" if lift is None else f"{lift:.3g}"
    fix = "use embeddings that know what follows what (genrec embed text_and_signals)"
    return [(f"proxy lift of depth 1 at least {at_least:.3g}", found, fix)]


def health_rows(health: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(name, value, remark) of each line of a table; the remark is "ok", "note: ..." or "warn: ..."."""
    collisions, num_items = health["collisions"], health["num_items"]
    rate, bucket = collisions["rate"], collisions["largest_bucket"]
    rows = [("items", f"{num_items:,}", "ok")]
    if health["zero_rows"]:
        rows.append(("items with a vector of zeros", f"{health['zero_rows']:,}", "note: nothing is known of them"))
    remark = _graded(rate, 0.0, MAX_COLLISION_RATE, "to be resolved", "more levels or codes?")
    rows.append(("collision rate", _percent(rate), remark))
    if "identical_items" in collisions:
        identical = collisions["identical_items"] / num_items
        remark = _graded(identical, 0.0, 0.1, "no codes can part them", "no codes can part them: better item texts?")
        rows.append(("items with another's vector", f"{collisions['identical_items']:,}", remark))
        rows.append(("collision rate without these", _percent(collisions["avoidable_rate"]), "ok"))
    have_moved = (health["resolved"] or {}).get("moved", 0) > 0
    needed = "before items moved" if have_moved else f"a suffix level needs {bucket} codes and its reserve"
    rows.append(("largest bucket", f"{bucket:,}", "ok" if bucket == 1 else f"note: {needed}"))
    for entry in health["levels"]:
        rows.extend(_level_rows(entry))
    for entry in health["depths"]:
        value = f"{entry['nodes']:,} x {entry['mean_items']:.1f} items, at most {entry['max_items']:,}"
        rows.append((f"depth {entry['depth']} nodes", value, "ok"))
    resolved = health["resolved"]
    if resolved is not None:
        left = num_items - resolved["distinct"]
        value = f"{resolved['num_levels']} levels, {resolved['moved']:,} items moved, {left:,} still collide"
        rows.append(("after resolution", value, "ok" if left == 0 else "note: items of a bucket stay together"))
    return [
        *rows,
        *_purity_rows(health["purity"]),
        *_neighbour_rows(health["neighbours"]),
        *_proxy_rows(health.get("proxy")),
    ]


def _check(codes_before: np.ndarray, codes_after: np.ndarray | None, sizes: Sequence[int]) -> tuple[int, int]:
    """N and L, if the codes are what they have to be."""
    for name, codes in (("codes", codes_before), ("resolved codes", codes_after)):
        if codes is None:
            continue
        if codes.ndim != 2 or 0 in codes.shape or codes.dtype.kind not in "iu":
            raise DataError(
                f"{name} have the wrong shape or type", expected="integers [N, L]", found=f"{codes.dtype} {codes.shape}"
            )
        is_last = codes is codes_after or codes_after is None
        if codes.shape[1] > len(sizes) or (is_last and codes.shape[1] < len(sizes)):
            expected = f"{len(sizes)}, as codebook_sizes has"
            raise DataError(f"{name} have the wrong number of levels", expected=expected, found=codes.shape[1])
        wrong = np.argwhere((codes < 0) | (codes >= np.asarray(sizes)[: codes.shape[1]]))
        if len(wrong):
            row, level = wrong[0].tolist()
            raise DataError(
                f"code outside level {level + 1} in row {row} of the {name}",
                expected=f"0 to {sizes[level] - 1}",
                found=codes[row, level],
            )
    if codes_after is not None and len(codes_after) != len(codes_before):
        raise DataError("resolved codes of another number of items", expected=len(codes_before), found=len(codes_after))
    return codes_before.shape[0], codes_before.shape[1]


def _check_lengths(
    num_items: int, vectors: np.ndarray | None, categories: Sequence[Sequence[str] | None] | None
) -> None:
    if vectors is not None and (vectors.ndim != 2 or len(vectors) != num_items or vectors.dtype != np.float32):
        raise DataError(
            "vectors do not fit the codes",
            expected=f"float32 [{num_items}, E]",
            found=f"{vectors.dtype} {list(vectors.shape)}",
        )
    if categories is not None and len(categories) != num_items:
        raise DataError("categories do not fit the codes", expected=f"{num_items} items", found=len(categories))


def _collisions(buckets: np.ndarray, vectors: np.ndarray | None) -> dict[str, Any]:
    counts = np.bincount(buckets)
    facts = {
        "distinct": len(counts),
        "rate": (len(buckets) - len(counts)) / len(buckets),  # 24 of 80 are 0.3, 1 - 56 / 80 is more
        "items": int(counts[counts > 1].sum()),
        "largest_bucket": int(counts.max()),
    }
    if vectors is not None:
        repeated = _repeated(buckets, counts, vectors)
        facts["identical_items"] = sum(repeated)
        facts["avoidable_rate"] = (len(buckets) - len(counts) - sum(repeated) + len(repeated)) / len(buckets)
    return facts


def _repeated(buckets: np.ndarray, counts: np.ndarray, vectors: np.ndarray) -> list[int]:
    """How often each vector occurs that occurs more than once in a bucket; one bucket in memory at a time."""
    rows = np.flatnonzero(counts[buckets] > 1)
    rows = rows[np.argsort(buckets[rows], kind="stable")]
    repeated = []
    for bucket in np.split(rows, np.flatnonzero(np.diff(buckets[rows])) + 1):
        seen = Counter((vectors[row] + np.float32(0)).tobytes() for row in bucket.tolist())  # -0.0 becomes 0.0
        repeated.extend(count for count in seen.values() if count > 1)
    return repeated


def _level(codes: np.ndarray, at: int, size: int) -> dict[str, Any]:
    counts = np.bincount(codes)
    share = counts[counts > 0] / len(codes)
    perplexity = float(np.exp(-(share * np.log(share)).sum()))
    return {
        "level": at + 1,
        "size": int(size),
        "used": len(share),
        "dead": int(size) - len(share),
        "perplexity": perplexity,
        "perplexity_share": perplexity / size,
        "usage": _usage(np.pad(counts, (0, size - len(counts)))),
        "mean_squared_residual": None,
        "unexplained": None,
    }


def _usage(counts: np.ndarray) -> list[float]:
    """Mean count of groups of codes, the most used first."""
    groups = np.array_split(np.sort(counts)[::-1], min(USAGE_GROUPS, len(counts)))
    return [float(group.mean()) for group in groups]


def _add_residuals(
    levels: list[dict[str, Any]], codes: np.ndarray, vectors: np.ndarray, decode: Callable[[np.ndarray], np.ndarray]
) -> None:
    mean = mean_row(vectors)
    squared, variance = np.zeros(len(levels)), 0.0
    for rows in row_chunks(vectors):
        variance += float(np.square(vectors[rows] - mean, dtype=np.float64).sum())
        for at in range(len(levels)):
            rest = vectors[rows] - decode(codes[rows, : at + 1])
            squared[at] += float(np.square(rest, out=rest).sum(dtype=np.float64))
    for level, total in zip(levels, squared.tolist(), strict=True):
        level["mean_squared_residual"] = total / len(vectors)
        level["unexplained"] = total / variance if variance > 0 else None


def _depths(prefixes: list[np.ndarray]) -> list[dict[str, Any]]:
    entries, parents = [], np.zeros(len(prefixes[0]), dtype=np.int64)
    for depth, nodes in enumerate(prefixes, start=1):
        counts = np.bincount(nodes)
        parent_of = np.empty(len(counts), dtype=np.int64)
        parent_of[nodes] = parents
        quantiles = np.quantile(counts, list(QUANTILES.values()), method="inverted_cdf").tolist()
        entries.append(
            {
                "depth": depth,
                "nodes": len(counts),
                "mean_items": len(nodes) / len(counts),
                **{f"{name}_items": int(count) for name, count in zip(QUANTILES, quantiles, strict=True)},
                "max_children": int(np.bincount(parent_of).max()),
            }
        )
        parents = nodes
    return entries


def _level_rows(entry: dict[str, Any]) -> list[tuple[str, str, str]]:
    name, size = f"level {entry['level']}", entry["size"]
    dead, share = entry["dead"] / size, entry["perplexity_share"]
    few = f"{_percent(dead)} of the codes are never used"
    uneven = "items crowd into few codes"
    rows = [
        (f"{name} used codes", f"{entry['used']:,} of {size:,}", _graded(dead, 0.05, MAX_DEAD_SHARE, few, few)),
        (
            f"{name} perplexity",
            f"{entry['perplexity']:.1f} ({_percent(share)})",
            _graded(-share, -0.4, -MIN_PERPLEXITY_SHARE, uneven, uneven),
        ),
    ]
    if entry["mean_squared_residual"] is not None:
        unexplained = "" if entry["unexplained"] is None else f" ({_percent(entry['unexplained'])} of the variance)"
        rows.append((f"{name} mean squared residual", f"{entry['mean_squared_residual']:.4g}{unexplained}", "ok"))
    return rows


def _purity_rows(purity: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    rows = []
    for name, entry in ({} if purity is None else purity).items():
        if entry is None:
            rows.append((f"{name} category", "fewer than two classes", "note: no purity"))
            continue
        for at in entry["depths"]:
            value = f"{at['nmi']:.3f} (by chance {at['by_chance']:.3f})"
            remark = "ok" if at["nmi"] > at["by_chance"] else "warn: the codes know nothing of the categories"
            rows.append((f"depth {at['depth']} NMI with the {name} category", value, remark))
    return rows


def _neighbour_rows(neighbours: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    if neighbours is None:
        return []
    rows = []
    for at in neighbours["depths"]:
        value = f"{_percent(at['share'])} (by chance {_percent(at['by_chance'])})"
        remark = "ok" if at["share"] > at["by_chance"] else "warn: the codes know nothing of the vectors"
        rows.append((f"depth {at['depth']} shared with {neighbours['num_neighbours']} neighbours", value, remark))
    return rows


def _proxy_rows(proxy: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    if proxy is None:
        return []
    rows = []
    for entry in {proxy[name]["window"]: proxy[name] for name in ("last", "recent")}.values():
        if not entry["num_targets"]:
            rows.append((f"next item and last {entry['window']}", "always a repeat", "note: no proxy for recall"))
            continue
        for at in entry["depths"]:
            value = f"{_percent(at['share'])} (by chance {_percent(at['by_chance'])})"
            if at["lift"] is None:
                remark = "note: no two items share one"
            elif at["share"] > at["by_chance"]:
                remark = f"ok: lift {at['lift']:.3g}"
            else:
                remark = "warn: the codes know nothing of the histories"
            rows.append((f"depth {at['depth']} next item shares with last {entry['window']}", value, remark))
    return rows


def _graded(value: float, ok: float, note: float, noted: str, warned: str) -> str:
    """ok up to the first threshold, a note up to the second, a warning above."""
    if value <= ok:
        return "ok"
    return f"note: {noted}" if value <= note else f"warn: {warned}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
