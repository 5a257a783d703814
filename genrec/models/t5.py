"""The T5 stack (Raffel et al. 2020): encoder, and a decoder over trees of short rows that share one read history.

Pre-norm residual blocks with RMSNorm, attention without scaling and without biases, a learnt bias by bucketed distance
that all layers share, ReLU or gated GELU. Weights copied from the T5 of `transformers` give its hidden states; there is
no dropout on attention weights, though. Rows of the decoder are prefixes of a tree: each attends to its few ancestors,
and to the encoded history of its position, which exists once however many rows or beams read it. Knows nothing of items
or codes.
"""
# B histories, S tokens, n things in a rectangle, N rows, T rows so far, A ancestors, M memories, R rows of a memory,
# H heads, E width of a head, F = H E, D width

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from genrec.errors import ConfigError
from genrec.models.transformer import ATTENTIONS, NORM_EPS, Dropout

T5_ACTIVATIONS = ("relu", "gated_gelu")
# The encoder pads histories to the longest of a chunk; a further chunk costs operations, but saves padding.
SMALLEST_CHUNK, MOST_CHUNKS = 16, 4
ROWS_OF_BLOCK = 256  # of attention to ancestors


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


class Layout(NamedTuple):
    """Where things stand in a rectangle that has holes: tokens in histories, prefixes or beams beside their history.

    Matrices multiply the things alone; the rectangle is there for attention.

    Attributes:
        rows, slots: of each thing.
        shape: rows and slots of the rectangle.
    """

    rows: Int64[Tensor, " n"]
    slots: Int64[Tensor, " n"]
    shape: tuple[int, int]

    @classmethod
    def of(cls, is_there: Bool[Tensor, "M R"]) -> Layout:
        """What stands where a mask is true, row by row."""
        rows, slots = is_there.nonzero(as_tuple=True)
        return cls(rows, slots, (is_there.shape[0], is_there.shape[1]))

    def take(self, table: Float[Tensor, "M R D"]) -> Float[Tensor, "n D"]:
        """The things of a rectangle."""
        return table[self.rows, self.slots]

    def split(self, things: Float[Tensor, "n F"], heads: tuple[int, int]) -> Float[Tensor, "M H R E"]:
        """A rectangle a head, contiguous as batched products want it, 0 elsewhere."""
        rows, slots = self.shape
        empty = things.new_zeros(rows, heads[0], slots, heads[1])
        empty.transpose(1, 2).index_put_((self.rows, self.slots), things.unflatten(-1, heads))
        return empty

    def join(self, read: Float[Tensor, "M H R E"]) -> Float[Tensor, "n F"]:
        """Back from `split`."""
        return read.transpose(1, 2)[self.rows, self.slots].flatten(1)


class Chunk(NamedTuple):
    """Histories of like length, whose attention is computed together.

    Attributes:
        layout: of their tokens.
        bias: by distance, -inf where one may not look.
    """

    layout: Layout
    bias: Float[Tensor, "B H S S"]


class Rows(NamedTuple):
    """Where the rows of a decoder stand.

    Attributes:
        ancestors: the rows that each attends to, from the root to itself, counted from the first that was ever read;
            any row where there are fewer.
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
    """Keys and values of all rows so far, for the self-attention of one layer."""

    keys: Float[Tensor, "T F"]
    values: Float[Tensor, "T F"]


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

    def project(self, x: Float[Tensor, "n D"]) -> tuple[Tensor, ...]:
        """Queries, keys and values [n, F], by one product."""
        weights = torch.cat([self.query.weight, self.key.weight, self.value.weight])
        return F.linear(x, weights).chunk(3, dim=-1)

    def few(
        self,
        query: Float[Tensor, "N F"],
        tokens: OwnTokens,
        bias: Float[Tensor, "N A H"],
        ancestors: Int64[Tensor, "N A"],
    ) -> Float[Tensor, "N D"]:
        """Attention of each row to its ancestors; a bias of -inf leaves one out."""
        query, keys, values = (part.unflatten(-1, self.heads) for part in (query, *tokens))
        return self.out(FewKeys.apply(query, keys, values, bias, ancestors).flatten(1))  # pyright: ignore


class FewKeys(torch.autograd.Function):
    """Attention of each row to a few rows: what autograd would make of four lines, but without what they keep.

    Gathered keys and values would be as large as all else of a layer together. Here they are gathered in blocks that
    stay in the cache of a processor, and once more for the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Float[Tensor, "N H E"],
        keys: Float[Tensor, "T H E"],
        values: Float[Tensor, "T H E"],
        bias: Float[Tensor, "N A H"],
        which: Int64[Tensor, "N A"],
    ) -> Float[Tensor, "N H E"]:
        read, weights = torch.empty_like(query, memory_format=torch.contiguous_format), torch.empty_like(bias)
        for block in _blocks(query):
            scores = (query[block].unsqueeze(1) * _gather(keys, which[block])).sum(dim=-1) + bias[block]
            weights[block] = scores.softmax(dim=1)
            shares = weights[block].to(values.dtype).unsqueeze(-1)
            read[block] = (shares * _gather(values, which[block])).sum(dim=1)
        ctx.save_for_backward(query, keys, values, weights, which)
        return read

    @staticmethod
    def backward(ctx: Any, *grads: Float[Tensor, "N H E"]) -> tuple[Tensor | None, ...]:
        query, keys, values, weights, which = ctx.saved_tensors
        to_query, to_bias = torch.empty_like(grads[0]), torch.empty_like(weights)
        to_keys, to_values = (torch.zeros(keys.shape, dtype=weights.dtype, device=keys.device) for _ in range(2))
        for block in _blocks(query):
            grad, some, shares = grads[0][block].unsqueeze(1), which[block], weights[block]
            to_shares = (grad * _gather(values, some)).sum(dim=-1)
            to_scores = shares * (to_shares - (shares * to_shares).sum(dim=1, keepdim=True))
            to_bias[block] = to_scores
            to_scores, flat = to_scores.unsqueeze(-1), some.flatten()
            to_query[block] = (to_scores * _gather(keys, some)).sum(dim=1)
            to_keys.index_add_(0, flat, (to_scores * query[block].unsqueeze(1)).flatten(0, 1))
            to_values.index_add_(0, flat, (shares.unsqueeze(-1) * grad).flatten(0, 1))
        return to_query, to_keys.to(keys.dtype), to_values.to(values.dtype), to_bias, None


def _gather(table: Float[Tensor, "T H E"], which: Int64[Tensor, "c A"]) -> Float[Tensor, "c A H E"]:
    """table[which], whose rows are copied whole."""
    return table.flatten(1).index_select(0, which.flatten()).view(*which.shape, *table.shape[1:])


def _blocks(rows: Tensor) -> list[slice]:
    """Parts of few rows on a processor, all rows at once elsewhere."""
    size = ROWS_OF_BLOCK if rows.device.type == "cpu" else max(len(rows), 1)
    return [slice(first, first + size) for first in range(0, len(rows), size)]


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
            return self.outer(self.dropout(self.inner(x).relu_()))
        return self.outer(self.dropout(F.gelu(self.gate(x), approximate="tanh") * self.inner(x)))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network."""

    def __init__(self, size: T5Size) -> None:
        super().__init__()
        self.kind = size.attention
        self.attention_norm, self.feed_forward_norm = _norm(size), _norm(size)
        self.attention, self.feed_forward = Attention(size), FeedForward(size)
        self.dropout = Dropout(size.dropout)

    def forward(self, x: Float[Tensor, "n D"], chunks: list[Chunk]) -> Float[Tensor, "n D"]:
        sizes = [len(chunk.layout.rows) for chunk in chunks]
        parts = zip(*(part.split(sizes) for part in self.attention.project(self.attention_norm(x))), strict=True)
        read = torch.cat([self._attend(chunk, *part) for chunk, part in zip(chunks, parts, strict=True)])
        x = x + self.dropout(self.attention.out(read))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))

    def _attend(self, chunk: Chunk, *projected: Float[Tensor, "c F"]) -> Float[Tensor, "c F"]:
        query, key, value = (chunk.layout.split(part, self.attention.heads) for part in projected)
        if self.kind == "sdpa":
            read = F.scaled_dot_product_attention(query, key, value, attn_mask=chunk.bias.to(query.dtype), scale=1.0)
        else:
            read = (query @ key.transpose(-1, -2)).float().add_(chunk.bias).softmax(dim=-1).to(value.dtype) @ value
        return chunk.layout.join(read)


class Encoder(nn.Module):
    """Reads rows of token vectors: padding goes through attention alone, and there no further than a chunk needs.

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
        """States of the tokens, 0 in padding. Without a causal mask, every row has a token."""
        chunks, tokens = [], []
        places = torch.arange(x.shape[1], device=x.device)
        bias = self.bias(places, places).permute(2, 0, 1)
        ends = (is_token * (places + 1)).amax(dim=1)
        for rows in ends.argsort(stable=True).split(max(SMALLEST_CHUNK, -(-len(x) // MOST_CHUNKS))):
            longest = max(1, int(ends[rows].max()))
            chunk = is_token[rows, :longest]
            layout = Layout.of(chunk)
            chunks.append(Chunk(layout, self._open(bias[:, :longest, :longest], chunk)))
            tokens.append(rows[layout.rows] * x.shape[1] + layout.slots)
        flat = torch.cat(tokens)
        y = self.dropout(x.flatten(0, 1)[flat])
        for layer in self.layers:
            y = layer(y, chunks)
        y = self.dropout(self.norm(y))
        return y.new_zeros(len(x) * x.shape[1], y.shape[-1]).index_copy_(0, flat, y).view_as(x)

    def _open(self, bias: Float[Tensor, "H S S"], is_token: Bool[Tensor, "B S"]) -> Float[Tensor, "B H S S"]:
        """The bias, -inf where a token may not look."""
        is_open = is_token.unsqueeze(1)
        if self.is_causal:  # a place reads itself in any case, so that no row of scores is empty
            places = torch.arange(is_token.shape[1], device=bias.device)
            is_open = (is_open & (places <= places.unsqueeze(1))) | (places == places.unsqueeze(1))
        return bias.masked_fill(~is_open.unsqueeze(1), -torch.inf)


class DecoderLayer(nn.Module):
    """Self-attention to the ancestors, cross-attention to the history, feed-forward network."""

    def __init__(self, size: T5Size) -> None:
        super().__init__()
        self.kind = size.attention
        self.attention_norm, self.cross_norm, self.feed_forward_norm = _norm(size), _norm(size), _norm(size)
        self.attention, self.cross, self.feed_forward = Attention(size), Attention(size), FeedForward(size)
        self.dropout = Dropout(size.dropout)

    def remember(self, encoded: Float[Tensor, "n D"], layout: Layout) -> Memory:
        """Keys and values of histories."""
        keys, values = F.linear(encoded, torch.cat([self.cross.key.weight, self.cross.value.weight])).chunk(2, dim=-1)
        return Memory(layout.split(keys, self.cross.heads), layout.split(values, self.cross.heads))

    def read(
        self, x: Float[Tensor, "N D"], layout: Layout, memory: Memory, is_open: Bool[Tensor, "M 1 #R S"]
    ) -> Float[Tensor, "N D"]:
        """Attention of all rows of a history to its keys: a matrix product a history, whatever the number of rows."""
        query = layout.split(self.cross.query(self.cross_norm(x)), self.cross.heads)
        if self.kind == "sdpa":
            read = F.scaled_dot_product_attention(query, memory.keys, memory.values, attn_mask=is_open, scale=1.0)
        else:
            scores = (query @ memory.keys.transpose(-1, -2)).float().masked_fill_(~is_open, -torch.inf)
            read = scores.softmax(dim=-1).to(query.dtype) @ memory.values
        return self.cross.out(layout.join(read))

    def finish(
        self, x: Float[Tensor, "N D"], layout: Layout, memory: Memory, is_open: Bool[Tensor, "M 1 #R S"]
    ) -> Float[Tensor, "N D"]:
        """What follows self-attention: `read` and the feed-forward network."""
        x = x + self.dropout(self.read(x, layout, memory, is_open))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Decoder(nn.Module):
    """Reads rows of trees, all in one pass or depth by depth."""

    def __init__(self, size: T5Size) -> None:
        super().__init__()
        self.bias = DistanceBias(size, is_causal=True)
        self.layers = nn.ModuleList(DecoderLayer(size) for _ in range(size.num_layers))
        self.norm, self.dropout = _norm(size), Dropout(size.dropout)

    def remember(self, encoded: Float[Tensor, "M S D"], is_token: Bool[Tensor, "M S"]) -> list[Memory]:
        """What the layers read of encoded histories."""
        layout = Layout.of(is_token)
        tokens = layout.take(encoded)
        return [layer.remember(tokens, layout) for layer in self._layers()]

    def forward(
        self, x: Float[Tensor, "N D"], rows: Rows, memories: list[Memory], before: Sequence[OwnTokens] = ()
    ) -> tuple[Float[Tensor, "N D"], list[OwnTokens]]:
        """Reads rows of a tree.

        Args:
            x: the last token of each.
            rows: where they stand.
            memories: of the histories, a layer each; read where they are, not copied for each row.
            before: of all rows that were read already, a layer each. They stay where they are, whatever beams do.

        Returns:
            Hidden states, and `before` with the new rows.
        """
        places = torch.arange(rows.ancestors.shape[1], device=x.device)
        is_later = (places > rows.depths.unsqueeze(1)).unsqueeze(-1)
        bias = self.bias(places, places)[rows.depths].masked_fill(is_later, -torch.inf)  # [N, A, H]
        num_memories, _, num_tokens, _ = memories[0].keys.shape
        layout = Layout(rows.memory, rows.slots, (num_memories, int(rows.slots.max()) + 1 if len(x) else 1))
        limits = rows.limits.new_ones(layout.shape).index_put_((rows.memory, rows.slots), rows.limits)
        is_open = (torch.arange(num_tokens, device=x.device) < limits.unsqueeze(-1)).unsqueeze(1)
        after = []
        x = self.dropout(x)
        for number, (layer, memory) in enumerate(zip(self._layers(), memories, strict=True)):
            query, keys, values = layer.attention.project(layer.attention_norm(x))
            if before:
                keys = torch.cat([before[number].keys, keys])
                values = torch.cat([before[number].values, values])
            after.append(OwnTokens(keys, values))
            x = x + layer.dropout(layer.attention.few(query, after[-1], bias, rows.ancestors))
            x = layer.finish(x, layout, memory, is_open)
        return self.dropout(self.norm(x)), after

    def _layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]


def _norm(size: T5Size) -> nn.RMSNorm:
    return nn.RMSNorm(size.width, eps=NORM_EPS)


def _linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=std)
    return layer
