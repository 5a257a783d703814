"""Distinct prefixes of candidates, against sets of tuples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.models.prefix_tree import build_prefix_tree
from genrec.semantic_ids.trie import SemanticIdTrie

SIZES = (3, 4, 2)


@pytest.mark.parametrize("num_candidates", [1, 2, 9])
def test_every_prefix_of_a_position_is_there_once(num_candidates: int) -> None:
    codes = np.random.default_rng(0).integers(0, SIZES, size=(40, 3)).astype(np.int32)
    trie = SemanticIdTrie.build(codes, SIZES)
    items = torch.from_numpy(np.random.default_rng(1).integers(0, 40, size=(6, num_candidates)))
    tree = build_prefix_tree(trie, items)
    for depth in range(4):
        owners, nodes = tree.owners[depth].tolist(), tree.nodes[depth].tolist()
        prefixes = [tuple(row) for row in trie.prefix_codes(depth).tolist()]
        found = [(owner, prefixes[node]) for owner, node in zip(owners, nodes, strict=True)]
        expected = {
            (position, tuple(codes[item][:depth].tolist()))
            for position, row in enumerate(items.tolist())
            for item in row
        }
        assert found == sorted(expected)
        if depth:
            above = trie.prefix_codes(depth - 1).tolist()
            for (owner, prefix), parent in zip(found, tree.parents[depth].tolist(), strict=True):
                assert tree.owners[depth - 1][parent] == owner
                assert tuple(above[tree.nodes[depth - 1][parent]]) == prefix[:-1]
            for position, row in enumerate(items.tolist()):
                for place, item in enumerate(row):
                    wanted = (position, tuple(codes[item][:depth].tolist()))
                    assert found[int(tree.rows[position, place, depth - 1])] == wanted


def test_without_positions_there_are_no_prefixes() -> None:
    trie = SemanticIdTrie.build(np.array([[0, 1, 0], [1, 1, 1]]), SIZES)
    for num_candidates in (1, 3):
        tree = build_prefix_tree(trie, torch.empty(0, num_candidates, dtype=torch.int64))
        assert [len(owners) for owners in tree.owners] == [0, 0, 0, 0]
        assert tree.rows.shape == (0, num_candidates, 3)
