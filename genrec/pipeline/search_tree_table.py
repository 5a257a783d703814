"""The tree of a value-guided search as a person sees it, with the target's way through it.

Facts for machines first, then a table of those facts. Must not know models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from genrec.decoding.search_tree import SearchTrace
from genrec.decoding.tree_diagnosis import TreeDiagnosis
from genrec.pipeline.search_tables import dashes, number, short
from genrec.terminal import Table

Describe = Callable[[int, int, float], dict[str, Any]]  # (depth, node, log_prob) -> prefix, items below, an example


def tree_facts(trace: SearchTrace, diagnosis: TreeDiagnosis, describe: Describe, *, children: int) -> dict[str, Any]:
    """The tree of the first request, depth first; of each prefix the children with the most visits, and the target's.

    Args:
        trace: of the search.
        diagnosis: of the target.
        describe: what is to be said of a prefix beside what the search knows of it.
        children: of a prefix that are shown.
    """
    count = int(trace.num_nodes[0])
    below: list[list[int]] = [[] for _ in range(count)]
    for place, parent in enumerate(trace.parents[0, :count].tolist()):
        if parent >= 0:
            below[parent].append(place)
    is_on_path, visits = diagnosis.is_on_path[0].tolist(), trace.visits[0].tolist()
    lines = []

    def show(place: int) -> None:
        ranked = sorted(below[place], key=lambda child: (not is_on_path[child], -visits[child], child))
        shown = sorted(ranked[:children], key=lambda child: (-visits[child], child))
        line = _line(trace, place, describe)
        lines.append({**line, "is_target": is_on_path[place], "num_hidden": len(below[place]) - len(shown)})
        for child in shown:
            show(child)

    show(0)
    lost_at, last = int(diagnosis.lost_at[0]), int(diagnosis.last[0])
    return {
        "num_nodes": count,
        "num_forwarded": int(trace.num_forwarded[0]),
        "num_rounds": int(trace.rounds[0, :count].max()),
        "lost_at_level": lost_at + 1 if lost_at >= 0 else None,
        "last_prefix": _line(trace, last, describe)["prefix"],
        "num_children": int(diagnosis.num_children[0]),
        "num_added": int(diagnosis.num_added[0]),
        "lines": lines,
    }


def tree_table(facts: dict[str, Any]) -> Table:
    """A line a prefix, indented by its depth."""
    rows = []
    for line in facts["lines"]:
        indent = "  " * line["depth"]
        mark = " <- target" if line["is_target"] else ""
        hidden = f" (+{line['num_hidden']} more)" if line["num_hidden"] else ""
        rows.append(
            (
                f"{indent}{dashes(line['prefix']) or 'root'}{hidden}{mark}",
                str(line["round"]),
                str(line["visits"]),
                "-" if line["value"] is None else f"{line['value']:.4f}",
                f"{line['entropy']:.4f}",
                number(line["log_prob"]),
                f"{line['num_items']:,}",
                short(line["example"]["title"] or line["example"]["item_id"]),
            )
        )
    title = f"the tree: {facts['num_nodes']} prefixes, {facts['num_forwarded']} of them forwarded"
    columns = ("prefix", "round", "visits", "value", "entropy", "log_prob", "items", "example")
    return Table(title, columns, tuple(rows), left=("prefix", "example"), caption=_caption(facts))


def _caption(facts: dict[str, Any]) -> str:
    if facts["lost_at_level"] is None:
        return "the target is in the tree"
    added = f"{facts['num_added']} of its {facts['num_children']} children were added, the target's was not"
    name = dashes(facts["last_prefix"]) or "the root"
    return f"the target was lost at level {facts['lost_at_level']}, below {name}: {added}"


def _line(trace: SearchTrace, place: int, describe: Describe) -> dict[str, Any]:
    depth, log_prob = int(trace.depths[0, place]), float(trace.log_probs[0, place])
    return {
        **describe(depth, int(trace.nodes[0, place]), log_prob),
        "depth": depth,
        "round": int(trace.rounds[0, place]),
        "visits": int(trace.visits[0, place]),
        "value": float(trace.values[0, place]) if bool(trace.is_forwarded[0, place]) else None,
        "entropy": float(trace.entropies[0, place]),
        "log_prob": log_prob,
    }
