"""The hierarchical recommender and its value head as a search of trees asks for them: prefixes of all depths in one call.

A node of a tree is two vectors, what its codes add to the state of the user in the decoder and in the value head; the
decoder is run once for all nodes that are asked for, and their scores are grouped by depth. Must not know search.
"""
# B requests, C rows, W nodes at once, R = B W, D width, M most children of a node that is not the root

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from genrec.errors import ConfigError
from genrec.models.code_decoder import DecoderState, Users
from genrec.models.hierarchical import HierarchicalRecommender
from genrec.models.value_head import ValueHead


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
        if model.settings.width != head.settings.width:
            raise ConfigError(
                "the value head reads states of another width",
                expected=model.settings.width,
                found=head.settings.width,
            )
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
        depths = torch.zeros(len(users), dtype=torch.int64, device=users.device)
        values = self.head(users, torch.zeros_like(users), depths, torch.zeros_like(depths, dtype=torch.float32))
        return log_probs, values.unsqueeze(1), Trees(decoder, paths, torch.zeros_like(paths))

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
        owners, place = (nodes >= 0).nonzero(as_tuple=True)
        row, above = rows[owners, place], parents[owners, place]
        depth, node = depths[owners, place], nodes[owners, place]
        paths, sums = state.paths[owners, above], state.sums[owners, above]
        for level in range(trie.num_levels):
            own = (depth == level + 1).nonzero().squeeze(1)
            at = node[own]
            sums[own] += self.head.token(level, trie.child_codes[level][at])
            if level + 1 < trie.num_levels:
                paths[own] = decoder.extend(trie, level + 1, paths[own], at)
        state.paths[owners, row], state.sums[owners, row] = paths, sums
        scores = decoder.of_nodes(trie, depth, state.decoder, owners, paths, node, self.model.memory)
        users = state.decoder.users.state[owners]
        values = self.head(users, sums, depth, log_probs[owners, place])
        found = scores.new_full((*nodes.shape, scores.shape[1]), -torch.inf)
        found[owners, place] = scores
        return found, values.new_zeros(nodes.shape).index_put((owners, place), values)
