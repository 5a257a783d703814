"""What every recommender must do, whatever network is inside: one class of tests, run on each of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from genrec.decoding.exhaustive import score_catalogue, score_paths
from genrec.decoding.sampling import Sampling, beam_rollouts, sample_with_replacement, stochastic_beam_search
from genrec.decoding.value_guided import value_guided_search
from genrec.decoding.value_guided_settings import ValueGuidedSettings
from genrec.decoding.visited import score_visited
from genrec.models.decoder_only import DecoderOnlyRecommender
from genrec.models.encoder_decoder import EncoderDecoderRecommender
from genrec.models.hierarchical import HierarchicalRecommender
from genrec.models.huggingface import HuggingFaceRecommender, TextIds
from genrec.models.item_features import FeatureValues
from genrec.models.path_trees import build_tree_scorer
from genrec.models.recommender import build_from
from genrec.models.settings import (
    DecoderOnlySettings,
    EncoderDecoderSettings,
    HierarchicalSettings,
    HuggingFaceSettings,
    MemorySettings,
    ValueHeadSettings,
)
from genrec.models.value_head import ValueHead
from genrec.semantic_ids.trie import SemanticIdTrie

NUM_ITEMS, SIZES, LENGTH = 30, (4, 5, 6, 3), 6


def catalogue() -> SemanticIdTrie:
    """Four levels; a level where every node has one child; some items that share their codes."""
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(size, size=NUM_ITEMS) for size in SIZES], axis=1).astype(np.int32)
    codes[:, 2] = (codes[:, 0] + 2 * codes[:, 1]) % 6  # certain, once the first two codes are known
    codes[3] = codes[7]
    trie = SemanticIdTrie.build(codes, SIZES)
    assert trie.max_branching[2] == 1
    assert trie.max_bucket > 1
    return trie


def begun(model: Any) -> Any:
    """With random weights, as it is when most items and nodes have been trained."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    seen = torch.arange(NUM_ITEMS) % 5 != 0
    model.mark_trained(seen, seen)
    return model.eval()


def hierarchical(**settings: Any) -> HierarchicalRecommender:
    small: dict[str, Any] = {"width": 16, "num_heads": 2, "hidden": 24, "depth_hidden": 20, "history_length": LENGTH}
    rng = np.random.default_rng(2)
    numbers = np.sort(rng.integers(-1, 5, size=(NUM_ITEMS, 3)), axis=1)[:, ::-1].copy()
    numbers[:, 0] = np.maximum(numbers[:, 0], 0)
    values = {"categories": FeatureValues("abc", torch.from_numpy(numbers))}
    values["brand"] = FeatureValues("xyz", torch.from_numpy(rng.integers(5, size=(NUM_ITEMS, 1))))
    features = {name: values[name] for name in settings.get("item_features", ())}
    torch.manual_seed(0)
    model = begun(HierarchicalRecommender(catalogue(), HierarchicalSettings(**(small | settings)), features))
    if model.memory is not None:
        rng = np.random.default_rng(1)
        similarity = rng.random((NUM_ITEMS, NUM_ITEMS)) * (rng.random((NUM_ITEMS, NUM_ITEMS)) < 0.4)
        model.remember(sp.csr_matrix(similarity), rng.integers(6, size=NUM_ITEMS))
    return model


def decoder_only(**settings: Any) -> DecoderOnlyRecommender:
    small: dict[str, Any] = {"width": 16, "num_layers": 2, "num_heads": 4, "hidden": 24, "history_length": LENGTH}
    torch.manual_seed(0)
    return begun(DecoderOnlyRecommender(catalogue(), DecoderOnlySettings(**(small | settings))))


def encoder_decoder(**settings: Any) -> EncoderDecoderRecommender:
    small: dict[str, Any] = {"width": 16, "encoder_layers": 2, "decoder_layers": 2, "num_heads": 3, "head_width": 4}
    torch.manual_seed(0)
    given = EncoderDecoderSettings(**(small | {"hidden": 24, "history_length": LENGTH} | settings))
    return begun(EncoderDecoderRecommender(catalogue(), given))


def huggingface(kind: str, *, text: tuple[list[int], list[int]] = ([], []), **settings: Any) -> HuggingFaceRecommender:
    transformers = pytest.importorskip("transformers", reason="needs the extra `huggingface`")
    if kind == "t5":
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    else:
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        sizes["num_key_value_heads"] = 1
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, vocab_size=30, **sizes)
    network = transformers.AutoModel.from_config(config)
    given = HuggingFaceSettings(base="-", history_length=LENGTH, **settings)
    return begun(HuggingFaceRecommender(catalogue(), given, network, TextIds(*text)))


KINDS = {
    "trie": lambda: hierarchical(),
    "vocabulary": lambda: hierarchical(normalisation="vocabulary"),
    "codes alone": lambda: hierarchical(node_embeddings=False, item_embeddings=False, temperature=0.7),
    "codes alone, vocabulary": lambda: hierarchical(normalisation="vocabulary", node_embeddings=False),
    "deep": lambda: hierarchical(depth_layers=2, num_layers=3, activation="swiglu", attention="sdpa"),
    "shallow": lambda: hierarchical(depth_layers=0, num_layers=0),
    "no transitions": lambda: hierarchical(transition_embeddings=False),
    "memory": lambda: hierarchical(memory=MemorySettings(followers=9, history_decay=0.8)),
    "memory, vocabulary": lambda: hierarchical(normalisation="vocabulary", memory=MemorySettings(followers=99)),
    "features": lambda: hierarchical(item_features=("categories", "brand"), positions="both"),
    "learnt positions": lambda: hierarchical(item_features=("brand",), positions="learnt", item_embeddings=False),
    "tiger": lambda: encoder_decoder(),
    "tiger, vocabulary": lambda: encoder_decoder(normalisation="vocabulary", node_embeddings=False, attention="sdpa"),
    "tiger, causal": lambda: encoder_decoder(encoder="causal", item_embeddings=True, temperature=0.7),
    "tiger, gated": lambda: encoder_decoder(activation="gated_gelu", encoder="causal", decoder_layers=1),
    "flat": lambda: decoder_only(num_kv_heads=2),
    "flat, vocabulary": lambda: decoder_only(normalisation="vocabulary", attention="sdpa"),
    "flat, codes alone": lambda: decoder_only(node_embeddings=False, item_embeddings=False, temperature=0.7),
    "language model": lambda: huggingface("llama"),
    "language model, prompt": lambda: huggingface("qwen2", text=([3, 4], [5, 3]), normalisation="trie"),
    "encoder": lambda: huggingface("t5"),
    "encoder, nodes": lambda: huggingface("t5", normalisation="trie", node_embeddings=True, item_embeddings=True),
}
IMPORTS_TRANSFORMERS = ("language model", "encoder")
PARAMETERS = [
    pytest.param(kind, marks=[pytest.mark.slow] if kind.startswith(IMPORTS_TRANSFORMERS) else []) for kind in KINDS
]


def windows(rows: int, length: int = LENGTH, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Histories of different lengths, the first of them empty, and targets wherever there is a history."""
    generator = torch.Generator().manual_seed(seed)
    histories = torch.randint(NUM_ITEMS, (rows, length), generator=generator)
    targets = torch.randint(NUM_ITEMS, (rows, length), generator=generator)
    is_padding = torch.arange(length) >= (torch.arange(rows) % (length + 1)).unsqueeze(1)
    histories[is_padding], targets[is_padding] = -1, -1
    targets[0, 0] = 4
    return histories, targets


@pytest.mark.parametrize("kind", PARAMETERS)
class TestRecommender:
    def test_the_search_sees_the_probabilities_that_training_sees(self, kind: str) -> None:
        model = KINDS[kind]()
        histories, targets = windows(9)
        with torch.no_grad():
            log_probs = model.score_targets(histories, targets).log_probs.sum(dim=2)
            for length in range(LENGTH + 1):
                shown = histories.clone()
                shown[:, length:] = -1
                rows = (histories >= 0).sum(dim=1) >= length
                lengths = torch.full((int(rows.sum()),), length)
                scores = score_catalogue(model, model.trie, model.encode(shown[rows], lengths))
                position = max(length - 1, 0)
                wanted = targets[rows, position]
                has_target = (wanted >= 0) & ((length > 0) | (histories[rows, 0] < 0))
                found = scores.gather(1, wanted.clamp(min=0).unsqueeze(1)).squeeze(1)[has_target]
                torch.testing.assert_close(found, log_probs[rows, position][has_target], rtol=1e-4, atol=1e-5)

    def test_beams_may_be_reordered_dropped_and_doubled(self, kind: str) -> None:
        model = KINDS[kind]()
        trie, generator = model.trie, torch.Generator().manual_seed(3)
        histories, _ = windows(4)
        items = torch.randint(NUM_ITEMS, (4, 5), generator=generator)
        with torch.no_grad():
            context = model.encode(histories, (histories >= 0).sum(dim=1))
            expected = score_catalogue(model, trie, context)
            log_probs, state = model.start(context)
            # beam w holds items[b, held[b, w]]; it changes its place, and may be one of several with the same prefix
            held, total = torch.arange(5).expand(4, 5), torch.zeros(4, 5)
            parents = torch.zeros(4, 5, dtype=torch.int64)
            for level in range(trie.num_levels):
                wanted = items.gather(1, held)
                above = trie.nodes_of_items(wanted, level)
                if level > 0:
                    codes = trie.child_codes[level - 1][above].long()
                    log_probs, state = model.step(level, state, parents, codes, above)
                slots = trie.nodes_of_items(wanted, level + 1) - trie.child_offsets[level][above]
                rows = log_probs.expand(4, 5, -1) if level == 0 else log_probs
                total = total + rows.gather(2, slots.unsqueeze(2)).squeeze(2)
                order = torch.stack([torch.randint(5, (5,), generator=generator) for _ in range(4)])
                parents = order if level else torch.zeros_like(order)
                held, total = held.gather(1, order), total.gather(1, order)
        assert [tuple(row) for row in held.tolist()] != [tuple(range(5))] * 4
        torch.testing.assert_close(total, expected.gather(1, items.gather(1, held)), rtol=1e-4, atol=1e-5)

    def test_a_step_gives_minus_infinity_as_padding(self, kind: str) -> None:
        model = KINDS[kind]()
        nodes = torch.tensor([[0, -1, 2]])
        with torch.no_grad():
            context = model.encode(torch.tensor([[1, 2]]), torch.tensor([2]))
            _, state = model.start(context)
            codes = model.trie.child_codes[0][nodes.clamp(min=0)].long() * (nodes >= 0)
            log_probs, _ = model.step(1, state, torch.zeros_like(nodes), codes, nodes)
        is_valid = model.trie.children(1, nodes).is_valid
        assert (log_probs[~is_valid] == -torch.inf).all()
        assert torch.isfinite(log_probs[is_valid]).all()

    def test_trees_hold_the_probabilities_and_values_of_their_prefixes(self, kind: str) -> None:
        model = KINDS[kind]()
        trie, (histories, _) = model.trie, windows(5)
        with torch.inference_mode():
            context = model.encode(histories, (histories >= 0).sum(dim=1))
            users = model.request_states(context)
            assert users.ndim == 2
            head = ValueHead(trie, ValueHeadSettings(width=users.shape[1], hidden=8)).eval()
            head.weight.normal_()
            expected = score_catalogue(model, trie, context)
            how = ValueGuidedSettings(24, 2, rank_by="value", selections_per_round=2)
            found, trace = value_guided_search(build_tree_scorer(model, head), trie, context, how, num_candidates=30)
            is_item = found.item_index >= 0
            items = found.item_index.clamp(min=0)
            paths = score_paths(model, trie, context, items)
            steps = paths.diff(dim=2, prepend=torch.zeros_like(paths[..., :1]))
            values = head.of_items(trie, users.view(5, 1, 1, -1), items, steps)
        assert trace.num_forwarded.tolist() == [24] * 5
        assert is_item.sum(dim=1).min() >= 3
        torch.testing.assert_close(found.log_prob[is_item], expected.gather(1, items)[is_item], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.score[is_item], values[..., -1][is_item], rtol=1e-3, atol=1e-4)

    def test_the_future_does_not_change_the_past(self, kind: str) -> None:
        model = KINDS[kind]()
        histories, targets = windows(7)
        other = histories.clone()
        other[:, 3:] = torch.where(other[:, 3:] >= 0, (other[:, 3:] + 11) % NUM_ITEMS, -1)
        with torch.no_grad():
            before, after = (model.score_targets(rows, targets).log_probs for rows in (histories, other))
        torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=0)
        assert not torch.allclose(before[:, 3:], after[:, 3:])

    def test_padding_and_company_change_nothing(self, kind: str) -> None:
        model = KINDS[kind]()
        histories, targets = windows(6, length=4)
        more = torch.nn.functional.pad(histories, (0, 2), value=-1), torch.nn.functional.pad(targets, (0, 2), value=-1)
        company = windows(5, seed=8)
        together = [torch.cat(parts) for parts in zip(company, more, strict=True)]
        lengths = (histories >= 0).sum(dim=1)
        with torch.no_grad():
            alone, among = model.score_targets(histories, targets).log_probs, model.score_targets(*together).log_probs
            torch.testing.assert_close(among[5:, :4], alone, rtol=1e-5, atol=1e-5)
            context = model.encode(together[0], (together[0] >= 0).sum(dim=1))
            many = score_catalogue(model, model.trie, context)
            for row in range(6):
                short = histories[row : row + 1, : lengths[row]]
                one = score_catalogue(model, model.trie, model.encode(short, lengths[row : row + 1]))
                torch.testing.assert_close(one, many[5 + row : 6 + row], rtol=1e-5, atol=1e-5)

    def test_several_items_after_a_position_are_scored_as_each_alone(self, kind: str) -> None:
        """Prefixes that candidates share are computed once; items come twice, and some share all their codes."""
        model = KINDS[kind]()
        histories, targets = windows(5)
        num_targets = int((targets >= 0).sum())
        items = torch.randint(NUM_ITEMS, (num_targets, 7), generator=torch.Generator().manual_seed(5))
        items[:, 4], items[0, :2] = items[:, 1], torch.tensor([3, 7])
        with torch.no_grad():
            context = model.read_positions(histories, targets)
            together = model.score_items(context, items, with_means=True)
            for place in range(items.shape[1]):
                alone = targets.masked_scatter(targets >= 0, items[:, place])
                found = model.score_targets(histories, alone, with_means=True)
                for many, one in zip(together, found, strict=True):
                    torch.testing.assert_close(many[:, place], one[targets >= 0], rtol=1e-5, atol=1e-5)

    def test_rollouts_have_the_log_probabilities_that_training_sees(self, kind: str) -> None:
        """So the first update on them is on policy: all ratios are 1."""
        model = KINDS[kind]()
        histories, _ = windows(8)
        histories, lengths = histories[1:7], (histories[1:7] >= 0).sum(dim=1)
        targets = torch.full_like(histories, -1)
        targets[torch.arange(6), lengths - 1] = 0
        sampling = Sampling(0, torch.arange(6), temperature=2.0)
        with torch.no_grad():
            context = model.encode(histories, lengths)
            for found in (
                sample_with_replacement(model, model.trie, context, sampling, num_candidates=4),
                stochastic_beam_search(model, model.trie, context, sampling, num_candidates=4),
                beam_rollouts(model, model.trie, context, num_candidates=4),
            ):
                assert found.is_valid.all()
                scores = model.score_items(model.read_positions(histories, targets), found.item_index)
                torch.testing.assert_close(found.log_probs, scores.log_probs, rtol=1e-4, atol=1e-5)
        # Along the search, too, there is a gradient, and it is that of training.
        gradients = []
        for way in ("search", "training"):
            model.zero_grad()
            if way == "search":
                levels = score_visited(model, model.trie, model.encode(histories, lengths), found.nodes)
                log_probs = torch.stack([level.chosen() for level in levels], dim=2)
            else:
                log_probs = model.score_items(model.read_positions(histories, targets), found.item_index).log_probs
            (log_probs * torch.linspace(-1, 1, log_probs.numel()).view_as(log_probs)).sum().backward()
            gradients.append([torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()])
        for along_search, in_training in zip(*gradients, strict=True):
            torch.testing.assert_close(along_search, in_training, rtol=1e-3, atol=1e-4)

    def test_means_are_those_of_all_alternatives(self, kind: str) -> None:
        """Of the children of the prefix in the catalogue under "trie", and of no more under "vocabulary"."""
        model = KINDS[kind]()
        histories, targets = windows(4)
        with torch.no_grad():
            scores = model.score_targets(histories, targets, with_means=True)
            assert scores.means is not None
            assert model.score_targets(histories, targets).means is None
            for row, place in (targets >= 0).nonzero().tolist():
                shown = histories[row : row + 1, : place + 1]
                context = model.encode(shown, (shown >= 0).sum(dim=1))
                log_probs, state = model.start(context)
                path = model.trie.path_nodes(targets[row, place])
                for level in range(model.trie.num_levels):
                    own = log_probs[0, 0][log_probs[0, 0] > -torch.inf]
                    size = model.trie.codebook_sizes[level]
                    if model.normalisation == "trie":
                        torch.testing.assert_close(own.mean(), scores.means[row, place, level], rtol=1e-4, atol=1e-5)
                    elif len(own) < size:  # the others share what is left, so their mean has a bound (Jensen)
                        left = (1 - own.exp().sum()).clamp(min=1e-6) / (size - len(own))
                        most = (own.sum() + (size - len(own)) * left.log()) / size
                        assert scores.means[row, place, level] <= most + 1e-4
                    if level + 1 < model.trie.num_levels:
                        node = path[level].view(1, 1)
                        codes = model.trie.child_codes[level][node].long()
                        log_probs, state = model.step(level + 1, state, torch.zeros_like(node), codes, node)

    def test_positions_without_target_are_zero(self, kind: str) -> None:
        model = KINDS[kind]()
        histories, targets = windows(7)
        targets[:, 1] = -1
        with torch.no_grad():
            log_probs = model.score_targets(histories, targets).log_probs
            nothing = model.score_targets(histories, torch.full_like(targets, -1)).log_probs
        assert (log_probs[targets < 0] == 0).all()
        assert (nothing == 0).all()
        assert (log_probs[targets >= 0].sum(dim=1) < 0).all()

    def test_prefixes_of_each_depth_share_out_the_probability(self, kind: str) -> None:
        """The catalogue's prefixes have probability 1 under "trie"; under "vocabulary" some is lost to other codes."""
        model = KINDS[kind]()
        trie = model.trie
        histories, _ = windows(3)
        with torch.no_grad():
            log_probs, state = model.start(model.encode(histories, (histories >= 0).sum(dim=1)))
            total, mass = torch.zeros(3, 1), torch.ones(3)
            for level in range(trie.num_levels):
                parents = trie.parents[level]
                if level > 0:
                    above = trie.parents[level - 1]
                    beams = (above, trie.child_codes[level - 1].long(), torch.arange(len(above)))
                    log_probs, state = model.step(level, state, *(beam.expand(3, -1) for beam in beams))
                slots = torch.arange(len(parents)) - trie.child_offsets[level][parents]
                total = total[:, parents] + log_probs[:, parents, slots]
                mass = total.exp().sum(dim=1)
                if model.normalisation == "trie":
                    torch.testing.assert_close(mass, torch.ones(3))
                else:
                    assert (mass <= 1 + 1e-5).all()
        assert model.normalisation == "trie" or bool((mass < 0.99).all())

    def test_only_the_last_items_are_read(self, kind: str) -> None:
        model = KINDS[kind]()
        generator = torch.Generator().manual_seed(5)
        long = torch.randint(NUM_ITEMS, (3, 11), generator=generator)
        lengths = torch.tensor([11, 7, 2])
        long[torch.arange(11) >= lengths.unsqueeze(1)] = -1
        with torch.no_grad():
            found = score_catalogue(model, model.trie, model.encode(long, lengths))
            for row, length in enumerate(lengths.tolist()):
                tail = long[row : row + 1, max(0, length - LENGTH) : length]
                expected = score_catalogue(model, model.trie, model.encode(tail, torch.tensor([tail.shape[1]])))
                torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-5, atol=1e-5)

    def test_empty_histories_are_read_too(self, kind: str) -> None:
        model = KINDS[kind]()
        with torch.no_grad():
            no_column = model.encode(torch.empty(2, 0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
            padded = model.encode(torch.full((2, 3), -1), torch.zeros(2, dtype=torch.int64))
            scores = [score_catalogue(model, model.trie, context) for context in (no_column, padded)]
        torch.testing.assert_close(*scores)
        assert torch.isfinite(scores[0]).all()

    def test_facts_and_weights_rebuild_it(self, kind: str) -> None:
        model = KINDS[kind]()
        facts = json.loads(json.dumps(model.facts))
        other = build_from(facts, model.trie)
        other.load_state_dict(model.state_dict())
        histories, targets = windows(7)
        with torch.no_grad():
            expected = model.score_targets(histories, targets).log_probs
            torch.testing.assert_close(other.eval().score_targets(histories, targets).log_probs, expected)
        assert (other.facts, other.normalisation) == (model.facts, model.normalisation)

    def test_parameter_groups_hold_every_parameter_once(self, kind: str) -> None:
        model = KINDS[kind]()
        groups = model.parameter_groups(weight_decay=0.1, node_weight_decay=0.2, item_weight_decay=0.3)
        grouped = [id(parameter) for group in groups for parameter in group["params"]]
        assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
        decay = {group["name"]: group["weight_decay"] for group in groups}
        assert decay["rest"] == 0.0
        named = {id(parameter): name for name, parameter in model.named_parameters()}
        for group in groups:
            for parameter in group["params"]:
                assert group["name"] != "rest" or "feed_forward.inner" not in named[id(parameter)]

    def test_every_parameter_gets_a_gradient(self, kind: str) -> None:
        """Also from a batch without any target, as a rank of a distributed run may see."""
        model = KINDS[kind]().train()
        histories, targets = windows(60)
        model.score_targets(histories, torch.full_like(targets, -1)).log_probs.sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        model.score_targets(histories, targets).log_probs.sum().backward()
        idle = {
            name.removeprefix("decoder.")
            for name, parameter in model.named_parameters()
            if parameter.grad is None or not parameter.grad.any()
        }
        # where there is nothing to choose, nothing is to be learnt from the choice
        assert idle == ({"output_codes.2"} if model.normalisation == "trie" else set())

    def test_it_takes_the_trie_along(self, kind: str) -> None:
        model = KINDS[kind]()
        assert model.to("meta").trie.device.type == "meta"
