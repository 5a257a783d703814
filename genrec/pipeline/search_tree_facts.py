"""``genrec inspect search search.name=value_guided``: the tree of one request, and where it has the target.

From the trace of a search to plain facts, and from these to a table and a line; runs nothing.
"""
# n nodes of the tree, L levels

from __future__ import annotations

from typing import Any

import torch

from genrec.decoding.scorer import Candidates
from genrec.decoding.search_tree import SearchTrace
from genrec.pipeline.inspect import cell
from genrec.pipeline.search_words import Words, finite
from genrec.terminal import Table

MAX_EXAMPLE = 40  # characters of an example's title


def tree_facts(
    words: Words, trace: SearchTrace, found: Candidates, target: int, *, is_excluded: bool, exact_place: int | None
) -> dict[str, Any]:
    """All prefixes of the tree, in the order in which they were added, and what became of the target.

    Args:
        words: how items and prefixes are shown.
        trace: of a search of one request.
        found: its list.
        target: item_index.
        is_excluded: the target may not be recommended.
        exact_place: of the target in the list of an exact search, from 1; None: not known.
    """
    path = words.trie.path_nodes(torch.tensor(target)).tolist()
    columns = {
        name: getattr(trace, name)[0].tolist()
        for name in ("nodes", "depths", "parents", "rounds", "visits", "log_probs", "values", "entropies")
    }
    nodes, reached = [], 0
    for place in range(int(trace.num_nodes[0])):
        own = {name: values[place] for name, values in columns.items()}
        is_target = own["depths"] == 0 or own["nodes"] == path[own["depths"] - 1]
        reached = max(reached, own["depths"] * is_target)
        nodes.append(
            {
                **words.prefix(own["depths"], own["nodes"], own["log_probs"], None),
                "node": place,
                "parent": own["parents"] if own["parents"] >= 0 else None,
                "round": own["rounds"],
                "visits": own["visits"],
                "value": finite(own["values"]),
                "entropy": own["entropies"],
                "is_target": is_target,
            }
        )
    places = (found.item_index[0] == target).nonzero().flatten().tolist()
    place = places[0] + 1 if places else None
    verdict = "found" if place else "excluded" if is_excluded else "ranked_low" if reached == len(path) else "not_grown"
    return {
        "target": {
            **words.item(target),
            "log_prob": finite(float(found.log_prob[0, places[0]])) if places else None,
            "place": place,
            "exact_place": exact_place,
            "verdict": verdict,
            "lost_at_level": None if reached == len(path) else reached + 1,
        },
        "nodes": nodes,
        "num_forwarded": int(trace.num_forwarded[0]),
        "num_rounds": max(columns["rounds"]),
    }


def tree_table(facts: dict[str, Any]) -> Table:
    """The tree, indented: of each prefix the most visited ones below it, and always those of the target."""
    children: dict[int, list[dict[str, Any]]] = {}
    for node in facts["nodes"][1:]:
        children.setdefault(node["parent"], []).append(node)
    rows: list[tuple[str, ...]] = []

    def show(node: dict[str, Any], depth: int) -> None:
        below = sorted(children.get(node["node"], []), key=lambda child: (-child["visits"], -child["log_prob"]))
        shown = [child for place, child in enumerate(below) if place < facts["num_prefixes"] or child["is_target"]]
        name = "-".join(map(str, node["prefix"])) or "root"
        mark = " <- target" if node["is_target"] and depth else ""
        rows.append(
            (
                "  " * depth + name + mark,
                str(node["round"]),
                str(node["visits"]),
                *(_number(node[what]) for what in ("value", "entropy", "log_prob")),
                f"{node['num_items']:,}",
                cell(node["example"]["title"] or node["example"]["item_id"])[:MAX_EXAMPLE],
            )
        )
        for child in shown:
            show(child, depth + 1)
        if len(below) > len(shown):
            rows.append(("  " * (depth + 1) + f"and {len(below) - len(shown)} more", *("",) * 7))

    show(facts["nodes"][0], 0)
    columns = ("prefix", "round", "visits", "value", "entropy", "log_prob", "items", "example")
    size = f"{len(facts['nodes']):,} prefixes, {facts['num_forwarded']:,} of them read, {facts['num_rounds']:,} rounds"
    return Table(f"the tree: {size}", columns, tuple(rows), left=("prefix", "example"), caption=_caption(facts))


def tree_note(facts: dict[str, Any]) -> str:
    """Whether the target is in the list, and if not, why."""
    target, size = facts["target"], facts["num_candidates"]
    exact = "" if target["exact_place"] is None else f"; exact scoring puts it at place {target['exact_place']:,}"
    name = f"the target {target['item_id']} ({cell(target['title'])})"
    if target["verdict"] == "found":
        return f"{name} is at place {target['place']} of {size}{exact}"
    why = {
        "excluded": "it is in the history, whose items exclude_seen=true leaves out",
        "ranked_low": "the tree has it, ranked too low",
        "not_grown": f"the tree has no prefix of it at level {target['lost_at_level']}; "
        "a larger search.node_budget grows more",
    }
    return f"{name} is not in the list of {size}: {why[target['verdict']]}{exact}"


def _caption(facts: dict[str, Any]) -> str:
    target = facts["target"]
    codes = "-".join(map(str, target["semantic_id"]))
    if target["lost_at_level"] is None:
        return f"the target {codes} is in the tree"
    if target["lost_at_level"] == 1:
        return f"the target {codes} is lost at the root: its first code was never expanded"
    kept = "-".join(map(str, target["semantic_id"][: target["lost_at_level"] - 1]))
    return f"the target {codes} is lost below {kept}: its code of level {target['lost_at_level']} was never expanded"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
