"""Networks of transformers as recommenders: tiny random ones, from folders; nothing reaches a network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrec.decoding.beam_search import beam_search
from genrec.decoding.exhaustive import score_catalogue
from genrec.errors import ConfigError, StorageError
from genrec.models.huggingface import HuggingFaceRecommender
from genrec.models.lora import LoraLinear
from genrec.models.recommender import build_from, score_each_target
from genrec.models.settings import HuggingFaceSettings, LoraSettings
from genrec.semantic_ids.trie import SemanticIdTrie

NUM_ITEMS, SIZES, LENGTH, WIDTH = 40, (4, 5, 6), 5, 16
WORDS = ["<unk>", "<s>", "</s>", "the", "user", "bought", "next", ":", ";"]

slow = pytest.mark.slow  # imports transformers


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"needs the package transformers; pip install 'genrec\[huggingface\]'$"):
        build(Path("anywhere"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of each kind, with random weights; the Llama has a tokenizer of nine words."""
    transformers = pytest.importorskip("transformers", reason="needs the extra `huggingface`")
    root = tmp_path_factory.mktemp("networks")
    stack = {"vocab_size": 30, "hidden_size": WIDTH, "intermediate_size": 20, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    configs = {
        "llama": transformers.LlamaConfig(**stack, **heads),
        "qwen2": transformers.Qwen2Config(**stack, **heads),
        "bare": transformers.LlamaConfig(**stack, **heads),
        "gpt2": transformers.GPT2Config(
            vocab_size=30, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=64, bos_token_id=1
        ),
        "t5": transformers.T5Config(
            vocab_size=30, d_model=WIDTH, d_kv=4, d_ff=20, num_layers=2, num_heads=4, decoder_start_token_id=0
        ),
        "bert": transformers.BertConfig(**stack, num_attention_heads=2),
        "mamba": transformers.MambaConfig(vocab_size=30, hidden_size=WIDTH, num_hidden_layers=1, state_size=4),
    }
    for name, config in configs.items():
        torch.manual_seed(0)
        network = transformers.AutoModel.from_config(config)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(std=0.3)
        network.save_pretrained(root / name)
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    fast.save_pretrained(root / "llama")
    return root


def build(folder: Path, *, draw: bool = True, **settings: Any) -> HuggingFaceRecommender:
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(size, size=NUM_ITEMS) for size in SIZES], axis=1).astype(np.int32)
    torch.manual_seed(0)
    trie = SemanticIdTrie.build(codes, SIZES)
    given: dict[str, Any] = {"base": str(folder), "history_length": LENGTH} | settings
    model = HuggingFaceRecommender.from_pretrained(trie, HuggingFaceSettings(**given))
    if draw:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.3)
    everything = torch.ones(NUM_ITEMS, dtype=torch.bool)
    model.mark_trained(everything, everything)
    return model.eval()


def windows(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    items = torch.randint(NUM_ITEMS, (rows, LENGTH + 1), generator=torch.Generator().manual_seed(1))
    lengths = torch.arange(rows) % (LENGTH + 1)
    is_input = torch.arange(LENGTH) < lengths.unsqueeze(1)
    histories, targets = torch.where(is_input, items[:, :-1], -1), torch.where(is_input, items[:, 1:], -1)
    targets[:, 0] = torch.where(lengths == 0, items[:, 0], targets[:, 0])
    return histories, targets


PROMPT = "the user bought {history}; next:"
VARIANTS = [
    ("llama", {}),
    ("llama", {"prompt": PROMPT, "attention": "softmax"}),
    ("llama", {"prompt": "the user bought {history}", "node_embeddings": True, "item_embeddings": True}),
    ("qwen2", {"normalisation": "trie"}),
    ("gpt2", {}),
    ("t5", {}),
]


def label(value: Any) -> str:
    return value if isinstance(value, str) else "-".join(map(str, value.values()))


@slow
@pytest.mark.parametrize(("kind", "settings"), VARIANTS, ids=label)
def test_search_and_training_give_the_same(folders: Path, kind: str, settings: dict[str, Any]) -> None:
    """In one pass and as candidates, for every length of a history; a context may be searched twice."""
    model = build(folders / kind, **settings)
    histories, targets = windows(7)
    lengths = (histories >= 0).sum(dim=1)
    with torch.no_grad():
        one_pass = model.score_targets(histories, targets, with_means=True)
        apart = score_each_target(model, histories, targets, with_means=True)
        for found, expected in zip(one_pass, apart, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        context = model.encode(histories, lengths)
        scores = score_catalogue(model, model.trie, context)
        torch.testing.assert_close(score_catalogue(model, model.trie, context), scores)
        last = torch.arange(7), (lengths - 1).clamp(min=0)
        total = one_pass.log_probs.sum(dim=2)[last]
        torch.testing.assert_close(scores[torch.arange(7), targets[last]], total, rtol=1e-4, atol=1e-4)
        found = beam_search(model, model.trie, context, beam_width=NUM_ITEMS, num_candidates=3)
    torch.testing.assert_close(found.log_prob[:, 0], scores.amax(dim=1), rtol=1e-4, atol=1e-4)


@slow
@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_it_is_the_network_with_a_larger_vocabulary(folders: Path, kind: str) -> None:
    """With the code tokens as rows of the embedding and of the head, read by the library alone from token ids."""
    import transformers

    model = build(folders / kind)
    trie, offsets = model.trie, np.cumsum([0, *SIZES])
    size = int(offsets[-1])
    is_encoder = kind == "t5"
    starts = torch.stack([model.reader.prompt.start, *([model.reader.start] if is_encoder else [])])  # pyright: ignore
    embedding = torch.cat([*model.tokens.codes, starts])
    network = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(folders / kind)).eval()
    network.load_state_dict(model.reader.base.state_dict(), strict=False)
    network.set_input_embeddings(torch.nn.Embedding.from_pretrained(embedding.detach()))
    history, item = [3, 17, 17], 8

    def ids(of: int) -> list[int]:
        path = trie.path_nodes(torch.tensor(of)).tolist()
        return [int(trie.child_codes[level][node]) + int(offsets[level]) for level, node in enumerate(path)]

    shown, wanted = [size, *(token for of in history for token in ids(of))], ids(item)
    with torch.no_grad():
        if is_encoder:
            decoder = torch.tensor([[size + 1, *wanted[:-1]]])
            states = network(input_ids=torch.tensor([shown]), decoder_input_ids=decoder).last_hidden_state[0]
        else:
            states = network(input_ids=torch.tensor([[*shown, *wanted[:-1]]])).last_hidden_state[0, -len(SIZES) :]
        expected = [
            (table @ state).log_softmax(dim=0)[token - offsets[level]]
            for level, (table, state, token) in enumerate(zip(model.output_codes, states, wanted, strict=True))
        ]
        targets = torch.tensor([[-1, -1, item]])
        found = model.score_targets(torch.tensor([history]), targets).log_probs[0, 2]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


@slow
def test_a_prompt_is_read_as_its_words(folders: Path) -> None:
    """The same as a network whose embedding still holds the words."""
    import transformers

    model = build(folders / "llama", draw=False, prompt=PROMPT)
    assert model.text == ([3, 4, 5], [8, 6, 7])
    network = transformers.AutoModel.from_pretrained(folders / "llama").eval()
    words = network.get_input_embeddings().weight
    trie, item, seen = model.trie, 8, 21
    codes = [
        model.tokens.codes[level][trie.child_codes[level][trie.path_nodes(torch.tensor(seen))[level]]]
        for level in range(3)
    ]
    above = trie.path_nodes(torch.tensor(item))
    own = [model.tokens.codes[level][trie.child_codes[level][above[level]]] for level in range(2)]
    x = torch.stack([words[1], *words[[3, 4, 5]], *codes, *words[[8, 6, 7]], *own])
    with torch.no_grad():
        states = network(inputs_embeds=x.unsqueeze(0)).last_hidden_state[0, -3:]
        expected = [
            (model.output_codes[level] @ states[level]).log_softmax(dim=0)[trie.child_codes[level][above[level]]]
            for level in range(3)
        ]
        found = model.score_targets(torch.tensor([[seen]]), torch.tensor([[item]])).log_probs[0, 0]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


@slow
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_lora_trains_the_new_tokens_and_nothing_of_the_network(folders: Path, kind: str) -> None:
    lora = LoraSettings(rank=2, alpha=4.0, dropout=0.1)
    model = build(folders / kind, draw=False, lora=lora, gradient_checkpointing=True).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (-model.score_targets(*windows(8)).log_probs.sum()).backward()
        optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert moved == trained
    frozen = {name for name in before if name not in trained}
    assert {name for name in before if name.startswith("reader.base.")} - frozen == {
        name for name in before if ".down." in name or ".up." in name
    }
    assert {"output_codes.0", "reader.prompt.tokens.codes.2", "reader.prompt.start"} <= trained
    model.eval()
    with torch.no_grad():
        unmerged = model.score_targets(*windows(8)).log_probs
        model.merge_lora()
        torch.testing.assert_close(model.score_targets(*windows(8)).log_probs, unmerged, rtol=1e-4, atol=1e-5)
        assert not any(isinstance(layer, LoraLinear) for layer in model.modules())
        again = build_from(json.loads(json.dumps(model.facts)), model.trie)
        again.load_state_dict(model.state_dict())
        torch.testing.assert_close(again.eval().score_targets(*windows(8)).log_probs, unmerged, rtol=1e-4, atol=1e-5)


@slow
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_gradient_checkpointing_changes_no_gradient(folders: Path, kind: str) -> None:
    gradients = []
    for is_used in (False, True):
        model = build(folders / kind, gradient_checkpointing=is_used)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.train().score_targets(*windows(8)).log_probs.sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@slow
def test_facts_need_no_folder(folders: Path) -> None:
    settings: dict[str, Any] = {"prompt": PROMPT, "lora": LoraSettings(rank=1, targets=("q_proj", "v_proj"))}
    model = build(folders / "llama", **settings)
    facts = json.loads(json.dumps(model.facts)) | {"base": "/nowhere"}
    other = build_from(facts, model.trie)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = model.score_targets(*windows(7)).log_probs
        torch.testing.assert_close(other.eval().score_targets(*windows(7)).log_probs, expected)
    assert other.facts == facts
    assert not any("embed_tokens" in name for name in model.state_dict())


@slow
def test_new_tokens_begin_like_the_networks_own(folders: Path) -> None:
    import transformers

    own = transformers.AutoModel.from_pretrained(folders / "llama").get_input_embeddings().weight.detach()
    model = build(folders / "llama", draw=False)
    drawn = torch.cat(list(model.tokens.codes)).detach()
    assert abs(drawn.std() - own.std()) < 0.1
    assert abs(drawn.mean() - own.mean()) < 0.1
    torch.testing.assert_close(model.reader.prompt.start.detach(), own[1])  # the token that begins a text


@slow
def test_no_step_of_a_causal_network_copies_the_history_for_every_beam(folders: Path) -> None:
    """The keys in the cache grow by one column a beam; there is one row a request."""
    model = build(folders / "llama")
    histories = torch.randint(NUM_ITEMS, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        context = model.encode(histories, torch.full((2,), LENGTH))
        length = 1 + LENGTH * len(SIZES)
        assert context.cache.layers[0].keys.shape == (2, 2, length, 4)
        _, state = model.start(context)
        nodes = torch.arange(4).expand(2, 4)
        _, state = model.step(1, state, torch.zeros_like(nodes), nodes, nodes)
        assert state.cache.layers[0].keys.shape == (2, 2, length + 4, 4)
        assert context.cache.layers[0].keys.shape == (2, 2, length, 4)


@slow
def test_networks_that_cannot_be_read(folders: Path) -> None:
    with pytest.raises(ConfigError, match=r"key 'model.base'.*trees of candidates"):
        build(folders / "bert")
    with pytest.raises(ConfigError, match=r"key 'model.base'.*no positions"):
        build(folders / "mamba", attention="softmax")
    with pytest.raises(StorageError, match=r"cannot load the model: Mamba.*; set model.attention=softmax$"):
        build(folders / "mamba")
    with pytest.raises(ConfigError, match=r"too long.*max_position_embeddings of 94 or more, found 64"):
        build(folders / "llama", history_length=30)


@slow
def test_networks_and_tokenizers_that_are_not_there(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for base in (str(tmp_path), str(tmp_path / "nowhere"), "nobody/no-such-model"):
        with pytest.raises(StorageError, match=r"cannot load the model: .*set model.base=") as caught:
            build(Path(base))
        assert str(caught.value).startswith(f"key 'model.base', {base}: ")
        assert "\n" not in str(caught.value)
    with pytest.raises(StorageError, match=r"cannot load the tokenizer that model\.prompt needs"):
        build(folders / "bare", prompt=PROMPT)
    for kind, prompt in (("qwen2", PROMPT), ("llama", "the user sold {history}")):
        with pytest.raises(StorageError, match="the tokenizer of the model does not know the prompt"):
            build(folders / kind, prompt=prompt)
    with pytest.raises(ConfigError, match=r"where the history goes \(expected {history} once"):
        build(folders / "llama", prompt="the user bought")
