"""``genrec catalogue diff``: every change is told once, between bundles, versions of them, and tables."""

from __future__ import annotations

from pathlib import Path

from command_line import fails, works
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.artifacts import write_artifact
from genrec.pipeline.catalogue_diff import Catalogue, differences
from oracles.table_bundle import write

ITEMS = st.dictionaries(
    st.sampled_from("abcdef"),
    st.tuples(st.tuples(st.integers(0, 1)), st.sampled_from(["", "Pen"]), st.frozensets(st.sampled_from("xy"))),
)


def catalogue(items: dict[str, tuple[tuple[int, ...], str, frozenset[str]]], *, tagged: bool) -> Catalogue:
    codes, titles, tags = ({item: facts[at] for item, facts in items.items()} for at in range(3))
    named = {item: title for item, title in titles.items() if title}
    return Catalogue(Path(), "v", "m", codes, named, tags if tagged else None)  # pyright: ignore[reportArgumentType]


@settings(max_examples=examples(100))
@given(before=ITEMS, after=ITEMS, tagged=st.booleans())
def test_the_differences_turn_the_one_into_the_other(before: dict, after: dict, tagged: bool) -> None:
    found = differences(catalogue(before, tagged=tagged), catalogue(after, tagged=True))
    same = dict(before)
    for item in found["gone"]:
        del same[item]
    for item in found["added"]:
        assert item not in same
        same[item] = after[item]
    for at, name in enumerate(("moved", "retitled", "retagged")):
        for item in found.get(name, []):
            assert before[item][at] != after[item][at]
            same[item] = (*same[item][:at], after[item][at], *same[item][at + 1 :])
    if tagged:
        assert same == after
    else:
        assert "retagged" not in found
        assert {item: facts[:2] for item, facts in same.items()} == {item: facts[:2] for item, facts in after.items()}


def test_bundles_and_folders_of_versions_are_compared(tmp_path: Path) -> None:
    write(tmp_path / "one", model="m1", catalogue="c1", size=50)
    write(tmp_path / "two", model="m2", catalogue="c2", size=48, tagged=False)
    works("catalogue", "publish", f"bundle={tmp_path}/one", f"output={tmp_path}/served")
    works("catalogue", "publish", f"bundle={tmp_path}/two", f"output={tmp_path}/served")
    found = works("catalogue", "diff", f"before={tmp_path}/served", f"after={tmp_path}/one")
    assert found == {
        "before": "c2",
        "after": "c1",
        "num_items_before": 48,
        "num_items_after": 50,
        "same_model": False,
        "added": ["i48", "i49"],
        "gone": [],
        "moved": [],
        "retitled": [],
    }
    with write_artifact(tmp_path / "x", kind="dataset", facts={}, parents={}):
        pass
    line = fails("catalogue", "diff", f"before={tmp_path}/one", f"after={tmp_path}/x", code=3)
    assert "no catalogue (expected a bundle or semantic IDs, found dataset)" in line
    assert "no bundle here" in fails("catalogue", "diff", f"before={tmp_path}", f"after={tmp_path}/x", code=3)
