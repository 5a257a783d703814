"""What an older model's weights mean over other items: the older model itself is the oracle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import torch

from genrec.config.load import to_plain
from genrec.config.models import HierarchicalModel
from genrec.errors import ConfigError, LineageError
from genrec.models.hierarchical import HierarchicalRecommender, HierarchicalSettings
from genrec.models.settings import MemorySettings
from genrec.pipeline.warm_start import check_same_ids, compare_settings, take_over
from genrec.semantic_ids.table import from_codes
from genrec.semantic_ids.trie import SemanticIdTrie

SIZES = (3, 4, 3)
SMALL: dict[str, Any] = {"width": 8, "num_heads": 2, "hidden": 12, "depth_hidden": 10, "history_length": 5}
Codes = list[tuple[int, ...]]


def draw_codes(num_items: int) -> Codes:
    places = np.random.default_rng(0).choice(math.prod(SIZES), num_items, replace=False)
    return [tuple(map(int, codes)) for codes in np.stack(np.unravel_index(places, SIZES), axis=1)]


def build(codes: Codes, sizes: tuple[int, ...] = SIZES, *, seed: int = 0, **settings: Any) -> HierarchicalRecommender:
    """With large random weights everywhere; every third item is in no training history and no target."""
    torch.manual_seed(seed)
    trie = SemanticIdTrie.build(np.array(codes, dtype=np.int32), sizes)
    model = HierarchicalRecommender(trie, HierarchicalSettings(**(SMALL | settings)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.eval()


def trained(codes: Codes, **settings: Any) -> HierarchicalRecommender:
    model = build(codes, **settings)
    seen = torch.arange(len(codes)) % 3 != 0
    model.mark_trained(seen, seen)
    return model


def shuffled(num_old: int, num_new: int) -> np.ndarray:
    """A place among the newer items for each older one."""
    return np.random.default_rng(1).permutation(num_new)[:num_old]


def batch(num_items: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    histories, targets = (torch.randint(num_items, (40, 5), generator=generator) for _ in range(2))
    return histories, targets


def over(old: Codes, more: Codes, places: np.ndarray) -> Codes:
    """The newer catalogue: older items at their places, the new ones between them."""
    rest = iter(more)
    where = {place: codes for codes, place in zip(old, places.tolist(), strict=True) if place >= 0}
    num_items = len(where) + len(more)
    return [where[row] if row in where else next(rest) for row in range(num_items)]


@pytest.mark.parametrize("settings", [{}, {"node_embeddings": False}, {"item_embeddings": False}], ids=str)
def test_new_items_leave_the_scores_of_old_ones_under_the_vocabulary(settings: dict[str, Any]) -> None:
    """A new child counts among all codes of the level before and after, and its vector counts as 0."""
    codes = draw_codes(26)
    old, places = codes[:16], shuffled(16, 26)
    model = trained(old, normalisation="vocabulary", **settings)
    newer = build(over(old, codes[16:], places), seed=1, normalisation="vocabulary", **settings)
    take_over(newer, model.state_dict(), places)
    histories, targets = batch(16)
    with torch.no_grad():
        expected = model.score_targets(histories, targets).log_probs
        found = newer.score_targets(torch.from_numpy(places)[histories], torch.from_numpy(places)[targets]).log_probs
    torch.testing.assert_close(found, expected)


def test_levels_below_an_unchanged_set_of_children_keep_their_scores_under_the_trie() -> None:
    """Items come and go, and two levels have more codes than before."""
    codes = draw_codes(26)
    old, gone = codes[:20], [3, 11]
    places = shuffled(18, 26 - len(gone))
    places = np.insert(places, [3, 10], -1)
    assert (places[gone] == -1).all()
    more = [*codes[20:-2], (2, 5, 0), (0, 1, 4)]
    model = trained(old)
    newer = build(over(old, more, places), (3, 6, 5), seed=1)
    take_over(newer, model.state_dict(), places)
    histories, targets = batch(20)
    is_shared = torch.from_numpy(places >= 0)
    histories = torch.where(is_shared[histories], histories, 0)
    targets = torch.where(is_shared[targets], targets, 0)
    with torch.no_grad():
        expected = model.score_targets(histories, targets).log_probs
        found = newer.score_targets(torch.from_numpy(places)[histories], torch.from_numpy(places)[targets]).log_probs
    children = [
        {codes[: level + 1] for codes in catalogue for level in range(3)}
        for catalogue in (old, over(old, more, places))
    ]

    def siblings(known: set[tuple[int, ...]], prefix: tuple[int, ...]) -> set[tuple[int, ...]]:
        return {other for other in known if len(other) == len(prefix) + 1 and other[:-1] == prefix}

    num_equal = 0
    for row, column in np.ndindex(*targets.shape):
        target = old[int(targets[row, column])]
        for level in range(3):
            if siblings(children[0], target[:level]) == siblings(children[1], target[:level]):
                torch.testing.assert_close(found[row, column, level], expected[row, column, level])
                num_equal += 1
    assert 100 < num_equal < targets.numel() * 3


def remembering(codes: Codes, followers: int, *, seed: int) -> HierarchicalRecommender:
    model = build(codes, seed=seed, memory=MemorySettings(followers=followers))
    rng = np.random.default_rng(seed)
    model.remember(sp.csr_matrix(rng.random((len(codes), len(codes)))), rng.integers(1, 9, size=len(codes)))
    return model


@pytest.mark.parametrize(("num_old", "num_new"), [(12, 20), (20, 12)])
@pytest.mark.parametrize(("few", "many"), [(3, 5), (5, 3), (99, 99)])
def test_transitions_follow_items_and_a_memory_keeps_what_it_learnt(
    num_old: int, num_new: int, few: int, many: int
) -> None:
    """Its counts are those of the data it was made for, whatever their number and that of the followers."""
    codes = draw_codes(max(num_old, num_new))
    model, newer = remembering(codes[:num_old], few, seed=0), remembering(codes[:num_new], many, seed=1)
    own = {name: tensor.clone() for name, tensor in newer.state_dict().items()}
    places = np.where(np.arange(num_old) < num_new, np.arange(num_old), -1)
    take_over(newer, model.state_dict(), places)
    before, after = model.state_dict(), newer.state_dict()
    for name in ("memory.gain", "memory.log_floor", "transition_decay"):
        assert torch.equal(after[name], before[name])
        assert not torch.equal(after[name], own[name])
    for name in ("neighbours", "weights", "source_scale", "target_scale"):
        assert torch.equal(after[f"memory.{name}"], own[f"memory.{name}"])
    num_shared = min(num_old, num_new)
    assert torch.equal(after["transition_embeddings"][:num_shared], before["transition_embeddings"][:num_shared])
    assert not after["transition_embeddings"][num_shared:].any()


def test_new_codes_keep_their_start_and_lost_ones_are_dropped() -> None:
    codes = draw_codes(12)
    places = np.arange(12)
    model = trained(codes)
    larger, smaller = build(codes, (5, 4, 6), seed=1), build(codes, (3, 4, 3), seed=2)
    starts = [table.detach().clone() for table in larger.decoder.output_codes]
    take_over(larger, model.state_dict(), places)
    for level, (start, table) in enumerate(zip(starts, larger.decoder.output_codes, strict=True)):
        kept = SIZES[level]
        assert torch.equal(table[:kept], model.decoder.output_codes[level])
        assert torch.equal(table[kept:], start[kept:])
    take_over(smaller, larger.state_dict(), places)
    before, after = model.state_dict(), smaller.state_dict()
    assert all(torch.equal(before[name] * _counts(before, name), after[name] * _counts(after, name)) for name in before)


def _counts(state: dict[str, torch.Tensor], name: str) -> torch.Tensor | int:
    """What of a table counts: rows that do not are drawn by `build` and without effect."""
    flags = {"item_embeddings": "item_is_trained", "transition_embeddings": "item_is_trained"}
    flags |= {
        f"decoder.node_embeddings.rows.{level}": f"decoder.node_embeddings.is_trained_{level}" for level in range(3)
    }
    return state[flags[name]].unsqueeze(1) if name in flags else 1


def test_an_id_that_was_given_to_another_item_starts_anew() -> None:
    """The node of an item that is gone has learnt what follows into that item, not into its successor."""
    old: Codes = [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 1, 0)]
    model = build(old)
    everything = torch.ones(4, dtype=torch.bool)
    model.mark_trained(everything, everything)
    newer = build([(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 1, 0)], seed=1)
    take_over(newer, model.state_dict(), np.array([0, -1, 2, 3]))  # another item has the codes of the one that is gone
    before, after = model.decoder.node_embeddings, newer.decoder.node_embeddings
    assert after.levels == (0, 1, 2)
    assert newer.item_is_trained.tolist() == [True, False, True, True]
    assert after.is_trained(2).tolist() == [True, False, True, True]
    assert after.is_trained(1).tolist() == [True, True, True]
    assert not after.rows["2"][1].any()
    assert torch.equal(after.rows["2"][[0, 2, 3]], before.rows["2"][[0, 2, 3]])
    newer.mark_trained(everything, everything)
    assert 0 < after.rows["2"][1].abs().max() < 0.1


def test_settings_may_differ_where_no_weight_depends_on_them() -> None:
    facts = HierarchicalRecommender(SemanticIdTrie.build(np.array(draw_codes(9)), SIZES), HierarchicalSettings()).facts
    section = to_plain(HierarchicalModel())
    assert facts.keys() >= section.keys()
    given = section | {"attention": "sdpa", "temperature": 0.5, "normalisation": "vocabulary", "history_length": 9}
    found = compare_settings(facts, given, where="r")
    dropout = {f"dropout_{part}": (0.2, 0.3) for part in ("input", "blocks")}
    assert found == {
        "normalisation": ("trie", "vocabulary"),
        "temperature": (1.0, 0.5),
        "history_length": (50, 9),
        "attention": ("softmax", "sdpa"),
        **dropout,
    }
    assert compare_settings(section, section, where="r") == {}


def test_settings_that_an_older_version_did_not_have() -> None:
    """They have their defaults, but for transition embeddings: it had none."""
    section = to_plain(HierarchicalModel()) | {f"dropout_{part}": 0.2 for part in ("input", "blocks")}
    older = {"name": "hierarchical"}
    assert compare_settings(older, section | {"transition_embeddings": False}, where="r") == {}
    with pytest.raises(ConfigError, match=r"expected false, found true\); set model.transition_embeddings=false,"):
        compare_settings(older, section, where="r")
    few = section | {"memory": section["memory"] | {"followers": 5}, "transition_embeddings": False}
    with pytest.raises(ConfigError, match=r"expected 0, found 5\); set model.memory.followers=0,"):
        compare_settings(older, few, where="r")
    memory = {"memory": {"followers": 5}}  # of a version with fewer constants
    assert compare_settings(older | memory, few, where="r") == {}


def test_a_memory_is_there_or_not_and_its_constants_may_differ() -> None:
    section = to_plain(HierarchicalModel())
    none, few, many = (section | {"memory": section["memory"] | {"followers": size}} for size in (0, 5, 9))
    other = many | {"memory": many["memory"] | {"decay": 0.9, "window": 3}}
    expected = {"memory.followers": (5, 9), "memory.decay": (0.7, 0.9), "memory.window": (8, 3)}
    assert compare_settings(few, other, where="r") == expected
    for old, new in ((none, few), (few, none)):
        with pytest.raises(ConfigError, match=r"key 'model\.memory\.followers' is not that of the initial "):
            compare_settings(old, new, where="r")


@pytest.mark.parametrize(
    ("name", "old", "new", "text"),
    [
        ("width", 64, 128, "expected 64, found 128); set model.width=64,"),
        ("node_embeddings", False, True, "expected false, found true); set model.node_embeddings=false,"),
        ("activation", "swiglu", "gelu", "expected swiglu, found gelu); set model.activation=swiglu,"),
        ("num_heads", 2, 4, "set model.num_heads=2,"),
    ],
)
def test_other_sizes_are_refused(name: str, old: object, new: object, text: str) -> None:
    section = to_plain(HierarchicalModel())
    with pytest.raises(ConfigError) as caught:
        compare_settings(section | {name: old}, section | {name: new}, where="runs/old/recommender")
    assert str(caught.value).startswith(f"runs/old/recommender: key 'model.{name}' is not that of the initial")
    assert text in str(caught.value)


SECTION = to_plain(HierarchicalModel())
NAMES = [name for name in SECTION if name != "memory"] + [f"memory.{name}" for name in SECTION["memory"]]


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_either_fixed_or_free(name: str) -> None:
    """A new setting is fixed until somebody has said that no weight depends on it."""
    outer, _, inner = name.partition(".")
    was = SECTION["memory"][inner] if inner else SECTION[name]
    other = SECTION | {outer: SECTION[outer] | {inner: "other"} if inner else "other"}
    free = ("normalisation", "temperature", "history_length", "attention")
    if name in free or (name.startswith(("dropout_", "memory.")) and name != "memory.followers"):
        assert compare_settings(SECTION, other, where="r") == {name: (was, "other")}
    else:
        with pytest.raises(ConfigError, match=f"key 'model.{name}' is not that of the initial recommender "):
            compare_settings(SECTION, other, where="r")


def test_ids_are_compared_by_item() -> None:
    codes = np.array(draw_codes(10), dtype=np.int32)
    names = pl.Series([f"i{row}" for row in range(10)])
    places = np.array([2, 0, 1, -1, 4, 3, -1, 5, 6, 7])
    newer = np.empty((8, 3), dtype=np.int32)
    newer[places[places >= 0]] = codes[places >= 0]
    old, new = from_codes(codes, SIZES)[0], from_codes(newer, (5, 4, 3))[0]
    check_same_ids(old, new, places, names, where="r")
    newer[5, 1] = (newer[5, 1] + 1) % 4
    newer[3, 0] = (newer[3, 0] + 1) % 3
    with pytest.raises(LineageError, match=r"2 of 8 shared items .* for instance \[.*\] for item 'i5', found \["):
        check_same_ids(old, from_codes(newer, SIZES)[0], places, names, where="r")
    with pytest.raises(LineageError, match=r"no item of the initial recommender \(expected items such as 'i0'\)"):
        check_same_ids(old, new, np.full(10, -1), names, where="r")
    deeper = from_codes(np.pad(newer, ((0, 0), (0, 1))), (*SIZES, 2))[0]
    with pytest.raises(LineageError, match=r"another number of levels .*\[3, 4, 3\], found \[3, 4, 3, 2\]"):
        check_same_ids(old, deeper, places, names, where="r")
