"""The trie against a trie of dicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.errors import DataError
from genrec.seeding import generator
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles import trie_oracle
from oracles.code_tables import CodeTable, code_tables

tables = code_tables()


def built(table: CodeTable) -> SemanticIdTrie:
    return SemanticIdTrie.build(table.codes, table.sizes)


@given(tables)
def test_paths_are_the_catalogue(table: CodeTable) -> None:
    trie, root = built(table), trie_oracle.build(table.rows)
    depths = range(trie.num_levels + 1)
    for depth in depths:
        prefixes = trie_oracle.prefixes(root, depth)
        assert [tuple(codes) for codes in trie.prefix_codes(depth).tolist()] == prefixes
        assert trie.num_nodes(depth) == len(prefixes)
    items = torch.arange(trie.num_items)
    for level, nodes in enumerate(trie.path_nodes(items).unbind(-1)):
        prefixes = trie_oracle.prefixes(root, level + 1)
        assert [prefixes[node] for node in nodes.tolist()] == [row[: level + 1] for row in table.rows]


@given(tables)
def test_nodes_are_contiguous_ranges_of_items(table: CodeTable) -> None:
    trie, root = built(table), trie_oracle.build(table.rows)
    assert trie.item_order.tolist() == trie_oracle.items(root, ())
    assert trie.item_order[trie.item_positions].tolist() == list(range(trie.num_items))
    for depth in range(trie.num_levels + 1):
        first, end = trie.item_ranges(depth, torch.arange(-1, trie.num_nodes(depth)))
        ranges = list(zip(first.tolist(), end.tolist(), strict=True))
        assert ranges[0] == (0, 0)
        expected = [trie_oracle.items(root, prefix) for prefix in trie_oracle.prefixes(root, depth)]
        assert [trie.item_order[a:b].tolist() for a, b in ranges[1:]] == expected
        assert [a for a, _ in ranges[1:]] == [0, *(b for _, b in ranges[1:-1])]


@given(tables)
def test_children_are_those_of_the_dicts(table: CodeTable) -> None:
    trie, root = built(table), trie_oracle.build(table.rows)
    for level in range(trie.num_levels):
        nodes = torch.arange(-1, trie.num_nodes(level))
        children = trie.children(level, nodes)
        below = trie_oracle.prefixes(root, level + 1)
        assert children.nodes.shape == (len(nodes), trie.max_branching[level])
        assert not children.is_valid[0].any()
        most = 0
        for node, prefix in enumerate(trie_oracle.prefixes(root, level)):
            codes = trie_oracle.children(root, prefix)
            padding = [-1] * (trie.max_branching[level] - len(codes))
            assert children.codes[node + 1].tolist() == codes + padding
            assert children.nodes[node + 1].tolist() == [below.index((*prefix, code)) for code in codes] + padding
            assert children.is_valid[node + 1].tolist() == [True] * len(codes) + [False] * len(padding)
            most = max(most, len(codes))
        assert trie.max_branching[level] == most
        assert (children.nodes.dtype, children.codes.dtype) == (torch.int64, torch.int64)


@given(tables)
def test_a_childs_parent_is_its_parent(table: CodeTable) -> None:
    trie = built(table)
    for level in range(trie.num_levels):
        first, count = trie.child_ranges(level, trie.parents[level])
        nodes = torch.arange(trie.num_nodes(level + 1))
        assert bool(((first <= nodes) & (nodes < first + count)).all())
        assert int(trie.child_ranges(level, torch.arange(trie.num_nodes(level)))[1].min()) >= 1


@given(tables, st.data())
def test_nodes_of_items_and_padding(table: CodeTable, data: st.DataObject) -> None:
    trie = built(table)
    items = torch.tensor(data.draw(st.lists(st.integers(-1, trie.num_items - 1), min_size=2, max_size=6))).view(1, -1)
    paths = trie.path_nodes(items)
    assert trie.nodes_of_items(items, 0).tolist() == torch.where(items < 0, -1, 0).tolist()
    for depth in range(1, trie.num_levels + 1):
        assert trie.nodes_of_items(items, depth).tolist() == paths[..., depth - 1].tolist()
    assert bool((paths[items < 0] == -1).all())


@given(tables)
def test_leaves_hold_all_items_with_their_codes(table: CodeTable) -> None:
    trie, root = built(table), trie_oracle.build(table.rows)
    leaves = trie_oracle.prefixes(root, trie.num_levels)
    buckets = [trie_oracle.items(root, leaf) for leaf in leaves]
    most = max(len(bucket) for bucket in buckets)
    assert trie.max_bucket == most
    found = trie.leaf_items(torch.arange(-1, len(leaves))).tolist()
    assert found == [[-1] * most, *(bucket + [-1] * (most - len(bucket)) for bucket in buckets)]
    assert (trie.item_leaves is trie.item_positions) == (most == 1)


@given(tables, st.data())
def test_lookup_finds_every_row_and_nothing_else(table: CodeTable, data: st.DataObject) -> None:
    trie, root = built(table), trie_oracle.build(table.rows)
    strange = st.tuples(*(st.integers(-1, size) for size in table.sizes))
    rows = [*table.rows, *data.draw(st.lists(strange, max_size=8))]
    for row, (first, end) in zip(rows, trie.lookup(torch.tensor(rows)).tolist(), strict=True):
        if row in table.rows:
            assert trie.item_order[first:end].tolist() == trie_oracle.items(root, row)
        else:
            assert (first, end) == (-1, -1)
    for depth in range(trie.num_levels + 1):
        found = trie.find_nodes(torch.tensor([row[:depth] for row in rows], dtype=torch.int32).view(len(rows), depth))
        prefixes = trie_oracle.prefixes(root, depth)
        known = [prefixes.index(row[:depth]) if row[:depth] in prefixes else -1 for row in rows]
        assert found.tolist() == known


def test_lookup_among_many_children() -> None:
    """The number of steps of the binary search is right at powers of two and next to them."""
    for count in (1, 2, 3, 4, 5, 7, 8, 9, 255, 256, 257):
        trie = SemanticIdTrie.build(2 * np.arange(count)[::-1, None], (2 * count,))
        found = trie.find_nodes(torch.arange(-1, 2 * count + 1).unsqueeze(1))
        assert found.tolist() == [-1, *(code // 2 if code % 2 == 0 else -1 for code in range(2 * count)), -1]


@settings(max_examples=examples(20))
@given(tables)
def test_wide_codes_make_the_same_trie(table: CodeTable) -> None:
    """Level sizes decide how rows are sorted, and nothing else."""
    trie, wide = built(table), SemanticIdTrie.build(table.codes, [2**31 - 1] * len(table.sizes))
    for a, b in zip(trie._all_tensors(), wide._all_tensors(), strict=True):
        assert torch.equal(a, b)


def test_a_move_keeps_tensors_shared() -> None:
    trie = SemanticIdTrie.build(np.array([[0, 1], [1, 0]]), (2, 2))
    moved = trie.to("meta")
    assert moved.device.type == "meta"
    assert moved.item_leaves is moved.item_positions
    assert [t.shape for t in moved._all_tensors()] == [t.shape for t in trie._all_tensors()]
    assert moved.codebook_sizes == (2, 2)
    assert trie.num_bytes == sum(t.nbytes for t in trie._all_tensors()) - trie.item_leaves.nbytes


def test_the_codes_may_have_any_integer_type() -> None:
    codes = generator(3).integers(0, 7, (50, 3))
    tries = [SemanticIdTrie.build(codes.astype(kind), (7, 7, 7)) for kind in (np.uint8, np.int32, np.int64)]
    for trie in tries:
        assert all(
            a.dtype == b.dtype and torch.equal(a, b)
            for a, b in zip(trie._all_tensors(), tries[0]._all_tensors(), strict=True)
        )


def test_wrong_codes_are_refused() -> None:
    with pytest.raises(DataError, match="item 0 has a code out of range at level 1"):
        SemanticIdTrie.build(np.array([[0, 2]]), (1, 2))
    with pytest.raises(DataError, match="wrong shape or type"):
        SemanticIdTrie.build(np.zeros((0, 1), dtype=np.int32), (1,))
