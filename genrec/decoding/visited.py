"""Every node that the candidates of a request pass through, once, with the log-probabilities of all its children.

One pass gives what policy optimisation needs with a gradient: the log-probabilities of the chosen codes, and the whole
distribution of each visited node, for exact divergences and entropies. Must not know networks or losses.
"""
# B requests, k candidates, L levels, W distinct nodes of a depth at most, M most children of a node

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genrec.decoding.scorer import Scorer
from genrec.semantic_ids.trie import SemanticIdTrie


class VisitedNodes(NamedTuple):
    """Of one depth.

    Attributes:
        nodes: the distinct nodes of each request, -1 as padding.
        log_probs: of their children by the scorer, -inf as padding.
        places: which of the nodes each candidate passes through; any place where there is no candidate.
        slots: which child it takes there; 0 where there is no candidate.
    """

    nodes: Int64[Tensor, "B W"]
    log_probs: Float[Tensor, "B W M"]
    places: Int64[Tensor, "B k"]
    slots: Int64[Tensor, "B k"]

    @property
    def is_visited(self) -> Bool[Tensor, "B W"]:
        return self.nodes >= 0

    def chosen(self) -> Float[Tensor, "B k"]:
        """Log-probability of the child that each candidate takes; meaningless where there is no candidate."""
        index = self.places * self.log_probs.shape[2] + self.slots
        return self.log_probs.flatten(1).gather(1, index)


def score_visited(
    scorer: Scorer, trie: SemanticIdTrie, context: Any, nodes: Int64[Tensor, "B k L"]
) -> list[VisitedNodes]:
    """Scores the children of the nodes of depths 0 to L - 1 on the way to candidates, one call of the scorer a level.

    Args:
        scorer: the model.
        trie: the catalogue.
        context: of B requests, from `scorer.encode`; gradients flow through it.
        nodes: trie nodes of depths 1 to L of the candidates, as in `Rollouts`; -1 as padding.
    """
    found: list[VisitedNodes] = []
    log_probs, state = scorer.start(context)
    above = nodes.new_zeros(len(nodes), 1)
    places = torch.zeros_like(nodes[..., 0])
    for level in range(trie.num_levels):
        if level > 0:
            own = nodes[..., level - 1]
            previous = places
            above, places = distinct(own)
            # All candidates at one node came from one node, so it does not matter which of them writes.
            parents = torch.zeros_like(above).scatter(1, places, previous)
            codes = trie.child_codes[level - 1][above.clamp(min=0)].long() * (above >= 0)
            log_probs, state = scorer.step(level, state, parents, codes, above)
        _, count = trie.child_ranges(level, above)
        is_child = torch.arange(log_probs.shape[2], device=nodes.device) < count.unsqueeze(2)
        first, _ = trie.child_ranges(level, above.gather(1, places))
        slots = torch.where(nodes[..., level] >= 0, nodes[..., level] - first, 0)
        found.append(VisitedNodes(above, log_probs.masked_fill(~is_child, -torch.inf), places, slots))
    return found


def distinct(nodes: Int64[Tensor, "B k"]) -> tuple[Int64[Tensor, "B W"], Int64[Tensor, "B k"]]:
    """The distinct nodes of each row in ascending order, padded with -1, and where each of the given ones stands.

    >>> [part.tolist() for part in distinct(torch.tensor([[7, 2, 7, -1], [4, 4, 4, 4]]))]
    [[[2, 7, -1], [4, -1, -1]], [[1, 0, 1, 2], [0, 0, 0, 0]]]
    """
    last = torch.iinfo(nodes.dtype).max
    ordered, order = torch.where(nodes < 0, last, nodes).sort(dim=1)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    rank = is_first.cumsum(dim=1) - 1
    places = torch.empty_like(order).scatter_(1, order, rank)
    width = int(rank.max()) + 1
    kept = nodes.new_full((len(nodes), width), last).scatter_(1, rank, ordered)
    return kept.masked_fill(kept == last, -1), places
