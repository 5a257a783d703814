"""What is particular to the hierarchical recommender; what it shares with others is in tests/contracts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from genrec.decoding.exhaustive import score_catalogue
from genrec.errors import ConfigError, LineageError
from genrec.losses.likelihood import token_cross_entropy
from genrec.models.hierarchical import HierarchicalRecommender, HierarchicalSettings
from genrec.models.recommender import build_from
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles.hierarchical_oracle import code_log_probs

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
    weights = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    for name in weights:
        if "prefixes" in name:
            weights[name] = weights[name].astype(int)
    with torch.no_grad():
        found = model.log_probs_of_targets(histories, targets)
        for row in range(8):
            for place in range(5):
                user = model.encode(histories[row : row + 1, : place + 1], torch.tensor([place + 1]))[0]
                expected = code_log_probs(
                    weights,
                    user.double().numpy(),
                    codes[targets[row, place]],
                    set(codes),
                    normalisation=normalisation,
                    temperature=0.8,
                )
                np.testing.assert_allclose(found[row, place].numpy(), expected, rtol=1e-4, atol=1e-4)


def test_impossible_codes_get_no_gradient_under_the_trie() -> None:
    codes = draw_codes()
    for normalisation in ("trie", "vocabulary"):
        model = build(codes, normalisation=normalisation)
        histories, _ = random_batch(len(codes))
        targets = torch.full_like(histories, -1)
        targets[:, 2] = 3
        model.log_probs_of_targets(histories, targets).sum().backward()
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
    before = model.log_probs_of_targets(histories, targets)
    before.sum().backward()
    nodes = model.decoder.node_embeddings
    tables = [(model.item_embeddings, model.item_is_trained)]
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
        torch.testing.assert_close(model.log_probs_of_targets(histories, targets), before, rtol=0, atol=0)


def test_children_have_more_probability_under_the_trie() -> None:
    """The same logits over fewer codes: no log-probability falls, and some rise."""
    codes = draw_codes()
    histories, targets = random_batch(len(codes))
    trie_model, vocabulary = (build(codes, normalisation=name) for name in ("trie", "vocabulary"))
    vocabulary.load_state_dict(trie_model.state_dict())
    with torch.no_grad():
        gain = trie_model.log_probs_of_targets(histories, targets) - vocabulary.log_probs_of_targets(histories, targets)
    assert gain.min() > -1e-5
    assert gain.max() > 0.1


def test_training_before_marking_is_refused() -> None:
    codes = draw_codes()
    trie = SemanticIdTrie.build(np.array(codes, dtype=np.int32), SIZES)
    model = HierarchicalRecommender(trie, HierarchicalSettings(**SMALL)).train()
    with pytest.raises(AssertionError, match="mark_trained"):
        model.log_probs_of_targets(*random_batch(len(codes)))


def test_half_precision_is_close_and_gives_single_precision() -> None:
    model = build(draw_codes())
    histories, targets = random_batch(14)
    with torch.no_grad():
        expected = model.log_probs_of_targets(histories, targets)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model.log_probs_of_targets(histories, targets)
    assert found.dtype == torch.float32
    assert (found - expected).abs().mean() < 0.1


def test_a_renumbered_catalogue_changes_nothing() -> None:
    codes = draw_codes()
    model = build(codes, trained=[0, 1, 2, 5, 8, 9])
    places = torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))
    moved: Codes = [()] * len(codes)
    for old, new in enumerate(places.tolist()):
        moved[new] = codes[old]
    other = build(moved, trained=[])
    other.load_adapted(model.state_dict(), places)
    histories, targets = random_batch(len(codes))
    with torch.no_grad():
        expected = model.log_probs_of_targets(histories, targets)
        found = other.log_probs_of_targets(places[histories], places[targets])
    torch.testing.assert_close(found, expected)


def test_new_items_start_without_vectors_and_old_ones_keep_theirs() -> None:
    codes = draw_codes(20)
    old, new = codes[:12], [*codes[4:12], *codes[12:]]
    places = torch.tensor([-1] * 4 + list(range(8)))
    model, other = build(old), build(new, trained=[])
    other.load_adapted(model.state_dict(), places)
    assert other.item_is_trained.tolist() == [True] * 8 + [False] * 8
    assert model.item_embeddings is not None
    assert other.item_embeddings is not None
    assert torch.equal(other.item_embeddings[:8], model.item_embeddings[4:])
    assert (other.item_embeddings[8:] == 0).all()
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
        assert torch.isfinite(other.log_probs_of_targets(histories, targets)).all()


def test_a_level_that_gains_or_loses_its_choice_is_adapted() -> None:
    one, several = [(0, 1, 0), (1, 1, 0), (2, 0, 0)], [(0, 1, 0), (0, 2, 0), (1, 1, 0), (2, 0, 0)]
    model, wider = build(one), build(several, trained=[])
    assert (model.decoder.node_embeddings.levels, wider.decoder.node_embeddings.levels) == ((0,), (0, 1))
    wider.load_adapted(model.state_dict(), torch.tensor([0, 2, 3]))
    assert not wider.decoder.node_embeddings.is_trained(1).any()
    model.load_adapted(wider.state_dict(), torch.tensor([0, -1, 1, 2]))
    assert model.item_is_trained.all()


def test_facts_are_checked() -> None:
    model = build(draw_codes())
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
        output = token_cross_entropy(model(batch[:, :-1], batch[:, 1:]), batch[:, 1:] >= 0)
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
    with torch.no_grad():
        log_probs = model.eval()(held_out[:, :-1], held_out[:, 1:])
        nll = token_cross_entropy(log_probs, held_out[:, 1:] >= 0).parts["nll"].item()
        context = model.encode(held_out[:, :-1], torch.full((len(held_out),), 6))
        best = score_catalogue(model, trie, context).argmax(dim=1).numpy()
    entropy = -0.7 * math.log(0.7) - 0.3 * math.log(0.3 / 19)
    # standard error of the mean of -log p over the held-out targets, under the true p
    error = math.sqrt(0.7 * 0.3 / held_out[:, 1:].numel()) * math.log(0.7 / (0.3 / 19))
    assert entropy - 4 * error < nll < entropy + 4 * error + 0.1
    assert (best == successor[held_out[:, -2].numpy()]).mean() > 0.95
