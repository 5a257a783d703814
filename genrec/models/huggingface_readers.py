"""How the networks of `transformers` read code tokens: decoders of one stack, and encoders with decoders.

Both are given vectors, never token ids, and give states; the vocabulary, its softmax and the catalogue are elsewhere.
Written against version 5 of `transformers`; imports it only where a cache is made. Must not know configuration.
"""
# B batch, T items, S positions of a row, P targets, C candidates, L levels, D width, A tokens of text behind a history,
# R prefixes of one length, Q tokens that branch off a row, W beams

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from genrec.errors import ConfigError
from genrec.models.flat_tokens import FlatTokens
from genrec.models.prefix_tree import PrefixTree, build_prefix_tree
from genrec.models.rows import lay_out, target_rows
from genrec.semantic_ids.trie import SemanticIdTrie

_TOLERANCE = 1e-3  # of states whose coordinates are about 1


class Prompt(nn.Module):
    """What stands around the tokens of a history: a start vector and text before it, and text behind it.

    Args:
        tokens: of the codes.
        before: ids of the text before the history.
        after: ids of the text behind it.
        width: D.
    """

    before: Tensor
    after: Tensor

    def __init__(self, tokens: FlatTokens, before: list[int], after: list[int], width: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.start = nn.Parameter(torch.zeros(width))
        self.ids = sorted({*before, *after})  # a word that comes twice has one vector
        self.text = nn.Parameter(torch.zeros(len(self.ids), width)) if self.ids else None
        for name, ids in (("before", before), ("after", after)):
            places = torch.tensor([self.ids.index(one) for one in ids], dtype=torch.int64)
            self.register_buffer(name, places, persistent=False)

    @property
    def num_before(self) -> int:
        """Tokens before the history."""
        return 1 + len(self.before)

    def read(self, trie: SemanticIdTrie, items: Int64[Tensor, "B T"]) -> Float[Tensor, "B S D"]:
        """The rows without the text behind them; padding on the right."""
        first = self.start.unsqueeze(0)
        if self.text is not None:
            first = torch.cat([first, self.text[self.before]])
        return torch.cat([first.expand(len(items), -1, -1), self.tokens.of_items(trie, items)], dim=1)

    def text_after(self) -> Float[Tensor, "A D"]:
        """The text behind a history."""
        return self.start.new_zeros(0, len(self.start)) if self.text is None else self.text[self.after]

    def read_whole(
        self, trie: SemanticIdTrie, items: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B S D"], Int64[Tensor, " B"]]:
        """The rows with the text right behind each history, and the place of their last token."""
        x, after = self.read(trie, items), self.text_after()
        ends = self.num_before + lengths * trie.num_levels
        if len(after):
            rows = torch.arange(len(items), device=items.device).unsqueeze(1)
            places = ends.unsqueeze(1) + torch.arange(len(after), device=items.device)
            values = after.to(x.dtype).expand(len(items), -1, -1)
            x = F.pad(x, (0, 0, 0, len(after))).index_put((rows, places), values)
        return x, ends + len(after) - 1


class Read(NamedTuple):
    """Windows of training as they go in; nothing has been computed.

    Attributes:
        x: rows without the text behind them.
        rows: of each target.
        places: of the last token of its history in the row.
    """

    x: Float[Tensor, "B S D"]
    rows: Int64[Tensor, " P"]
    places: Int64[Tensor, " P"]


class Beams(NamedTuple):
    """Requests of a search that have been read, and the beams that go on from them.

    Attributes:
        states: the last ones.
        cache: keys and values of the rows and of all beams so far, as the library keeps them.
        is_seen: which positions of the cache each beam sees.
        places: of the last token of each request.
    """

    states: Float[Tensor, "B W D"]
    cache: Any
    is_seen: Bool[Tensor, "B W S"]
    places: Int64[Tensor, " B"]


class Encoded(NamedTuple):
    """Histories that an encoder has read.

    Attributes:
        states: after every token.
        is_token: and not padding.
    """

    states: Float[Tensor, "P S D"]
    is_token: Bool[Tensor, "P S"]


class DecodedBeams(NamedTuple):
    """Beams of a search behind an encoder.

    Attributes:
        states: the last ones.
        cache: keys and values of the decoder and of what it was given, row by row of [B W].
        encoded: of the B requests.
    """

    states: Float[Tensor, "B W D"]
    cache: Any
    encoded: Encoded


class CausalReader(nn.Module):
    """A decoder of one stack (Llama, Qwen, ..).

    Candidates and beams are trees over the row they belong to: all their tokens stand behind it in one row, and an
    attention mask says which of them are forerunners of which. So a row is read once, and a step adds the tokens of all
    beams to its cache; nothing is copied for a beam, and beams are reordered by reordering the mask. The library
    itself joins the row's keys with the new ones, once a step and request. The mask of a row of training grows with the
    square of its tokens: a hundred candidates for each of twenty positions are thousands.

    Args:
        base: the network, without an input embedding; takes `inputs_embeds`, `position_ids`, masks of four axes.
        prompt: what stands around a history.
    """

    def __init__(self, base: Any, prompt: Prompt) -> None:
        super().__init__()
        self.base, self.prompt = base, prompt
        self.is_fused = getattr(base.config, "_attn_implementation", None) == "sdpa"
        self.cache_name = _cache_name(base)

    def states_of_rows(self, trie: SemanticIdTrie, items: Int64[Tensor, "B T"]) -> Float[Tensor, "B S D"]:
        """The state after every token of some rows but the last one."""
        return self._run(self.prompt.read(trie, items)[:, :-1])

    def places(self, trie: SemanticIdTrie, counts: Int64[Tensor, " P"]) -> Int64[Tensor, " P"]:
        """Of the last token of a history of so many items."""
        return self.prompt.num_before - 1 + counts * trie.num_levels

    def read(self, trie: SemanticIdTrie, histories: Int64[Tensor, "B T"], is_target: Bool[Tensor, "B T"]) -> Read:
        """For `grow`."""
        rows, counts = target_rows(histories, is_target)
        return Read(self.prompt.read(trie, histories), rows, self.places(trie, counts))

    def grow(
        self, trie: SemanticIdTrie, context: Read, items: Int64[Tensor, "P C"]
    ) -> tuple[PrefixTree, list[Float[Tensor, "R D"]]]:
        """The states of all distinct prefixes of candidates, in one pass over the rows and the trees behind them."""
        tree = build_prefix_tree(trie, items)
        after = self.prompt.text_after().to(context.x.dtype)
        branches = _branch_off(tree, len(after), trie.num_levels)
        rows, last = context.rows[branches.owners], context.places[branches.owners]
        order = rows.argsort(stable=True)
        grid = lay_out(rows[order], len(context.x))
        slots = torch.empty_like(rows).index_copy(0, order, grid.slots)
        tokens = [vector.expand(len(items), -1) for vector in after]
        tokens += [self.prompt.tokens.of_nodes(trie, depth, tree.nodes[depth]) for depth in range(1, trie.num_levels)]
        tokens = torch.cat([context.x.new_zeros(0, context.x.shape[-1]), *tokens])
        x = torch.cat([context.x, grid.place(tokens[order])], dim=1)
        length, width = context.x.shape[1], grid.shape[1]
        every = torch.arange(length, device=x.device)
        far = every <= grid.place(last[order]).unsqueeze(-1)  # [B, Q, S]
        near = torch.zeros(len(x), width, width, dtype=torch.bool, device=x.device)
        for line in branches.lines.unbind(dim=1):
            near[rows, slots, slots[line]] = True
        own = F.pad(every <= every.unsqueeze(1), (0, width)).expand(len(x), -1, -1)
        places = torch.cat([every.expand(len(x), -1), grid.place((last + branches.numbers)[order])], dim=1)
        is_seen = torch.cat([own, torch.cat([far, near], dim=-1)], dim=1)
        states = self._run(x, places=places, is_seen=is_seen)
        grown = states[rows, length + slots].split(branches.sizes)
        first = grown[len(after) - 1] if len(after) else states[context.rows, context.places]
        return tree, [first, *grown[len(after) :]]

    def encode(self, trie: SemanticIdTrie, items: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> Beams:
        """Reads requests once."""
        from transformers import DynamicCache

        x, last = self.prompt.read_whole(trie, items, lengths)
        cache = DynamicCache()
        states = self._run(x, cache=cache)[torch.arange(len(x), device=x.device), last].unsqueeze(1)
        is_seen = torch.arange(x.shape[1], device=x.device) <= last.unsqueeze(1)
        return Beams(states, cache, is_seen.unsqueeze(1), last)

    def step(self, state: Beams, parents: Int64[Tensor, "B W"], tokens: Float[Tensor, "B W D"], level: int) -> Beams:
        """Beams with one more token each."""
        rows = torch.arange(len(tokens), device=tokens.device).unsqueeze(1)
        own = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device).expand(len(tokens), -1, -1)
        is_seen = torch.cat([state.is_seen[rows, parents], own], dim=-1)
        cache = _shallow(state.cache)
        places = (state.places.unsqueeze(1) + level).expand(tokens.shape[:2])
        states = self._run(tokens, places=places, is_seen=is_seen, cache=cache)
        return state._replace(cache=cache, states=states, is_seen=is_seen)

    @torch.no_grad()
    def check(self, trie: SemanticIdTrie, history_length: int, where: str) -> None:
        """Raises ConfigError unless the network reads causally, takes trees, and has room for the longest row."""
        config = self.base.config
        longest = self.prompt.num_before + (history_length + 1) * trie.num_levels + len(self.prompt.after)
        for name in ("max_position_embeddings", "sliding_window"):
            limit = getattr(config, name, None)
            if limit is not None and limit < longest:
                raise too_long(where, name, longest, limit)
        if "position_ids" not in inspect.signature(self.base.forward).parameters:
            raise ConfigError("the model takes no positions, so it reads no trees of candidates", where=where)
        if not _tries(self.base, self._reads_trees_as_rows):
            raise ConfigError(
                "the model does not read trees of candidates as it reads rows, or not causally",
                where=where,
                expected="a causal language model whose positions and attention mask can be given, such as Llama's",
                found=type(self.base).__name__,
            )

    def _reads_trees_as_rows(self) -> bool:
        """Whether two tokens that follow the same three have the states that each has alone."""
        device = self.prompt.start.device
        x = torch.randn(1, 5, len(self.prompt.start), generator=torch.Generator().manual_seed(0)).to(device)
        x = x * self.prompt.tokens.codes[0].std()
        is_seen = torch.ones(5, 5, dtype=torch.bool, device=device).tril()
        is_seen[4, 3] = False
        places = torch.tensor([[0, 1, 2, 3, 3]], device=device)
        tree = self._run(x, places=places, is_seen=is_seen.unsqueeze(0))
        rows = torch.cat([self._run(x[:, :4]), self._run(x[:, [0, 1, 2, 4]])[:, 3:]], dim=1)
        return torch.allclose(tree, rows, rtol=_TOLERANCE, atol=_TOLERANCE)

    def _run(
        self,
        x: Float[Tensor, "B Q D"],
        *,
        places: Int64[Tensor, "B Q"] | None = None,
        is_seen: Bool[Tensor, "B Q S"] | None = None,
        cache: Any = None,
    ) -> Float[Tensor, "B Q D"]:
        mask = None if is_seen is None else is_seen.unsqueeze(1)
        if mask is not None and not self.is_fused:
            zero = torch.zeros((), dtype=x.dtype, device=x.device)
            mask = torch.where(mask, zero, torch.finfo(x.dtype).min)
        if places is None:
            places = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        given = {} if cache is None else {self.cache_name: cache}
        outputs = self.base(
            inputs_embeds=x, attention_mask=mask, position_ids=places, use_cache=cache is not None, **given
        )
        return outputs.last_hidden_state


class EncoderReader(nn.Module):
    """An encoder with a decoder (T5, ..): the encoder reads the history, the decoder the codes.

    In training every target is a row of its own, and every candidate of it a row of the decoder: the encoder sees the
    whole history, so positions share nothing, and prefixes that candidates share are computed for each. In a search
    the encoder runs once a request and the keys and values of what it gave are made once; but the library has no way
    for the beams of a request to share them, so each step copies them for its beams.

    Args:
        base: the network, without an input embedding.
        prompt: what stands around a history.
    """

    def __init__(self, base: Any, prompt: Prompt) -> None:
        super().__init__()
        self.base, self.prompt = base, prompt
        self.start = nn.Parameter(torch.zeros_like(prompt.start))
        self.cache_name = _cache_name(base.get_decoder())

    def read(self, trie: SemanticIdTrie, histories: Int64[Tensor, "B T"], is_target: Bool[Tensor, "B T"]) -> Encoded:
        """Every target's history is a row of the encoder."""
        rows, counts = target_rows(histories, is_target)
        if not len(rows):  # the library takes no batch of nothing, and every parameter is to get a gradient of 0
            rows, counts = rows.new_zeros(1), counts.new_zeros(1)
        return self._encode(trie, histories[rows], counts)

    def grow(
        self, trie: SemanticIdTrie, context: Encoded, items: Int64[Tensor, "P C"]
    ) -> tuple[PrefixTree, list[Float[Tensor, "R D"]]]:
        """The states of the prefixes of candidates; every candidate is a row of the decoder."""
        given = items if len(items) else items.new_zeros(1, 1)
        path = trie.path_nodes(given.flatten())
        tokens = [self.start.expand(len(path), -1)]
        tokens += [self.prompt.tokens.of_nodes(trie, depth, path[:, depth - 1]) for depth in range(1, trie.num_levels)]
        encoded = Encoded(*(part.repeat_interleave(given.shape[1], dim=0) for part in context))
        states = self._decode(torch.stack(tokens, dim=1), encoded)[: items.numel()]
        return build_prefix_tree(trie, items.reshape(-1, 1)), list(states.unbind(dim=1))

    def encode(self, trie: SemanticIdTrie, items: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> DecodedBeams:
        """Reads requests once."""
        from transformers import DynamicCache, EncoderDecoderCache

        encoded = self._encode(trie, items, lengths)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        return DecodedBeams(self._decode(self.start.expand(len(items), 1, -1), encoded, cache), cache, encoded)

    def step(
        self, state: DecodedBeams, parents: Int64[Tensor, "B W"], tokens: Float[Tensor, "B W D"], level: int
    ) -> DecodedBeams:
        """Beams with one more token each."""
        batch, width = parents.shape
        first = torch.arange(batch, device=parents.device).unsqueeze(1)
        rows = (first * state.states.shape[1] + parents).flatten()
        cache = copy.copy(state.cache)
        for name in ("self_attention_cache", "cross_attention_cache"):
            setattr(cache, name, _shallow(getattr(cache, name), rows))
        # The states that were encoded are in the cache; the decoder asks for them, and does not look at them again.
        unread = state.encoded.states[:1].expand(batch * width, -1, -1)
        is_token = state.encoded.is_token.repeat_interleave(width, dim=0)
        states = self._decode(tokens.flatten(0, 1).unsqueeze(1), Encoded(unread, is_token), cache)
        return state._replace(states=states.view_as(tokens), cache=cache)

    @torch.no_grad()
    def check(self, trie: SemanticIdTrie, history_length: int, where: str) -> None:
        """Raises ConfigError unless the decoder goes on from its cache as if it read everything anew."""
        limit = getattr(self.base.config, "max_position_embeddings", None)
        longest = self.prompt.num_before + history_length * trie.num_levels + len(self.prompt.after)
        if limit is not None and limit < longest:
            raise too_long(where, "max_position_embeddings", longest, limit)
        if not _tries(self.base, lambda: self._goes_on_from_its_cache(trie)):
            raise ConfigError(
                "the decoder of the model does not go on from a cache",
                where=where,
                expected="an encoder of tokens with a decoder that keeps its keys and values, such as T5's",
                found=type(self.base).__name__,
            )

    def _goes_on_from_its_cache(self, trie: SemanticIdTrie) -> bool:
        """Whether two histories that are decoded code by code have the states that they have all at once."""
        items = torch.arange(2, device=self.start.device).unsqueeze(1) % trie.num_items
        begun = self.encode(trie, items, torch.ones_like(items[:, 0]))
        tokens = self.prompt.tokens.of_nodes(trie, 1, torch.zeros_like(items))
        stepped = self.step(begun, torch.zeros_like(items), tokens, 1).states
        whole = self._decode(torch.cat([self.start.expand(2, 1, -1), tokens], dim=1), begun.encoded)
        return torch.allclose(stepped, whole[:, 1:], rtol=_TOLERANCE, atol=_TOLERANCE)

    def _encode(self, trie: SemanticIdTrie, items: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> Encoded:
        x, last = self.prompt.read_whole(trie, items, lengths)
        is_token = torch.arange(x.shape[1], device=x.device) <= last.unsqueeze(1)
        return Encoded(
            self.base.get_encoder()(inputs_embeds=x, attention_mask=is_token.long()).last_hidden_state, is_token
        )

    def _decode(self, x: Float[Tensor, "R Q D"], encoded: Encoded, cache: Any = None) -> Float[Tensor, "R Q D"]:
        given = {} if cache is None else {self.cache_name: cache}
        return self.base.get_decoder()(
            inputs_embeds=x,
            encoder_hidden_states=encoded.states,
            encoder_attention_mask=encoded.is_token.long(),
            use_cache=cache is not None,
            **given,
        ).last_hidden_state


class Branches(NamedTuple):
    """N tokens that branch off rows, stage by stage: first the text behind a history, then the prefixes of each depth.

    Attributes:
        owners: the target of each.
        numbers: how many tokens behind the row it stands, from 1.
        lines: its forerunners and itself, which fills the rest.
        sizes: tokens of each stage.
    """

    owners: Int64[Tensor, " N"]
    numbers: Int64[Tensor, " N"]
    lines: Int64[Tensor, "N _"]
    sizes: list[int]


def _branch_off(tree: PrefixTree, num_after: int, num_levels: int) -> Branches:
    """The tokens behind every history, and those of the prefixes of 1 to L - 1 codes of its candidates."""
    roots = tree.owners[0]
    owners = [roots] * num_after + list(tree.owners[1:num_levels])
    parents = [roots] * num_after + list(tree.parents[1:num_levels])
    sizes, lines, start = [len(owner) for owner in owners], [roots.new_zeros(0, len(owners))], 0
    above = roots.new_zeros(len(roots), 0)
    for size, parent in zip(sizes, parents, strict=True):
        own = torch.arange(start, start + size, device=roots.device).unsqueeze(1)
        above = torch.cat([above[parent], own], dim=1)
        lines.append(torch.cat([above, own.expand(-1, len(owners) - above.shape[1])], dim=1))
        start += size
    numbers = [torch.full_like(owner, number + 1) for number, owner in enumerate(owners)]
    return Branches(torch.cat([roots[:0], *owners]), torch.cat([roots[:0], *numbers]), torch.cat(lines), sizes)


def _shallow(cache: Any, rows: Int64[Tensor, " R"] | None = None) -> Any:
    """A cache that may grow without the other growing; of some of its rows."""
    grown = copy.copy(cache)
    grown.layers = [copy.copy(layer) for layer in cache.layers]
    if rows is not None:
        for layer in grown.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
    return grown


def _cache_name(network: nn.Module) -> str:
    """The name of an argument that was renamed within version 5 of the library."""
    return "cache" if "cache" in inspect.signature(network.forward).parameters else "past_key_values"


def _tries(network: Any, test: Callable[[], bool]) -> bool:
    """Whether a test of a network succeeds; what the network raises when it is read as it cannot be is a failure."""
    was_training = network.training
    network.eval()
    try:
        return test()
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return False
    finally:
        network.train(was_training)


def too_long(where: str, name: str, longest: int, limit: int) -> ConfigError:
    """Histories with their prompt do not go into a model."""
    return ConfigError(
        "histories are too long for the model",
        where=where,
        expected=f"{name} of {longest} or more",
        found=limit,
        fix="shorten model.history_length",
    )
