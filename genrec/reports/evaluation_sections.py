"""Sections of a report about an evaluation and a comparison: tables with intervals, curves, slices, example users.

Plain facts of the artifacts' JSON files in, HTML out; must not know folders or configuration classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genrec.reports.charts import Dot, Series, bars, dots, lines, short
from genrec.reports.html import Html, element, section, table
from genrec.reports.run_sections import MASK_WORDS

Record = Mapping[str, Any]
NORMAL = 1.959964  # half the width of a 95 % interval in standard errors
KINDS = {"recall": "recall", "ndcg": "NDCG", "mrr": "MRR"}


def metric_rows(report: Record, mask: str) -> list[Record]:
    """The rows of one mask, one a model."""
    return [row for row in report["rows"] if row["mask"] == mask]


def metrics(report: Record, source: Any) -> Html:
    """Every model at the primary cut-off with intervals, and at all cut-offs; what differs from the reference."""
    protocol = report["protocol"]
    cutoff, level = protocol["primary_cutoff"], f"{protocol['confidence']:.0%}"
    panels = [_mask_panel(report, mask, cutoff, level) for mask in MASK_WORDS if metric_rows(report, mask)]
    text = (
        f"{report['num_cases']:,} {report['split']} cases of {report['num_users']:,} users, each ranked against all "
        f"{protocol['num_items']:,} items; equal scores: {protocol['tie_rule']} ranks; "
        f"intervals: {protocol['intervals']}."
    )
    return section(
        "Results",
        "results",
        element("p", text),
        element("div", panels, data_choices=True),
        _beyond(report),
        source=source,
    )


def _mask_panel(report: Record, mask: str, cutoff: int, level: str) -> Html:
    rows, names = metric_rows(report, mask), (f"recall@{cutoff}", f"ndcg@{cutoff}")
    against = {(row["model"], row["metric"]): row for row in report["comparisons"] if row["mask"] == mask}
    reference = report["protocol"]["reference"]
    best = max(range(len(rows)), key=lambda at: rows[at]["metrics"][names[0]]["mean"])
    columns = ["model"]
    for name in names:
        columns += [name, f"{level} interval", *([f"minus {reference}", "p (Holm)"] if reference else [])]
    cells = []
    for row in rows:
        line: list[Any] = [row["model"]]
        for name in names:
            value = row["metrics"][name]
            line += [f"{value['mean']:.4f}", f"{value['low']:.4f} to {value['high']:.4f}"]
            if reference:
                line += _difference(against.get((row["model"], name)))
        cells.append(line)
    chart = dots(
        f"{names[0]}, {MASK_WORDS[mask]}",
        f"{_file(names[0])}_{mask}",
        [
            Dot(
                row["model"],
                row["metrics"][names[0]]["mean"],
                row["metrics"][names[0]]["low"],
                row["metrics"][names[0]]["high"],
            )
            for row in rows
        ],
        x_label=names[0],
    )
    figures = element("div", chart, recall_curve(report, mask), class_="figures")
    main = table(f"Models, {MASK_WORDS[mask]}", columns, cells, strong=[best])
    return element("div", main, figures, _all_cutoffs(report, rows, mask), data_choice=MASK_WORDS[mask])


def _difference(row: Record | None) -> list[Any]:
    if row is None:
        return ["", ""]
    kind = None if not row["is_significant"] else "good" if row["difference"] > 0 else "bad"
    return [element("span", f"{row['difference']:+.4f}", class_=kind), f"{row['p_holm']:.3f}"]


def recall_curve(report: Record, mask: str) -> Html:
    """Recall against the length of the list, one line a model."""
    cutoffs = report["protocol"]["cutoffs"]
    drawn = []
    for row in metric_rows(report, mask):
        found = [row["metrics"][f"recall@{k}"] for k in cutoffs]
        points = [(float(k), value["mean"]) for k, value in zip(cutoffs, found, strict=True)]
        drawn.append(Series(row["model"], points, [(value["low"], value["high"]) for value in found]))
    title, name = f"Recall by length of the list, {MASK_WORDS[mask]}", f"recall_curve_{mask}"
    order = [float(k) for k in cutoffs]
    return lines(title, name, drawn, x_label="k", y_label="recall@k", from_zero=True, x_ticks=order)


def _all_cutoffs(report: Record, rows: Sequence[Record], mask: str) -> Html:
    cutoffs = report["protocol"]["cutoffs"]
    known = [kind for kind in KINDS if f"{kind}@{cutoffs[0]}" in rows[0]["metrics"]]
    tables = [
        table(
            f"{KINDS[kind]} at every cut-off, {MASK_WORDS[mask]}",
            ("model", *(f"@{k}" for k in cutoffs)),
            [(row["model"], *(f"{row['metrics'][f'{kind}@{k}']['mean']:.4f}" for k in cutoffs)) for row in rows],
        )
        for kind in known
    ]
    return element("details", element("summary", "Every cut-off"), tables)


LIST_COLUMNS = ("coverage", "gini", "average_popularity", "novelty", "diversity")


def _beyond(report: Record) -> Html | None:
    """What the lists are like beside being right; evaluations of earlier versions have not measured it."""
    lists = report.get("lists") or []
    cutoff = report["protocol"]["primary_cutoff"]
    rows = [row for row in lists if row["cutoff"] == cutoff]
    if not rows:
        return None
    columns = [name for name in LIST_COLUMNS if rows[0].get(name) is not None]
    cells = [(row["model"], MASK_WORDS[row["mask"]], *(short(row[name]) for name in columns)) for row in rows]
    found = [row for row in lists if row["mask"] == "none"]
    models = list(dict.fromkeys(row["model"] for row in found))
    drawn = [
        Series(name, [(float(row["cutoff"]), row["coverage"]) for row in found if row["model"] == name])
        for name in models
    ]
    order = sorted({float(row["cutoff"]) for row in found})
    title = "Share of the catalogue in any list, no mask"
    chart = lines(title, "coverage", drawn, x_label="k", y_label="coverage@k", from_zero=True, x_ticks=order)
    names = [name.replace("_", " ") for name in columns]
    caption = f"The first {cutoff} recommendations (novelty in bits; diversity: 1 - cosine of the items' vectors)"
    return element("div", table(caption, ("model", "mask", *names), cells, left=2), chart)


def slices(report: Record, model: str, source: Any) -> Html:
    """Recall of the model and of the reference by slice, as a forest plot, with the numbers of cases."""
    reference, metric = report["protocol"]["reference"], f"recall@{report['protocol']['primary_cutoff']}"
    models = [name for name in (model, reference) if name]
    models = list(dict.fromkeys(models))
    panels = []
    for mask in MASK_WORDS:
        rows = [row for row in report["slices"] if row["mask"] == mask and row["model"] in models]
        if not rows:
            continue
        plotted = [_slice_dot(row, metric, models, len(models) > 1) for row in _in_order(rows, models)]
        chart = dots(f"{metric} by slice, {MASK_WORDS[mask]}", f"slices_{mask}", plotted, x_label=metric)
        cells = [
            (
                f"{row['slice'].replace('_', ' ')}: {row['label']}",
                row["model"],
                f"{row['num_cases']:,}",
                f"{row[metric]:.4f}",
                "" if row[f"{metric}_standard_error"] is None else f"{row[f'{metric}_standard_error']:.4f}",
            )
            for row in _in_order(rows, models)
        ]
        listed = table(
            f"By slice, {MASK_WORDS[mask]}", ("slice", "model", "cases", metric, "standard error"), cells, left=2
        )
        panels.append(
            element("div", chart, element("details", element("summary", "Table"), listed), data_choice=MASK_WORDS[mask])
        )
    note = (
        f"Blue: {models[0]}"
        + (f"; orange: {models[1]}" if len(models) > 1 else "")
        + ". Whiskers: 95 % by normal approximation."
    )
    return section(
        "Slices", "slices", element("p", note, class_="note"), element("div", panels, data_choices=True), source=source
    )


def _in_order(rows: Sequence[Record], models: Sequence[str]) -> list[Record]:
    places = list(dict.fromkeys((row["slice"], row["label"]) for row in rows))
    return sorted(rows, key=lambda row: (places.index((row["slice"], row["label"])), models.index(row["model"])))


def _slice_dot(row: Record, metric: str, models: Sequence[str], is_named: bool) -> Dot:
    value, error = row[metric], row[f"{metric}_standard_error"]
    reach = None if error is None else NORMAL * error
    label = f"{_slice_word(row)} {row['label']}" + (
        f", {row['model']}" if is_named and row["model"] == models[1] else ""
    )
    low, high = (None, None) if reach is None else (max(0.0, value - reach), value + reach)
    return Dot(label, value, low, high, colour=models.index(row["model"]) + 1)


SLICE_WORDS = {"target_popularity": "target", "history_length_bucket": "history", "target_novelty": "target", "all": ""}


def _slice_word(row: Record) -> str:
    return SLICE_WORDS.get(row["slice"], str(row["slice"]).replace("_", " "))


def comparison(report: Record, source: Any) -> Html:
    """Systems against their reference: differences with intervals, wins by slice, hits in common."""
    protocol = report["protocol"]
    reference, recall = protocol["reference"], f"recall@{protocol['cutoff']}"
    colour_of = {
        name: at for at, name in enumerate(dict.fromkeys(row["system"] for row in report["comparisons"]), start=1)
    }
    panels = []
    for mask in protocol["masks"]:
        rows = [row for row in report["comparisons"] if row["mask"] == mask]
        chart = dots(
            f"Difference from {reference}, {MASK_WORDS[mask]}",
            f"differences_{mask}",
            [
                Dot(
                    f"{row['system']}, {row['metric']}",
                    row["difference"],
                    row["low"],
                    row["high"],
                    colour_of[row["system"]],
                )
                for row in rows
            ],
            x_label=f"minus {reference}",
            zero=True,
        )
        cells = [
            (
                row["system"],
                row["metric"],
                *_difference(row),
                f"{row['low']:+.4f} to {row['high']:+.4f}",
                row["over"],
                "" if row["smallest_detectable_effect"] is None else f"{row['smallest_detectable_effect']:.4f}",
            )
            for row in rows
        ]
        columns = ("system", "metric", f"minus {reference}", "p (Holm)", "interval", "over", "detectable")
        by_slice = [
            row for row in report["slices"] if row["mask"] == mask and row["metric"] == recall and row["slice"] != "all"
        ]
        forest = dots(
            f"{recall} minus {reference} by slice, {MASK_WORDS[mask]}",
            f"difference_slices_{mask}",
            [_difference_dot(row, len(colour_of) > 1, colour_of[row["system"]]) for row in by_slice],
            x_label=f"minus {reference}",
            zero=True,
        )
        won = table(
            f"Cases won, tied and lost, {recall}",
            ("slice", "system", "cases", "won", "tied", "lost"),
            [
                (
                    f"{row['slice'].replace('_', ' ')}: {row['label']}",
                    row["system"],
                    *(f"{row[name]:,}" for name in ("num_cases", "num_won", "num_tied", "num_lost")),
                )
                for row in report["slices"]
                if row["mask"] == mask and row["metric"] == recall
            ],
            left=2,
        )
        shared = [row for row in report["overlap"] if row["mask"] == mask]
        names = ("both", "system_only", "reference_only")
        overlap = bars(
            f"Targets among the first {protocol['cutoff']}: hit by",
            f"overlap_{mask}",
            [(row["system"], [(name.replace("_", " "), row[name]) for name in names]) for row in shared],
            x_label="share of the cases",
        )
        figures = element("div", chart, overlap, forest, class_="figures")
        said = [element("p", row["text"], class_="verdict") for row in report["verdicts"] if row["mask"] == mask]
        panels.append(
            element(
                "div",
                said,
                table("Differences", columns, cells, left=2),
                figures,
                element("details", element("summary", "Cases won, tied and lost"), won),
                data_choice=MASK_WORDS[mask],
            )
        )
    notes = element("ul", [element("li", note) for note in report.get("notes", [])]) if report.get("notes") else None
    words = [
        f"{system['name']}: {system['num_seeds']} seed{'s' * (system['num_seeds'] > 1)}" for system in report["systems"]
    ]
    text = (
        f"{report['num_cases']:,} cases of {report['num_users']:,} users. {'; '.join(words)}. {protocol['correction']}."
    )
    return section(
        "Comparison", "comparison", element("p", text), element("div", panels, data_choices=True), notes, source=source
    )


def _difference_dot(row: Record, is_named: bool, colour: int) -> Dot:
    error = row["standard_error"]
    reach = None if error is None else NORMAL * error
    label = f"{_slice_word(row)} {row['label']}" + (f", {row['system']}" if is_named else "")
    value = row["difference"]
    low, high = (None, None) if reach is None else (value - reach, value + reach)
    return Dot(label, value, low, high, colour)


def users(examples: Sequence[Record], k: int, source: Any) -> Html:
    """Some users with titles: what they had, what is recommended, what they took next."""
    cards = []
    for example in examples:
        had = element("ol", [element("li", title) for title in example["history"]], start=example["start"])
        listed = [
            element("li", title, " ← the next item" if is_target else None, class_="hit" if is_target else None)
            for title, is_target in example["recommended"]
        ]
        cards.append(
            element(
                "div",
                element("h3", f"User {example['user']}"),
                element("p", f"Next: {example['target']}. ", example["outcome"], class_="note"),
                element("h4", f"History, {example['length']} items, the last ones"),
                had,
                element("h4", f"Recommended, best {k}"),
                element("ol", listed),
                class_="user",
            )
        )
    text = "Picked by where their next item stands in the list: found early, found late, not found."
    return section("Example users", "users", element("p", text), element("div", cards, class_="users"), source=source)


def _file(metric: str) -> str:
    return metric.replace("@", "_at_")
