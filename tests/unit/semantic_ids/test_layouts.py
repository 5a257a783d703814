"""The trie in other engines' layouts accepts the catalogue and nothing else."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.errors import ConfigError
from genrec.semantic_ids.layouts import prefixes, sparse_rows, walk
from genrec.semantic_ids.trie import SemanticIdTrie

SIZES = (3, 2, 4)


@settings(max_examples=40)
@given(st.sets(st.tuples(*(st.integers(0, size - 1) for size in SIZES)), min_size=1))
def test_sparse_rows_accept_the_catalogue_alone(codes: set[tuple[int, ...]]) -> None:
    rows = sparse_rows(SemanticIdTrie.build(np.array(sorted(codes), dtype=np.int32), SIZES))
    assert {path for path in product(range(4), repeat=3) if walk(rows, path)} == codes


def test_sparse_rows_are_laid_out_as_static_has_them() -> None:
    """The example of three IDs over four tokens, by hand: states 1-4 are first codes, 5-7 prefixes of two."""
    codes = np.array([[1, 2, 1], [3, 1, 2], [3, 1, 3]], dtype=np.int32)
    rows = sparse_rows(SemanticIdTrie.build(codes, (4, 4, 4)))
    edges = [[2, 5], [1, 6], [1, 0], [2, 0], [3, 0]]
    assert rows["packed_csr"].tolist() == edges + [[4, 0]] * 4
    assert rows["csr_indptr"].tolist() == [0, 0, 0, 1, 1, 2, 3, 5, 9]
    assert rows["layer_max_branches"].tolist() == [2, 1, 2]
    assert rows["start_mask"].tolist() == [False, True, False, True]
    assert rows["dense_states"].tolist() == [0, 2, 0, 4]
    with pytest.raises(ConfigError, match="a list, not a trie"):
        sparse_rows(SemanticIdTrie.build(np.array([[1]]), (2,)))


def test_prefixes_that_read_alike_are_refused() -> None:
    trie = SemanticIdTrie.build(np.array([[1, 1], [1, 0]], dtype=np.int32), (2, 2))
    assert prefixes(trie, lambda level, code: f"{'ab'[level]}{code}") == {"": ["a1"], "a1": ["b0", "b1"]}
    with pytest.raises(ConfigError, match="the same text"):
        prefixes(trie, lambda level, code: "x")
