"""A Llama-style stack: pre-norm blocks of grouped-query attention with rotary positions, and of SwiGLU; no biases.

Touvron et al. 2023 (LLaMA, section 2.2) with the grouped queries of Ainslie et al. 2023. With the weights copied it
gives what `transformers.LlamaModel` gives (a test holds it to that). Beyond the pass over whole rows it extends rows
that have been read by single tokens, of which each sees its row and its own few forerunners: what a beam of a search
needs, and a tree of candidates. Knows nothing of items, codes or tries.
"""
# B rows, S positions of a row, Q tokens that extend a row, A of them in one line, N layers, D width, H query heads,
# G = H / Hkv query heads a key, E width of a head

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from genrec.errors import ConfigError
from genrec.models.transformer import ATTENTIONS, NORM_EPS, Dropout, Rotary


class Heads(NamedTuple):
    """Of an attention; see `share_heads`.

    Attributes:
        queries: H.
        keys: Hkv, a divisor of H; keys and values have as many.
        width: E, even.
    """

    queries: int
    keys: int
    width: int


def share_heads(width: int, num_heads: int, *, num_kv_heads: int | None = None, head_width: int | None = None) -> Heads:
    """The heads of a stack of some width.

    Args:
        width: D.
        num_heads: H.
        num_kv_heads: Hkv; None: H.
        head_width: E; None: D / H.

    Raises:
        ConfigError: D is no multiple of H where it has to be, or H none of Hkv.

    >>> share_heads(128, 8, num_kv_heads=2)
    Heads(queries=8, keys=2, width=16)
    """
    if head_width is None and width % num_heads:
        raise ConfigError("the width must be a multiple of the number of heads", found=f"{width} and {num_heads}")
    keys = num_heads if num_kv_heads is None else num_kv_heads
    if num_heads % keys:
        raise ConfigError(
            "the heads cannot share the keys evenly",
            where="key 'model.num_kv_heads'",
            expected=f"a divisor of {num_heads}",
            found=keys,
            fix=f"model.num_kv_heads={math.gcd(num_heads, keys)}",
        )
    return Heads(num_heads, keys, width // num_heads if head_width is None else head_width)


class KeysValues(NamedTuple):
    """What one layer has kept of rows, turned by their positions; shared by all that extends a row.

    Attributes:
        keys, values: head by head.
    """

    keys: Float[Tensor, "B Hkv S E"]
    values: Float[Tensor, "B Hkv S E"]


class GroupedAttention(nn.Module):
    """Causal attention whose keys and values have fewer heads than its queries; heads j G to j G + G - 1 share key j.

    Args:
        width: D.
        heads: of it.
        max_length: longest row, what extends it included.
        kind: "softmax" or "sdpa"; what extends rows always goes by plain products, joined in one softmax.
    """

    def __init__(self, width: int, heads: Heads, *, max_length: int, kind: str = "softmax") -> None:
        super().__init__()
        if kind not in ATTENTIONS:
            raise ConfigError("unknown attention", expected=" or ".join(ATTENTIONS), found=repr(kind))
        self.heads, self.kind = heads, kind
        self.qkv = nn.Linear(width, (heads.queries + 2 * heads.keys) * heads.width, bias=False)
        self.out = nn.Linear(heads.queries * heads.width, width, bias=False)
        self.rotary = Rotary(heads.width, max_length=max_length)

    def read(self, x: Float[Tensor, "B S D"]) -> tuple[Float[Tensor, "B S D"], KeysValues]:
        """Attention within rows that begin at position 0, and what it keeps of them."""
        query, key, value = (part.transpose(1, 2) for part in self._project(x))  # [B, heads, S, E]
        query, key = self.rotary(query), self.rotary(key)
        groups = self.heads.queries // self.heads.keys
        if self.kind == "sdpa":
            y = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=groups > 1)
        else:
            is_later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
            all_keys, all_values = (part.repeat_interleave(groups, dim=1) for part in (key, value))
            scores = (query / math.sqrt(self.heads.width)) @ all_keys.transpose(-1, -2)
            y = scores.masked_fill(is_later, -torch.inf).softmax(dim=-1) @ all_values
        return self.out(y.transpose(1, 2).flatten(2)), KeysValues(key, value)

    def extend(
        self,
        x: Float[Tensor, "B Q D"],
        places: Int64[Tensor, "B Q"],
        row: KeysValues,
        is_seen: Bool[Tensor, "B _ S"],
        line: Float[Tensor, "B Q _ 2 Hkv E"] | None,
    ) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "B Q _ 2 Hkv E"]]:
        """Attention of single tokens over what they see of their row, their own line, and themselves.

        The row is read where it lies (Juravsky et al. 2024, Hydragen: attention over a shared prefix apart from that
        over what is one's own); no copy of it is made for any token. One softmax joins both.
        """
        count, groups = x.shape[1], self.heads.queries // self.heads.keys
        query, key, value = self._project(x)  # [B, Q, heads, E]
        query, key = (self._turn(part, places) for part in (query, key))
        own = torch.stack([key, value], dim=2).unsqueeze(2)
        line = own if line is None else torch.cat([line, own], dim=2)  # [B, Q, A, 2, Hkv, E]
        query = query.unflatten(2, (self.heads.keys, groups)) / math.sqrt(self.heads.width)
        grouped = query.transpose(1, 2)  # [B, Hkv, Q, G, E]
        far = (grouped.flatten(2, 3) @ row.keys.transpose(-1, -2)).unflatten(2, (count, groups))  # [B, Hkv, Q, G, S]
        far = far.masked_fill(~is_seen.unsqueeze(1).unsqueeze(3), -torch.inf)
        keys, values = (part.transpose(2, 3) for part in line.unbind(3))  # [B, Q, Hkv, A, E]
        near = (query @ keys.transpose(-1, -2)).transpose(1, 2)  # [B, Hkv, Q, G, A]
        weights = torch.cat([far, near], dim=-1).softmax(dim=-1).to(row.values.dtype)
        far, near = weights.split([far.shape[-1], near.shape[-1]], dim=-1)
        seen = (far.flatten(2, 3) @ row.values).view_as(grouped).transpose(1, 2)
        y = seen + near.transpose(1, 2) @ values  # [B, Q, Hkv, G, E]
        return self.out(y.flatten(2)), line

    def _project(self, x: Float[Tensor, "B Q D"]) -> tuple[Tensor, ...]:
        queries, keys, width = self.heads
        return self.qkv(x).unflatten(-1, (queries + 2 * keys, width)).split([queries, keys, keys], dim=2)

    def _turn(self, x: Float[Tensor, "B Q H E"], places: Int64[Tensor, "B Q"]) -> Float[Tensor, "B Q H E"]:
        return self.rotary.at(x.flatten(0, 1), places.flatten()).view_as(x)


class SwiGlu(nn.Module):
    """Position-wise network silu(x W_1) * (x W_2) followed by W_3 (Shazeer 2020), of an explicit hidden width."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, 2 * hidden, bias=False)
        self.outer = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        gate, linear = self.inner(x).chunk(2, dim=-1)
        return self.outer(F.silu(gate) * linear)


class LlamaBlock(nn.Module):
    """x + drop(attention(norm(x))), then x + drop(feed_forward(norm(x)))."""

    def __init__(self, width: int, hidden: int, attention: GroupedAttention, *, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=NORM_EPS)
        self.attention = attention
        self.feed_forward_norm = nn.RMSNorm(width, eps=NORM_EPS)
        self.feed_forward = SwiGlu(width, hidden)
        self.dropout = Dropout(dropout)

    def read(self, x: Float[Tensor, "B S D"]) -> tuple[Float[Tensor, "B S D"], KeysValues]:
        y, kept = self.attention.read(self.attention_norm(x))
        return self._feed_forward(x + self.dropout(y)), kept

    def extend(
        self,
        x: Float[Tensor, "B Q D"],
        places: Int64[Tensor, "B Q"],
        row: KeysValues,
        is_seen: Bool[Tensor, "B _ S"],
        line: Float[Tensor, "B Q _ 2 Hkv E"] | None,
    ) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "B Q _ 2 Hkv E"]]:
        y, line = self.attention.extend(self.attention_norm(x), places, row, is_seen, line)
        return self._feed_forward(x + self.dropout(y)), line

    def _feed_forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Llama(nn.Module):
    """The stack with its last norm.

    Rows are right-padded and begin at position 0: causality alone keeps padding from what stands before it.

    Args:
        width: D.
        num_layers: N.
        heads: of the attentions.
        hidden: width of SwiGLU between its products.
        max_length: longest row, what extends it included.
        attention: "softmax" or "sdpa".
        dropout: rate on the branches of the blocks; the original has none.
    """

    def __init__(
        self,
        width: int,
        *,
        num_layers: int,
        heads: Heads,
        hidden: int,
        max_length: int,
        attention: str = "softmax",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            LlamaBlock(
                width,
                hidden,
                GroupedAttention(width, heads, max_length=max_length, kind=attention),
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.RMSNorm(width, eps=NORM_EPS)

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """The state at every position."""
        return self.read(x)[0]

    def read(self, x: Float[Tensor, "B S D"]) -> tuple[Float[Tensor, "B S D"], tuple[KeysValues, ...]]:
        """The state at every position, and what `extend` needs of each layer."""
        rows = []
        for block in self.blocks:
            assert isinstance(block, LlamaBlock)
            x, kept = block.read(x)
            rows.append(kept)
        return self.norm(x), tuple(rows)

    def extend(
        self,
        x: Float[Tensor, "B Q D"],
        places: Int64[Tensor, "B Q"],
        rows: tuple[KeysValues, ...],
        is_seen: Bool[Tensor, "B _ S"],
        line: Float[Tensor, "N B Q _ 2 Hkv E"] | None = None,
    ) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "N B Q _ 2 Hkv E"]]:
        """The state at single tokens that continue rows which have been read; they do not see each other.

        Args:
            x: the tokens.
            places: their positions.
            rows: of `read`.
            is_seen: which positions of its row each of them sees, for all Q alike or for each.
            line: keys and values of the tokens between its row and itself, as this gave them; None: there are none.

        Returns:
            The states, and the lines with the tokens at their ends.
        """
        lines = []
        for number, (block, row) in enumerate(zip(self.blocks, rows, strict=True)):
            assert isinstance(block, LlamaBlock)
            x, own = block.extend(x, places, row, is_seen, None if line is None else line[number])
            lines.append(own)
        return self.norm(x), torch.stack(lines)
