"""Constraints against counting with sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.semantic_ids.constraints import Constraint, mask_of_items
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles import trie_oracle
from oracles.code_tables import CodeTable, code_tables


def padded(rows: list[list[int]]) -> torch.Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows], dtype=torch.int64).view(len(rows), width)


@st.composite
def requests(draw: st.DrawFn, num_items: int) -> tuple[list[list[int]], list[list[bool]] | None, int]:
    """Deny lists with repeats and holes, an allow set (none, one for all, one each), and the number of requests."""
    batch = draw(st.integers(1, 3))
    entries = st.lists(st.integers(-1, num_items - 1), max_size=2 * num_items)
    deny = draw(st.lists(entries, min_size=batch, max_size=batch))
    mask = st.lists(st.booleans(), min_size=num_items, max_size=num_items)
    num_masks = draw(st.sampled_from([0, 1, batch]))
    return deny, [draw(mask) for _ in range(num_masks)] or None, batch


def admissible_sets(num_items: int, deny: list[list[int]], allow: list[list[bool]] | None) -> list[set[int]]:
    sets = []
    for request, row in enumerate(deny):
        mask = [True] * num_items if allow is None else allow[request % len(allow)]
        sets.append({item for item in range(num_items) if mask[item]} - set(row))
    return sets


@settings(max_examples=examples(200))
@given(code_tables(), st.data())
def test_alive_means_an_admissible_item_below(table: CodeTable, data: st.DataObject) -> None:
    trie, root = SemanticIdTrie.build(table.codes, table.sizes), trie_oracle.build(table.rows)
    deny, allow, batch = data.draw(requests(trie.num_items))
    constraint = Constraint.build(trie, deny=padded(deny), allow=None if allow is None else torch.tensor(allow))
    sets = admissible_sets(trie.num_items, deny, allow)
    for depth in range(trie.num_levels + 1):
        prefixes = trie_oracle.prefixes(root, depth)
        expected = [[False] + [bool(s & set(trie_oracle.items(root, prefix))) for prefix in prefixes] for s in sets]
        nodes = torch.arange(-1, len(prefixes)).expand(batch, -1)
        assert constraint.is_alive(depth, nodes).tolist() == expected
        assert constraint.is_alive(depth, nodes.unsqueeze(2)).squeeze(2).tolist() == expected
        if depth == trie.num_levels:
            continue
        children = trie.children(depth, nodes)
        alive = constraint.alive_children(depth, nodes)
        assert torch.equal(alive, constraint.is_alive(depth + 1, children.nodes))
        twice = constraint.alive_children(depth, torch.cat([nodes, nodes.flip(1)], dim=1))
        assert torch.equal(twice, torch.cat([alive, alive.flip(1)], dim=1))
    items = torch.arange(-1, trie.num_items).expand(batch, -1)
    found = [set(items[row][mask].tolist()) for row, mask in enumerate(constraint.is_admissible(items))]
    assert found == sets


@given(code_tables(unique=True), st.data())
def test_long_and_short_deny_lists_agree(table: CodeTable, data: st.DataObject) -> None:
    """Padding makes a list long, and long lists take another way."""
    trie = SemanticIdTrie.build(table.codes, table.sizes)
    deny, allow, batch = data.draw(requests(trie.num_items))
    mask = None if allow is None else torch.tensor(allow)
    short = Constraint.build(trie, deny=padded([list(dict.fromkeys(row)) or [-1] for row in deny]), allow=mask)
    long = Constraint.build(trie, deny=padded([*deny, [-1] * 64])[:batch], allow=mask)
    for level in range(trie.num_levels):
        nodes = torch.arange(-1, trie.num_nodes(level)).expand(batch, -1)
        assert torch.equal(short.alive_children(level, nodes), long.alive_children(level, nodes))


def test_several_lists_are_one() -> None:
    trie = SemanticIdTrie.build(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), (2, 2))
    seen, banned = torch.tensor([[0, 3], [2, -1]]), torch.tensor([[1], [3]], dtype=torch.int32)
    constraint = Constraint.build(trie, deny=(seen, banned))
    assert constraint.num_requests == 2
    assert constraint.is_alive(1, torch.tensor([[0, 1], [0, 1]])).tolist() == [[False, True], [True, False]]
    assert constraint.is_admissible(torch.arange(4).expand(2, 4)).int().tolist() == [[0, 0, 1, 0], [1, 1, 0, 0]]


def test_nothing_to_constrain() -> None:
    trie = SemanticIdTrie.build(np.array([[0], [1]]), (2,))
    for constraint in (Constraint.build(trie), Constraint.build(trie, deny=torch.empty(5, 0, dtype=torch.int64))):
        assert constraint.num_requests is None
        assert constraint.is_alive(1, torch.tensor([[0, 1, -1]])).tolist() == [[True, True, False]]
        assert constraint.alive_children(0, torch.tensor([[0], [-1]])).tolist() == [[[True, True]], [[False, False]]]


def test_one_allow_set_holds_for_any_number_of_requests() -> None:
    trie = SemanticIdTrie.build(np.array([[0], [2], [1]]), (3,))
    shared = Constraint.build(trie, allow=torch.tensor([True, False, True]))
    assert shared.num_requests is None
    assert shared.is_admissible(torch.arange(3).expand(4, 3)).tolist() == [[True, False, True]] * 4
    each = Constraint.build(trie, allow=mask_of_items(torch.tensor([[1, -1], [2, 0]]), 3))
    assert each.num_requests == 2
    assert each.is_admissible(torch.arange(3).expand(2, 3)).tolist() == [[False, True, False], [True, False, True]]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_masks_of_lists(dtype: torch.dtype) -> None:
    items = torch.tensor([[3, 3, -1], [-1, -1, -1], [0, 1, 2]], dtype=dtype)
    assert mask_of_items(items, 4).int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0]]
