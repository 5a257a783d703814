"""The health of semantic IDs as figures: ``NAME.svg``, and what is drawn beside it as ``NAME.csv``.

Draws plain facts, those of health.json; must not know tables, artifacts or configuration. No global state of pyplot, no
look at the user's own matplotlib settings, and the same bytes for the same facts and version of matplotlib.
"""
# L levels, N items

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # matplotlib takes half a second, not at the start of every command
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart; what chance gives is always grey.
FOUND, CHANCE, BAD, INK, FAINT = "#0072B2", "#BBBBBB", "#D55E00", "#222222", "#666666"
_STYLE = {
    "svg.hashsalt": "genrec",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "legend.frameon": False,
}
_PARTS = {  # of a loss: colour and dashes
    "reconstruction": (FOUND, "-"),
    "codebook": (BAD, "--"),
    "commitment": ("#009E73", "-."),
    "alignment": ("#CC79A7", ":"),
    "diversity": (FAINT, ":"),
}
_WIDTH = 7.2  # of all figures, in inches; so are heights and margins
_OCTAVES = 3  # colours of the heat map end at 8 times even use, and at 1/8 of it


@dataclass(frozen=True)
class Chart:
    """A figure and the table that it draws; the cells are numbers, text or None."""

    figure: Figure
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def write_health_figures(health: Mapping[str, Any], path: Callable[[str], Path]) -> list[str]:
    """Draws all that a health report has facts for.

    Args:
        health: of `quantization.diagnostics.health`, with `proxy` of `quantization.proxy.next_item_proxy`, and with
            `training`, the epochs of a tokenizer that was trained by gradient, where there are any.
        path: where to write a file of a relative name; its folder has to be there.

    Returns:
        The names that were written: usage, levels and nodes always, residuals, purity, neighbours, proxy and training
        where there are facts, each as .svg and .csv.
    """
    with style():
        return write_charts(_charts(health), path)


def write_charts(charts: Iterable[tuple[str, Chart]], path: Callable[[str], Path]) -> list[str]:
    """Writes charts, drawn within `style`, as NAME.svg and NAME.csv; returns the names of the files."""
    names = []
    for name, chart in charts:
        with path(f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([chart.columns, *chart.rows])
        metadata = dict.fromkeys(("Date", "Creator"))  # neither changes with the day nor with the version
        chart.figure.savefig(path(f"{name}.svg"), format="svg", metadata=metadata)
        names += [f"{name}.svg", f"{name}.csv"]
    return names


@contextmanager
def style() -> Iterator[None]:
    """Our settings on top of matplotlib's own, whatever the user's are; those are back afterwards."""
    import matplotlib.style

    with matplotlib.style.context(_STYLE, after_reset=True):
        yield


def _charts(health: Mapping[str, Any]) -> Iterator[tuple[str, Chart]]:
    yield "usage", usage(health["levels"], health["num_items"])
    yield "levels", levels(health["levels"])
    yield "nodes", nodes(health["depths"])
    if health["levels"][0]["unexplained"] is not None:
        yield "residuals", residuals(health["levels"])
    panels = {
        f"the {name} category": [(at["depth"], at["nmi"], at["by_chance"]) for at in entry["depths"]]
        for name, entry in (health["purity"] or {}).items()
        if entry is not None
    }
    if panels:
        title = "How much the prefix of an item says of its category"
        yield "purity", against_chance(panels, title, "normalised mutual information", is_share=False)
    if health["neighbours"] is not None:
        found = health["neighbours"]
        panels = {f"of the {found['num_neighbours']} nearest by embedding": _shares(found["depths"])}
        yield "neighbours", against_chance(panels, "Nearest neighbours with the same prefix", "share of neighbours")
    proxy = health.get("proxy")
    if proxy is not None and proxy["last"]["num_targets"]:
        entries = {entry["window"]: entry for entry in (proxy["last"], proxy["recent"]) if entry["num_targets"]}
        panels = {
            "with the last item" if window == 1 else f"with any of the last {window}": _shares(entry["depths"])
            for window, entry in entries.items()
        }
        title = "Next items of training histories that share their prefix (repeats left out)"
        yield "proxy", against_chance(panels, title, "share of next items")
    if health.get("training"):
        yield "training", training(health["training"])


def usage(entries: Sequence[Mapping[str, Any]], num_items: int) -> Chart:
    """How evenly the codes of each level are used, as a heat map: even use is white, codes without items are black.

    Args:
        entries: `levels` of the health.
        num_items: N.
    """
    import numpy as np
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    rows = []
    height = 1.7 + 0.45 * len(entries)
    figure = empty_figure(height, left=0.9, right=1.15, bottom=1.35)
    axes = figure.subplots()
    colours = {"norm": Normalize(-_OCTAVES, _OCTAVES), "cmap": _colour_map()}
    for at, entry in enumerate(entries):
        items = np.array(entry["usage"])
        ratio = items * entry["size"] / num_items
        groups = np.array_split(np.arange(entry["size"]), len(items))
        edges = np.concatenate([[0], np.cumsum([len(group) for group in groups])])
        octaves = np.log2(np.where(ratio > 0, ratio, np.nan))  # NaN is drawn black
        axes.pcolormesh(100 * edges / entry["size"], [at - 0.42, at + 0.42], octaves[None, :], **colours)
        for first, last, count, share in zip(edges, edges[1:], items.tolist(), ratio.tolist(), strict=False):
            rows.append((entry["level"], int(first) + 1, int(last), count, share))
        text = f"perplexity {_percent(entry['perplexity_share'])}\nunused {_percent(entry['dead'] / entry['size'])}"
        axes.text(101.5, at, text, va="center", fontsize=8, color=FAINT)
    axes.set_yticks(range(len(entries)), [f"level {entry['level']}\n{entry['size']:,} codes" for entry in entries])
    axes.set_ylim(len(entries) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlim(0, 100)
    axes.set_xlabel("codes from the most to the least used, % of the level")
    axes.set_title("How evenly the codes are used")
    beside = axes.get_position()
    below = figure.add_axes((beside.x0, 0.55 / height, beside.width, 0.14 / height))
    ticks = range(-_OCTAVES, _OCTAVES + 1)
    bar = figure.colorbar(ScalarMappable(**colours), cax=below, orientation="horizontal", ticks=list(ticks))
    bar.set_ticklabels(["1/8", "1/4", "1/2", "1 (even)", "2", "4", "8"])
    bar.set_label("items a code, as a multiple of even use; black: no items")
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return Chart(figure, ("level", "first_rank", "last_rank", "items_a_code", "of_even_use"), rows)


def levels(entries: Sequence[Mapping[str, Any]]) -> Chart:
    """Codes of each level that are used and unused, and the perplexity, as shares of the level."""
    figure = empty_figure(1.25 + 0.42 * len(entries), right=1.35)
    axes = figure.subplots()
    for at, entry in enumerate(entries):
        used, dead = 100 * entry["used"] / entry["size"], 100 * entry["dead"] / entry["size"]
        is_first = at == 0
        axes.barh(at, used, 0.6, color=FOUND, alpha=0.45, label="used" if is_first else None)
        axes.barh(at, dead, 0.6, left=used, color=BAD, alpha=0.85, label="unused" if is_first else None)
        share = 100 * entry["perplexity_share"]
        axes.plot([share, share], [at - 0.3, at + 0.3], color=INK, lw=2.5, label="perplexity" if is_first else None)
        text = f"{entry['used']:,} of {entry['size']:,} used\nperplexity {entry['perplexity']:,.1f}"
        axes.text(101.5, at, text, va="center", fontsize=8, color=FAINT)
    axes.set_yticks(range(len(entries)), [f"level {entry['level']}" for entry in entries])
    axes.set_ylim(len(entries) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the codes of the level")
    axes.set_title("Codes that are used, and how many evenly used ones they are worth (perplexity)")
    figure.legend(*axes.get_legend_handles_labels(), loc="lower right", ncols=3, fontsize=8)
    columns = ("level", "size", "used", "dead", "perplexity", "perplexity_share")
    return Chart(figure, columns, [tuple(entry[name] for name in columns) for entry in entries])


def residuals(entries: Sequence[Mapping[str, Any]]) -> Chart:
    """What the first l codes leave unexplained of the variance of the embeddings."""
    figure = empty_figure(2.8, bottom=0.5)
    axes = figure.subplots()
    shares = [100.0, *(100 * entry["unexplained"] for entry in entries)]
    axes.plot(range(len(shares)), shares, "o-", color=FOUND, lw=2)
    for at, entry in enumerate(entries, start=1):
        text = f"{_percent(entry['unexplained'])}\n({entry['mean_squared_residual']:.3g})"
        axes.annotate(text, (at, shares[at]), xytext=(6, 5), textcoords="offset points", fontsize=8, color=INK)
    axes.set_xticks(range(len(shares)))
    axes.set_xlim(-0.15, len(shares) - 0.5)
    axes.set_ylim(0, 1.12 * max(shares))
    axes.grid(axis="y")
    axes.set_xlabel("codes known of an item")
    axes.set_ylabel("% of the variance")
    axes.set_title("What the codes leave unexplained of the embeddings (mean squared residual)")
    columns = ("level", "mean_squared_residual", "unexplained")
    return Chart(figure, columns, [tuple(entry[name] for name in columns) for entry in entries])


def nodes(entries: Sequence[Mapping[str, Any]]) -> Chart:
    """Items under a prefix, by depth: how large the choices are that are left to the next codes.

    Args:
        entries: `depths` of the health.
    """
    figure = empty_figure(3.2)
    axes = figure.subplots()
    spans = (("min", "max", 0.02, 1.0, "all prefixes"), ("p05", "p95", 0.1, 0.45, "9 of 10"))
    for entry in entries:
        at = entry["depth"]
        is_first = at == entries[0]["depth"]
        for low, high, width, alpha, name in (*spans, ("p25", "p75", 0.2, 0.75, "middle half")):
            low, high = entry[f"{low}_items"], entry[f"{high}_items"]
            bar = {"color": FOUND, "alpha": alpha, "lw": 0, "label": name if is_first else None}
            axes.bar(at, high - low, width, bottom=low, **bar)
        axes.plot(at, entry["median_items"], "_", color=INK, ms=16, mew=2.5, label="median" if is_first else None)
        axes.plot(at, entry["mean_items"], "D", color=BAD, ms=4.5, label="mean" if is_first else None)
        text = f"{entry['nodes']:,} prefixes\nlargest {entry['max_items']:,}"
        where = {"xytext": (9, -2), "textcoords": "offset points", "va": "center"}
        axes.annotate(text, (at, entry["max_items"]), fontsize=8, color=FAINT, **where)
    axes.set_yscale("log")
    axes.set_ylim(0.7, 2.0 * max(entry["max_items"] for entry in entries))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")
    axes.set_xticks([entry["depth"] for entry in entries])
    axes.set_xlim(0.7, len(entries) + 0.75)
    axes.grid(axis="y")
    axes.set_xlabel("depth: codes of the prefix")
    axes.set_ylabel("items (logarithmic)")
    axes.set_title("Items under a prefix")
    figure.legend(*axes.get_legend_handles_labels(), loc="lower right", ncols=5, fontsize=8, markerscale=0.8)
    columns = (
        *("depth", "nodes", "mean_items", "min_items", "p05_items", "p25_items", "median_items"),
        *("p75_items", "p95_items", "max_items"),
    )
    return Chart(figure, columns, [tuple(entry[name] for name in columns) for entry in entries])


def against_chance(
    panels: Mapping[str, Sequence[tuple[int, float, float]]], title: str, unit: str, *, is_share: bool = True
) -> Chart:
    """Bars by depth of what was found, beside those of what chance gives.

    Args:
        panels: by name, (depth, found, by chance) of each depth.
        title: of the figure.
        unit: of the values.
        is_share: shown in %, with how many times chance they are.
    """
    figure = empty_figure(3.0, top=0.6, bottom=0.55)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    scale = 100 if is_share else 1
    rows = []
    row_of_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, entries) in zip(row_of_axes, panels.items(), strict=True):
        for depth, found, chance in entries:
            rows.append((name, depth, found, chance, found / chance if chance > 0 else None))
            is_first = depth == entries[0][0]
            axes.bar(depth - 0.19, scale * found, 0.36, color=FOUND, label="found" if is_first else None)
            axes.bar(depth + 0.19, scale * chance, 0.36, color=CHANCE, label="by chance" if is_first else None)
            value = _percent(found) if is_share else f"{found:.2f}"
            times = f"\n{found / chance:,.3g}×" if is_share and chance > 0 else ""
            other = f"{100 * chance:.2g} %" if is_share else f"{chance:.2f}"
            where = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "va": "bottom"}
            axes.annotate(value + times, (depth - 0.19, scale * found), fontsize=8, color=INK, **where)
            axes.annotate(other, (depth + 0.19, scale * chance), fontsize=7.5, color=FAINT, **where)
        axes.set_xticks([depth for depth, *_ in entries], [f"depth {depth}" for depth, *_ in entries])
        axes.set_xlim(0.4, len(entries) + 0.6)
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="y")
        axes.set_title(name, fontsize=9, color=FAINT)
    top = max(max(found, chance) for entries in panels.values() for _, found, chance in entries)
    row_of_axes[0].set_ylim(0, max(1e-3, 1.25 * scale * top))
    row_of_axes[0].set_ylabel(f"{unit}, %" if is_share else unit)
    figure.legend(*row_of_axes[0].get_legend_handles_labels(), loc="lower right", ncols=2, fontsize=8)
    return Chart(figure, ("panel", "depth", "found", "by_chance", "lift"), rows)


def training(epochs: Sequence[Mapping[str, Any]]) -> Chart:
    """The curves of a tokenizer's training: parts of the loss, collisions, used codes.

    Args:
        epochs: epoch, loss and those of its parts that there are (see `_PARTS`); from the first epoch with codes also
            collision_rate, and levels with used and dead.
    """
    figure = empty_figure(6.0, right=1.3, bottom=0.5)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(1.3, 1, 1))
    with_codes = [epoch for epoch in epochs if "levels" in epoch]
    at = [epoch["epoch"] for epoch in with_codes]
    parts = [part for part in _PARTS if any(part in epoch for epoch in epochs)]
    for part in parts:
        curve = [(epoch["epoch"], epoch[part]) for epoch in epochs if part in epoch]
        colour, dashes = _PARTS[part]
        top.plot(*zip(*curve, strict=True), dashes, color=colour, label=part)
    top.set_yscale("log")
    _legend(
        top, "Parts of the loss (logarithmic)", "mean squared, or weighted nats" if len(parts) > 3 else "mean squared"
    )
    middle.plot(at, [100 * epoch["collision_rate"] for epoch in with_codes], color=BAD)
    middle.set_ylim(0)
    _legend(middle, "Collision rate of the codes that training assigned", "% of the items")
    num_levels = len(with_codes[0]["levels"]) if with_codes else 0
    for level in range(num_levels):
        shares = [100 * _used_share(epoch["levels"][level]) for epoch in with_codes]
        colour = _shade(level, num_levels)
        bottom.plot(at, shares, color=colour, label=f"level {level + 1}", ls=("-", "--", "-.", ":")[level % 4])
    bottom.set_ylim(0, 105)
    _legend(bottom, "Codes that had an item in the epoch", "% of the codes")
    bottom.set_xlabel("epoch")
    known = ("epoch", "loss", *parts, "collision_rate")
    columns = (*known, *(f"used_level_{level + 1}" for level in range(num_levels)))
    rows = []
    for epoch in epochs:
        used = [level["used"] for level in epoch["levels"]] if "levels" in epoch else [None] * num_levels
        rows.append((*(epoch.get(name) for name in known), *used))
    return Chart(figure, columns, rows)


def empty_figure(
    height: float, *, left: float = 0.75, right: float = 0.15, top: float = 0.35, bottom: float = 0.8
) -> Figure:
    """An empty figure with margins in inches.

    They are fixed, because the last digits of what matplotlib lays out by itself depend on addresses in memory.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height))
    figure.subplots_adjust(
        left=left / _WIDTH,
        right=1 - right / _WIDTH,
        top=1 - top / height,
        bottom=bottom / height,
        wspace=0.06,
        hspace=0.28,
    )
    return figure


def _shares(depths: Sequence[Mapping[str, Any]]) -> list[tuple[int, float, float]]:
    return [(at["depth"], at["share"], at["by_chance"]) for at in depths]


def _legend(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title)
    axes.set_ylabel(unit)
    axes.grid(axis="y")
    handles, names = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, names, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)


def _colour_map() -> Any:
    """Blue for less than even use, red for more; without the darkest shades, as black means something else."""
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap

    shades = [matplotlib.colormaps["RdBu_r"](0.12 + 0.76 * at / 8) for at in range(9)]
    return LinearSegmentedColormap.from_list("use", shades).with_extremes(bad="black")


def _shade(at: int, num: int) -> Any:
    """Dark for the first, light for the last."""
    import matplotlib

    return matplotlib.colormaps["viridis"](0.85 * at / max(1, num - 1))


def _used_share(level: Mapping[str, Any]) -> float:
    return level["used"] / (level["used"] + level["dead"])


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
