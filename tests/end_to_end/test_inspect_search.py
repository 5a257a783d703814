"""`genrec inspect search` through the command line: the search that serves, looked at; and what must be refused."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from command_line import RUNNER, works

from genrec.cli import app
from genrec.data.dataset import Dataset
from genrec.pipeline import inspect_search

NUM_ITEMS = 80


def shows(*words: str) -> str:
    result = RUNNER.invoke(app, list(words))
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def fails(*words: str, code: int) -> str:
    result = RUNNER.invoke(app, list(words))
    assert result.exit_code == code, result.output + repr(result.exception)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def search(road: Path) -> list[str]:
    return ["inspect", "search", f"dataset={road}/d", f"recommender={road}/r/recommender"]


@pytest.fixture(scope="module")
def users(road: Path) -> list[str]:
    return Dataset.load(road / "d").user_ids.to_list()


@pytest.fixture(scope="module")
def lost(search: list[str], users: list[str]) -> dict[str, Any]:
    """What three beams make of the first user whose target they lose although exact scoring has it in the list."""
    for user in users:
        found = works(*search, f"user={user}", "search.beam_width=3")
        if found["target"]["verdict"] == "lost_by_search":
            return found
    raise AssertionError("no user of the planted catalogue is lost by three beams")


def test_the_list_is_what_recommend_gives(road: Path, search: list[str], users: list[str], tmp_path: Path) -> None:
    dataset = Dataset.load(road / "d")
    events = ["user_id,item_id"]
    chosen = [
        (split, masked, user) for split in ("test", "validation") for masked in ("true", "false") for user in users[:2]
    ]
    for split, masked, user in chosen:
        found = works(
            *search, f"user={user}", f"split={split}", f"exclude_seen={masked}", "k=20", "search.beam_width=20"
        )
        history = [event["item_id"] for event in found["history"]]
        case = dataset.cases(split).take(dataset.cases(split).user_index == found["user_index"])
        assert history == [dataset.item_ids[int(item)] for item in case.histories[0]]
        assert found["target"]["item_index"] == int(case.target[0])
        (tmp_path / "events.csv").write_text("\n".join([*events, *(f"u,{item}" for item in history)]) + "\n")
        words = [f"dataset={road}/d", f"recommender={road}/r/recommender", f"histories={tmp_path}/events.csv"]
        words += [f"output={tmp_path}/list.parquet", "overwrite=true", "k=20", "search.beam_width=20"]
        works("recommend", *words, f"exclude_seen={masked}")
        expected = pl.read_parquet(tmp_path / "list.parquet")
        assert [line["item_id"] for line in found["recommendations"]] == expected["item_id"].to_list()
        assert [line["score"] for line in found["recommendations"]] == pytest.approx(expected["score"].to_list())
        assert [line["place"] for line in found["recommendations"]] == list(range(1, 21))


def test_levels_lead_to_the_target(road: Path, search: list[str], users: list[str]) -> None:
    words = [f"user={users[3]}", f"search.beam_width={NUM_ITEMS}", f"k={NUM_ITEMS}", f"prefixes={NUM_ITEMS}"]
    found = works(*search, *words, "exclude_seen=false")
    target = found["target"]
    assert target["verdict"] == "found"
    assert target["lost_at_level"] is None
    assert target["place"] == target["exact_place"]
    assert found["recommendations"][target["place"] - 1]["is_target"]
    assert len(found["recommendations"]) == NUM_ITEMS
    assert [level["level"] for level in found["levels"]] == [1, 2, 3, 4]
    for level in found["levels"]:
        beams, own = level["beams"], level["target"]
        assert len(beams) == level["num_beams"] == level["num_prefixes"]
        assert sum(beam["num_items"] for beam in beams) == NUM_ITEMS
        assert [beam["log_prob"] for beam in beams] == sorted((beam["log_prob"] for beam in beams), reverse=True)
        assert own["prefix"] == target["semantic_id"][: level["level"]]
        assert own["place"] == own["exact_place"]
        mine = [beam for beam in beams if beam["is_target"]]
        assert [beam["place"] for beam in mine] == [own["place"]]
        assert mine[0]["log_prob"] == pytest.approx(own["log_prob"], abs=1e-5)
        assert level["last_log_prob"] == beams[-1]["log_prob"]
        assert level["rival"] is None
    assert found["levels"][-1]["target"]["log_prob"] == target["log_prob"]
    worst = found["recommendations"][-1]["item_id"]
    low = works(*search, f"user={users[3]}", f"target={worst}", "search.beam_width=5", "exclude_seen=false")
    assert low["target"]["item_id"] == worst
    assert (low["target"]["place"], low["target"]["exact_place"]) == (None, NUM_ITEMS)
    assert low["target"]["verdict"] == "ranked_low_by_model"
    assert len(low["recommendations"]) == 5


def test_a_target_that_the_search_loses(search: list[str], lost: dict[str, Any]) -> None:
    target, lost_at = lost["target"], lost["target"]["lost_at_level"]
    assert target["place"] is None
    assert target["exact_place"] <= lost["num_candidates"] == 3
    for level in lost["levels"]:
        assert (level["target"]["place"] is None) == (level["level"] >= lost_at)
        assert (level["rival"] is None) == (level["level"] != lost_at)
    level = lost["levels"][lost_at - 1]
    assert level["rival"]["place"] == level["num_beams"] == 3
    assert level["rival"]["log_prob"] == level["last_log_prob"] >= level["target"]["log_prob"]
    assert level["target"]["exact_place"] > 3
    words = [*search, f"user={lost['user_id']}"]
    shown = shows(*words, "search.beam_width=3", "prefixes=1")
    assert f"is not in the list of 3: lost by the search at level {lost_at}, although" in " ".join(shown.split())
    assert "3 <- last kept" in shown
    assert "lost <- target" in shown
    assert f"was lost at level {lost_at}" in shown or lost_at == len(lost["levels"])
    follow = shlex.split(shown.strip().splitlines()[-1].removeprefix("next: "))
    assert follow[:3] == ["genrec", "inspect", "search"]
    again = works(*follow[1:])
    assert again["beam_width"] == target["sufficient_beam_width"] > 3
    assert again["target"]["verdict"] == "found"
    assert again["target"]["place"] <= target["exact_place"]


def test_what_is_shown(search: list[str], users: list[str]) -> None:
    words = [*search, f"user={users[0]}", "k=2", "prefixes=2", "search.beam_width=40"]
    shown, found = shows(*words), works(*words)
    target = found["target"]
    assert f"user {users[0]}: {len(found['history'])} events before the test target, the last 8 are read" in shown
    assert "the list of 40, seen items left out" in shown
    for level in found["levels"]:
        assert f"level {level['level']} of 4: {level['num_beams']} beams of {level['num_prefixes']} prefixes" in shown
        assert "-".join(map(str, level["beams"][0]["prefix"])) in shown
        assert level["beams"][0]["example"]["title"][:20] in shown
    assert found["recommendations"][1]["item_id"] in shown
    assert f"note: the target {target['item_id']} (" in shown
    assert f"exact scoring puts it at place {target['exact_place']}" in shown
    assert "-".join(map(str, target["semantic_id"])) in shown


def test_seen_targets_and_large_catalogues(
    search: list[str], lost: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*search, f"user={lost['user_id']}", f"target={lost['history'][0]['item_id']}"]
    found = works(*words)
    assert found["target"]["verdict"] == "excluded"
    assert (found["target"]["exact_place"], found["target"]["sufficient_beam_width"]) == (None, None)
    assert "it is in the history, whose items exclude_seen=true leaves out" in shows(*words)
    assert works(*words, "exclude_seen=false")["target"]["verdict"] != "excluded"
    monkeypatch.setattr(inspect_search, "EXACT_ITEMS", NUM_ITEMS - 1)
    words = [*search, f"user={lost['user_id']}", "search.beam_width=3"]
    found = works(*words)
    assert found["target"]["verdict"] == "lost_by_search"
    assert {level["target"]["exact_place"] for level in found["levels"]} == {None}
    shown = shows(*words)
    assert "although its log-probability is above that of the last item" in shown
    assert "no exact places: the catalogue has more than 79 items" in shown


def test_what_cannot_be_looked_at_is_refused(road: Path, search: list[str], users: list[str], tmp_path: Path) -> None:
    user = f"user={users[0]}"
    assert "no user_id 'nobody'" in fails(*search, "user=nobody", code=3)
    line = fails(*search, user, "target=item-003", code=3)
    assert "no item_id 'item-003'; near: item-00" in line
    assert "a search of 5 beams cannot return that many candidates (expected 1 to 5, found 6)" in fails(
        *search, user, "search.beam_width=5", "search.num_candidates=6", code=2
    )
    assert "unknown key 'beam_width'" in fails(*search, user, "beam_width=5", code=2)
    assert "missing values: dataset" in fails("inspect", "search", code=2)
    assert "semantic_ids" in fails("inspect", "search", f"dataset={road}/d", f"recommender={road}/s", user, code=3)
    size = ["source.num_users=150", f"source.num_items={NUM_ITEMS}", "source.num_categories=4", "source.seed=8"]
    works("prepare", "synthetic", *size, f"output={tmp_path}/other")
    other = ["inspect", "search", f"dataset={tmp_path}/other", f"recommender={road}/r/recommender"]
    assert "was made from another 'dataset'" in fails(*other, user, code=5)


def test_users_without_a_case_or_a_history_are_refused(road: Path, tmp_path: Path) -> None:
    rows = ["a,x,train", "a,y,train", "a,x,validation", "b,y,test", "c,y,train", "c,x,train"]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,split", *rows]) + "\n", encoding="utf-8")
    words = [f"raw_dir={tmp_path}", "source=table", "source.interactions=events.csv", f"output={tmp_path}/d"]
    words += ["source.timestamp_column=null", "order.by=file", "split=provided", "source.split_column=split"]
    works("prepare", *words, "filter.min_user_interactions=0", "filter.min_item_interactions=0")
    words = ["inspect", "search", f"dataset={tmp_path}/d", f"recommender={road}/r/recommender"]
    assert "user 'a' has no test target; choose another split" in fails(*words, "user=a", code=3)
    assert "user 'b' has no history before the test target" in fails(*words, "user=b", code=3)
