"""What a person sees of ``genrec diagnose``: tables and notes, from the facts of diagnosis.json.

Pure functions of those facts; must not know tensors or models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from genrec.terminal import Table

_WORDS = {
    "found": "in the list",
    "lost_by_search": "lost by the search",
    "ranked_low_by_model": "ranked low by the model",
    "impossible": "of probability zero",
    "excluded": "excluded, as seen already",
}


def diagnosis_tables(facts: dict[str, Any]) -> tuple[Table, ...]:
    """Verdicts, survival by level, and whatever else there are facts for."""
    tables = [_verdicts(facts), _survival(facts)]
    if facts["exact"] is not None:
        tables.append(_exact(facts))
    tables.append(_calibration(facts))
    if facts["rescues"] is not None:
        tables.append(_rescues(facts["rescues"]))
    if facts["neighbourhood"] is not None:
        tables.append(_neighbourhood(facts))
    if facts["unseen"]["num_targets"]:
        tables.append(_unseen(facts["unseen"]))
    return tuple(tables)


def diagnosis_notes(facts: dict[str, Any]) -> Iterator[str]:
    """What is not in a table."""
    faults = facts["faults"]
    yield f"{faults['invalid']} invalid and {faults['duplicate']} repeated items in the lists of all beams"
    if faults["empty"]:
        yield f"{faults['empty']:,} places of these lists are empty"
    if facts["num_left_out"]:
        yield f"{facts['num_left_out']:,} cases without a history or a known target are left out: nothing is searched"
    unseen = facts["unseen"]
    if unseen["num_items"]:
        yield (
            f"{unseen['num_listed']:,} of the {unseen['num_items']:,} items that training never saw are in a list, at "
            f"{unseen['share_of_lists']:.2%} of the places"
        )


def _verdicts(facts: dict[str, Any]) -> Table:
    rows = tuple(
        (_WORDS[name], f"{count:,}", f"{count / facts['num_cases']:.1%}")
        for name, count in facts["verdicts"].items()
        if count or name in ("found", "lost_by_search")
    )
    seen = ", seen items left out" if facts["exclude_seen"] else ""
    title = (
        f"{facts['num_cases']:,} {facts['split']} targets, lists of {facts['k']} by {facts['beam_width']} beams{seen}"
    )
    known = "lost by the search: exact scoring has it in the list"
    guess = "lost by the search: more probable than the last of the list"
    caption = guess if facts["exact"] is None else known
    return Table(title, ("the target is", "cases", "share"), rows, left=("the target is",), caption=caption)


def _survival(facts: dict[str, Any]) -> Table:
    rows = []
    for kept, lost in zip(facts["survival"], facts["displaced"], strict=True):
        gap = lost["gap"]
        rows.append(
            (
                str(kept["level"]),
                _percent(kept["mean"]),
                _interval(kept),
                _percent(kept["of_kept_before"]),
                f"{lost['num_lost']:,}",
                *(_number(gap[name]) for name in ("q25", "q50", "q75")),
                _percent(lost["share_siblings"]) if kept["level"] > 1 else "",
                _percent(lost["share_more_popular"]),
            )
        )
    columns = ("level", "kept", "interval", "of kept before", "lost here", "gap q25", "median", "q75", "siblings")
    caption = (
        "gap: log-probability of the last prefix that was kept above that of the target's, in nats; siblings: the "
    )
    caption += "two differ in the last code only; more popular: with more training interactions than the target's"
    title = "the target's prefix in the beams, and the last prefix that was kept in its place"
    return Table(title, (*columns, "more popular"), tuple(rows), caption=caption)


def _exact(facts: dict[str, Any]) -> Table:
    exact, k = facts["exact"], facts["k"]
    names = {
        f"R@{k} of the search": facts["recall"],
        f"R@{k} of exact scoring": exact["recall"],
        "lists that are the exact ones": exact["is_same"],
        "items of the exact list that were found": exact["overlap"],
        "probability of the exact list that is missing": exact["mass"],
        "mean log-probability behind the exact list, nats": exact["log_prob"],
        "first item's log-probability behind the exact one, nats": exact["top"],
    }
    rows = tuple((name, f"{value['mean']:.4f}", _interval(value, digits=4)) for name, value in names.items())
    wider = ", ".join(
        f"{_percent(line['share'])} by {line['beam_width']:,}" for line in exact["kept_by_width"] if line["share"] < 1
    )
    caption = f"targets that are surely kept to the end: {wider} beams" if wider else ""
    return Table("the list against the exact one", ("what", "mean", "interval"), rows, left=("what",), caption=caption)


def _calibration(facts: dict[str, Any]) -> Table:
    rows = []
    for name, found in facts["calibration"].items():
        what = "the first item" if name == "top" else f"the list of {facts['k']}"
        for line in found["bins"]:
            low, high = _percent(line["low"]), _percent(line["high"])
            share = (_percent(line["predicted"]), _percent(line["hit_rate"]))
            rows.append((what, f"{line['num_cases']:,}", f"{low} to {high}", *share))
            what = ""
        totals = (_percent(found["predicted"]), _percent(found["hit_rate"]))
        rows.append(("", "all", f"ECE {_percent(found['ece'])}", *totals))
    columns = ("probability of", "cases", "predicted from", "predicted", "came true")
    return Table("calibration", columns, tuple(rows), left=("probability of",))


def _rescues(found: dict[str, Any]) -> Table:
    first = (f"{found['initial_width']} beams", f"{found['initial_nodes']:,}", _percent(found["initial_found"]))
    rows: list[tuple[str, ...]] = [(*first, "", "", "", "")]
    for line in found["budgets"]:
        for name, of, more in (
            (f"tree of {line['node_budget']:,}", line, _percent(line["found_of_lost"])),
            (f"{line['beam']['beam_width']:,} beams", line["beam"], ""),
        ):
            shares = (_percent(of[each]) for each in ("found", "rescued", "lost"))
            rows.append((name, f"{of['nodes']:,.1f}", *shares, _percent(of["net_per_100_nodes"]), more))
    columns = ("search", "nodes read", "has the target", "rescued", "lost", "net per 100 nodes", "of what was lost")
    caption = "rescued and lost: against the first line, from which the trees grow; below each tree, beams of no more "
    caption += f"nodes; of what was lost: of the {found['num_lost']:,} targets that the beams above lost"
    return Table("what a search by value adds", columns, tuple(rows), left=("search",), caption=caption)


def _neighbourhood(facts: dict[str, Any]) -> Table:
    rows = tuple(
        (
            str(line["neighbours"]),
            f"{line['num_items']:.1f}",
            *(f"{line[name]['mean']:.4f}" for name in ("near", "longer")),
            f"{line['difference']['mean']:+.4f}",
            _interval(line["difference"], digits=4),
        )
        for line in facts["neighbourhood"]
    )
    columns = ("neighbours", "items", "near", "longer list", "difference", "interval")
    title = f"is the target among the nearest items of the first {facts['k']}, by embedding, or in a list as long"
    return Table(title, columns, rows)


def _unseen(unseen: dict[str, Any]) -> Table:
    rows = tuple(
        (
            str(line["level"]),
            _percent(line["kept"]),
            f"{line['num_shared']:,}",
            _percent(line["kept_of_shared"]),
            _percent(line["kept_of_seen"]),
        )
        for line in unseen["levels"]
    )
    columns = ("level", "kept", "shared with trained", "kept of these", "kept of seen targets")
    title = f"{unseen['num_targets']:,} targets that training never saw: their prefixes in the beams"
    recall = f"in the list: {_percent(unseen['recall'])}, of seen targets {_percent(unseen['recall_of_seen'])}"
    return Table(title, columns, rows, caption=recall)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.3g} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(value: dict[str, Any], *, digits: int | None = None) -> str:
    if digits is None:
        return f"{_percent(value['low'])} to {_percent(value['high'])}"
    return f"{value['low']:.{digits}f} to {value['high']:.{digits}f}"
