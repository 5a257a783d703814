"""The memory against item-kNN: the sparse algebra for what is served, loops over pairs for what training sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.baselines.base import count_items
from genrec.baselines.item_knn import DirectedItemKnn
from genrec.data.batches import BatchStream
from genrec.data.sequences import Ragged
from genrec.decoding.beam_search import beam_search
from genrec.decoding.exhaustive import exhaustive_search, score_catalogue
from genrec.errors import ConfigError
from genrec.models.hierarchical import HierarchicalRecommender
from genrec.models.settings import HierarchicalSettings, MemorySettings
from genrec.models.transition_memory import (
    LARGEST_CATALOGUE,
    TransitionMemory,
    masses_of_depth,
    masses_of_nodes,
    strongest,
    sum_in_trie_order,
)
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles import knn_oracle, trie_oracle

NUM_ITEMS = 7
CONSTANTS: tuple[dict[str, Any], ...] = (
    {},
    {"window": 2, "decay": 1.0, "backward": 0.0, "source_power": 0.0, "target_power": 0.0, "history_decay": 1.0},
    {"window": 3, "decay": 0.0, "backward": 1.0, "source_power": 1.0, "target_power": 0.5, "history_decay": 0.0},
    {"window": 20, "decay": 0.85, "backward": 0.6, "source_power": 0.25, "target_power": 0.4, "history_decay": 0.8},
)
Rows = list[list[int]]


def draw_rows(seed: int) -> Rows:
    """Short ones with repeats, an empty one, one of a single item, one of the same item in a row."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(NUM_ITEMS - 1, size=size).tolist() for size in rng.integers(2, 10, size=6)]
    return [*rows, [], [3], [2, 2, 2, 1, 1, 2]]


def remembering(rows: Rows, *, followers: int = NUM_ITEMS, **constants: Any) -> TransitionMemory:
    memory = TransitionMemory(NUM_ITEMS, 3, MemorySettings(followers=followers, **constants))
    history = Ragged.from_lists(rows)
    knn = DirectedItemKnn(**constants).fit(history, num_items=NUM_ITEMS)
    neighbours, weights = strongest(knn.similarity_, memory.neighbours.shape[1])
    counts = count_items(history, NUM_ITEMS)
    memory.remember(torch.from_numpy(neighbours), torch.from_numpy(weights), torch.from_numpy(counts))
    return memory


def with_defaults(constants: dict[str, Any]) -> dict[str, Any]:
    knn = DirectedItemKnn(**constants)
    names = ("window", "decay", "backward", "source_power", "target_power", "history_decay")
    return {name: getattr(knn, name) for name in names}


def padded(rows: Rows, length: int) -> torch.Tensor:
    return torch.tensor([row + [-1] * (length - len(row)) for row in rows])


def dense(scores: dict[int, float]) -> list[float]:
    return [scores.get(item, 0.0) for item in range(NUM_ITEMS)]


@given(st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=5, max_size=5), st.integers(1, 6))
def test_strongest_is_a_sort_of_each_row(table: list[list[int]], size: int) -> None:
    columns, entries = strongest(sp.csr_matrix(np.array(table, dtype=float)), size)
    for row, values in enumerate(table):
        kept = sorted((-value, column) for column, value in enumerate(values) if value)[:size]
        rest = size - len(kept)
        assert columns[row].tolist() == [column for _, column in kept] + [-1] * rest
        assert entries[row].tolist() == [-value for value, _ in kept] + [0.0] * rest
    assert (columns.dtype, entries.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("constants", CONSTANTS, ids=str)
def test_with_all_followers_it_is_item_knn(constants: dict[str, Any]) -> None:
    rows = draw_rows(0)
    memory = remembering(rows, **constants)
    knn = DirectedItemKnn(**constants, history_length=99).fit(Ragged.from_lists(rows), num_items=NUM_ITEMS)
    histories = draw_rows(1)
    found = memory.scores(padded(histories, 10), None)
    for place in range(10):
        shown = [row[: place + 1] for row in histories]  # past the end of a row, its last items grow older
        is_inside = [len(row) > place for row in histories]
        expected = knn.scores(Ragged.from_lists(shown)).toarray()
        np.testing.assert_allclose(found[is_inside, place], expected[is_inside], rtol=1e-5, atol=1e-6)
        last = memory.last_scores(padded(shown, 12), torch.tensor([len(row) for row in shown]))
        np.testing.assert_allclose(last, expected, rtol=1e-5, atol=1e-6)
    assert not found[histories.index([])].any()


def test_only_the_strongest_followers_count() -> None:
    rows, histories = draw_rows(2), draw_rows(3)
    memory, (constants, size) = remembering(rows, followers=2), (with_defaults({}), 2)
    neighbours = memory.neighbours.tolist()
    found = memory.scores(padded(histories, 10), None)
    for row, history in enumerate(histories):
        for place in range(len(history)):
            expected = np.zeros(NUM_ITEMS)
            for age, seen in enumerate(history[place::-1]):
                similar = knn_oracle.knn_scores(rows, [seen], **constants)
                kept = {item: score for item, score in similar.items() if item in neighbours[seen]}
                assert sorted(kept.values()) == pytest.approx(sorted(similar.values())[-size:])
                expected += 0.5**age * np.array(dense(kept))
            np.testing.assert_allclose(found[row, place], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("constants", CONSTANTS, ids=str)
@pytest.mark.parametrize("seed", [4, 5])
def test_a_row_of_training_sees_item_knn_without_itself(constants: dict[str, Any], seed: int) -> None:
    """T of all rows but this one, P of all rows: refitted by loops, for every position of every row."""
    rows = draw_rows(seed)
    memory, constants = remembering(rows, **constants), with_defaults(constants)
    histories, targets = padded([row[:-1] for row in rows], 9), padded([row[1:] for row in rows], 9)
    found, counts = memory.scores(histories, targets), knn_oracle.popularity(rows)
    for row, items in enumerate(rows):
        others = rows[:row] + rows[row + 1 :]
        for place in range(len(items) - 1):
            expected = knn_oracle.knn_scores(others, items[: place + 1], history_length=99, counts=counts, **constants)
            np.testing.assert_allclose(found[row, place], dense(expected), rtol=1e-5, atol=1e-5)
    assert (found >= 0).all()
    told = memory.scores(histories, None)
    assert (told - found).max() > 0.01


@pytest.mark.parametrize("followers", [NUM_ITEMS, 2])
def test_windows_of_training_leave_out_their_own_pairs(followers: int) -> None:
    """Early targets of a window belong to the window before and are masked; pairs across the cut of a history stay."""
    rows = draw_rows(6)
    memory, constants = remembering(rows, followers=followers), with_defaults({})
    stream = BatchStream(Ragged.from_lists(rows), batch_size=99, max_length=4, stride=2)
    batch = stream.gather(np.arange(len(stream.windows)))
    assert (batch.is_target != (batch.items >= 0)).any()
    targets = torch.from_numpy(np.where(batch.is_target, batch.targets, -1))
    found, counts = memory.scores(torch.from_numpy(batch.items), targets), knn_oracle.popularity(rows)
    num_cut = 0
    for row, (items, following) in enumerate(zip(batch.items.tolist(), batch.targets.tolist(), strict=True)):
        length = sum(item >= 0 for item in items)
        window = [*items[:length], following[length - 1]]
        num_cut += len(window) < len(rows[batch.user_index[row]])
        for place in range(length):
            expected = np.zeros(NUM_ITEMS)
            for age, seen in enumerate(items[place::-1]):
                similar = knn_oracle.knn_scores(rows, [seen], **constants)
                own = knn_oracle.knn_scores([window], [seen], counts=counts, **constants)
                kept = set(memory.neighbours[seen].tolist())
                left = {item: score - own.get(item, 0.0) for item, score in similar.items() if item in kept}
                assert all(score > -1e-9 for score in left.values())
                expected += 0.5**age * np.array(dense(left))
            np.testing.assert_allclose(found[row, place], expected, rtol=1e-5, atol=1e-5)
    assert num_cut > 3


def test_an_empty_history_has_no_scores() -> None:
    memory = remembering(draw_rows(7))
    nothing = torch.full((2, 3), -1)
    targets = nothing.clone()
    targets[:, 0] = 4
    for given_targets in (None, nothing, targets):
        assert not memory.scores(nothing, given_targets).any()
    assert not memory.last_scores(nothing, torch.zeros(2, dtype=torch.int64)).any()


def test_company_and_padding_change_nothing_and_the_future_does_in_training_alone() -> None:
    rows = [row for row in draw_rows(8) if len(row) > 4]
    memory = remembering(rows)
    histories, targets = padded([row[:-1] for row in rows], 9), padded([row[1:] for row in rows], 9)
    for shown in (None, targets):
        found = memory.scores(histories, shown)
        for row, items in enumerate(rows):
            size = len(items) - 1
            own = None if shown is None else shown[row : row + 1, :size]
            alone = memory.scores(histories[row : row + 1, :size], own)
            torch.testing.assert_close(found[row : row + 1, :size], alone)
    other, following = histories.clone(), targets.clone()
    other[:, 3:], following[:, 2:] = (other[:, 3:] + 1) % NUM_ITEMS, (following[:, 2:] + 1) % NUM_ITEMS
    before, after = memory.scores(histories, None), memory.scores(other, None)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3:], after[:, 3:])
    in_training = [memory.scores(histories, targets), memory.scores(other, following)]
    assert not torch.allclose(in_training[0][:, :3], in_training[1][:, :3]), "own pairs are those of the whole row"


codes = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=14)


@settings(max_examples=examples(50))
@given(codes, st.integers(0, 99))
def test_the_mass_of_a_node_is_the_sum_of_its_items(catalogue: list[tuple[int, ...]], seed: int) -> None:
    """Also where items share their codes."""
    trie = SemanticIdTrie.build(np.array(catalogue, dtype=np.int32), (3, 2, 3))
    root = trie_oracle.build(catalogue)
    scores = torch.rand(4, len(catalogue), generator=torch.Generator().manual_seed(seed))
    scores = scores * (scores > 0.5)
    scores[:, 0] *= 1e6  # what is added up before a small mass does not round it
    sums = sum_in_trie_order(trie, scores)
    assert sums.shape == (4, len(catalogue) + 1)
    for depth in range(4):
        below = [trie_oracle.items(root, prefix) for prefix in trie_oracle.prefixes(root, depth)]
        expected = torch.stack([scores[:, items].sum(dim=1) for items in below], dim=1)
        torch.testing.assert_close(masses_of_depth(trie, depth, sums), expected)
        nodes = torch.arange(-1, len(below)).repeat(2, 1)
        rows = torch.tensor([[2], [0]]).expand_as(nodes)
        found = masses_of_nodes(trie, depth, sums, rows, nodes)
        assert not found[:, 0].any()
        torch.testing.assert_close(found[:, 1:], expected[[2, 0]])


@pytest.mark.parametrize("followers", [NUM_ITEMS, 3])
def test_alone_it_is_the_normalised_item_knn(followers: int) -> None:
    """Gain 1, a floor of (almost) nothing, no learnt logit; searched exactly and by beams."""
    rows = draw_rows(9)
    catalogue = [(0, 1, 0), (2, 0, 1), (0, 0, 0), (0, 1, 2), (2, 1, 1), (1, 0, 0), (2, 0, 0)]
    trie = SemanticIdTrie.build(np.array(catalogue, dtype=np.int32), (3, 2, 3))
    memory = MemorySettings(followers=followers)
    model = HierarchicalRecommender(trie, HierarchicalSettings(width=8, num_heads=2, hidden=8, memory=memory)).eval()
    assert model.memory is not None
    history = Ragged.from_lists(rows)
    knn = DirectedItemKnn().fit(history, num_items=NUM_ITEMS)
    model.remember(knn.similarity_, count_items(history, NUM_ITEMS))
    with torch.no_grad():
        model.memory.log_floor.fill_(-80.0)
        for table in (*model.decoder.output_codes, *model.decoder.node_embeddings.rows.values()):
            table.zero_()
    columns, entries = strongest(knn.similarity_, followers)
    kept = np.zeros((NUM_ITEMS, NUM_ITEMS + 1))
    np.put_along_axis(kept, np.where(columns < 0, NUM_ITEMS, columns), entries.astype(float), axis=1)
    knn.similarity_ = sp.csr_matrix(kept[:, :NUM_ITEMS])
    histories = [row for row in rows if row]
    expected = knn.scores(Ragged.from_lists(histories)).toarray()
    with torch.no_grad():
        context = model.encode(padded(histories, 9), torch.tensor([len(row) for row in histories]))
        probabilities = score_catalogue(model, trie, context).exp()
        lists = [
            exhaustive_search(model, trie, context).item_index,
            beam_search(model, trie, context, beam_width=NUM_ITEMS, num_candidates=NUM_ITEMS).item_index,
        ]
    for row, scores in enumerate(expected):
        assert scores.any()
        np.testing.assert_allclose(probabilities[row], scores / scores.sum(), rtol=1e-4, atol=1e-12)
        for found in lists:
            ranked = found[row][: np.count_nonzero(scores)].tolist()
            assert sorted(ranked) == np.flatnonzero(scores).tolist()
            np.testing.assert_allclose(scores[ranked], -np.sort(-scores)[: len(ranked)], rtol=1e-5)


def test_gains_and_floors_are_learnt_and_what_is_held_is_not() -> None:
    memory = remembering(draw_rows(0))
    assert {name for name, _ in memory.named_parameters()} == {"gain", "log_floor"}
    held = {"neighbours", "weights", "source_scale", "target_scale"}
    assert {name for name, tensor in memory.named_buffers() if not tensor.requires_grad} == held
    assert not memory.scores(padded([[1, 2]], 3), padded([[2, 3]], 3)).requires_grad
    masses = torch.tensor([0.0, 0.5, 3.0], dtype=torch.float64)
    memory = memory.double()
    with torch.no_grad():
        memory.gain.copy_(torch.tensor([1.0, 0.4, 2.0]))
        memory.log_floor.copy_(torch.tensor([-4.0, -1.0, 0.5]))
    for level in range(3):
        memory.zero_grad()
        terms = memory.terms(level, masses)
        gain, floor = memory.gain[level].item(), memory.log_floor[level].exp().item()
        assert terms.tolist() == pytest.approx([gain * np.log(mass + floor) for mass in masses.tolist()])
        terms.sum().backward()
        assert memory.gain.grad is not None
        assert memory.log_floor.grad is not None
        assert memory.gain.grad[level].item() == pytest.approx(sum(np.log(masses.numpy() + floor)))
        assert memory.log_floor.grad[level].item() == pytest.approx(gain * sum(floor / (masses.numpy() + floor)))
        assert memory.gain.grad.count_nonzero() == 1


def test_a_catalogue_that_is_too_large_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at most 200,000 items, found 200,001.*model\.memory\.followers=0"):
        TransitionMemory(LARGEST_CATALOGUE + 1, 3, MemorySettings(followers=1))


@given(st.permutations(range(NUM_ITEMS + 2)), st.lists(st.integers(0, NUM_ITEMS - 1), max_size=4), st.integers(0, 50))
@settings(max_examples=examples(50))
def test_a_memory_moves_with_its_items(order: list[int], gone: list[int], seed: int) -> None:
    """Against the dense matrix: entries among items that stay are where both now are, all others are 0."""
    followers = [3, NUM_ITEMS][seed % 2]
    old = remembering(draw_rows(seed), followers=followers)
    kept = [item for item in range(NUM_ITEMS) if item not in gone]
    num_items = len(kept) + 2
    spots = [place for place in order if place < num_items]
    places = torch.full((NUM_ITEMS,), -1, dtype=torch.int64)
    places[kept] = torch.tensor(spots[: len(kept)], dtype=torch.int64)
    new = TransitionMemory(num_items, 3, old.settings)
    new.take_over(old.state_dict(), places)

    def matrix(memory: TransitionMemory) -> np.ndarray:
        dense = np.zeros((len(memory.neighbours),) * 2, dtype=np.float32)
        for item, (columns, weights) in enumerate(zip(memory.neighbours, memory.weights, strict=True)):
            for column, weight in zip(columns.tolist(), weights.tolist(), strict=True):
                if column >= 0:
                    dense[item, column] += weight
        return dense

    before, expected = matrix(old), np.zeros((num_items, num_items), dtype=np.float32)
    for source in kept:
        for target in kept:
            expected[places[source], places[target]] = before[source, target]
    np.testing.assert_array_equal(matrix(new), expected)
    for name in ("source_scale", "target_scale"):
        scale = dict(zip(spots, old.get_buffer(name)[kept].tolist(), strict=False))
        assert new.get_buffer(name).tolist() == [scale.get(item, 1.0) for item in range(num_items)]


def test_a_memory_that_moves_nowhere_stays_bit_equal() -> None:
    old = remembering(draw_rows(4), followers=3)
    new = TransitionMemory(NUM_ITEMS, 3, old.settings)
    new.take_over(old.state_dict(), torch.arange(NUM_ITEMS))
    for name in ("neighbours", "weights", "source_scale", "target_scale"):
        assert torch.equal(new.get_buffer(name), old.get_buffer(name))
