from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec.models.node_embeddings import NodeEmbeddings, child_pairs, move_rows, reindex_node_embeddings
from genrec.semantic_ids.trie import SemanticIdTrie

CODES = [[0, 1, 2], [0, 1, 0], [0, 3, 2], [2, 0, 1], [2, 2, 0], [2, 2, 1], [2, 2, 2]]
SIZES = (3, 4, 3)


def build(codes: list[list[int]]) -> SemanticIdTrie:
    return SemanticIdTrie.build(np.array(codes, dtype=np.int32), SIZES)


def embed(trie: SemanticIdTrie, items: list[int]) -> NodeEmbeddings:
    torch.manual_seed(0)
    embeddings = NodeEmbeddings(trie, 4)
    embeddings.mark_trained(trie.path_nodes(torch.tensor(items)))
    return embeddings


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4)), max_size=6))
def test_pairs_are_a_double_loop(ranges: list[tuple[int, int]]) -> None:
    first, count = (torch.tensor([part[place] for part in ranges], dtype=torch.int64) for place in range(2))
    expected = [(row, slot, start + slot) for row, (start, size) in enumerate(ranges) for slot in range(size)]
    assert list(zip(*(part.tolist() for part in child_pairs(first, count)), strict=True)) == expected


def test_rows_count_from_when_they_are_marked() -> None:
    trie = build(CODES)
    embeddings = embed(trie, [1, 3])
    for level in embeddings.levels:
        rows, is_trained = embeddings.rows[str(level)], embeddings.is_trained(level)
        expected = sorted({tuple(CODES[item][: level + 1]) for item in (1, 3)})
        assert [tuple(codes) for codes in trie.prefix_codes(level + 1)[is_trained].tolist()] == expected
        assert (rows[~is_trained] == 0).all()
        assert (rows[is_trained] != 0).all()
    before = {name: tensor.clone() for name, tensor in embeddings.state_dict().items()}
    embeddings.mark_trained(trie.path_nodes(torch.tensor([1, 6])))
    num_new = []
    for level in embeddings.levels:
        was = before[f"is_trained_{level}"]
        assert torch.equal(embeddings.rows[str(level)][was], before[f"rows.{level}"][was])
        num_new.append(int((embeddings.is_trained(level) & ~was).sum()))
    assert num_new == [0, 1, 1]


def test_levels_without_choice_and_unused_embeddings_have_no_rows() -> None:
    assert NodeEmbeddings(build([[0, 1, 2], [1, 1, 0], [2, 0, 0]]), 4).levels == (0,)
    unused = NodeEmbeddings(build(CODES), 4, is_used=False)
    assert unused.levels == ()
    assert not unused.state_dict()


def test_all_ways_to_score_agree_and_ignore_rows_that_do_not_count() -> None:
    trie = build(CODES)
    embeddings = embed(trie, [0, 4, 6])
    with torch.no_grad():
        for rows in embeddings.rows.values():
            rows.copy_(torch.randn(rows.shape))  # also where nothing may be seen of it
    for level in embeddings.levels:
        nodes = torch.arange(trie.num_nodes(level))
        queries = torch.randn(len(nodes), 4)
        masked = embeddings.rows[str(level)] * embeddings.is_trained(level).unsqueeze(1)
        everything = queries @ masked.T
        torch.testing.assert_close(embeddings.score_all(level, queries), everything)
        pairs = child_pairs(*trie.child_ranges(level, nodes))
        scores = embeddings.score_pairs(level, queries, pairs)
        torch.testing.assert_close(scores, everything[pairs.rows, pairs.children])
        children = trie.children(level, nodes)
        padded = embeddings.score_children(level, queries.unsqueeze(0), children.nodes.unsqueeze(0))[0]
        torch.testing.assert_close(padded[children.is_valid], scores)
        torch.testing.assert_close(embeddings.look_up(level, torch.arange(trie.num_nodes(level + 1))), masked)


def test_many_beams_are_scored_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    trie = build(CODES)
    embeddings, queries = embed(trie, list(range(7))), torch.randn(2, 3, 4)
    children = trie.children(1, torch.tensor([[0, 1, 0], [1, 1, -1]])).nodes
    at_once = embeddings.score_children(1, queries, children)
    monkeypatch.setattr("genrec.models.node_embeddings._PORTION", 1)
    torch.testing.assert_close(embeddings.score_children(1, queries, children), at_once)


def test_rows_that_do_not_count_get_no_gradient() -> None:
    trie = build(CODES)
    embeddings = embed(trie, [0, 4])
    for level in embeddings.levels:
        nodes = torch.arange(trie.num_nodes(level))
        queries = torch.randn(len(nodes), 4, requires_grad=True)
        pairs = child_pairs(*trie.child_ranges(level, nodes))
        everything = [
            embeddings.score_all(level, queries),
            embeddings.score_pairs(level, queries, pairs),
            embeddings.score_children(level, queries.unsqueeze(0), trie.children(level, nodes).nodes.unsqueeze(0)),
            embeddings.look_up(level, torch.arange(trie.num_nodes(level + 1))),
        ]
        torch.stack([part.sum() for part in everything]).sum().backward()
        gradient = embeddings.rows[str(level)].grad
        assert gradient is not None
        assert (gradient[~embeddings.is_trained(level)] == 0).all()
        assert (gradient[embeddings.is_trained(level)] != 0).any(dim=1).all()


@given(st.sets(st.tuples(*(st.integers(0, size - 1) for size in SIZES)), min_size=1), st.data())
def test_reindexed_rows_follow_their_prefixes(old: set[tuple[int, ...]], data: st.DataObject) -> None:
    new = data.draw(st.sets(st.tuples(*(st.integers(0, size - 1) for size in SIZES)), min_size=1))
    old_trie, new_trie = (build([list(codes) for codes in sorted(codes_of)]) for codes_of in (old, new))
    for depth in range(1, 4):
        prefixes = old_trie.prefix_codes(depth)
        weights = torch.arange(1.0, len(prefixes) + 1).unsqueeze(1)
        known = {tuple(codes): row + 1.0 for row, codes in enumerate(prefixes.tolist())}
        expected = [[known.get(tuple(codes), 0.0)] for codes in new_trie.prefix_codes(depth).tolist()]
        assert reindex_node_embeddings(weights, prefixes, new_trie).tolist() == expected


def test_flags_move_like_rows() -> None:
    moved = move_rows(torch.tensor([True, True, False]), torch.tensor([3, -1, 0]), 4)
    assert moved.tolist() == [False, False, False, True]
