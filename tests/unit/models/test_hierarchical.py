"""What is particular to the hierarchical recommender; what it shares with others is in tests/contracts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from genrec.baselines.base import count_items
from genrec.baselines.item_knn import DirectedItemKnn
from genrec.data.sequences import Ragged
from genrec.decoding.exhaustive import score_catalogue
from genrec.errors import ConfigError, LineageError
from genrec.losses.likelihood import token_cross_entropy
from genrec.models.hierarchical import HierarchicalRecommender, HierarchicalSettings
from genrec.models.recommender import build_from
from genrec.models.settings import MemorySettings
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles.hierarchical_oracle import code_log_probs, transitions
from oracles.knn_oracle import knn_scores, popularity

SIZES = (3, 4, 3)
SMALL: dict[str, Any] = {"width": 8, "num_heads": 2, "hidden": 12, "depth_hidden": 10, "history_length": 5}
Codes = list[tuple[int, ...]]


def draw_codes(num_items: int = 14, seed: int = 0) -> Codes:
    rng = np.random.default_rng(seed)
    places = rng.choice(math.prod(SIZES), num_items, replace=False)
    return [tuple(int(code) for code in codes) for codes in np.stack(np.unravel_index(places, SIZES), axis=1)]


def build(codes: Codes, trained: list[int] | None = None, **settings: Any) -> HierarchicalRecommender:
    """With large random weights everywhere, also in rows that do not count."""
    torch.manual_seed(0)
    trie = SemanticIdTrie.build(np.array(codes, dtype=np.int32), SIZES)
    model = HierarchicalRecommender(trie, HierarchicalSettings(**(SMALL | settings)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    seen = torch.zeros(len(codes), dtype=torch.bool)
    seen[list(range(len(codes))) if trained is None else trained] = True
    model.mark_trained(seen, seen)
    return model.eval()


CONSTANTS = {"window": 3, "decay": 0.6, "backward": 0.5, "source_power": 0.4, "target_power": 0.3, "history_decay": 0.7}
MEMORY = MemorySettings(followers=99, **CONSTANTS)  # pyright: ignore[reportArgumentType]
NO_DROPOUT: dict[str, Any] = {f"dropout_{part}": 0.0 for part in ("input", "blocks", "depth", "nodes")}


def remember(model: HierarchicalRecommender, rows: list[list[int]]) -> None:
    train, num_items = Ragged.from_lists(rows), model.trie.num_items
    knn = DirectedItemKnn(**CONSTANTS).fit(train, num_items=num_items)  # pyright: ignore[reportArgumentType]
    model.remember(knn.similarity_, count_items(train, num_items))


def random_batch(num_items: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randint(num_items, (8, 5), generator=generator) for _ in range(2))  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("normalisation", ["trie", "vocabulary"])
@pytest.mark.parametrize("node_embeddings", [True, False])
def test_probabilities_equal_the_oracle(normalisation: str, node_embeddings: bool) -> None:
    codes = draw_codes()
    settings: dict[str, Any] = {"normalisation": normalisation, "node_embeddings": node_embeddings, "temperature": 0.8}
    model = build(codes, trained=[0, 1, 2, 5, 8, 9], depth_layers=2, **settings)
    histories, targets = random_batch(len(codes))
    weights = weights_of(model)
    with torch.no_grad():
        found = model.score_targets(histories, targets).log_probs
        for row in range(8):
            for place in range(5):
                user = model.encode(histories[row : row + 1, : place + 1], torch.tensor([place + 1])).state[0]
                expected = code_log_probs(
                    weights,
                    user.double().numpy(),
                    codes[targets[row, place]],
                    set(codes),
                    normalisation=normalisation,
                    temperature=0.8,
                )
                np.testing.assert_allclose(found[row, place].numpy(), expected, rtol=1e-4, atol=1e-4)


def weights_of(model: HierarchicalRecommender) -> dict[str, np.ndarray]:
    weights = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    return {name: array.astype(int) if "prefixes" in name else array for name, array in weights.items()}


@pytest.mark.parametrize("normalisation", ["trie", "vocabulary"])
@pytest.mark.parametrize("is_training", [True, False])
def test_with_a_memory_too(normalisation: str, is_training: bool) -> None:
    """Rows of training see the item-kNN of the other rows, all others that of all rows."""
    codes = draw_codes()
    settings: dict[str, Any] = {"normalisation": normalisation, "temperature": 0.8, "memory": MEMORY, **NO_DROPOUT}
    model = build(codes, trained=[0, 1, 2, 5, 8, 9], **settings)
    rows = np.random.default_rng(3).integers(8, size=(8, 6)).tolist()
    remember(model, rows)
    histories, targets = (torch.tensor(rows)[:, part] for part in (slice(None, -1), slice(1, None)))
    weights, counts = weights_of(model), popularity(rows)
    with torch.no_grad():
        found = model.train(is_training).score_targets(histories, targets).log_probs
        model.eval()
        for row, items in enumerate(rows):
            shown = rows[:row] + rows[row + 1 :] if is_training else rows
            for place in range(5):
                user = model.encode(histories[row : row + 1, : place + 1], torch.tensor([place + 1])).state[0]
                scores = knn_scores(shown, items[: place + 1], counts=counts, **CONSTANTS)
                expected = code_log_probs(
                    weights,
                    user.double().numpy(),
                    codes[items[place + 1]],
                    set(codes),
                    normalisation=normalisation,
                    temperature=0.8,
                    scores={codes[item]: score for item, score in scores.items()},
                )
                np.testing.assert_allclose(found[row, place].numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_layers", [0, 2])
def test_transition_embeddings_equal_a_loop(num_layers: int) -> None:
    codes, trained = draw_codes(), [0, 1, 2, 5, 8, 9]
    model = build(codes, trained=trained, num_layers=num_layers)
    plain = build(codes, trained=trained, num_layers=num_layers, transition_embeddings=False)
    plain.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if "transition" not in name})
    histories, _ = random_batch(len(codes))
    weights = weights_of(model)
    with torch.no_grad():
        for row, items in enumerate(histories.tolist()):
            for length in range(6):
                shown = (histories[row : row + 1, :length], torch.tensor([length]))
                found = model.encode(*shown).state[0] - plain.encode(*shown).state[0]
                expected = transitions(weights, items[:length])
                np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_layers", [0, 1, 3])
@pytest.mark.parametrize("transition_embeddings", [True, False])
def test_the_state_at_one_position_is_the_one_of_the_whole_row(num_layers: int, transition_embeddings: bool) -> None:
    model = build(draw_codes(), num_layers=num_layers, transition_embeddings=transition_embeddings)
    histories, _ = random_batch(14)
    lengths = torch.arange(8) % 6
    histories[torch.arange(5) >= lengths.unsqueeze(1)] = -1
    with torch.no_grad():
        everywhere = model._read(histories)
        for places in (*(torch.full((8,), place) for place in range(5)), (lengths - 1).clamp(min=0)):
            found = model._read_last(histories, places)
            torch.testing.assert_close(found, everywhere[torch.arange(8), places], rtol=1e-5, atol=1e-5)


def test_training_begins_without_transitions_and_halves_them_with_each_step() -> None:
    model = HierarchicalRecommender(
        SemanticIdTrie.build(np.array(draw_codes(), dtype=np.int32), SIZES), HierarchicalSettings(**SMALL)
    )
    assert model.transition_embeddings is not None
    assert model.transition_decay is not None
    assert not model.transition_embeddings.any()
    assert model.transition_decay.sigmoid().item() == 0.5


def test_impossible_codes_get_no_gradient_under_the_trie() -> None:
    codes = draw_codes()
    for normalisation in ("trie", "vocabulary"):
        model = build(codes, normalisation=normalisation)
        histories, _ = random_batch(len(codes))
        targets = torch.full_like(histories, -1)
        targets[:, 2] = 3
        model.score_targets(histories, targets).log_probs.sum().backward()
        for level, table in enumerate(model.decoder.output_codes):
            siblings = {other[level] for other in codes if other[:level] == codes[3][:level]}
            has_gradient = {code for code in range(SIZES[level]) if table.grad is not None and table.grad[code].any()}
            if normalisation == "trie":
                assert has_gradient == (siblings if len(siblings) > 1 else set())
            else:
                assert has_gradient == set(range(SIZES[level]))


def test_rows_that_do_not_count_get_no_gradient_and_have_no_effect() -> None:
    codes = draw_codes()
    trained = [0, 1, 4, 7, 9]
    model = build(codes, trained=trained)
    histories, targets = random_batch(len(codes))
    model.score_targets(histories, targets).log_probs.sum().backward()
    with torch.no_grad():
        before = model.score_targets(histories, targets).log_probs
    nodes = model.decoder.node_embeddings
    tables = [(table, model.item_is_trained) for table in (model.item_embeddings, model.transition_embeddings)]
    tables += [(nodes.rows[str(level)], nodes.is_trained(level)) for level in nodes.levels]
    for table, is_trained in tables:
        assert table is not None
        assert 0 < is_trained.sum() < len(table)
        assert table.grad is not None
        assert not table.grad[~is_trained].any()
        assert table.grad[is_trained].any()
        with torch.no_grad():
            table[~is_trained] = 100.0
    with torch.no_grad():
        torch.testing.assert_close(model.score_targets(histories, targets).log_probs, before, rtol=0, atol=0)


def test_children_have_more_probability_under_the_trie() -> None:
    """The same logits over fewer codes: no log-probability falls, and some rise."""
    codes = draw_codes()
    histories, targets = random_batch(len(codes))
    trie_model, vocabulary = (build(codes, normalisation=name) for name in ("trie", "vocabulary"))
    vocabulary.load_state_dict(trie_model.state_dict())
    with torch.no_grad():
        gain = (
            trie_model.score_targets(histories, targets).log_probs
            - vocabulary.score_targets(histories, targets).log_probs
        )
    assert gain.min() > -1e-5
    assert gain.max() > 0.1


def test_training_before_marking_is_refused() -> None:
    codes = draw_codes()
    trie = SemanticIdTrie.build(np.array(codes, dtype=np.int32), SIZES)
    model = HierarchicalRecommender(trie, HierarchicalSettings(**SMALL)).train()
    with pytest.raises(AssertionError, match="mark_trained"):
        model.score_targets(*random_batch(len(codes)))


@pytest.mark.parametrize("normalisation", ["trie", "vocabulary"])
def test_half_precision_is_close_and_gives_single_precision(normalisation: str) -> None:
    model = build(draw_codes(), normalisation=normalisation, memory=MEMORY)
    histories, targets = random_batch(14)
    remember(model, histories.tolist())
    with torch.no_grad():
        expected = model.score_targets(histories, targets).log_probs
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model.score_targets(histories, targets).log_probs
    assert found.dtype == torch.float32
    assert (found - expected).abs().mean() < 0.1


@pytest.mark.parametrize("settings", [{}, {"memory": MEMORY}], ids=["plain", "memory"])
def test_a_renumbered_catalogue_changes_nothing(settings: dict[str, Any]) -> None:
    codes = draw_codes()
    model = build(codes, trained=[0, 1, 2, 5, 8, 9], **settings)
    places = torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))
    moved: Codes = [()] * len(codes)
    for old, new in enumerate(places.tolist()):
        moved[new] = codes[old]
    other = build(moved, trained=[], **settings)
    other.load_adapted(model.state_dict(), places)
    histories, targets = random_batch(len(codes))
    if settings:
        remember(model, histories.tolist())
        remember(other, places[histories].tolist())
    with torch.no_grad():
        expected = model.score_targets(histories, targets).log_probs
        found = other.score_targets(places[histories], places[targets]).log_probs
    torch.testing.assert_close(found, expected)


def test_new_items_start_without_vectors_and_old_ones_keep_theirs() -> None:
    codes = draw_codes(20)
    old, new = codes[:12], [*codes[4:12], *codes[12:]]
    places = torch.tensor([-1] * 4 + list(range(8)))
    model, other = build(old), build(new, trained=[])
    other.load_adapted(model.state_dict(), places)
    assert other.item_is_trained.tolist() == [True] * 8 + [False] * 8
    for after, before in (
        (other.item_embeddings, model.item_embeddings),
        (other.transition_embeddings, model.transition_embeddings),
    ):
        assert after is not None
        assert before is not None
        assert torch.equal(after[:8], before[4:])
        assert (after[8:] == 0).all()
    before, after = model.decoder.node_embeddings, other.decoder.node_embeddings
    for level in after.levels:
        known = {
            tuple(prefix): before.rows[str(level)][row]
            for row, prefix in enumerate(model.trie.prefix_codes(level + 1).tolist())
        }
        for row, prefix in enumerate(other.trie.prefix_codes(level + 1).tolist()):
            expected = known.get(tuple(prefix), torch.zeros(SMALL["width"]))
            assert torch.equal(after.rows[str(level)][row], expected)
            assert bool(after.is_trained(level)[row]) == (tuple(prefix) in known)
        assert torch.equal(after.get_buffer(f"prefixes_{level}"), other.trie.prefix_codes(level + 1))
    histories, targets = random_batch(8)
    with torch.no_grad():
        assert torch.isfinite(other.score_targets(histories, targets).log_probs).all()


def test_a_level_that_gains_or_loses_its_choice_is_adapted() -> None:
    one, several = [(0, 1, 0), (1, 1, 0), (2, 0, 0)], [(0, 1, 0), (0, 2, 0), (1, 1, 0), (2, 0, 0)]
    model, wider = build(one), build(several, trained=[])
    assert (model.decoder.node_embeddings.levels, wider.decoder.node_embeddings.levels) == ((0,), (0, 1))
    wider.load_adapted(model.state_dict(), torch.tensor([0, 2, 3]))
    assert not wider.decoder.node_embeddings.is_trained(1).any()
    model.load_adapted(wider.state_dict(), torch.tensor([0, -1, 1, 2]))
    assert model.item_is_trained.all()


def test_facts_of_before_transitions_and_memories_are_read() -> None:
    model = build(draw_codes(), transition_embeddings=False)
    newer = ("transition_embeddings", "memory")
    older = build_from({name: value for name, value in model.facts.items() if name not in newer}, model.trie)
    older.load_state_dict(model.state_dict())
    assert older.facts == model.facts
    assert older.memory is None
    few = build_from(model.facts | {"memory": {"followers": 3}}, model.trie)
    assert few.settings.memory == MemorySettings(followers=3)


def test_facts_are_checked() -> None:
    model = build(draw_codes())
    with pytest.raises(ConfigError, match=r"unknown keys .* \['folowers'\]"):
        build_from(model.facts | {"memory": {"folowers": 3}}, model.trie)
    with pytest.raises(ConfigError, match="unknown kind of recommender"):
        build_from(model.facts | {"name": "oracle"}, model.trie)
    with pytest.raises(ConfigError, match=r"unknown keys .* \['widht'\]"):
        build_from(model.facts | {"widht": 3}, model.trie)
    with pytest.raises(LineageError, match=r"other semantic IDs .*\[3, 4, 4\]"):
        build_from(model.facts | {"codebook_sizes": [3, 4, 4]}, model.trie)
    with pytest.raises(ConfigError, match="unknown normalisation"):
        HierarchicalSettings(normalisation="none")
    with pytest.raises(ConfigError, match="temperature"):
        HierarchicalSettings(temperature=0.0)
    with pytest.raises(ConfigError, match="history"):
        HierarchicalSettings(history_length=0)


def planted_chain(num_rows: int) -> tuple[torch.Tensor, np.ndarray]:
    """Rows of 7 of 20 items: the next is a fixed successor with probability 0.7, else any of the other items."""
    rng = np.random.default_rng(1)
    successor = rng.permutation(20)
    rows = np.empty((num_rows, 7), dtype=np.int64)
    rows[:, 0] = rng.integers(20, size=num_rows)
    for place in range(1, 7):
        likely = successor[rows[:, place - 1]]
        other = (likely + rng.integers(1, 20, size=num_rows)) % 20
        rows[:, place] = np.where(rng.random(num_rows) < 0.7, likely, other)
    return torch.from_numpy(rows), successor


def test_a_planted_chain_is_learnt_to_its_entropy() -> None:
    sequences, successor = planted_chain(6400)
    training, held_out = sequences[:6000], sequences[6000:]
    torch.manual_seed(0)
    trie = SemanticIdTrie.build(np.array(draw_codes(20), dtype=np.int32), SIZES)
    settings: dict[str, Any] = {
        "width": 32,
        "num_heads": 2,
        "hidden": 32,
        "depth_hidden": 32,
        "num_layers": 1,
        "history_length": 6,
    }
    rates: dict[str, Any] = {f"dropout_{part}": 0.0 for part in ("input", "blocks", "depth", "nodes")}
    model = HierarchicalRecommender(trie, HierarchicalSettings(**settings, **rates))
    everything = torch.ones(20, dtype=torch.bool)
    model.mark_trained(everything, everything)
    optimiser = torch.optim.AdamW(
        [dict(group) for group in model.parameter_groups(weight_decay=0.01)], lr=0.01, fused=True
    )
    for batch in training.split(60):
        output = token_cross_entropy(model.score_targets(batch[:, :-1], batch[:, 1:]).log_probs, batch[:, 1:] >= 0)
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
    with torch.no_grad():
        log_probs = model.eval().score_targets(held_out[:, :-1], held_out[:, 1:]).log_probs
        nll = token_cross_entropy(log_probs, held_out[:, 1:] >= 0).parts["nll"].item()
        context = model.encode(held_out[:, :-1], torch.full((len(held_out),), 6))
        best = score_catalogue(model, trie, context).argmax(dim=1).numpy()
    entropy = -0.7 * math.log(0.7) - 0.3 * math.log(0.3 / 19)
    # standard error of the mean of -log p over the held-out targets, under the true p
    error = math.sqrt(0.7 * 0.3 / held_out[:, 1:].numel()) * math.log(0.7 / (0.3 / 19))
    assert entropy - 4 * error < nll < entropy + 4 * error + 0.1
    assert (best == successor[held_out[:, -2].numpy()]).mean() > 0.95


@pytest.mark.parametrize("node_embeddings", [True, False])
def test_appended_items_leave_the_others_alone_under_vocabulary(node_embeddings: bool) -> None:
    """Old items keep their log-probabilities; a new one has those of its codes alone, wherever its row is."""
    codes = draw_codes(18)
    old = build(codes[:14], normalisation="vocabulary", node_embeddings=node_embeddings)
    order = np.random.default_rng(7).permutation(18)
    rows: Codes = [codes[item] for item in order]
    new = build(rows, trained=[], normalisation="vocabulary", node_embeddings=node_embeddings)
    places = torch.from_numpy(np.argsort(order)[:14])
    new.load_adapted(old.state_dict(), places)
    histories = random_batch(14)[0]
    lengths = torch.full((8,), 5)
    with torch.no_grad():
        before = score_catalogue(old, old.trie, old.encode(histories, lengths))
        after = score_catalogue(new, new.trie, new.encode(places[histories], lengths))
    torch.testing.assert_close(after[:, places], before, rtol=1e-5, atol=1e-5)
    assert float(after.exp().sum(dim=1).max()) <= 1 + 1e-5
    assert bool((after.exp().sum(dim=1) > before.exp().sum(dim=1)).all())
