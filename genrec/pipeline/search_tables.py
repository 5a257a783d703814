"""What a person sees of ``genrec inspect search``: tables and one line, from the facts that ``--json`` gives.

Pure functions of those facts; must not know tensors or models.
"""

from __future__ import annotations

from typing import Any

from genrec.pipeline.inspect import cell
from genrec.pipeline.search_tree_facts import tree_table
from genrec.terminal import Table

MAX_EVENTS = 10  # of a history that are shown
MAX_EXAMPLE = 60  # characters of an example's title


def search_tables(facts: dict[str, Any], *, history_length: int) -> tuple[Table, ...]:
    """The history and the target, the beams of each level or the tree, the list."""
    events, target = facts["history"], facts["target"]
    rows = [
        (cell(each["age"]), cell(each["time"]), each["item_id"], cell(each["title"]), _dashes(each["semantic_id"]))
        for each in events[-MAX_EVENTS:]
    ]
    rows.append(("target", "", target["item_id"], cell(target["title"]), _dashes(target["semantic_id"])))
    title = f"user {facts['user_id']}: {len(events)} events before the {facts['split']} target"
    title += f", the last {history_length} are read" if len(events) > history_length else ""
    left = ("item_id", "title", "semantic_id")
    history = Table(title, ("age", "time", *left), tuple(rows), left=left)
    if "nodes" in facts:
        return history, tree_table(facts), _list_table(facts)
    return history, *(_level_table(level, facts) for level in facts["levels"]), _list_table(facts)


def _level_table(level: dict[str, Any], facts: dict[str, Any]) -> Table:
    lines, target, rival = list(level["beams"]), level["target"], level["rival"]
    lines += [rival] if rival is not None and rival["place"] > len(lines) else []
    if target["place"] is None or target["place"] > len(lines):
        lines.append({**target, "is_target": True})
    rows = tuple(
        (
            _marked(line["place"], line["is_target"], "last kept" if line == rival else ""),
            _dashes(line["prefix"]),
            _number(line["log_prob"]),
            f"{line['num_items']:,}",
            _short(line["example"]["title"] or line["example"]["item_id"]),
        )
        for line in lines
    )
    title = f"level {level['level']} of {len(facts['levels'])}: {level['num_beams']:,} beams"
    title += f" of {level['num_prefixes']:,} prefixes, down to log-probability {_number(level['last_log_prob'])}"
    columns = ("place", "prefix", "log_prob", "items", "example")
    return Table(title, columns, rows, left=("place", "prefix", "example"), caption=_level_caption(level, facts))


def _level_caption(level: dict[str, Any], facts: dict[str, Any]) -> str:
    target, rival, lost_at = level["target"], level["rival"], facts["target"]["lost_at_level"]
    exact = "" if target["exact_place"] is None else f"; place {target['exact_place']:,} by exact scoring"
    name = f"the target's prefix {_dashes(target['prefix'])}"
    if lost_at is None or level["level"] < lost_at:
        return f"{name} is kept at place {target['place']}{exact}"
    if level["level"] > lost_at:
        return f"{name} was lost at level {lost_at}{exact}"
    if rival is None:
        return f"{name} is not followed: nothing below it may be recommended, or it is impossible"
    scores = f"{_number(target['log_prob'])} against {_number(rival['log_prob'])}"
    return f"{name} is lost here, {scores} of {_dashes(rival['prefix'])}, the last that was kept{exact}"


def _list_table(facts: dict[str, Any]) -> Table:
    lines, target = list(facts["recommendations"]), facts["target"]
    if target["place"] is not None and target["place"] > len(lines):
        lines.append({**target, "score": target["log_prob"], "is_target": True})
    rows = tuple(
        (
            _marked(line["place"], line["is_target"]),
            line["item_id"],
            cell(line["title"]),
            _dashes(line["semantic_id"]),
            _number(line["score"]),
        )
        for line in lines
    )
    seen = ", seen items left out" if facts["exclude_seen"] else ""
    left = ("place", "item_id", "title", "semantic_id")
    return Table(f"the list of {facts['num_candidates']}{seen}", (*left, "score"), rows, left=left)


def verdict_note(facts: dict[str, Any]) -> str:
    """Whether the target is in the list, and if not, whose fault that is."""
    target, size = facts["target"], facts["num_candidates"]
    exact = target["exact_place"]
    by_exact = "" if exact is None else f"exact scoring puts it at place {exact:,}"
    name = f"the target {target['item_id']} ({cell(target['title'])})"
    absent = f"{name} is not in the list of {size}"
    lost = "" if target["lost_at_level"] is None else f", and the search lost it at level {target['lost_at_level']}"
    match target["verdict"]:
        case "found":
            return f"{name} is at place {target['place']} of {size}" + (f"; {by_exact}" if by_exact else "")
        case "excluded":
            return f"{absent}: it is in the history, whose items exclude_seen=true leaves out"
        case "impossible":
            return f"{absent}: the model gives it the probability zero"
        case "lost_by_search":
            why = by_exact or "its log-probability is above that of the last item"
            enough = target["sufficient_beam_width"]
            fix = "" if enough is None else f"; search.beam_width={enough} is enough to keep it"
            return f"{absent}: lost by the search at level {target['lost_at_level']}, although {why}{fix}"
    return f"{absent}: ranked low by the model{lost}" + (f"; {by_exact}" if by_exact else "")


def _marked(place: int | None, is_target: bool, mark: str = "") -> str:
    marks = ("target",) if is_target else (mark,) if mark else ()
    return " <- ".join(("lost" if place is None else str(place), *marks))


def _dashes(codes: list[int]) -> str:
    return "-".join(map(str, codes))


def _short(text: str) -> str:
    return text if len(text) <= MAX_EXAMPLE else text[: MAX_EXAMPLE - 3] + "..."


def _number(value: float | None) -> str:
    return "-inf" if value is None else f"{value:.4f}"
