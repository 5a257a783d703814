"""Building blocks of causal transformers: dropout, rotary positions, self-attention, feed-forward, block.

Pre-norm residual blocks with RMSNorm. Knows nothing of items, codes or tries. Rows are right-padded, so causality alone
keeps padding out of the valid positions.
"""
# B batch, T positions, H heads, D width, E = D / H width of a head, F hidden width

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from genrec.errors import ConfigError

ACTIVATIONS = ("gelu", "swiglu")
ATTENTIONS = ("softmax", "sdpa")
NORM_EPS = 1e-6


class Dropout(nn.Module):
    """Dropout that draws one random byte an element on a CPU, where `torch.nn.Dropout` costs more than the products.

    The rate there is the nearest multiple of 1/256, at most 255/256, and the scale is exact for it. On other devices
    this is `torch.nn.functional.dropout`. Draws come from torch's global generator: seed that to repeat them.

    Args:
        rate: probability of zeroing an element, in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ConfigError("dropout rate outside [0, 1)", found=rate)
        self.rate = rate
        self.scale(1.0)

    def scale(self, factor: float) -> None:
        """Makes `factor` (in [0, 1]) times the rate the one in use, until this is called again."""
        self.rate_in_use = factor * self.rate
        self.threshold = min(round(self.rate_in_use * 256), 255)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        if not self.training or self.threshold == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.rate_in_use)
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        keep = (words.view(torch.uint8)[: x.numel()] >= self.threshold).view(x.shape)
        return x * keep.to(x.dtype).mul_(256 / (256 - self.threshold))

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021, eq. 34): scores depend on the distance of two positions alone.

    The two coordinates that turn together are i and i + E / 2 of a head, not 2 i and 2 i + 1.

    Args:
        head_width: E, even.
        max_length: longest row.
        base: slowest frequency is about 1 / base.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, head_width: int, *, max_length: int, base: float = 10_000.0) -> None:
        super().__init__()
        if head_width % 2:
            raise ConfigError("rotary positions need an even number of features a head", found=head_width)
        frequencies = base ** -(torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
        angles = torch.outer(torch.arange(max_length, dtype=torch.float64), frequencies)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, x: Float[Tensor, "*B T E"]) -> Float[Tensor, "*B T E"]:
        """Turns position t of every row by t times the angles; T at most `max_length`."""
        return _turn(x, self.cos[: x.shape[-2]], self.sin[: x.shape[-2]])

    def at(self, x: Float[Tensor, "B H E"], places: Int64[Tensor, " B"]) -> Float[Tensor, "B H E"]:
        """Turns a vector that stands at position `places` of its row."""
        return _turn(x, self.cos[places].unsqueeze(1), self.sin[places].unsqueeze(1))


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


class SelfAttention(nn.Module):
    """Causal multi-head self-attention with rotary positions, without biases.

    Args:
        width: D, a multiple of `num_heads`.
        num_heads: H.
        max_length: longest row; None: no rotary positions, and rows of any length.
        kind: "softmax" (plain matrix products, which beat the fused kernel on a CPU at these lengths) or "sdpa"
            (`scaled_dot_product_attention`).
    """

    def __init__(self, width: int, *, num_heads: int, max_length: int | None, kind: str = "softmax") -> None:
        super().__init__()
        if width % num_heads:
            raise ConfigError("the width must be a multiple of the number of heads", found=f"{width} and {num_heads}")
        if kind not in ATTENTIONS:
            raise ConfigError("unknown attention", expected=" or ".join(ATTENTIONS), found=repr(kind))
        self.num_heads, self.kind = num_heads, kind
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.rotary = None if max_length is None else Rotary(width // num_heads, max_length=max_length)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
        query, key = (qkv[:2] if self.rotary is None else self.rotary(qkv[:2])).unbind(0)  # [B, H, T, E]
        y = plain_attention(query, key, qkv[2]) if self.kind == "softmax" else fused_attention(query, key, qkv[2])
        return self.out(y.transpose(1, 2).reshape(batch, length, width))

    def at(self, x: Float[Tensor, "B T D"], places: Int64[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """What `forward` gives at one position of each row: keys and values everywhere, one query."""
        batch, length, width = x.shape
        heads = (self.num_heads, width // self.num_heads)
        query_weight, other_weights = self.qkv.weight.split([width, 2 * width])
        query = F.linear(x[torch.arange(batch, device=x.device), places], query_weight).view(batch, *heads)
        key, value = F.linear(x, other_weights).view(batch, length, 2, *heads).permute(2, 0, 3, 1, 4)  # [B, H, T, E]
        if self.rotary is not None:
            query, key = self.rotary.at(query, places), self.rotary(key)
        query = query.unsqueeze(2) / math.sqrt(heads[1])
        is_later = torch.arange(length, device=x.device) > places.view(batch, 1, 1, 1)
        scores = (query @ key.transpose(-1, -2)).masked_fill(is_later, -torch.inf)
        return self.out((scores.softmax(dim=-1) @ value).reshape(batch, width))


def plain_attention(
    query: Float[Tensor, "*B T E"], key: Float[Tensor, "*B T E"], value: Float[Tensor, "*B T E"]
) -> Float[Tensor, "*B T E"]:
    """softmax(Q K^T / sqrt(E)) V over the positions up to one's own."""
    length = query.shape[-2]
    is_later = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-1, -2)
    return scores.masked_fill(is_later, -torch.inf).softmax(dim=-1) @ value


def fused_attention(
    query: Float[Tensor, "*B T E"], key: Float[Tensor, "*B T E"], value: Float[Tensor, "*B T E"]
) -> Float[Tensor, "*B T E"]:
    """The same by `scaled_dot_product_attention`."""
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


class FeedForward(nn.Module):
    """Position-wise network D -> F -> D: GELU, or SwiGLU with the same number of parameters (F is cut to 2/3)."""

    def __init__(self, width: int, hidden: int, *, activation: str = "gelu") -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ConfigError("unknown activation", expected=" or ".join(ACTIVATIONS), found=activation)
        self.gated = activation == "swiglu"
        hidden = 2 * hidden // 3 if self.gated else hidden
        self.inner = nn.Linear(width, 2 * hidden if self.gated else hidden, bias=False)
        self.outer = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        y = self.inner(x)
        if not self.gated:
            return self.outer(F.gelu(y))
        gate, linear = y.chunk(2, dim=-1)
        return self.outer(F.silu(gate) * linear)


class Block(nn.Module):
    """x + drop(attention(norm(x))), then x + drop(feed_forward(norm(x))).

    Args:
        width: D.
        num_heads: H.
        hidden: width of the feed-forward network before gating.
        max_length: longest row; None: without rotary positions.
        activation: "gelu" or "swiglu".
        attention: "softmax" or "sdpa".
        dropout: rate on both branches.
    """

    def __init__(
        self,
        width: int,
        *,
        num_heads: int,
        hidden: int,
        max_length: int | None,
        activation: str = "gelu",
        attention: str = "softmax",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=NORM_EPS)
        self.attention = SelfAttention(width, num_heads=num_heads, max_length=max_length, kind=attention)
        self.feed_forward = ResidualFeedForward(width, hidden, activation=activation, dropout=dropout)
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.feed_forward(x + self.dropout(self.attention(self.attention_norm(x))))

    def at(self, x: Float[Tensor, "B T D"], places: Int64[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """What `forward` gives at one position of each row, for much less work."""
        own = x[torch.arange(x.shape[0], device=x.device), places]
        return self.feed_forward(own + self.dropout(self.attention.at(self.attention_norm(x), places)))


class ResidualFeedForward(nn.Module):
    """x + drop(feed_forward(norm(x))): the position-wise half of a block."""

    def __init__(self, width: int, hidden: int, *, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=NORM_EPS)
        self.feed_forward = FeedForward(width, hidden, activation=activation)
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return x + self.dropout(self.feed_forward(self.norm(x)))
