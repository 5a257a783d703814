"""One learnt vector for each node of the trie: scores of children, and rows that follow their prefixes to another trie.

docs/methods.md section 2: E_l[v] in the logit <d + u, E_l[v]> of child v. Must not know users, histories or
normalisation.
"""
# P queries, R pairs of a query and a child, D width, n nodes of depth l + 1, W beams, M most children of a node

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn

from genrec.semantic_ids.trie import SemanticIdTrie

# Elements of a request's gathered vectors beyond which beams are scored in portions (4 MB in float32).
_PORTION = 1 << 20

EMBEDDING_STD = 0.02


class ChildPairs(NamedTuple):
    """The children of some nodes as one flat list, node by node, without padding.

    Attributes:
        rows: which of the nodes.
        slots: which of its children.
        children: node one level deeper.
    """

    rows: Int64[Tensor, " R"]
    slots: Int64[Tensor, " R"]
    children: Int64[Tensor, " R"]


def child_pairs(first: Int64[Tensor, " P"], count: Int64[Tensor, " P"]) -> ChildPairs:
    """Lists children first[p], ..., first[p] + count[p] - 1 of each p.

    >>> [part.tolist() for part in child_pairs(torch.tensor([5, 0, 2]), torch.tensor([2, 0, 3]))]
    [[0, 0, 2, 2, 2], [0, 1, 0, 1, 2], [5, 6, 2, 3, 4]]
    """
    rows = torch.repeat_interleave(torch.arange(len(first), device=first.device), count)
    slots = torch.arange(len(rows), device=first.device) - (count.cumsum(0) - count)[rows]
    return ChildPairs(rows, slots, first[rows] + slots)


class NodeEmbeddings(nn.Module):
    """Vectors E_l of the nodes of those levels at which some node has several children; other levels need none.

    A node on no training target's path counts as 0 wherever it is used and gets no gradient, so that it falls back to
    what the codes alone say of it. Its row is 0 too, until `mark_trained` lets it count and draws a start for it (from
    0, rows learn much more slowly). The state dict holds the codes of every row's prefix beside the rows.

    Args:
        trie: the catalogue.
        width: D.
        is_used: false for a model without any such vectors.
        first_level: nodes above have none; that of a joint depth has them however it branches.
    """

    def __init__(self, trie: SemanticIdTrie, width: int, *, is_used: bool = True, first_level: int = 0) -> None:
        super().__init__()
        branching = list(enumerate(trie.max_branching))[first_level:] if is_used else []
        self.levels = tuple(level for level, most in branching if most > 1 or level == first_level > 0)
        self.rows = nn.ParameterDict()
        for level in self.levels:
            num_nodes = trie.num_nodes(level + 1)
            self.rows[str(level)] = nn.Parameter(torch.zeros(num_nodes, width))
            self.register_buffer(f"is_trained_{level}", torch.zeros(num_nodes, dtype=torch.bool))
            self.register_buffer(f"prefixes_{level}", trie.prefix_codes(level + 1).clone())

    def is_trained(self, level: int) -> Bool[Tensor, " n"]:
        """Which nodes count."""
        return self.get_buffer(f"is_trained_{level}")

    def mark_trained(self, paths: Int64[Tensor, "P L"]) -> None:
        """Lets more nodes count: those of depths 1 to L on the way to some items."""
        for level in self.levels:
            is_new = torch.zeros_like(self.is_trained(level)).index_fill(0, paths[:, level], True)
            mark_rows(self.rows[str(level)], self.is_trained(level), is_new)

    def look_up(self, level: int, nodes: Int64[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """E_l of nodes of depth level + 1; `level` has vectors."""
        return F.embedding(nodes, self.rows[str(level)]) * self.is_trained(level)[nodes].unsqueeze(-1)

    def score_all(self, level: int, queries: Float[Tensor, "*B D"]) -> Float[Tensor, "*B n"]:
        """<query, E_l[v]> for every node v of the level, as one matrix product."""
        return F.linear(queries, self.rows[str(level)] * self.is_trained(level).unsqueeze(1))

    def score_pairs(self, level: int, queries: Float[Tensor, "P D"], pairs: ChildPairs) -> Float[Tensor, " R"]:
        """<query of the pair's row, E_l[child]>; the work grows with the children there are, not with the widest."""
        vectors = F.embedding(pairs.children, self.rows[str(level)])
        products = (queries.index_select(0, pairs.rows) * vectors).sum(dim=1)
        return products * self.is_trained(level)[pairs.children]

    def score_children(
        self, level: int, queries: Float[Tensor, "B W D"], children: Int64[Tensor, "B W M"]
    ) -> Float[Tensor, "B W M"]:
        """<query, E_l[child]> in fixed shapes; where the child is -1, anything."""
        width, most = queries.shape[-1], children.shape[-1]
        portion = max(1, _PORTION // (most * width))
        scores = []
        for some, below in zip(queries.split(portion, dim=1), children.clamp(min=0).split(portion, dim=1), strict=True):
            vectors = F.embedding(below, self.rows[str(level)])  # [B, W, M, D]
            products = (vectors @ some.unsqueeze(-1)).squeeze(-1)
            scores.append(products * self.is_trained(level)[below])
        return torch.cat(scores, dim=1)

    def adapted_state(self, state: Mapping[str, Tensor], trie: SemanticIdTrie) -> dict[str, Tensor]:
        """The state dict of such a module over another trie, with its rows where the same prefixes stand in this one's.

        Args:
            state: of the other module.
            trie: this module's.
        """
        adapted = {}
        for name, tensor in self.state_dict().items():
            prefixes = state.get("prefixes_" + name.rpartition(".")[2].rpartition("_")[2])
            if prefixes is None or name.startswith("prefixes_"):
                adapted[name] = tensor
            else:
                adapted[name] = reindex_node_embeddings(state[name], prefixes, trie)
        return adapted


def reindex_node_embeddings(
    weights: Float[Tensor, "n D"] | Bool[Tensor, " n"], prefixes: Int[Tensor, "n d"], trie: SemanticIdTrie
) -> Tensor:
    """Rows of nodes, moved to where the same prefixes stand in another trie.

    Args:
        weights: a vector (or a flag) of each node of depth d of the old trie.
        prefixes: the d codes of each of these nodes: `prefix_codes(d)` of the old trie.
        trie: the new one.

    Returns:
        A row for each node of depth d of the new trie, 0 (false) where the old one had no such prefix.

    >>> import numpy as np
    >>> old, new = (SemanticIdTrie.build(np.array(codes), (4,)) for codes in ([[1], [3]], [[3], [2]]))
    >>> reindex_node_embeddings(torch.tensor([[1.0], [3.0]]), old.prefix_codes(1), new).tolist()
    [[0.0], [3.0]]
    """
    nodes = trie.find_nodes(prefixes)
    return move_rows(weights, nodes, trie.num_nodes(prefixes.shape[1]))


def mark_rows(
    table: Float[Tensor, "n D"] | None, is_trained: Bool[Tensor, " n"], is_wanted: Bool[Tensor, " n"]
) -> None:
    """Lets the wanted rows of a table count from now on; those that did not yet start at small random values.

    Args:
        table: the rows; None: only what counts is noted down.
        is_trained: which rows count, changed in place.
        is_wanted: on any device.
    """
    is_wanted = is_wanted.to(is_trained.device)
    if table is not None:
        rows = (is_wanted & ~is_trained).nonzero().squeeze(1)
        with torch.no_grad():
            table[rows] = torch.randn(len(rows), table.shape[1], device=table.device) * EMBEDDING_STD
    is_trained |= is_wanted


def adapt_state(
    state: Mapping[str, Tensor],
    places: Int64[Tensor, " n"],
    trie: SemanticIdTrie,
    *,
    nodes: tuple[str, NodeEmbeddings],
    items: Sequence[str],
) -> dict[str, Tensor]:
    """The `state_dict` of a model over another catalogue, moved to this one.

    Node vectors follow the codes of their prefixes. New nodes and items are 0 and do not count until `mark_trained`
    says so.

    Args:
        state: of the model over the other catalogue.
        places: item_index here of each item there, -1 where it is gone.
        trie: of the catalogue here.
        nodes: name of the node vectors in the state, and those of the model here.
        items: names of the tables with a row an item; those that the state does not have are left out.
    """
    prefix, embeddings = f"{nodes[0]}.", nodes[1]
    adapted = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    for name in items:
        if name in adapted:
            adapted[name] = move_rows(adapted[name], places.to(adapted[name].device), trie.num_items)
    there = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return adapted | {prefix + name: tensor for name, tensor in embeddings.adapted_state(there, trie).items()}


def normal_table(*shape: int) -> nn.Parameter:
    """A table of embeddings, all of whose rows count."""
    return nn.Parameter(torch.randn(shape) * EMBEDDING_STD)


def keep_rows(rows: Tensor, own: Tensor) -> Tensor:
    """The first rows of a table, as many as another one has; if that is longer, its own rows from there on.

    >>> keep_rows(torch.tensor([5, 6]), torch.tensor([7, 8, 9]))
    tensor([5, 6, 9])
    """
    kept = rows[: len(own)]
    return torch.cat([kept, own.detach()[len(kept) :].to(kept)])


def move_rows(rows: Tensor, places: Int64[Tensor, " n"], num_rows: int) -> Tensor:
    """Row i goes to places[i] (-1: dropped) of a table that is 0 elsewhere.

    >>> move_rows(torch.tensor([5, 6, 7]), torch.tensor([2, -1, 0]), 4).tolist()
    [7, 0, 5, 0]
    """
    moved = rows.new_zeros(num_rows, *rows.shape[1:])
    moved[places[places >= 0]] = rows[places >= 0]
    return moved
