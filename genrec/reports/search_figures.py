"""Searches as figures: ``NAME.svg`` and what is drawn beside it, from the facts of frontier.json and diagnosis.json.

Draws plain facts; must not know tensors, artifacts or configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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


def write_diagnosis_figures(diagnosis: Mapping[str, Any], path: Callable[[str], Path]) -> list[str]:
    """Draws all that a diagnosis has facts for; returns the names that were written.

    Args:
        diagnosis: as in diagnosis.json.
        path: where to write a file of a relative name.
    """
    with style():
        return write_charts(_diagnosis_charts(diagnosis), path)


def _diagnosis_charts(diagnosis: Mapping[str, Any]) -> Iterator[tuple[str, Chart]]:
    yield "survival", survival_chart(diagnosis)
    yield "calibration", calibration_chart(diagnosis["calibration"], diagnosis["k"])
    if diagnosis["rescues"] is not None:
        yield "rescues", rescue_chart(diagnosis["rescues"])


def survival_chart(diagnosis: Mapping[str, Any]) -> Chart:
    """Share of targets whose prefix is still in the beams after each level; apart those that training never saw."""
    figure = empty_figure(3.0)
    axes = figure.subplots()
    levels = diagnosis["survival"]
    at = [line["level"] for line in levels]
    low, high = ([100 * line[name] for line in levels] for name in ("low", "high"))
    axes.fill_between(at, low, high, color=FOUND, alpha=0.15, lw=0)
    axes.plot([0, *at], [100, *(100 * line["mean"] for line in levels)], "o-", color=FOUND, label="all targets")
    for line in levels:
        text = f"{100 * line['mean']:.3g} %"
        axes.annotate(text, (line["level"], 100 * line["mean"]), xytext=(4, 6), textcoords="offset points", fontsize=8)
    unseen = diagnosis["unseen"]
    if unseen["num_targets"]:
        shares = [100, *(100 * line["kept"] for line in unseen["levels"])]
        label = f"the {unseen['num_targets']:,} that training never saw"
        axes.plot([0, *at], shares, "o--", color=BAD, ms=4, label=label)
    axes.set_xticks([0, *at])
    axes.set_xlim(-0.15, len(at) + 0.4)
    axes.set_ylim(0, 112)
    axes.grid(axis="y")
    axes.set_xlabel("codes chosen")
    axes.set_ylabel("% of the targets")
    axes.set_title(f"Targets whose prefix is among the {diagnosis['beam_width']:,} beams")
    figure.legend(*axes.get_legend_handles_labels(), loc="lower right", ncols=2, fontsize=8)
    columns = ("level", "kept", "low", "high", "kept_of_unseen", "lost_here")
    return Chart(
        figure,
        columns,
        [
            (line["level"], line["mean"], line["low"], line["high"], other["kept"], lost["num_lost"])
            for line, other, lost in zip(levels, unseen["levels"], diagnosis["displaced"], strict=True)
        ],
    )


def calibration_chart(calibration: Mapping[str, Mapping[str, Any]], k: int) -> Chart:
    """Predicted probability against how often it came true: of the first item, and of the whole list."""
    figure = empty_figure(3.4, top=0.6)
    figure.suptitle("Is a probability what it says? (bins of equally many cases)", x=0.01, ha="left", fontsize=10)
    rows = []
    titles = {"top": "the first item is the target", "list": f"the target is among the first {k}"}
    for axes, (name, found) in zip(figure.subplots(1, len(calibration)), calibration.items(), strict=True):
        predicted, came_true = ([100 * line[what] for line in found["bins"]] for what in ("predicted", "hit_rate"))
        top = 1.1 * max(1e-3, *predicted, *came_true)
        axes.plot([0, top], [0, top], color=CHANCE, ls="--")
        axes.plot(predicted, came_true, "o-", color=FOUND)
        axes.set_xlim(0, top)
        axes.set_ylim(0, top)
        axes.grid()
        axes.set_title(f"{titles[name]}: ECE {100 * found['ece']:.2g} %", fontsize=9, color=FAINT)
        axes.set_xlabel("predicted, %")
        for line in found["bins"]:
            rows.append((name, *(line[what] for what in ("num_cases", "low", "high", "predicted", "hit_rate"))))
    figure.axes[0].set_ylabel("came true, %")
    figure.subplots_adjust(wspace=0.18)
    return Chart(figure, ("of", "num_cases", "low", "high", "predicted", "hit_rate"), rows)


def rescue_chart(rescues: Mapping[str, Any]) -> Chart:
    """Share of targets that a search holds, by the prefixes it reads: trees of growing budgets, and beams."""
    figure = empty_figure(3.0)
    axes = figure.subplots()
    first = (rescues["initial_nodes"], 100 * rescues["initial_found"])
    rows: list[tuple[Any, ...]] = [
        ("first beams", rescues["initial_nodes"], rescues["initial_found"], None, None, None)
    ]
    curves = {"search by value": [first], "wider beams": [first]}
    for line in rescues["budgets"]:
        for name, found in (("search by value", line), ("wider beams", line["beam"])):
            curves[name].append((found["nodes"], 100 * found["found"]))
            more = (found[what] for what in ("rescued", "lost", "net_per_100_nodes"))
            rows.append((name, found["nodes"], found["found"], *more))
    for (name, points), colour in zip(curves.items(), (BAD, FOUND), strict=True):
        axes.plot(*zip(*points, strict=True), "o-", color=colour, label=name)
    axes.margins(y=0.15)
    axes.grid(axis="y")
    axes.set_xlabel("prefixes that the model reads for a request")
    axes.set_ylabel("% of the targets")
    axes.set_title("Targets that a search holds at the end, by what it costs")
    figure.legend(*axes.get_legend_handles_labels(), loc="lower right", ncols=2, fontsize=8)
    return Chart(figure, ("search", "nodes", "found", "rescued", "lost", "net_per_100_nodes"), rows)
