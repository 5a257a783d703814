"""Searches as figures: ``NAME.svg`` and what is drawn beside it, from the facts of frontier.json and diagnosis.json.

Draws plain facts; must not know tensors, artifacts or configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from genrec.reports.figures import BAD, CHANCE, FAINT, FOUND, INK, Chart, empty_figure, style, write_charts

_COLOURS = {"beam": FOUND, "value": BAD, "ivf": FOUND, "hnsw": BAD, "flat": INK}
_MILLISECONDS = 1e3
_WIDE = 8  # times the fastest: beyond it an axis of latencies is logarithmic


def write_frontier_figures(frontier: Mapping[str, Any], path: Callable[[str], Path]) -> list[str]:
    """Draws a frontier into ``frontier.svg``; returns the names that were written."""
    with style():
        return write_charts([("frontier", frontier_chart(frontier))], path)


def frontier_chart(frontier: Mapping[str, Any]) -> Chart:
    """Recall, with its interval, against the latency at the percentile that counts; the settings worth having joined.

    Args:
        frontier: k, latency_percent, target (or None) and settings, as in frontier.json.
    """
    settings, percent = frontier["settings"], frontier["latency_percent"]
    figure = empty_figure(3.9, bottom=0.85, top=0.4)
    axes = figure.subplots()
    in_order = sorted(settings, key=lambda setting: setting["seconds"])
    offsets = {setting["name"]: (-11, 5, -21, 15)[place % 4] for place, setting in enumerate(in_order)}
    is_wide = in_order[-1]["seconds"] > _WIDE * in_order[0]["seconds"]
    rows = []
    for kind, colour in _COLOURS.items():
        mine = [setting for setting in settings if setting["kind"] == kind]
        for place, setting in enumerate(mine):
            recall, at = setting["recall"], _MILLISECONDS * setting["seconds"]
            axes.plot([at, at], [recall["low"], recall["high"]], color=colour, lw=1, alpha=0.5)
            shape = {"ms": 7, "mfc": colour if setting["is_on_frontier"] else "white", "mec": colour}
            axes.plot(at, recall["mean"], "o", label=kind if not place else None, **shape)
            mark = setting["name"] + (" (chosen)" if setting["is_chosen"] else "")
            where = {"xytext": (6, offsets[setting["name"]]), "textcoords": "offset points", "fontsize": 8}
            axes.annotate(mark, (at, recall["mean"]), color=INK if setting["is_on_frontier"] else FAINT, **where)
    for setting in settings:
        recall = setting["recall"]
        flags = (setting["is_on_frontier"], setting["is_chosen"])
        rows.append((setting["name"], setting["kind"], setting["seconds"], *recall.values(), *flags))
    steps = sorted((each["seconds"], each["recall"]["mean"]) for each in settings if each["is_on_frontier"])
    axes.plot([_MILLISECONDS * seconds for seconds, _ in steps], [y for _, y in steps], color=FAINT, lw=1, zorder=0)
    if frontier["target"] is not None:
        axes.axvline(_MILLISECONDS * frontier["target"]["seconds"], color=CHANCE, ls="--", label="target")
    if is_wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.margins(x=0.12, y=0.12)
    axes.grid(axis="y")
    axes.set_xlabel(f"milliseconds of a request, p{percent:g}, one at a time" + " (logarithmic)" * is_wide)
    axes.set_ylabel(f"recall@{frontier['k']}")
    axes.set_title("What each setting finds, and how long it takes (filled: no other is better in both)")
    figure.legend(*axes.get_legend_handles_labels(), loc="lower right", ncols=5, fontsize=8)
    columns = ("setting", "kind", "seconds", "recall", "low", "high", "is_on_frontier", "is_chosen")
    return Chart(figure, columns, rows)
