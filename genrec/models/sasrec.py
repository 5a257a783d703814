"""SASRec: a dense recommender, whose scores are inner products of a user vector with item vectors.

Kang and McAuley 2018 (arXiv 1808.09781, eq. 1 to 8): a causal transformer over the item vectors, which also are the
output layer,

    x_t = sqrt(D) I[i_t] + P[t],   u_t = norm(transformer(x_1 .. x_t)),   score(j | t) = <u_t, I[j]> / temperature

Ours: pre-norm blocks with RMSNorm as in the other recommenders, rotary positions instead of P as an option, cosines
instead of inner products as an option, and no vector of padding (rows are padded at the end, where causality keeps
padding out). Must not know losses, indexes, files or semantic IDs.
"""
# B batch, T items, D width, N items of the catalogue

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from genrec.models.node_embeddings import normal_table
from genrec.models.recommender import ParameterGroup, group_parameters, read_settings
from genrec.models.rows import last_items
from genrec.models.settings import SasrecSettings
from genrec.models.transformer import NORM_EPS, Block, Dropout


class Sasrec(nn.Module):
    """See the module for the equations.

    Args:
        num_items: N.
        settings: size and kind.

    Attributes:
        item_embeddings: I.
    """

    name = "sasrec"

    def __init__(self, num_items: int, settings: SasrecSettings) -> None:
        super().__init__()
        self.settings = settings
        width, is_learnt = settings.width, settings.positions == "learnt"
        self.item_embeddings = normal_table(num_items, width)
        self.positions = normal_table(settings.history_length, width) if is_learnt else None
        self.input_dropout = Dropout(settings.dropout_input)
        self.blocks = nn.ModuleList(
            Block(
                width,
                num_heads=settings.num_heads,
                hidden=settings.hidden,
                max_length=None if is_learnt else settings.history_length,
                activation=settings.activation,
                attention=settings.attention,
                dropout=settings.dropout_blocks,
            )
            for _ in range(settings.num_layers)
        )
        self.user_norm = nn.RMSNorm(width, eps=NORM_EPS)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1 / (3 * module.in_features**0.5))

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Sasrec:
        """An untrained model of the size that `facts` describe.

        Raises:
            ConfigError: unknown key or value.
        """
        values = {key: value for key, value in facts.items() if key != "num_items"}
        return cls(int(facts["num_items"]), read_settings(SasrecSettings, values))

    @property
    def facts(self) -> dict[str, Any]:
        """Kind, catalogue size and settings, as plain JSON values."""
        return {"name": self.name, "num_items": self.num_items, **asdict(self.settings)}

    @property
    def num_items(self) -> int:
        """N."""
        return self.item_embeddings.shape[0]

    def parameter_groups(
        self, *, weight_decay: float, node_weight_decay: float = 0.0, item_weight_decay: float = 0.0
    ) -> list[ParameterGroup]:
        """All parameters, each once; see `group_parameters`."""
        decays = (weight_decay, node_weight_decay, item_weight_decay)
        return group_parameters(self, nodes=(), items=[self.item_embeddings], decays=decays)

    def read(self, histories: Int64[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Query after each item; T is at most `history_length`. Positions of padding hold numbers without meaning."""
        x = self._inputs(histories)
        for block in self.blocks:
            x = block(x)
        return self._query(x)

    def encode(self, histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """Query after the last item of each row, from its last `history_length` items; without meaning if it is empty.

        Args:
            histories: item_index, oldest first, padded with -1 at the end.
            lengths: items of each row.
        """
        histories, lengths = last_items(histories, lengths, self.settings.history_length)
        if histories.shape[1] == 0:
            return self.item_embeddings.new_zeros(len(histories), self.settings.width)
        x, places = self._inputs(histories), (lengths - 1).clamp(min=0)
        for block in self.blocks[:-1]:
            x = block(x)
        if len(self.blocks):
            last = self.blocks[-1]
            assert isinstance(last, Block)
            return self._query(last.at(x, places))
        return self._query(x[torch.arange(len(x), device=x.device), places])

    def item_vectors(self) -> Float[Tensor, "N D"]:
        """What the inner product of a query with is the score."""
        return F.normalize(self.item_embeddings, dim=-1) if self.settings.normalise else self.item_embeddings

    def _query(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        user = self.user_norm(x)
        user = F.normalize(user, dim=-1) if self.settings.normalise else user
        return user / self.settings.temperature

    def _inputs(self, histories: Int64[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        length = histories.shape[1]
        assert length <= self.settings.history_length, "histories longer than history_length"
        x = F.embedding(histories.clamp(min=0), self.item_embeddings) * self.settings.width**0.5
        return self.input_dropout(x if self.positions is None else x + self.positions[:length])
