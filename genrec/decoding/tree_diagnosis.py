"""Where a search that grows trees kept or lost an item.

Looks at the trees afterwards, and changes nothing in them. Must not know models, users or titles.
"""
# B requests, n nodes of the largest tree, L levels

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from genrec.decoding.search_tree import SearchTrace
from genrec.semantic_ids.trie import SemanticIdTrie


class TreeDiagnosis(NamedTuple):
    """One target a request.

    Attributes:
        is_on_path: which nodes of the tree are prefixes of the target.
        last: place of the longest of them; the root is always one.
        lost_at: the level (from 0) whose code the tree does not have; -1 if it holds the target's leaf.
        num_children: of the longest prefix, how many the catalogue has.
        num_added: how many of these are in the tree.
    """

    is_on_path: Bool[Tensor, "B n"]
    last: Int64[Tensor, " B"]
    lost_at: Int64[Tensor, " B"]
    num_children: Int64[Tensor, " B"]
    num_added: Int64[Tensor, " B"]


def diagnose_tree(trie: SemanticIdTrie, trace: SearchTrace, targets: Int64[Tensor, " B"]) -> TreeDiagnosis:
    """Follows the way to each target through the tree of its request.

    Args:
        trie: the catalogue.
        trace: of the search.
        targets: item_index, one a request.
    """
    path = torch.nn.functional.pad(trie.path_nodes(targets), (1, 0))  # the root is node 0
    is_on_path = (trace.nodes >= 0) & (trace.nodes == path.gather(1, trace.depths))
    depths = torch.where(is_on_path, trace.depths, -1)
    last = depths.argmax(dim=1)
    depth = depths.gather(1, last.unsqueeze(1)).squeeze(1)
    num_children = torch.zeros_like(depth)
    for level in range(trie.num_levels):
        own = torch.where(depth == level, path[:, level], -1)
        num_children += trie.child_ranges(level, own)[1]
    return TreeDiagnosis(
        is_on_path=is_on_path,
        last=last,
        lost_at=torch.where(depth < trie.num_levels, depth, -1),
        num_children=num_children,
        num_added=(trace.parents == last.unsqueeze(1)).sum(dim=1),
    )
