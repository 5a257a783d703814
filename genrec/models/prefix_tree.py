"""The distinct prefixes of several candidates for each position, so that what they share is computed once.

Scoring C candidates after one history code by code would compute their common prefixes C times: the root always, and
much of the first levels. Here each (position, node) is one row, depth by depth. Knows the trie; must not know networks.
"""
# P positions, C candidates, L levels, R_d distinct prefixes of d codes

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from genrec.semantic_ids.trie import SemanticIdTrie


class PrefixTree(NamedTuple):
    """Distinct prefixes of depths 0 to L, in the order of (position, node).

    Attributes:
        owners: the position of each prefix, ascending.
        nodes: its node of the trie; 0 at depth 0, where there is one prefix a position.
        parents: its row among the prefixes that are one code shorter; empty at depth 0.
        rows: row at depth l + 1 of the first l + 1 codes of each candidate.
    """

    owners: tuple[Int64[Tensor, " R"], ...]
    nodes: tuple[Int64[Tensor, " R"], ...]
    parents: tuple[Int64[Tensor, " R"], ...]
    rows: Int64[Tensor, "P C L"]


def build_prefix_tree(trie: SemanticIdTrie, items: Int64[Tensor, "P C"]) -> PrefixTree:
    """The prefixes of items[p, c], the candidates of position p; items may repeat.

    With one candidate a position, nothing is shared, and row p of every depth is position p.

    >>> import numpy as np
    >>> trie = SemanticIdTrie.build(np.array([[0, 0], [0, 1], [1, 0]]), (2, 2))
    >>> tree = build_prefix_tree(trie, torch.tensor([[0, 1, 0], [2, 0, 1]]))
    >>> tree.owners[1].tolist(), tree.nodes[1].tolist(), tree.parents[1].tolist()
    ([0, 1, 1], [0, 0, 1], [0, 1, 1])
    >>> tree.rows[..., 1].tolist()
    [[0, 1, 0], [4, 2, 3]]
    """
    paths = trie.path_nodes(items)
    position = torch.arange(len(items), device=items.device)
    owners, nodes, parents = [position], [torch.zeros_like(position)], [position[:0]]
    if items.shape[1] == 1:
        columns = paths.squeeze(1).unbind(dim=1)
        everywhere = (position,) * (trie.num_levels + 1)
        return PrefixTree(
            everywhere,
            (nodes[0], *columns),
            (parents[0], *everywhere[1:]),
            position.view(-1, 1, 1).expand(-1, 1, trie.num_levels),
        )
    above, rows = position.unsqueeze(1).expand_as(items), []
    for level in range(trie.num_levels):
        num_nodes = trie.num_nodes(level + 1)
        keys = position.unsqueeze(1) * num_nodes + paths[..., level]
        distinct, row = keys.unique(return_inverse=True)
        owners.append(distinct // num_nodes)
        nodes.append(distinct % num_nodes)
        # All candidates with one prefix have one parent, so it does not matter which of them writes.
        parents.append(torch.empty_like(distinct).scatter_(0, row.flatten(), above.flatten()))
        rows.append(row)
        above = row
    return PrefixTree(tuple(owners), tuple(nodes), tuple(parents), torch.stack(rows, dim=-1))
