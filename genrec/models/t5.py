"""The T5 stack (Raffel et al. 2020): encoder, and a decoder over trees of short rows that share one read history.

Pre-norm residual blocks with RMSNorm, attention without scaling and without biases, a learnt bias by bucketed distance
that all layers share, ReLU or gated GELU. Weights copied from the T5 of `transformers` give its hidden states; there is
no dropout on attention weights, though. Rows of the decoder are prefixes of a tree: each attends to its few ancestors,
and to the encoded history of its position, which exists once however many rows or beams read it. Knows nothing of items
or codes.
"""
# B histories, S tokens, N rows, A ancestors, M memories, R rows of a memory, H heads, E width of a head, D width

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from genrec.errors import ConfigError
from genrec.models.transformer import ATTENTIONS, NORM_EPS, Dropout

T5_ACTIVATIONS = ("relu", "gated_gelu")


@dataclass(frozen=True)
class T5Size:
    """Size and kind of a stack.

    Attributes:
        width: D.
        num_heads: H.
        head_width: E; H x E need not be D.
        hidden: width of the feed-forward networks.
        num_layers: blocks.
        activation: "relu" or "gated_gelu".
        attention: "softmax" (faster on a CPU) or "sdpa".
        num_buckets, max_distance: of the bias by distance.
        dropout: rate on inputs, branches, inner activations and output.
    """

    width: int
    num_heads: int
    head_width: int
    hidden: int
    num_layers: int
    activation: str = "relu"
    attention: str = "softmax"
    num_buckets: int = 32
    max_distance: int = 128
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.activation not in T5_ACTIVATIONS:
            raise ConfigError("unknown activation", expected=" or ".join(T5_ACTIVATIONS), found=repr(self.activation))
        if self.attention not in ATTENTIONS:
            raise ConfigError("unknown attention", expected=" or ".join(ATTENTIONS), found=repr(self.attention))


class Rows(NamedTuple):
    """Where the rows of a decoder stand.

    Attributes:
        ancestors: the rows that each attends to, from the root to itself; anything where there are fewer.
        depths: of each row: the number of ancestors but itself.
        memory: which history each reads.
        slots: its place among the rows of that history: [M, R] has room for all.
        limits: tokens of the history that it may read.
    """

    ancestors: Int64[Tensor, "N A"]
    depths: Int64[Tensor, " N"]
    memory: Int64[Tensor, " N"]
    slots: Int64[Tensor, " N"]
    limits: Int64[Tensor, " N"]


class Memory(NamedTuple):
    """Keys and values of an encoded history for the cross-attention of one layer."""

    keys: Float[Tensor, "M H S E"]
    values: Float[Tensor, "M H S E"]


class OwnTokens(NamedTuple):
    """Keys and values of the tokens of each beam, for one layer."""

    keys: Float[Tensor, "B W A F"]
    values: Float[Tensor, "B W A F"]


def distance_buckets(
    distances: Int64[Tensor, "*B"], *, num_buckets: int, max_distance: int, is_causal: bool
) -> Int64[Tensor, "*B"]:
    """T5's buckets of (place of the key - place of the query): single distances, then logarithmic ones.

    >>> distance_buckets(torch.tensor([-40, -3, 0, 3]), num_buckets=8, max_distance=16, is_causal=True).tolist()
    [7, 3, 0, 0]
    >>> distance_buckets(torch.tensor([-40, -1, 0, 3]), num_buckets=8, max_distance=16, is_causal=False).tolist()
    [3, 1, 0, 6]
    """
    first = torch.zeros_like(distances)
    if not is_causal:
        num_buckets //= 2
        first = (distances > 0) * num_buckets
    away = (-distances).clamp(min=0) if is_causal else distances.abs()
    exact = num_buckets // 2
    growth = (away.clamp(min=1).float() / exact).log() / math.log(max_distance / exact) * (num_buckets - exact)
    far = (exact + growth.long()).clamp(max=num_buckets - 1)
    return first + torch.where(away < exact, away, far)


class DistanceBias(nn.Module):
    """A learnt number a head for each bucket of distances."""

    def __init__(self, size: T5Size, *, is_causal: bool) -> None:
        super().__init__()
        self.buckets = functools.partial(
            distance_buckets, num_buckets=size.num_buckets, max_distance=size.max_distance, is_causal=is_causal
        )
        self.table = nn.Parameter(torch.randn(size.num_buckets, size.num_heads) * size.width**-0.5)

    def forward(self, queries: Int64[Tensor, " Q"], keys: Int64[Tensor, " S"]) -> Float[Tensor, "Q S H"]:
        """For the places of queries and keys."""
        return F.embedding(self.buckets(keys - queries.unsqueeze(1)), self.table)


class Attention(nn.Module):
    """The four matrices of an attention; who attends to what is up to the caller."""

    def __init__(self, size: T5Size) -> None:
        super().__init__()
        self.heads = (size.num_heads, size.head_width)
        inner = size.num_heads * size.head_width
        self.query = _linear(size.width, inner, (size.width * size.head_width) ** -0.5)
        self.key = _linear(size.width, inner, size.width**-0.5)
        self.value = _linear(size.width, inner, size.width**-0.5)
        self.out = _linear(inner, size.width, inner**-0.5)

    def split(self, x: Float[Tensor, "B S F"]) -> Float[Tensor, "B H S E"]:
        """One row of numbers a token -> heads."""
        return x.unflatten(-1, self.heads).transpose(1, 2)

    def few(
        self,
        query: Float[Tensor, "*N F"],
        keys: Float[Tensor, "*N A F"],
        values: Float[Tensor, "*N A F"],
        bias: Float[Tensor, "*N A H"],
    ) -> Float[Tensor, "*N D"]:
        """Attention of each row to a few keys of its own, by element-wise products; a bias of -inf leaves one out."""
        heads = keys.unflatten(-1, self.heads)  # [N, A, H, E]
        scores = (query.unflatten(-1, self.heads).unsqueeze(-3) * heads).sum(dim=-1) + bias
        weights = scores.float().softmax(dim=-2).to(values.dtype).unsqueeze(-1)
        return self.out((weights * values.unflatten(-1, self.heads)).sum(dim=-3).flatten(-2))


class FeedForward(nn.Module):
    """Position-wise network of T5."""

    def __init__(self, size: T5Size) -> None:
        super().__init__()
        self.inner = _linear(size.width, size.hidden, size.width**-0.5)
        self.gate = _linear(size.width, size.hidden, size.width**-0.5) if size.activation == "gated_gelu" else None
        self.outer = _linear(size.hidden, size.width, size.hidden**-0.5)
        self.dropout = Dropout(size.dropout)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        if self.gate is None:
            return self.outer(self.dropout(F.relu(self.inner(x))))
        return self.outer(self.dropout(F.gelu(self.gate(x), approximate="tanh") * self.inner(x)))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network."""

    def __init__(self, size: T5Size) -> None:
        super().__init__()
        self.kind = size.attention
        self.attention_norm, self.feed_forward_norm = _norm(size), _norm(size)
        self.attention, self.feed_forward = Attention(size), FeedForward(size)
        self.dropout = Dropout(size.dropout)

    def forward(self, x: Float[Tensor, "B S D"], bias: Float[Tensor, "B H S S"]) -> Float[Tensor, "B S D"]:
        own = self.attention
        normed = self.attention_norm(x)
        query, key, value = (own.split(part(normed)) for part in (own.query, own.key, own.value))
        if self.kind == "sdpa":
            read = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype), scale=1.0)
        else:
            read = (query @ key.transpose(-1, -2) + bias).float().softmax(dim=-1).to(value.dtype) @ value
        x = x + self.dropout(own.out(read.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Encoder(nn.Module):
    """Reads rows of token vectors.

    Args:
        size: of the stack.
        is_causal: a token reads itself and those before it, instead of all.
    """

    def __init__(self, size: T5Size, *, is_causal: bool = False) -> None:
        super().__init__()
        self.is_causal = is_causal
        self.bias = DistanceBias(size, is_causal=is_causal)
        self.layers = nn.ModuleList(EncoderLayer(size) for _ in range(size.num_layers))
        self.norm, self.dropout = _norm(size), Dropout(size.dropout)

    def forward(self, x: Float[Tensor, "B S D"], is_token: Bool[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """States of the tokens; those of padding mean nothing. Without a causal mask, every row has a token."""
        places = torch.arange(x.shape[1], device=x.device)
        bias = self.bias(places, places).permute(2, 0, 1)
        is_open = is_token.unsqueeze(1)
        if self.is_causal:  # a place reads itself in any case, so that no row of scores is empty
            is_open = (is_open & (places <= places.unsqueeze(1))) | (places == places.unsqueeze(1))
        bias = bias.masked_fill(~is_open.unsqueeze(1), -torch.inf)
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, bias)
        return self.dropout(self.norm(x))


class DecoderLayer(nn.Module):
    """Self-attention to the ancestors, cross-attention to the history, feed-forward network."""

    def __init__(self, size: T5Size) -> None:
        super().__init__()
        self.kind = size.attention
        self.attention_norm, self.cross_norm, self.feed_forward_norm = _norm(size), _norm(size), _norm(size)
        self.attention, self.cross, self.feed_forward = Attention(size), Attention(size), FeedForward(size)
        self.dropout = Dropout(size.dropout)

    def remember(self, encoded: Float[Tensor, "M S D"]) -> Memory:
        """Keys and values of histories."""
        return Memory(self.cross.split(self.cross.key(encoded)), self.cross.split(self.cross.value(encoded)))

    def read(
        self, query: Float[Tensor, "M H R E"], memory: Memory, is_open: Bool[Tensor, "M 1 #R S"]
    ) -> Float[Tensor, "M R F"]:
        """Attention of all rows of a history to its keys: a matrix product a history, whatever the number of rows."""
        if self.kind == "sdpa":
            read = F.scaled_dot_product_attention(query, memory.keys, memory.values, attn_mask=is_open, scale=1.0)
        else:
            scores = (query @ memory.keys.transpose(-1, -2)).masked_fill(~is_open, -torch.inf)
            read = scores.float().softmax(dim=-1).to(query.dtype) @ memory.values
        return read.transpose(1, 2).flatten(2)

    def finish(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """The feed-forward half."""
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Decoder(nn.Module):
    """Rows of a tree in one pass, or one more token of each beam."""

    def __init__(self, size: T5Size) -> None:
        super().__init__()
        self.bias = DistanceBias(size, is_causal=True)
        self.layers = nn.ModuleList(DecoderLayer(size) for _ in range(size.num_layers))
        self.norm, self.dropout = _norm(size), Dropout(size.dropout)

    def remember(self, encoded: Float[Tensor, "M S D"]) -> list[Memory]:
        """What the layers read of encoded histories."""
        return [layer.remember(encoded) for layer in self._layers()]

    def forward(self, x: Float[Tensor, "N D"], rows: Rows, memories: list[Memory]) -> Float[Tensor, "N D"]:
        """Hidden states of all rows of a tree."""
        places = torch.arange(rows.ancestors.shape[1], device=x.device)
        is_later = (places > rows.depths.unsqueeze(1)).unsqueeze(-1)
        bias = self.bias(places, places)[rows.depths].masked_fill(is_later, -torch.inf)  # [N, A, H]
        num_memories, num_tokens = memories[0].keys.shape[0], memories[0].keys.shape[2] if memories else 0
        most = int(rows.slots.max()) + 1 if len(x) else 1
        limits = rows.limits.new_ones(num_memories, most).index_put((rows.memory, rows.slots), rows.limits)
        is_open = (torch.arange(num_tokens, device=x.device) < limits.unsqueeze(-1)).unsqueeze(1)
        flat = rows.memory * most + rows.slots
        x = self.dropout(x)
        for layer, memory in zip(self._layers(), memories, strict=True):
            own, normed = layer.attention, layer.attention_norm(x)
            keys, values = (part(normed).index_select(0, rows.ancestors.flatten()) for part in (own.key, own.value))
            keys, values = (part.view(*rows.ancestors.shape, -1) for part in (keys, values))
            x = x + layer.dropout(own.few(own.query(normed), keys, values, bias))
            query = layer.cross.query(layer.cross_norm(x))
            placed = query.new_zeros(num_memories * most, query.shape[-1]).index_copy(0, flat, query)
            query = layer.cross.split(placed.view(num_memories, most, -1))
            read = layer.read(query, memory, is_open).flatten(0, 1).index_select(0, flat)
            x = layer.finish(x + layer.dropout(layer.cross.out(read)))
        return self.dropout(self.norm(x))

    def step(
        self,
        x: Float[Tensor, "B W D"],
        own_tokens: list[OwnTokens],
        memories: list[Memory],
        is_token: Bool[Tensor, "B S"],
    ) -> tuple[Float[Tensor, "B W D"], list[OwnTokens]]:
        """One more token of each beam: its hidden state, and the tokens with it.

        Args:
            x: vectors of the new tokens.
            own_tokens: of the beams so far, a layer each, in their present order; empty at the first token.
            memories: of the B histories; read where they are, not copied for each beam.
            is_token: what is no padding.
        """
        place = own_tokens[0].keys.shape[2] if own_tokens else 0
        places = torch.arange(place + 1, device=x.device)
        bias = self.bias(places[-1:], places)  # [1, A, H]
        is_open = is_token[:, None, None]
        after = []
        x = self.dropout(x)
        for number, (layer, memory) in enumerate(zip(self._layers(), memories, strict=True)):
            own, normed = layer.attention, layer.attention_norm(x)
            keys, values = (part(normed).unsqueeze(2) for part in (own.key, own.value))
            if own_tokens:
                keys = torch.cat([own_tokens[number].keys, keys], dim=2)
                values = torch.cat([own_tokens[number].values, values], dim=2)
            after.append(OwnTokens(keys, values))
            x = x + layer.dropout(own.few(own.query(normed), keys, values, bias))
            read = layer.read(layer.cross.split(layer.cross.query(layer.cross_norm(x))), memory, is_open)
            x = layer.finish(x + layer.dropout(layer.cross.out(read)))
        return self.dropout(self.norm(x)), after

    def _layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]


def _norm(size: T5Size) -> nn.RMSNorm:
    return nn.RMSNorm(size.width, eps=NORM_EPS)


def _linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=std)
    return layer
