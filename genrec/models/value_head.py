"""The value of a prefix: what reward can be expected once a search has arrived there.

V-STAR (arXiv 2602.10699), docs/methods.md section 4. With x what a recommender knows of the request (and of the prefix,
if it has states of prefixes), A own code embeddings, P a vector a depth and q a direction a depth:

    z_l = x + sum_{j <= l} A_j[c_j] + P[l] [+ q_l log p(c_1 .. c_l) / 10]
    V(s_l) = <w, norm(residual networks(z_l))> + b_l

from the root (l = 0) to leaves (l = L). Deviations: the paper puts a transformer block over the codes; a running sum is
causal by construction, and all that a node of a search tree has to carry is one vector (the depth decoder does the
same, and lost nothing by it). The sum is our own, not the decoder's: that one has no state for a whole item, and none
for shorter prefixes either where one softmax decides several codes (`joint_depth`). And it is told how probable the
policy finds the prefix (an option), which is the match of user and prefix that it would have to learn again otherwise.

It is no part of a policy: no gradient leaves it. Codes alone name a prefix, so it fits every catalogue of the same
levels. Must not know rewards, histories or search.
"""
# P positions, C candidates, L levels, L1 = L + 1 depths, D width

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from genrec.errors import ConfigError
from genrec.models.node_embeddings import normal_table
from genrec.models.recommender import check_levels, read_settings
from genrec.models.settings import ValueHeadSettings
from genrec.models.transformer import NORM_EPS, ResidualFeedForward
from genrec.semantic_ids.trie import SemanticIdTrie

_LOG_PROB_UNIT = 10.0


class ValueHead(nn.Module):
    """V of prefixes of any depth; see the module for the equation. Before it is trained, V is 0 everywhere.

    Args:
        trie: the catalogue, of which it remembers the sizes of the levels alone.
        settings: size and kind.
    """

    name = "value_head"

    def __init__(self, trie: SemanticIdTrie, settings: ValueHeadSettings) -> None:
        super().__init__()
        self.codebook_sizes, self.settings = trie.codebook_sizes, settings
        width, num_depths = settings.width, trie.num_levels + 1
        self.codes = nn.ParameterList(normal_table(size, width) for size in trie.codebook_sizes)
        self.depths = normal_table(num_depths, width)
        self.surprise = normal_table(num_depths, width) if settings.reads_log_prob else None
        self.layers = nn.ModuleList(
            ResidualFeedForward(width, settings.hidden, activation=settings.activation, dropout=settings.dropout)
            for _ in range(settings.num_layers)
        )
        self.norm = nn.RMSNorm(width, eps=NORM_EPS)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1 / (3 * module.in_features**0.5))
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(num_depths))

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], trie: SemanticIdTrie) -> ValueHead:
        """An untrained head of the size that `facts` describe.

        Raises:
            ConfigError: unknown key or value.
            LineageError: a trie of other levels.
        """
        settings = read_settings(ValueHeadSettings, facts)
        check_levels(facts, trie)
        return cls(trie, settings)

    @property
    def facts(self) -> dict[str, Any]:
        """Levels and settings, as plain JSON values."""
        return {"name": self.name, "codebook_sizes": list(self.codebook_sizes), **asdict(self.settings)}

    def token(self, level: int, codes: Int[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """A_l: what choosing a code of `level` (from 0) adds to the sum of a prefix."""
        return F.embedding(codes, self.codes[level])

    def forward(
        self,
        states: Float[Tensor, "*B D"],
        sums: Float[Tensor, "*B D"],
        depths: Int64[Tensor, "*B"],
        log_probs: Float[Tensor, "*B"],
    ) -> Float[Tensor, "*B"]:
        """V of some prefixes, float32; what depends on the policy is taken as it is, without a gradient.

        Args:
            states: x.
            sums: of the tokens of the prefix, 0 for the root.
            depths: codes of the prefix, 0 to L.
            log_probs: of the prefix under the policy, 0 for the root.
        """
        x = states.detach() + sums + self.depths[depths]
        if self.surprise is not None:
            x = x + (log_probs.detach().to(x.dtype) / _LOG_PROB_UNIT).unsqueeze(-1) * self.surprise[depths]
        for layer in self.layers:
            x = layer(x)
        return (self.norm(x).float() * self.weight).sum(dim=-1) + self.bias[depths]

    def of_roots(self, states: Float[Tensor, "P D"]) -> Float[Tensor, " P"]:
        """V before the first code."""
        depths = torch.zeros(states.shape[0], dtype=torch.int64, device=states.device)
        return self(states, torch.zeros_like(states), depths, torch.zeros_like(states[:, 0]))

    def of_items(
        self,
        trie: SemanticIdTrie,
        states: Float[Tensor, "..."],
        items: Int64[Tensor, "P C"],
        log_probs: Float[Tensor, "P C L"],
    ) -> Float[Tensor, "P C L1"]:
        """V of the prefixes of 0 to L codes on the way to each item: what TD learning needs.

        Args:
            trie: the catalogue.
            states: x, of a shape that broadcasts to [P, C, L1, D]; that of a position is [P, 1, 1, D].
            items: item_index; the values of -1 mean nothing.
            log_probs: of each code given those before it.
        """
        path = trie.path_nodes(items).clamp(min=0)
        tokens = [self.token(level, trie.child_codes[level][path[..., level]]) for level in range(trie.num_levels)]
        sums = F.pad(torch.stack(tokens, dim=2).cumsum(dim=2), (0, 0, 1, 0))
        depths = torch.arange(trie.num_levels + 1, device=items.device).expand(*items.shape, -1)
        return self(states, sums, depths, F.pad(log_probs.cumsum(dim=2), (1, 0)))


def check_width(head: ValueHead, width: int) -> None:
    """Raises ConfigError unless the head reads states of this width."""
    if head.settings.width != width:
        raise ConfigError("the value head reads states of another width", expected=width, found=head.settings.width)
