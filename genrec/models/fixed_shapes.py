"""The encoder-decoder's search in fixed shapes, as a tracer needs it: padding and dead beams are computed, and masked.

`EncoderDecoderRecommender` leaves both out, which takes less time wherever shapes may depend on data. Here the same
weights are read by the textbook's formulas over whole rectangles; each beam has keys and values of its own few tokens.
"""
# B requests, T items, S = T L tokens, W beams, A own tokens so far, M most children of a node, H heads, E width of a
# head, D width

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genrec.models.code_scores import Prefixes
from genrec.models.encoder_decoder import EncoderDecoderRecommender
from genrec.models.rows import last_items
from genrec.models.t5 import Attention, Decoder, DecoderLayer, Encoder, EncoderLayer


class Request(NamedTuple):
    """Encoded histories.

    Attributes:
        memories: keys and values for the cross-attention of each layer.
        is_token: what of a history is no padding.
    """

    memories: list[tuple[Float[Tensor, "B H S E"], Float[Tensor, "B H S E"]]]
    is_token: Bool[Tensor, "B S"]


class OwnLines(NamedTuple):
    """Beams of a search: what they share, and keys and values of each one's own tokens, a pair a layer."""

    request: Request
    lines: list[tuple[Float[Tensor, "B W A H E"], Float[Tensor, "B W A H E"]]]


class RectangularSearch:
    """A scorer for `decoding.beam_search` that gives what the model gives.

    Args:
        model: in evaluation mode. Its weights are looked up in every call, so that they may be replaced.
    """

    def __init__(self, model: EncoderDecoderRecommender) -> None:
        self.model = model

    def encode(self, histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> Request:
        """Reads the last `history_length` items of each history, once; T is at least 1."""
        shown, _ = last_items(histories, lengths, self.model.settings.history_length)
        tokens, is_token = self.model.tokens_of(shown)
        encoded = encode_rectangle(self.model.encoder, tokens, is_token)
        memories = []
        for layer in _layers(self.model.decoder):
            weights = torch.cat([layer.cross.key.weight, layer.cross.value.weight])
            keys, values = F.linear(encoded, weights).chunk(2, dim=-1)
            memories.append((_heads(keys, layer.cross), _heads(values, layer.cross)))
        return Request(memories, is_token)

    def start(self, context: Request) -> tuple[Float[Tensor, "B 1 M"], OwnLines]:
        """Log-probabilities of the children of the root."""
        root = torch.zeros_like(context.is_token[:, :1], dtype=torch.int64)
        return self._score(0, self.model.start_vector.expand(*root.shape, -1), root, OwnLines(context, []))

    def step(
        self,
        level: int,
        state: OwnLines,
        parents: Int64[Tensor, "B W"],
        codes: Int64[Tensor, "B W"],
        nodes: Int64[Tensor, "B W"],
    ) -> tuple[Float[Tensor, "B W M"], OwnLines]:
        """Log-probabilities of the children of each beam's node; anything for a dead beam."""
        rows = torch.arange(parents.shape[0], device=parents.device).unsqueeze(1)
        lines = [(keys[rows, parents], values[rows, parents]) for keys, values in state.lines]
        token = self.model.token_of(level - 1, codes, nodes.clamp(min=0))
        return self._score(level, token, nodes, OwnLines(state.request, lines))

    def _score(
        self, level: int, x: Float[Tensor, "B W D"], nodes: Int64[Tensor, "B W"], state: OwnLines
    ) -> tuple[Float[Tensor, "B W M"], OwnLines]:
        decoder, after = self.model.decoder, []
        places = torch.arange(level + 1, device=x.device)
        bias = decoder.bias(places[-1:], places)[0]  # [A, H]
        is_open = state.request.is_token[:, None, None]
        for number, layer in enumerate(_layers(decoder)):
            query, *new = (
                part.unflatten(-1, layer.attention.heads) for part in layer.attention.project(layer.attention_norm(x))
            )
            keys, values = (part.unsqueeze(2) for part in new)
            if state.lines:
                keys, values = (
                    torch.cat([old, part], dim=2) for old, part in zip(state.lines[number], (keys, values), strict=True)
                )
            after.append((keys, values))
            shares = ((query.unsqueeze(2) * keys).sum(dim=-1) + bias).softmax(dim=2)
            x = x + layer.attention.out((shares.unsqueeze(-1) * values).sum(dim=2).flatten(2))
            query = _heads(layer.cross.query(layer.cross_norm(x)), layer.cross)
            keys, values = state.request.memories[number]
            shares = (query @ keys.transpose(-1, -2)).masked_fill(~is_open, -torch.inf).softmax(dim=-1)
            x = x + layer.cross.out((shares @ values).transpose(1, 2).flatten(2))
            x = x + layer.feed_forward(layer.feed_forward_norm(x))
        read = decoder.norm(x)
        log_probs = self.model.scores.of_children(self.model.trie, level, Prefixes(read, read, nodes))
        return log_probs, OwnLines(state.request, after)


def encode_rectangle(
    encoder: Encoder, x: Float[Tensor, "B S D"], is_token: Bool[Tensor, "B S"]
) -> Float[Tensor, "B S D"]:
    """States of the tokens; anything in padding, which no token reads."""
    places = torch.arange(x.shape[1], device=x.device)
    is_open = is_token[:, None, None]
    if encoder.is_causal:  # a place reads itself in any case, so that no row of scores is empty
        is_open = (is_open & (places <= places.unsqueeze(1))) | (places == places.unsqueeze(1))
    bias = encoder.bias(places, places).permute(2, 0, 1).masked_fill(~is_open, -torch.inf)
    for layer in encoder.layers:
        assert isinstance(layer, EncoderLayer)
        parts = layer.attention.project(layer.attention_norm(x))
        query, keys, values = (_heads(part, layer.attention) for part in parts)
        read = (query @ keys.transpose(-1, -2) + bias).softmax(dim=-1) @ values
        x = x + layer.attention.out(read.transpose(1, 2).flatten(2))
        x = x + layer.feed_forward(layer.feed_forward_norm(x))
    return encoder.norm(x)


def _heads(x: Float[Tensor, "B S F"], attention: Attention) -> Float[Tensor, "B H S E"]:
    return x.unflatten(-1, attention.heads).transpose(1, 2)


def _layers(decoder: Decoder) -> list[DecoderLayer]:
    return [layer for layer in decoder.layers if isinstance(layer, DecoderLayer)]
