"""Requests by tags: the same answers as with the tags resolved to item ids by hand, and old bundles that have none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from bundles import GOLDEN, NUM_ITEMS
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.artifacts import write_artifact
from genrec.data.item_tags import tags_of
from genrec.errors import ConfigError
from genrec.serving import bundle, runtime
from oracles.table_bundle import admissible

BRANDS, WORDS = ["BIC", "Casio", " ", None, "A=B"], ["Office", "Pens & Ink", "Pens, red", "Casio", ""]
DRAW = np.random.default_rng(3)
ITEMS = pl.DataFrame(
    {
        "item_id": [f"i{item}" for item in range(NUM_ITEMS)],
        "brand": [BRANDS[DRAW.integers(5)] for _ in range(NUM_ITEMS)],
        "categories": [None] + [[WORDS[at] for at in DRAW.integers(5, size=3)] for _ in range(NUM_ITEMS - 1)],
        "count": [1] * NUM_ITEMS,
    }
)
IDS = st.lists(st.sampled_from([*ITEMS["item_id"], "gone"]), max_size=12)
TAGS = st.lists(
    st.sampled_from(["brand=BIC", "brand=Casio", "brand=A=B", "brand=A", "brand", "", "categories=Casio", "Office"])
    | st.sampled_from([f"categories={word}" for word in WORDS]),
    max_size=4,
)
REQUEST = st.fixed_dictionaries(
    {
        "history": IDS,
        "exclude": IDS,
        "allow": st.none() | IDS,
        "allow_tags": st.none() | TAGS,
        "deny_tags": TAGS,
    }
)


def by_hand() -> dict[str, set[str]]:
    """The tags of each item, row by row."""
    return {
        row["item_id"]: {f"brand={row['brand'].strip()}" for _ in range(bool((row["brand"] or "").strip()))}
        | {f"categories={word}" for word in row["categories"] or () if word}
        for row in ITEMS.to_dicts()
    }


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> runtime.CandidateGenerator:
    """The golden bundle with tags."""
    folder = tmp_path_factory.mktemp("tagged") / "b"
    shutil.copytree(GOLDEN, folder)
    items = json.loads((folder / "items.json").read_text())
    items["tags"] = tags_of(ITEMS, ["brand", "categories"], where="key 'tags'")
    (folder / "items.json").write_text(json.dumps(items))
    return runtime.CandidateGenerator.load(folder, verify=False)


def test_a_column_that_is_not_there_is_named_with_those_that_are() -> None:
    for name in ("colour", "item_id", "count"):
        with pytest.raises(ConfigError, match=rf"key 'tags': .*any of brand, categories, found {name}"):
            tags_of(ITEMS, ["brand", name], where="key 'tags'")
    assert tags_of(ITEMS, [], where="key 'tags'") == {}


def test_the_tags_are_those_of_each_item(tagged: runtime.CandidateGenerator) -> None:
    assert tagged.tags is not None
    found: dict[str, set[str]] = {item: set() for item in tagged.item_ids}
    for tag, items in tagged.tags.items():
        for item in items:
            found[tagged.item_ids[item]].add(tag)
    assert found == by_hand()


@settings(max_examples=examples(150), deadline=None)
@given(requests=st.lists(REQUEST, min_size=1, max_size=4), seen=st.booleans())
def test_tags_are_the_item_ids_they_stand_for(
    tagged: runtime.CandidateGenerator, requests: list[Mapping[str, Any]], seen: bool
) -> None:
    lists: dict[str, Any] = {name: [request[name] for request in requests] for name in requests[0]}
    histories, allow_tags, deny_tags = (lists.pop(name) for name in ("history", "allow_tags", "deny_tags"))
    exclude, own = lists["exclude"], lists["allow"]
    found = tagged.recommend(
        histories, 20, exclude=exclude, exclude_seen=seen, allow=own, allow_tags=allow_tags, deny_tags=deny_tags
    )
    every, known = by_hand(), set[str]().union(*by_hand().values())
    resolved = [admissible(every, wanted, unwanted) for wanted, unwanted in zip(allow_tags, deny_tags, strict=True)]
    allow = [sorted(may if ids is None else may & set(ids)) for may, ids in zip(resolved, own, strict=True)]
    again = tagged.recommend(histories, 20, exclude=exclude, exclude_seen=seen, allow=allow)
    assert (found.item_ids, found.scores, found.is_popular) == (again.item_ids, again.scores, again.is_popular)
    for row, items in enumerate(found.item_ids):
        assert set(items) <= resolved[row]
        words = (*(allow_tags[row] or ()), *deny_tags[row])
        assert found.num_unknown_tags[row] == sum(word not in known for word in words)


def test_the_version_of_the_catalogue_is_another_with_other_tags(tmp_path: Path) -> None:
    rows: dict[str, Any] = {"codes": np.zeros((2, 1), dtype=np.int32), "item_ids": ["a", "b"], "titles": None}
    found = set()
    for number, tags in enumerate((None, {}, {"brand=BIC": [0]}, {"brand=BIC": [1]}, {"brand=bic": [0]})):
        with write_artifact(tmp_path / str(number), kind="bundle", facts={}, parents={}) as writer:
            found.add(bundle.write_catalogue(writer, {}, **rows, tags=tags))
    assert len(found) == 5


def test_a_bundle_without_tags_still_answers_and_refuses_tags() -> None:
    golden = runtime.CandidateGenerator.load(GOLDEN)
    assert golden.tags is None
    assert golden.recommend([["i3"]], 3, allow_tags=[None], deny_tags=[[]]).num_unknown_tags == [0]
    for given_tags in ({"allow_tags": [[]]}, {"deny_tags": [["brand=BIC"]]}):
        with pytest.raises(runtime.RequestError, match="no tags; export it with tags=\\[brand,categories\\]"):
            golden.recommend([["i3"]], 3, **given_tags)
    with pytest.raises(runtime.RequestError, match="deny_tags needs one list a history"):
        golden.recommend([["i3"]], 3, deny_tags=[])


def test_the_command_line_by_tags(tagged: runtime.CandidateGenerator, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(tagged.folder), "--history", "i3", "-k", "30"]
    tags = ["--allow-tags", "categories=Pens, red", "brand=BIC", "--deny-tags", "categories=Office", "brand=none"]
    assert runtime.main([*words, *tags]) == 3, "its items.json was written by hand"
    assert runtime.main([*words, *tags, "--unsealed"]) == 0
    told = capsys.readouterr()
    may = admissible(by_hand(), ["categories=Pens, red", "brand=BIC"], ["categories=Office"]) - {"i3"}
    assert {line.split("\t")[0] for line in told.out.splitlines()} == may
    assert len(may) > 0
    assert told.err.splitlines()[-1] == "no item has 1 of the tags"
