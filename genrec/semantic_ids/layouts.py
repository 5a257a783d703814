"""A trie in the layouts of other engines: compressed sparse rows over states and tokens, and prefixes as text.

Must not know files or models.
"""
# N items, L levels, V tokens of a level at most, S states, E edges

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from genrec.errors import ConfigError
from genrec.semantic_ids.trie import SemanticIdTrie


def sparse_rows(trie: SemanticIdTrie) -> dict[str, np.ndarray]:
    """The trie as STATIC reads it (`build_static_index` of youtube/static-constraint-decoding, with one dense level).

    A state is a prefix: 0 is the end, 1 + code the prefixes of one code whether they exist or not, then those of 2 to
    L - 1 codes, depth by depth in the order of their codes. The edges of state s are the rows of `packed_csr` from
    csr_indptr[s] to csr_indptr[s + 1] - 1, each (code, next state). V rows (V, 0) at the end, and one more entry of
    `csr_indptr`, let an engine read past the last edge. All levels have V tokens, the size of the largest codebook.

    Returns:
        packed_csr int32 [E + V, 2], csr_indptr int32 [S + 2], layer_max_branches int32 [L], start_mask bool [V],
        dense_mask bool [V] and dense_states int32 [V], the state of each first code.

    Raises:
        ConfigError: semantic IDs of a single code leave nothing to be sparse.
    """
    num_levels, width = trie.num_levels, max(trie.codebook_sizes)
    if num_levels < 2:
        raise ConfigError(
            "semantic IDs of one code are a list, not a trie", expected="two codes or more", found=num_levels
        )
    codes = [part.cpu().numpy().astype(np.int32) for part in trie.child_codes]
    states = [codes[0] + 1]
    start = width + 1
    for depth in range(2, num_levels):
        states.append(np.arange(start, start + trie.num_nodes(depth), dtype=np.int32))
        start += trie.num_nodes(depth)
    states.append(np.zeros(trie.num_nodes(num_levels), dtype=np.int32))
    counts = np.zeros(start, dtype=np.int64)
    for depth in range(1, num_levels):
        counts[states[depth - 1]] = np.diff(trie.child_offsets[depth].cpu().numpy())
    ends = np.cumsum(counts)
    edges = [np.stack(pair, axis=1) for pair in zip(codes[1:], states[1:], strict=True)]
    padding = np.tile(np.array([[width, 0]], dtype=np.int32), (width, 1))
    mask = np.zeros(width, dtype=bool)
    mask[codes[0]] = True
    dense = np.zeros(width, dtype=np.int32)
    dense[codes[0]] = states[0]
    return {
        "packed_csr": np.concatenate([*edges, padding]),
        "csr_indptr": np.concatenate([[0], ends, [ends[-1] + width]]).astype(np.int32),
        "layer_max_branches": np.array(trie.max_branching, dtype=np.int32),
        "start_mask": mask,
        "dense_mask": mask.copy(),
        "dense_states": dense,
    }


def prefixes(trie: SemanticIdTrie, name: Callable[[int, int], str]) -> dict[str, list[str]]:
    """The tokens that may follow each prefix; prefixes are the texts of their codes one after the other.

    Args:
        trie: the catalogue.
        name: (level, code) -> text of a token.

    Raises:
        ConfigError: two prefixes have the same text.

    >>> trie = SemanticIdTrie.build(np.array([[1, 0], [0, 2], [0, 0]]), (2, 3))
    >>> prefixes(trie, lambda level, code: f"<{'ab'[level]}{code}>")
    {'': ['<a0>', '<a1>'], '<a0>': ['<b0>', '<b2>'], '<a1>': ['<b0>']}
    """
    found: dict[str, list[str]] = {}
    above = [""]
    for level in range(trie.num_levels):
        tokens = [name(level, code) for code in trie.child_codes[level].tolist()]
        offsets = trie.child_offsets[level].tolist()
        found |= {prefix: tokens[offsets[node] : offsets[node + 1]] for node, prefix in enumerate(above)}
        parents = trie.parents[level].tolist()
        above = [above[parent] + token for parent, token in zip(parents, tokens, strict=True)]
    num_prefixes = sum(trie.num_nodes(depth) for depth in range(trie.num_levels))
    if len(found) != num_prefixes or len(set(above)) != len(above):
        raise ConfigError(
            "two prefixes have the same text",
            where="key 'token'",
            expected="a text that names level and code",
            fix="set token='<{level}_{code}>'",
        )
    return found


def walk(rows: dict[str, np.ndarray], codes: Sequence[int] | Int[np.ndarray, " L"]) -> bool:
    """Whether `sparse_rows` accept a sequence of codes: the meaning of the layout, edge by edge."""
    first, *others = (int(code) for code in codes)
    if not 0 <= first < len(rows["start_mask"]) or not rows["start_mask"][first]:
        return False
    state = int(rows["dense_states"][first])
    for code in others:
        edges = rows["packed_csr"][rows["csr_indptr"][state] : rows["csr_indptr"][state + 1]]
        match = edges[edges[:, 0] == code]
        if state == 0 or len(match) != 1:
            return False
        state = int(match[0, 1])
    return state == 0
