from __future__ import annotations

from typing import Any

import pytest
import torch

from genrec.errors import ConfigError
from genrec.models.llama import GroupedAttention, Heads, Llama, LlamaBlock, SwiGlu, share_heads


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stack(*, kv_heads: int | None = None, head_width: int | None = None, attention: str = "softmax") -> Llama:
    torch.manual_seed(0)
    heads = share_heads(16, 4, num_kv_heads=kv_heads, head_width=head_width)
    model = Llama(16, num_layers=2, heads=heads, hidden=20, max_length=16, attention=attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model.eval()


def copy_weights(model: Any, ours: Llama) -> None:
    """From a `transformers.LlamaModel`."""
    with torch.no_grad():
        for block, layer in zip(ours.blocks, model.layers, strict=True):
            assert isinstance(block, LlamaBlock)
            attention, network = layer.self_attn, layer.mlp
            projections = (attention.q_proj, attention.k_proj, attention.v_proj)
            block.attention.qkv.weight.copy_(torch.cat([part.weight for part in projections]))
            block.attention.out.weight.copy_(attention.o_proj.weight)
            block.feed_forward.inner.weight.copy_(torch.cat([network.gate_proj.weight, network.up_proj.weight]))
            block.feed_forward.outer.weight.copy_(network.down_proj.weight)
            block.attention_norm.weight.copy_(layer.input_layernorm.weight)
            block.feed_forward_norm.weight.copy_(layer.post_attention_layernorm.weight)
        ours.norm.weight.copy_(model.norm.weight)


@pytest.mark.parametrize("attention", ["softmax", "sdpa"])
@pytest.mark.parametrize(("kv_heads", "head_width"), [(4, None), (2, None), (1, 6)])
def test_it_gives_the_logits_of_transformers(kv_heads: int, head_width: int | None, attention: str) -> None:
    """Also those of left-padded rows there, whose positions are counted from their first token."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        head_dim=head_width or 4,
        max_position_embeddings=16,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.3)
    ours = stack(kv_heads=kv_heads, head_width=head_width, attention=attention)
    copy_weights(theirs.model, ours)
    tokens = torch.randint(31, (3, 9), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([9, 4, 6])
    with torch.no_grad():
        embedded = theirs.model.embed_tokens(tokens)
        expected = theirs(tokens).logits
        torch.testing.assert_close(theirs.lm_head(ours(embedded)), expected, rtol=0, atol=1e-5)
        places = torch.arange(9) - (9 - lengths).unsqueeze(1)
        is_token = places >= 0
        padded = torch.where(is_token, tokens.gather(1, places.clamp(min=0)), 0)
        left = theirs(padded, attention_mask=is_token.long(), position_ids=places.clamp(min=0)).logits
        for row, length in enumerate(lengths.tolist()):
            torch.testing.assert_close(
                theirs.lm_head(ours(embedded))[row, :length], left[row, 9 - length :], rtol=0, atol=1e-5
            )


@pytest.mark.parametrize("kv_heads", [None, 2])
def test_extending_rows_token_by_token_is_reading_them_whole(kv_heads: int | None) -> None:
    """Rows of different lengths; lines that cross over, as beams do."""
    ours = stack(kv_heads=kv_heads)
    rows, own = draw(2, 6, 16), draw(2, 3, 3, 16, seed=1)  # three lines of three tokens a row
    lengths = torch.tensor([6, 2])
    is_seen = (torch.arange(6) < lengths.unsqueeze(1)).unsqueeze(1)
    with torch.no_grad():
        _, kept = ours.read(rows)
        line, parents = None, torch.tensor([[2, 0, 0], [1, 1, 2]])
        states = []
        for number in range(3):
            if line is not None:
                line = line[:, torch.arange(2).unsqueeze(1), parents]
            places = (lengths + number).unsqueeze(1).expand(2, 3)
            state, line = ours.extend(own[:, :, number], places, kept, is_seen, line)
            states.append(state)
        for row, length in enumerate(lengths.tolist()):
            for last in range(3):
                second = int(parents[row, last])
                first = int(parents[row, second])
                path = [own[row, first, 0], own[row, second, 1], own[row, last, 2]]
                whole = ours(torch.cat([rows[row, :length], torch.stack(path)]).unsqueeze(0))[0]
                torch.testing.assert_close(states[2][row, last], whole[-1], rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(states[1][row, second], whole[-2], rtol=1e-4, atol=1e-5)


def test_tokens_may_see_different_parts_of_a_row() -> None:
    ours = stack()
    row, token = draw(1, 6, 16), draw(1, 1, 16, seed=2)
    seen = torch.tensor([6, 3, 1])
    with torch.no_grad():
        _, kept = ours.read(row)
        is_seen = torch.arange(6) < seen.view(1, 3, 1)
        states, _ = ours.extend(token.expand(1, 3, 16), seen.unsqueeze(0), kept, is_seen)
        for place, length in enumerate(seen.tolist()):
            whole = ours(torch.cat([row[:, :length], token], dim=1))
            torch.testing.assert_close(states[:, place], whole[:, -1], rtol=1e-4, atol=1e-5)


def test_the_future_and_padding_do_not_change_the_past() -> None:
    ours, x = stack(kv_heads=2), draw(2, 8, 16)
    changed = x.clone()
    changed[:, 5:] += 1
    before, after = ours(x), ours(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert ((before[:, 5:] - after[:, 5:]).abs().amax(dim=2) > 1e-3).all()
    torch.testing.assert_close(ours(x[:, :5]), before[:, :5])


def test_both_attentions_agree_in_gradient() -> None:
    gradients = []
    for attention in ("softmax", "sdpa"):
        ours = stack(attention=attention, kv_heads=2)
        ours(draw(2, 7, 16)).square().sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in ours.parameters()]))  # pyright: ignore
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)


def test_swiglu_equals_its_formula() -> None:
    network, x = SwiGlu(6, 5), draw(4, 6)
    gate, linear = (x @ network.inner.weight.T).chunk(2, dim=1)
    torch.testing.assert_close(network(x), (gate * gate.sigmoid() * linear) @ network.outer.weight.T)


def test_wrong_sizes_are_errors() -> None:
    with pytest.raises(ConfigError, match="multiple of the number of heads"):
        share_heads(10, 3)
    with pytest.raises(ConfigError, match=r"key 'model.num_kv_heads'.*a divisor of 4, found 3.*num_kv_heads=1"):
        share_heads(16, 4, num_kv_heads=3)
    with pytest.raises(ConfigError, match="unknown attention"):
        GroupedAttention(16, Heads(4, 4, 4), max_length=4, kind="flash")
    with pytest.raises(ConfigError, match="even number"):
        GroupedAttention(9, Heads(3, 3, 3), max_length=4)
