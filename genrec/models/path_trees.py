"""Any recommender and a value head for a search of trees, by the steps that a beam search takes.

Must not know networks or search.
"""
# B requests, W nodes at once, L levels, D width, M most children of a node that is not the root

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from genrec.models.hierarchical import HierarchicalRecommender
from genrec.models.hierarchical_trees import HierarchicalTreeScorer
from genrec.models.recommender import Recommender
from genrec.models.value_head import ValueHead, check_width


class Requests(NamedTuple):
    """What all prefixes of a request share.

    Attributes:
        users: what the value head reads of each.
        root: state of the beam search before its first step.
        widest: M.
    """

    users: Float[Tensor, "B D"]
    root: Any
    widest: int


class PathTreeScorer:
    """A `TreeScorer` that keeps nothing of a prefix: it goes the way to it again, code by code, from the history read.

    What a prefix costs is at most L - 1 tokens where one would do, which are few beside a history; in return, no cache
    of keys and values has to follow the nodes of a tree.

    Args:
        model: the policy, whose states of a search are not changed by its steps.
        head: the value.
        is_static: for a tracer: goes on to the last level even where no prefix is as deep.
    """

    def __init__(self, model: Recommender, head: ValueHead, *, is_static: bool = False) -> None:
        self.model, self.head, self.is_static = model, head, is_static

    def encode(self, histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> Any:
        """Reads the histories once."""
        return self.model.encode(histories, lengths)

    @torch.no_grad()
    def open(self, context: Any, num_rows: int) -> tuple[Float[Tensor, "B 1 M0"], Float[Tensor, "B 1"], Requests]:
        """Children and value of the root; see `TreeScorer`.

        Raises:
            ConfigError: the head reads states of another width.
        """
        log_probs, root = self.model.start(context)
        users = self.model.request_states(context)
        check_width(self.head, users.shape[1])
        widest = max(self.model.trie.max_branching[1:], default=1)
        return log_probs, self.head.of_roots(users).unsqueeze(1), Requests(users, root, widest)

    @torch.no_grad()
    def forward(
        self,
        state: Requests,
        rows: Int64[Tensor, "B W"],
        parents: Int64[Tensor, "B W"],
        depths: Int64[Tensor, "B W"],
        nodes: Int64[Tensor, "B W"],
        log_probs: Float[Tensor, "B W"],
    ) -> tuple[Float[Tensor, "B W M"], Float[Tensor, "B W"]]:
        """Children and values of prefixes of any depths; see `TreeScorer`."""
        trie, beams = self.model.trie, state.root
        path = self._paths(depths, nodes)
        found = log_probs.new_full((*nodes.shape, state.widest), -torch.inf)
        sums = state.users.new_zeros(*nodes.shape, state.users.shape[1])
        before = torch.zeros_like(nodes)
        for level, own in enumerate(path, start=1):
            is_live = own >= 0
            codes = trie.child_codes[level - 1][own.clamp(min=0)].long() * is_live
            sums = sums + self.head.token(level - 1, codes) * is_live.unsqueeze(2)
            # Leaves have no children to score, and nobody goes on from where all prefixes end.
            own = own.masked_fill(depths == trie.num_levels, -1)
            if level < trie.num_levels and (self.is_static or bool((own >= 0).any())):
                children, beams = self.model.step(level, beams, before, codes * (own >= 0), own)
                before = torch.arange(nodes.shape[1], device=nodes.device).expand_as(nodes)
                part = found[..., : children.shape[2]]
                part.copy_(torch.where((depths == level).unsqueeze(2), children, part))
        users = state.users.unsqueeze(1).expand_as(sums)
        return found, self.head(users, sums, depths, log_probs.masked_fill(nodes < 0, 0.0))

    def _paths(self, depths: Int64[Tensor, "B W"], nodes: Int64[Tensor, "B W"]) -> list[Int64[Tensor, "B W"]]:
        """The nodes of depths 1 to L on the way to each node and itself, -1 below it."""
        trie, path = self.model.trie, [torch.full_like(nodes, -1)]
        for level in reversed(range(trie.num_levels)):
            above = path[0] if level + 1 == trie.num_levels else trie.parents[level + 1][path[0].clamp(min=0)]
            here = torch.where(path[0] >= 0, above, -1)
            path.insert(0, torch.where(depths == level + 1, nodes, here))
        return path[:-1]


def build_tree_scorer(model: Any, head: ValueHead) -> HierarchicalTreeScorer | PathTreeScorer:
    """The scorer of trees that fits a recommender."""
    kind = HierarchicalTreeScorer if isinstance(model, HierarchicalRecommender) else PathTreeScorer
    return kind(model, head)
