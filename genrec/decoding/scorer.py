"""What a search asks of a model, what it gives back, and a scorer of explicit tables to test searches with.

Must not know networks: whatever scores the children of trie nodes can be searched.
"""
# B requests, T items of a history, W beams, M_l most children of a node of depth l, R tables, n_l nodes, K_l codes

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from genrec.errors import ConfigError
from genrec.semantic_ids.trie import SemanticIdTrie

NORMALISATIONS = ("trie", "vocabulary")


@dataclass(frozen=True, eq=False)
class Candidates:
    """The items found for each request, sorted by (score descending, item_index ascending).

    Attributes:
        item_index: no item twice; -1 where fewer than k were found, at the end.
        log_prob: natural logarithm of the item's probability under the scorer; -inf where there is no item.
        score: what the list is sorted by; -inf where there is no item.
    """

    item_index: Int64[Tensor, "B k"]
    log_prob: Float[Tensor, "B k"]
    score: Float[Tensor, "B k"]


class Scorer(Protocol):
    """A model as a search sees it: the history is read once, then children of trie nodes are scored level by level.

    Log-probabilities are normalised by the model over all children in the catalogue (`trie`) or over all codes of the
    level (`vocabulary`); what is denied to a request is left out by the search afterwards.
    """

    def encode(self, histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> Any:
        """Reads the histories (item_index, oldest first, padded with -1 at the end; a row may be empty) once."""
        ...

    def start(self, context: Any) -> tuple[Float[Tensor, "B 1 M"], Any]:
        """Log-probabilities of the children of the root, and the state of its one beam."""
        ...

    def step(
        self,
        level: int,
        state: Any,
        parents: Int64[Tensor, "B W"],
        codes: Int64[Tensor, "B W"],
        nodes: Int64[Tensor, "B W"],
    ) -> tuple[Float[Tensor, "B W M"], Any]:
        """Advances every beam by one code.

        Args:
            level: codes chosen so far, 1 to L - 1.
            state: what the call before returned. W may differ from call to call.
            parents: the beam of the call before that each beam continues.
            codes: its new code; 0 for a dead beam.
            nodes: its node of depth `level`; -1 for a dead beam, whose scores nobody will read.

        Returns:
            Log-probabilities of the children of each node in the order of their codes, padded to M_level (whatever
            stands in the padding is ignored), and the new state. The encoded history must not be copied per beam.
        """
        ...


class TableState(NamedTuple):
    """State of a `TableScorer`: the table of each request and the node of each beam."""

    rows: Int64[Tensor, " B"]
    nodes: Int64[Tensor, "B W"]


class TableScorer:
    """A scorer that looks everything up, so that every search can be compared with brute force.

    The table of a request is chosen by the last item of its history, as in a Markov chain: item modulo R, the first
    table for an empty history.

    Args:
        trie: the catalogue.
        tables: for each level logits [R, n_l, K_l] of the codes after each node of depth l; R = 1 for one table
        normalisation: "trie" (softmax over the children of the node) or "vocabulary" (over all K_l codes).

    Raises:
        ConfigError: unknown normalisation, or a table of the wrong shape.

    >>> from genrec.semantic_ids.trie import SemanticIdTrie
    >>> import numpy as np
    >>> trie = SemanticIdTrie.build(np.array([[0, 1], [2, 0], [0, 0]]), (3, 2))
    >>> scorer = TableScorer(trie, [torch.zeros(1, 1, 3), torch.zeros(1, 2, 2)])
    >>> log_probs, _ = scorer.start(scorer.encode(torch.tensor([[2, -1]]), torch.tensor([1])))
    >>> log_probs.exp()
    tensor([[[0.5000, 0.5000]]])
    """

    def __init__(
        self, trie: SemanticIdTrie, tables: Sequence[Float[Tensor, "R n K"]], *, normalisation: str = "trie"
    ) -> None:
        if normalisation not in NORMALISATIONS:
            expected = " or ".join(NORMALISATIONS)
            raise ConfigError("unknown normalisation", expected=expected, found=repr(normalisation))
        shapes = [(trie.num_nodes(level), size) for level, size in enumerate(trie.codebook_sizes)]
        found = [tuple(table.shape[1:]) for table in tables]
        if found != shapes or len({len(table) for table in tables}) != 1:
            found = [tuple(table.shape) for table in tables]
            raise ConfigError("tables of the wrong shape", expected=f"[R, nodes, codes], R with {shapes}", found=found)
        self.trie = trie
        self.log_probs = [  # per level [R, n_l, M_l], -inf as padding
            _child_log_probs(trie, level, table, normalisation) for level, table in enumerate(tables)
        ]

    def encode(self, histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
        if histories.shape[1] == 0:
            return torch.zeros_like(lengths)
        last = histories.gather(1, (lengths - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
        return last.clamp(min=0) % len(self.log_probs[0])

    def start(self, context: Int64[Tensor, " B"]) -> tuple[Float[Tensor, "B 1 M"], TableState]:
        nodes = torch.zeros(len(context), 1, dtype=torch.int64, device=context.device)
        return self.log_probs[0][context], TableState(context, nodes)

    def step(
        self,
        level: int,
        state: TableState,
        parents: Int64[Tensor, "B W"],
        codes: Int64[Tensor, "B W"],
        nodes: Int64[Tensor, "B W"],
    ) -> tuple[Float[Tensor, "B W M"], TableState]:
        is_alive, safe = nodes >= 0, nodes.clamp(min=0)
        came_from = self.trie.parents[level - 1][safe]
        assert bool(((came_from == state.nodes.gather(1, parents)) | ~is_alive).all()), "not a child of its parent"
        assert torch.equal(codes, self.trie.child_codes[level - 1][safe].long() * is_alive), "not the code of the node"
        log_probs = self.log_probs[level][state.rows.unsqueeze(1), safe]
        return log_probs.masked_fill(~is_alive.unsqueeze(2), -torch.inf), TableState(state.rows, nodes)


def _child_log_probs(trie: SemanticIdTrie, level: int, table: Tensor, normalisation: str) -> Tensor:
    nodes = torch.arange(trie.num_nodes(level), device=table.device)
    children = trie.children(level, nodes)
    if normalisation == "vocabulary":
        table = table.log_softmax(dim=2)
    codes = children.codes.clamp(min=0).expand(len(table), -1, -1)
    scores = table.gather(2, codes).masked_fill(~children.is_valid, -torch.inf)
    return scores.log_softmax(dim=2) if normalisation == "trie" else scores
