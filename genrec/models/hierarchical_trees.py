"""The hierarchical recommender and its value head for a search of trees: prefixes of all depths in one call.

A node of a tree is two vectors, what its codes add to the state of the user in the decoder and in the value head; the
decoder is run once for all nodes that are asked for, and their scores are grouped by depth. Must not know search.
"""
# B requests, C rows, W nodes at once, R = B W, D width, M most children of a node that is not the root

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from genrec.models.code_decoder import DecoderState, Users
from genrec.models.hierarchical import HierarchicalRecommender
from genrec.models.value_head import ValueHead, check_width


class Trees(NamedTuple):
    """Prefixes that have been read, by row.

    Attributes:
        decoder: of the root.
        paths: what the codes of each add to u.
        sums: the same in the value head.
    """

    decoder: DecoderState
    paths: Float[Tensor, "B C D"]
    sums: Float[Tensor, "B C D"]


class HierarchicalTreeScorer:
    """A `TreeScorer` of the model's own probabilities and the head's values; changes neither.

    Args:
        model: the policy.
        head: the value.

    Raises:
        ConfigError: their widths differ.
    """

    def __init__(self, model: HierarchicalRecommender, head: ValueHead) -> None:
        check_width(head, model.settings.width)
        self.model, self.head = model, head

    def encode(self, histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> Users:
        """The state of each user."""
        return self.model.encode(histories, lengths)

    @torch.no_grad()
    def open(self, context: Users, num_rows: int) -> tuple[Float[Tensor, "B 1 M0"], Float[Tensor, "B 1"], Trees]:
        """Children and value of the root; see `TreeScorer`."""
        log_probs, decoder = self.model.start(context)
        users = context.state
        paths = users.new_zeros(len(users), num_rows, users.shape[1])
        return log_probs, self.head.of_roots(users).unsqueeze(1), Trees(decoder, paths, torch.zeros_like(paths))

    @torch.no_grad()
    def forward(
        self,
        state: Trees,
        rows: Int64[Tensor, "B W"],
        parents: Int64[Tensor, "B W"],
        depths: Int64[Tensor, "B W"],
        nodes: Int64[Tensor, "B W"],
        log_probs: Float[Tensor, "B W"],
    ) -> tuple[Float[Tensor, "B W M"], Float[Tensor, "B W"]]:
        """Children and values of prefixes of any depths; see `TreeScorer`."""
        trie, decoder = self.model.trie, self.model.decoder
        place = self._by_depth(nodes, depths)
        sizes = torch.bincount(depths.flatten()[place], minlength=trie.num_levels + 1).tolist()[1:]
        row, above, depth, node, log_prob = (
            part.flatten().index_select(0, place) for part in (rows, parents, depths, nodes, log_probs)
        )
        owners = place // nodes.shape[1]
        kept = owners * state.paths.shape[1]  # place of row 0 of each
        paths, sums = (part.flatten(0, 1).index_select(0, kept + above) for part in (state.paths, state.sums))
        tokens, steps, start = [], [], 0
        for level, size in enumerate(sizes):
            own = node[start : start + size]
            tokens.append(self.head.token(level, trie.child_codes[level][own]))
            before = paths[start : start + size]
            steps.append(decoder.extend(trie, level + 1, before, own) if level + 1 < trie.num_levels else before)
            start += size
        # In half precision what is kept stays as the state of the user is.
        paths, sums = torch.cat(steps).to(paths.dtype), (sums + torch.cat(tokens)).to(sums.dtype)
        state.paths.flatten(0, 1).index_copy_(0, kept + row, paths)
        state.sums.flatten(0, 1).index_copy_(0, kept + row, sums)
        scores = decoder.of_nodes(trie, sizes, state.decoder, owners, paths, node, self.model.memory)
        values = self.head(state.decoder.users.state.index_select(0, owners), sums, depth, log_prob)
        found = scores.new_full((nodes.numel(), scores.shape[1]), -torch.inf).index_copy_(0, place, scores)
        of_nodes = values.new_zeros(nodes.numel()).index_copy_(0, place, values)
        return found.view(*nodes.shape, -1), of_nodes.view_as(nodes)

    @staticmethod
    def _by_depth(nodes: Int64[Tensor, "B W"], depths: Int64[Tensor, "B W"]) -> Int64[Tensor, " R"]:
        """Flat places of the live prefixes, the short ones first."""
        place = (nodes.flatten() >= 0).nonzero().squeeze(1)
        return place.index_select(0, depths.flatten().index_select(0, place).argsort(stable=True))
