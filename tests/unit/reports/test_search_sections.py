"""Sections of a search diagnosis and a frontier: their tables say what the facts say."""

from __future__ import annotations

import re
from typing import Any

from genrec.reports.search_sections import diagnosis, frontier


def interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}


def cells(markup: str, caption: str) -> list[list[str]]:
    """Rows of the table of a caption, without markup."""
    (body,) = re.findall(rf"<caption>{re.escape(caption)}</caption>.*?<tbody>(.*?)</tbody>", markup)
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", body)
    return [[re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def facts(**more: Any) -> dict[str, Any]:
    bins = [{"predicted": 0.1, "hit_rate": 0.05}, {"predicted": 0.4, "hit_rate": 0.3}]
    gap = {"q25": 0.5, "q50": 1.25, "q75": 2.0}
    lost = {"num_lost": 4, "gap": gap, "share_siblings": 0.25, "share_more_popular": None}
    return {
        "split": "validation",
        "num_cases": 8,
        "beam_width": 5,
        "k": 3,
        "nodes_per_request": 15,
        "verdicts": {"found": 2, "lost_by_search": 0, "ranked_low_by_model": 6},
        "survival": [{"level": 1, **interval(0.5)}, {"level": 2, **interval(0.25)}],
        "calibration": {"top": {"bins": bins, "ece": 0.1}, "list": None},
        "displaced": [{"level": 1, **lost}, {"level": 2, **lost, "num_lost": 0, "gap": None}],
        "exact": None,
        "rescues": None,
        "neighbourhood": None,
        **more,
    }


def test_what_a_diagnosis_says() -> None:
    made = str(diagnosis(facts(), "f"))
    assert cells(made, "What became of the targets") == [
        ["found", "2", "25.0%"],
        ["ranked low by the model itself", "6", "75.0%"],
    ]
    (displaced,) = cells(
        made, "What displaced them: log-probability between the last kept prefix and the target&#x27;s"
    )
    assert displaced == ["1", "4", "0.5", "1.25", "2", "25%", ""]
    assert "Against scoring the whole catalogue" not in made
    exact = {name: interval(0.5) for name in ("recall", "is_same", "overlap", "log_prob", "top", "mass")}
    searches = {"found": 0.5, "rescued": 0.25, "lost": 0.0, "net_per_1000_nodes": 1.75}
    rescues = {"initial_width": 8, "initial_nodes": 24}
    rescues["budgets"] = [
        {**searches, "nodes": 64.0, "beam": {**searches, "found": 0.4, "nodes": 63}},
        {**searches, "nodes": 99, "beam": None},
    ]
    near = [
        {
            "neighbours": 5,
            "num_items": 49.5,
            "near": interval(0.2),
            "longer": interval(0.3),
            "difference": interval(-0.1),
        }
    ]
    whole = str(diagnosis(facts(exact=exact, rescues=rescues, neighbourhood=near), "f"))
    assert len(cells(whole, "Against scoring the whole catalogue")) == 6
    found = cells(whole, "More prefixes read than the 24 of 8 beams")
    assert [row[:2] for row in found] == [
        ["by value, 64 prefixes", "0.5"],
        ["wider beams, 63 prefixes", "0.4"],
        ["by value, 99 prefixes", "0.5"],
    ]
    caption = "Targets among the neighbours of what was generated, and in a list as long"
    assert cells(whole, caption) == [["5", "49.5", "0.2000", "0.3000", "-0.1000 (-0.1100 to -0.0900)"]]


def test_what_a_frontier_says() -> None:
    def setting(name: str, seconds: float, **flags: bool) -> dict[str, Any]:
        latency = {"p50": seconds, "p99": 2 * seconds}
        marks = {"is_chosen": False, "is_on_frontier": False, **flags}
        return {
            "name": name,
            "kind": "beam",
            "seconds": seconds,
            "recall": interval(0.1),
            "latency": latency,
            "requests_per_second": 99.6,
            **marks,
        }

    settings = [setting("slow", 0.02), setting("fast", 0.01, is_chosen=True, is_on_frontier=True)]
    machine = {"cpus": 2, "processor": "p", "threads": 1, "load_average": 0.5}
    known = {
        "k": 10,
        "split": "validation",
        "num_cases": 9,
        "num_requests": 5,
        "latency_percent": 50.0,
        "machine": machine,
    }
    made = str(frontier({**known, "settings": settings}, "f"))
    assert cells(made, "Settings of the search") == [
        ["fast", "0.1000", "10.0 ms", "20.0 ms", "100", "chosen"],
        ["slow", "0.1000", "20.0 ms", "40.0 ms", "100", "no"],
    ]
    assert "p50 of a request, ms" in made
