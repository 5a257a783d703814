"""Putting two opinions of the catalogue together: lists by their ranks, probabilities by their logarithms.

Pure functions of tensors and a trie; must not know scorers, indexes or requests.
"""
# B requests, k generated and m retrieved items, C candidates, N items, n_d nodes of depth d, W beams, M children

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from genrec.decoding.scorer import Scorer
from genrec.decoding.selection import rank_items
from genrec.semantic_ids.trie import SemanticIdTrie


def fuse_ranks(
    generated: Int64[Tensor, "B k"],
    retrieved: Int64[Tensor, "B m"],
    num_candidates: int,
    *,
    weight: float = 1.0,
    constant: float = 60.0,
) -> tuple[Int64[Tensor, "B C"], Float[Tensor, "B C"]]:
    """Reciprocal rank fusion (Cormack et al. 2009): score = 1 / (c + rank in one) + w / (c + rank in the other).

    A list that does not have the item adds nothing. The paper has w = 1 and c = 60.

    Args:
        generated: item_index, best first, -1 as padding, no item twice.
        retrieved: likewise.
        num_candidates: C.
        weight: w, at least 0; at 0 the list is the generated one.
        constant: c, at least 0; ranks begin with 1.

    Returns:
        Items and scores by (score descending, item_index ascending), padded with -1 and -inf.

    >>> items, scores = fuse_ranks(torch.tensor([[5, 3]]), torch.tensor([[3, 7]]), 3, constant=0)
    >>> items.tolist(), scores.tolist()
    ([[3, 5, 7]], [[1.5, 1.0, 0.5]])
    """
    first, second = _reciprocal_ranks(generated, constant), _reciprocal_ranks(retrieved, constant, weight)
    is_same = (generated.unsqueeze(2) == retrieved.unsqueeze(1)) & (generated >= 0).unsqueeze(2)
    first = first + (is_same * second.unsqueeze(1)).sum(dim=2)
    first = first.masked_fill(generated < 0, -torch.inf)
    is_gone = (retrieved < 0) | is_same.any(dim=1)
    second = torch.full_like(second, -torch.inf) if weight == 0 else second.masked_fill(is_gone, -torch.inf)
    return rank_items(torch.cat([generated, retrieved], dim=1), torch.cat([first, second], dim=1), num_candidates)


def unite(first: Int64[Tensor, "B k"], second: Int64[Tensor, "B m"]) -> Int64[Tensor, "B C"]:
    """All items of two lists, C = k + m; those of the second that are in the first are -1.

    >>> unite(torch.tensor([[4, 2, -1]]), torch.tensor([[2, 9]])).tolist()
    [[4, 2, -1, -1, 9]]
    """
    is_same = (first.unsqueeze(2) == second.unsqueeze(1)).any(dim=1)
    return torch.cat([first, second.masked_fill(is_same, -1)], dim=1)


def mix(log_p: Float[Tensor, "*B"], log_q: Float[Tensor, "*B"], weight: float) -> Float[Tensor, "*B"]:
    """log p + weight log q: the logarithm of a geometric mixture, not normalised; at weight 0 q does not matter."""
    return log_p + weight * log_q if weight else log_p


def prefix_values(
    trie: SemanticIdTrie, log_q: Float[Tensor, "B N"], kind: Literal["sum", "max"] = "sum"
) -> list[Float[Tensor, "B _"]]:
    """What the items below each prefix are worth together: log sum q ("sum") or max log q ("max").

    Each depth is made from the one below it, so the cost is that of the nodes of the trie.

    Args:
        trie: the catalogue.
        log_q: by item_index; -inf for what must not come.
        kind: see above.

    Returns:
        L + 1 tensors [B, n_d], d = 0 to L, by node; -inf where no item below may come.
    """
    values = [log_q]
    above = trie.item_leaves
    for depth in reversed(range(trie.num_levels + 1)):
        values.insert(0, _gather_up(values[0], above, trie.num_nodes(depth), kind))
        above = trie.parents[depth - 1] if depth else above
    return values[:-1]


class MixedScorer:
    """A scorer whose prefixes also have a value: log p(prefix) + weight (value of the prefix - value of the root).

    A search with it keeps beams whose items a second model likes, before their codes are complete (as RankGen, Krishna
    et al. 2022, scores continuations in the beam; there with a text encoder). With `prefix_values` of kind "sum" of a
    distribution, the score of a whole semantic ID of one item is log p + weight log q.

    Args:
        scorer: the model.
        trie: the catalogue.
        values: of each depth, from `prefix_values`, for the requests of one context.
        weight: at least 0.
    """

    def __init__(self, scorer: Scorer, trie: SemanticIdTrie, values: list[Float[Tensor, "B _"]], weight: float) -> None:
        self.scorer, self.trie, self.values, self.weight = scorer, trie, values, weight

    def encode(self, histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> Any:
        """See `Scorer`."""
        return self.scorer.encode(histories, lengths)

    def start(self, context: Any) -> tuple[Float[Tensor, "B 1 M"], Any]:
        """See `Scorer`."""
        log_probs, state = self.scorer.start(context)
        root = torch.zeros(log_probs.shape[0], 1, dtype=torch.int64, device=log_probs.device)
        return self._add(0, log_probs, root), state

    def step(
        self,
        level: int,
        state: Any,
        parents: Int64[Tensor, "B W"],
        codes: Int64[Tensor, "B W"],
        nodes: Int64[Tensor, "B W"],
    ) -> tuple[Float[Tensor, "B W M"], Any]:
        """See `Scorer`."""
        log_probs, state = self.scorer.step(level, state, parents, codes, nodes)
        return self._add(level, log_probs, nodes), state

    def _add(self, level: int, log_probs: Tensor, nodes: Tensor) -> Tensor:
        """What the children of `nodes` are worth more than these; -inf where nothing below may come."""
        if not self.weight:
            return log_probs
        children = self.trie.children(level, nodes).nodes
        above = self.values[level].gather(1, nodes.clamp(min=0)).unsqueeze(2)
        below = self.values[level + 1].gather(1, children.clamp(min=0).flatten(1)).view_as(children)
        is_alive = (children >= 0) & (below > -torch.inf)
        gain = torch.where(is_alive, below, 0.0) - torch.where(above > -torch.inf, above, 0.0)
        return (log_probs + self.weight * gain).masked_fill(~is_alive, -torch.inf)


def _reciprocal_ranks(items: Tensor, constant: float, weight: float = 1.0) -> Tensor:
    # Numbers of Python, because a graph may hold a scalar that multiplies a tensor in half of these digits.
    values = [weight * (1 / (constant + rank)) for rank in range(1, items.shape[1] + 1)]
    return torch.tensor(values, dtype=torch.float64, device=items.device).expand(items.shape)


def _gather_up(values: Tensor, above: Tensor, num_nodes: int, kind: str) -> Tensor:
    """Values of nodes (or items) -> of the nodes above them."""
    places = above.expand_as(values)
    top = values.new_full((values.shape[0], num_nodes), -torch.inf).scatter_reduce(1, places, values, "amax")
    if kind == "max":
        return top
    safe = torch.where(top > -torch.inf, top, 0.0)
    shares = (values - safe.gather(1, places)).exp()
    return safe + values.new_zeros(top.shape).scatter_add(1, places, shares).log()
