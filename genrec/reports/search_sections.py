"""Sections of a report about the search: where it keeps and loses targets, and what a setting costs.

Plain facts of diagnosis.json and frontier.json in, HTML out; must not know folders or configuration classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genrec.reports.charts import Series, lines, short
from genrec.reports.html import Html, element, section, table

Record = Mapping[str, Any]
VERDICT_WORDS = {
    "found": "found",
    "lost_by_search": "lost by the search: exact scoring would have listed it",
    "ranked_low_by_model": "ranked low by the model itself",
    "impossible": "not in the catalogue",
    "excluded": "masked",
}


def diagnosis(facts: Record, source: Any) -> Html:
    """Verdicts, prefix survival by level, regret against exact scoring, calibration, and rescues by value."""
    num_cases = facts["num_cases"]
    text = (
        f"{num_cases:,} {facts['split']} cases, {facts['beam_width']} beams, lists of {facts['k']}, "
        f"{facts['nodes_per_request']:,.0f} prefixes read for a request."
    )
    rows = [
        (VERDICT_WORDS.get(name, name), f"{number:,}", f"{number / num_cases:.1%}")
        for name, number in facts["verdicts"].items()
        if number
    ]
    figures = [_survival(facts["survival"]), _calibration(facts["calibration"])]
    body = [
        element("p", text),
        table("What became of the targets", ("verdict", "cases", "share"), rows),
        element("div", figures, class_="figures"),
        _displaced(facts["displaced"]),
        _exact(facts.get("exact")),
        _rescues(facts.get("rescues")),
        _neighbourhood(facts.get("neighbourhood")),
    ]
    return section("Search diagnosis", "diagnosis", body, source=source)


def _survival(levels: Sequence[Record]) -> Html:
    points = [(float(level["level"]), level["mean"]) for level in levels]
    drawn = [Series("target's prefix", points, [(level["low"], level["high"]) for level in levels])]
    order = [place for place, _ in points]
    title = "Targets whose prefix is still among the beams"
    return lines(title, "survival", drawn, x_label="level", y_label="share", from_zero=True, x_ticks=order)


def _calibration(facts: Record) -> Html:
    """Predicted probability against the share of hits; on the diagonal they agree."""
    drawn = [
        Series(name, [(own["predicted"], own["hit_rate"]) for own in facts[key]["bins"]])
        for key, name in (("top", "best item"), ("list", "whole list"))
        if facts.get(key)
    ]
    most = max(max(x, y) for own in drawn for x, y in own.points)
    drawn.append(Series("as promised", [(0.0, 0.0), (most, most)]))
    errors = ", ".join(
        f"{name} {facts[key]['ece']:.4f}" for key, name in (("top", "best item"), ("list", "list")) if facts.get(key)
    )
    title = f"Promised and found; expected calibration error: {errors}"
    return lines(
        title, "calibration", drawn, x_label="probability by the model", y_label="share of hits", from_zero=True
    )


def _displaced(levels: Sequence[Record]) -> Html | None:
    rows = [
        (
            level["level"],
            f"{level['num_lost']:,}",
            *("" if level["gap"] is None else short(level["gap"][name]) for name in ("q25", "q50", "q75")),
            *(_percent(level[name]) for name in ("share_siblings", "share_more_popular")),
        )
        for level in levels
        if level["num_lost"]
    ]
    if not rows:
        return None
    columns = ("lost at level", "targets", "gap 25 %", "median", "75 %", "to a sibling", "to a more popular prefix")
    return table("What displaced them: log-probability between the last kept prefix and the target's", columns, rows)


def _exact(facts: Record | None) -> Html | None:
    if not facts:
        return None
    words = {
        "recall": "recall of exact scoring",
        "is_same": "requests whose list is the exact one",
        "overlap": "items in common with the exact list",
        "log_prob": "regret of the list, mean log-probability",
        "top": "regret of the best item, log-probability",
        "mass": "regret of the list, probability",
    }
    rows = [
        (word, short(facts[name]["mean"]), f"{short(facts[name]['low'])} to {short(facts[name]['high'])}")
        for name, word in words.items()
        if facts.get(name)
    ]
    return table("Against scoring the whole catalogue", ("what", "mean", "interval"), rows)


def _rescues(facts: Record | None) -> Html | None:
    if not facts:
        return None
    rows = []
    for entry in facts["budgets"]:
        for name, own, nodes in (
            ("by value", entry, entry["nodes"]),
            ("wider beams", entry.get("beam"), (entry.get("beam") or {}).get("nodes")),
        ):
            if own:
                numbers = (short(own[key]) for key in ("found", "rescued", "lost", "net_per_1000_nodes"))
                rows.append((f"{name}, {nodes:,.0f} prefixes", *numbers))
    columns = ("search", "found", "rescued", "lost", "net for 1,000 prefixes")
    caption = f"More prefixes read than the {facts['initial_nodes']:,.0f} of {facts['initial_width']} beams"
    return table(caption, columns, rows)


def _neighbourhood(rows: Sequence[Record] | None) -> Html | None:
    if not rows:
        return None
    cells = [
        (
            row["neighbours"],
            short(row["num_items"]),
            *(f"{row[name]['mean']:.4f}" for name in ("near", "longer")),
            f"{row['difference']['mean']:+.4f} ({row['difference']['low']:+.4f} to {row['difference']['high']:+.4f})",
        )
        for row in rows
    ]
    columns = ("neighbours of each", "items", "targets among them", "in a longer list", "difference")
    return table("Targets among the neighbours of what was generated, and in a list as long", columns, cells)


def frontier(facts: Record, source: Any) -> Html:
    """Recall against the time of a request, every setting; those worth having are joined by a line."""
    percent = f"p{facts['latency_percent']:g}"
    settings = sorted(facts["settings"], key=lambda entry: entry["seconds"])
    kinds = list(dict.fromkeys(entry["kind"] for entry in settings))
    drawn = [
        Series(
            kind,
            [(1000 * entry["seconds"], entry["recall"]["mean"]) for entry in settings if entry["kind"] == kind],
            [(entry["recall"]["low"], entry["recall"]["high"]) for entry in settings if entry["kind"] == kind],
        )
        for kind in kinds
    ]
    rows, chosen = [], []
    for number, entry in enumerate(settings):
        times = (f"{1000 * entry['latency'][name]:.1f} ms" for name in ("p50", "p99"))
        worth = "chosen" if entry["is_chosen"] else "yes" if entry["is_on_frontier"] else "no"
        rows.append(
            (entry["name"], f"{entry['recall']['mean']:.4f}", *times, f"{entry['requests_per_second']:.0f}", worth)
        )
        chosen += [number] if entry["is_chosen"] else []
    machine = facts["machine"]
    text = (
        f"{facts['num_cases']:,} {facts['split']} cases for recall@{facts['k']}; {facts['num_requests']:,} requests "
        f"one at a time for the latency, on {machine['cpus']} CPUs ({machine['processor']}), "
        f"{machine['threads']} threads, load {machine['load_average']:.1f} at the time."
    )
    columns = ("setting", f"recall@{facts['k']}", "p50", "p99", "requests a second", "on the frontier")
    title = f"Recall@{facts['k']} against latency"
    chart = lines(title, "frontier", drawn, x_label=f"{percent} of a request, ms", y_label=f"recall@{facts['k']}")
    listed = table("Settings of the search", columns, rows, strong=chosen)
    return section("Recall against latency", "frontier", element("p", text), chart, listed, source=source)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
