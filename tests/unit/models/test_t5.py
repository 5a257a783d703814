"""The T5 stack against that of transformers, whose weights it copies, and against itself token by token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from genrec.errors import ConfigError
from genrec.models.t5 import Decoder, DecoderLayer, Encoder, EncoderLayer, FewKeys, OwnTokens, Rows, T5Size

WIDTH, VOCABULARY = 16, 31


def size(**settings: Any) -> T5Size:
    return T5Size(width=WIDTH, num_heads=3, head_width=8, hidden=20, num_layers=2, **{"dropout": 0.0, **settings})


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def chain(num_rows: int, length: int, limits: torch.Tensor) -> Rows:
    """Rows of tokens one after the other as the simplest of trees."""
    row = torch.arange(num_rows).repeat_interleave(length)
    place = torch.arange(length).repeat(num_rows)
    ancestors = row.unsqueeze(1) * length + torch.arange(length)
    return Rows(ancestors, place, row, place, limits[row])


def copy_attention(theirs: Any, ours: Any) -> None:
    for name, part in (("q", ours.query), ("k", ours.key), ("v", ours.value), ("o", ours.out)):
        part.weight.copy_(getattr(theirs, name).weight)


def copy_feed_forward(theirs: Any, ours: Any) -> None:
    if ours.gate is None:
        ours.inner.weight.copy_(theirs.wi.weight)
    else:
        ours.gate.weight.copy_(theirs.wi_0.weight)
        ours.inner.weight.copy_(theirs.wi_1.weight)
    ours.outer.weight.copy_(theirs.wo.weight)


def copy_weights(theirs: Any, encoder: Encoder, decoder: Decoder) -> None:
    """From a `transformers.T5ForConditionalGeneration`."""
    with torch.no_grad():
        for stack, ours in ((theirs.encoder, encoder), (theirs.decoder, decoder)):
            ours.norm.weight.copy_(stack.final_layer_norm.weight)
            ours.bias.table.copy_(stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight)
            for block, layer in zip(stack.block, ours.layers, strict=True):
                assert isinstance(layer, EncoderLayer | DecoderLayer)
                copy_attention(block.layer[0].SelfAttention, layer.attention)
                layer.attention_norm.weight.copy_(block.layer[0].layer_norm.weight)
                if isinstance(layer, DecoderLayer):
                    copy_attention(block.layer[1].EncDecAttention, layer.cross)
                    layer.cross_norm.weight.copy_(block.layer[1].layer_norm.weight)
                copy_feed_forward(block.layer[-1].DenseReluDense, layer.feed_forward)
                layer.feed_forward_norm.weight.copy_(block.layer[-1].layer_norm.weight)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("activation", "attention"), [("relu", "softmax"), ("gated_gelu", "sdpa")])
def test_it_gives_the_logits_of_transformers(activation: str, attention: str, tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        d_kv=8,
        d_ff=20,
        num_layers=2,
        num_heads=3,
        feed_forward_proj="relu" if activation == "relu" else "gated-gelu",
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
        tie_word_embeddings=tied,
        decoder_start_token_id=0,
    )
    torch.manual_seed(0)
    theirs = transformers.T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.4)
    kind = size(activation=activation, attention=attention, num_buckets=8, max_distance=12)
    encoder, decoder = Encoder(kind).eval(), Decoder(kind).eval()
    copy_weights(theirs, encoder, decoder)
    tokens = torch.randint(VOCABULARY, (4, 30), generator=torch.Generator().manual_seed(1))
    answers = torch.randint(VOCABULARY, (4, 6), generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([30, 1, 17, 8])
    is_token = torch.arange(30) < lengths.unsqueeze(1)
    with torch.no_grad():
        expected = theirs(input_ids=tokens, attention_mask=is_token.long(), decoder_input_ids=answers)
        encoded = encoder(theirs.shared(tokens), is_token)
        hidden, _ = decoder(
            theirs.shared(answers).flatten(0, 1), chain(4, 6, lengths), decoder.remember(encoded, is_token)
        )
        logits = hidden.view(4, 6, WIDTH) * (WIDTH**-0.5 if tied else 1) @ theirs.lm_head.weight.T
    torch.testing.assert_close(encoded[is_token], expected.encoder_last_hidden_state[is_token], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, expected.logits, rtol=1e-5, atol=1e-5)


def build(**settings: Any) -> tuple[Encoder, Decoder]:
    torch.manual_seed(0)
    return Encoder(size(**settings), is_causal=True).eval(), Decoder(size(**settings)).eval()


@pytest.mark.parametrize("attention", ["softmax", "sdpa"])
def test_one_token_after_the_other_is_all_at_once(attention: str) -> None:
    encoder, decoder = build(attention=attention)
    lengths = torch.tensor([7, 2, 5])
    is_token = torch.arange(7) < lengths.unsqueeze(1)
    tokens = draw(3, 4, WIDTH, seed=1)
    with torch.no_grad():
        memories = decoder.remember(encoder(draw(3, 7, WIDTH), is_token), is_token)
        expected = decoder(tokens.flatten(0, 1), chain(3, 4, lengths), memories)[0].view(3, 4, WIDTH)
        own: list[OwnTokens] = []
        everyone, none = torch.arange(3), torch.zeros(3, dtype=torch.int64)
        for place in range(4):
            ancestors = everyone.unsqueeze(1) + 3 * torch.arange(place + 1)  # place after place, not row after row
            rows = Rows(ancestors, none + place, everyone, none, lengths)
            found, own = decoder(tokens[:, place], rows, memories, own)
            torch.testing.assert_close(found, expected[:, place], rtol=1e-5, atol=1e-5)


def test_a_causal_encoder_does_not_see_what_follows_nor_padding() -> None:
    encoder, _ = build()
    x, other = draw(2, 9, WIDTH), draw(2, 9, WIDTH, seed=1)
    is_token = torch.tensor([[True] * 9, [False] * 2 + [True] * 7])
    changed = torch.cat([x[:, :5], other[:, 5:]], dim=1)
    with torch.no_grad():
        before, after = encoder(x, is_token), encoder(changed, is_token)
        torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=0)
        assert not torch.allclose(before[:, 5:], after[:, 5:])
        shown = x.clone()
        shown[1, :2] = other[1, :2]
        torch.testing.assert_close(encoder(shown, is_token)[1, 2:], before[1, 2:], rtol=0, atol=0)
        alone = encoder(x[1:, 2:], is_token[1:, 2:])  # distances alone count, so padding on the left shifts nothing
        torch.testing.assert_close(alone, before[1:, 2:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_causal", [False, True])
def test_histories_read_in_chunks_are_those_read_alone(is_causal: bool) -> None:
    torch.manual_seed(0)
    encoder = Encoder(size(), is_causal=is_causal).eval()
    lengths = torch.randint(1, 10, (40,), generator=torch.Generator().manual_seed(1))
    x, is_token = draw(40, 9, WIDTH), torch.arange(9) < lengths.unsqueeze(1)
    with torch.no_grad():
        found = encoder(x, is_token)
        for row, length in enumerate(lengths.tolist()):
            alone = encoder(x[row : row + 1, :length], is_token[row : row + 1, :length])
            torch.testing.assert_close(found[row, :length], alone[0], rtol=1e-5, atol=1e-5)
    assert not found[~is_token].any()


class LargestTensor(TorchDispatchMode):
    """Remembers the most numbers that any operation returned."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        sizes = [leaf.untyped_storage().nbytes() // 4 for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]
        self.most = max(self.most, *sizes, 0)
        return found


def test_a_step_makes_nothing_of_the_size_of_beams_times_history() -> None:
    _, decoder = build()
    num_tokens, beams, inner = 500, 40, 24
    memories = decoder.remember(draw(2, num_tokens, WIDTH), torch.ones(2, num_tokens, dtype=torch.bool))
    rows = chain(2 * beams, 1, torch.full((2 * beams,), num_tokens))
    rows = rows._replace(memory=rows.memory // beams, slots=rows.memory % beams)
    with torch.no_grad(), LargestTensor() as seen:
        decoder(draw(2 * beams, WIDTH), rows, memories)
    scores = 2 * 3 * beams * num_tokens  # a number for each head, beam and token
    assert seen.most <= scores < 2 * beams * num_tokens * inner / 4


@pytest.mark.parametrize("block", [2, 100])
def test_attention_to_few_keys_is_what_autograd_makes_of_the_formula(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genrec.models.t5.ROWS_OF_BLOCK", block)
    which = torch.tensor([[0, 0, 0], [0, 3, 1], [4, 2, 2], [1, 1, 4], [2, 0, 3]])
    bias = draw(5, 3, 2, seed=3).double()
    bias[0, 1:], bias[2, 0, 1] = -torch.inf, -torch.inf
    parts = [draw(5, 2, 4, seed=seed).double().requires_grad_() for seed in range(3)]
    inputs = [*parts, bias.requires_grad_()]
    query, keys, values, _ = inputs
    scores = torch.einsum("nhe,nahe->nah", query, keys[which]) + bias
    expected = torch.einsum("nah,nahe->nhe", scores.softmax(dim=1), values[which])
    found = FewKeys.apply(*inputs, which)
    assert isinstance(found, torch.Tensor)
    torch.testing.assert_close(found, expected)
    weights = draw(5, 2, 4, seed=4).double()
    gradients = [torch.autograd.grad((result * weights).sum(), inputs) for result in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("wrong", [{"activation": "swish"}, {"attention": "flash"}])
def test_unknown_kinds_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="unknown"):
        size(**wrong)
