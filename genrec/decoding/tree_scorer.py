"""What a search of a tree asks of a model, and one of explicit tables to test such searches with.

A beam search goes down level by level and asks a `Scorer` for one level at a time. A search that grows a tree has nodes
of different depths at hand, each with the value of its own prefix, and asks for all of them in one call. Must not know
networks.
"""
# B requests, W nodes asked for, L levels, M_l most children of a node of depth l, M largest of M_1 .. M_{L-1} (or 1),
# R tables, n_d nodes of depth d, C rows a request may need

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from genrec.decoding.scorer import TableScorer
from genrec.errors import ConfigError
from genrec.semantic_ids.trie import SemanticIdTrie


class TreeScorer(Protocol):
    """A model as a search of a tree sees it: prefixes are forwarded one by one, those of all requests at once.

    A forwarded prefix has a row of its request, under which the prefixes below it name it as their parent. The root is
    row 0. Log-probabilities are normalised as those of a `Scorer`, over children that a request may not get too.
    """

    def encode(self, histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> Any:
        """Reads the histories once, as a `Scorer` does."""
        ...

    def open(self, context: Any, num_rows: int) -> tuple[Float[Tensor, "B 1 M0"], Float[Tensor, "B 1"], Any]:
        """Begins a tree for each request.

        Args:
            context: what `encode` returned.
            num_rows: C; rows 0 to C - 1 will be used.

        Returns:
            Log-probabilities of the children of the root, its value, and the state of the trees.
        """
        ...

    def forward(
        self,
        state: Any,
        rows: Int64[Tensor, "B W"],
        parents: Int64[Tensor, "B W"],
        depths: Int64[Tensor, "B W"],
        nodes: Int64[Tensor, "B W"],
        log_probs: Float[Tensor, "B W"],
    ) -> tuple[Float[Tensor, "B W M"], Float[Tensor, "B W"]]:
        """Reads prefixes whose parents have been read before.

        Args:
            state: what `open` returned; changed in place, so that a round costs what its nodes cost.
            rows: where to keep each prefix, not used before; dead ones may share a row that nobody reads.
            parents: row of the prefix without its last code.
            depths: 1 to L.
            nodes: trie node of that depth; -1 for a dead prefix, whose results nobody will read.
            log_probs: of the prefix, as the search has it.

        Returns:
            Log-probabilities of the children of each node in the order of their codes, padded to M (whatever stands in
            the padding is ignored, and all of it for leaves), and the value of each prefix.
        """
        ...


class TableTrees(NamedTuple):
    """State of a `TableTreeScorer`: the table of each request, and the node and depth in each row."""

    tables: Int64[Tensor, " B"]
    nodes: Int64[Tensor, "B C"]
    depths: Int64[Tensor, "B C"]


class TableTreeScorer:
    """A tree scorer that looks everything up.

    Args:
        scorer: the log-probabilities.
        values: for each depth from 0 to L the values [R, n_d] of the prefixes, R as in the scorer's tables.

    Raises:
        ConfigError: values of the wrong shape.
    """

    def __init__(self, scorer: TableScorer, values: Sequence[Float[Tensor, "R n"]]) -> None:
        trie, num_tables = scorer.trie, len(scorer.log_probs[0])
        expected = [(num_tables, trie.num_nodes(depth)) for depth in range(trie.num_levels + 1)]
        found = [tuple(table.shape) for table in values]
        if found != expected:
            raise ConfigError("values of the wrong shape", expected=expected, found=found)
        self.scorer, self.trie, self.values = scorer, trie, list(values)

    def encode(self, histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
        return self.scorer.encode(histories, lengths)

    def open(
        self, context: Int64[Tensor, " B"], num_rows: int
    ) -> tuple[Float[Tensor, "B 1 M0"], Float[Tensor, "B 1"], TableTrees]:
        nodes = torch.zeros(len(context), num_rows, dtype=torch.int64, device=context.device)
        state = TableTrees(context, nodes, torch.zeros_like(nodes))
        return self.scorer.log_probs[0][context], self.values[0][context], state

    def forward(
        self,
        state: TableTrees,
        rows: Int64[Tensor, "B W"],
        parents: Int64[Tensor, "B W"],
        depths: Int64[Tensor, "B W"],
        nodes: Int64[Tensor, "B W"],
        log_probs: Float[Tensor, "B W"],
    ) -> tuple[Float[Tensor, "B W M"], Float[Tensor, "B W"]]:
        is_alive = nodes >= 0
        is_below = depths == state.depths.gather(1, parents) + 1
        assert bool((is_below | ~is_alive).all()), "not one level below its parent"
        tables = state.tables.unsqueeze(1).expand_as(nodes)
        values = self.values[0].new_zeros(nodes.shape)
        children = self.scorer.log_probs[0].new_full((*nodes.shape, widest_below_root(self.trie)), -torch.inf)
        for depth in range(1, self.trie.num_levels + 1):
            own = is_alive & (depths == depth)
            node, table = nodes[own], tables[own]
            above = state.nodes.gather(1, parents)[own]
            assert torch.equal(self.trie.parents[depth - 1][node], above), "not a child of its parent"
            values[own] = self.values[depth][table, node]
            if depth < self.trie.num_levels:
                width = self.trie.max_branching[depth]
                children[..., :width][own] = self.scorer.log_probs[depth][table, node]
        state.nodes.scatter_(1, rows, nodes)
        state.depths.scatter_(1, rows, depths)
        return children, values


def widest_below_root(trie: SemanticIdTrie) -> int:
    """M: most children of a node that is not the root; 1 if no such node has any."""
    return max(trie.max_branching[1:], default=1)
