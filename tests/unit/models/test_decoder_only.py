from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from genrec.decoding.beam_search import beam_search
from genrec.decoding.exhaustive import score_catalogue
from genrec.models.decoder_only import DecoderOnlyRecommender
from genrec.models.recommender import score_each_target
from genrec.models.settings import DecoderOnlySettings
from genrec.semantic_ids.trie import SemanticIdTrie

NUM_ITEMS, SIZES, LENGTH = 40, (4, 5, 6), 6


def build(num_items: int = NUM_ITEMS, sizes: tuple[int, ...] = SIZES, **settings: Any) -> DecoderOnlyRecommender:
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(size, size=num_items) for size in sizes], axis=1).astype(np.int32)
    small: dict[str, Any] = {"width": 16, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "hidden": 20}
    torch.manual_seed(0)
    trie = SemanticIdTrie.build(codes, sizes)
    model = DecoderOnlyRecommender(trie, DecoderOnlySettings(**(small | {"history_length": LENGTH} | settings)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    model.mark_trained(torch.ones(num_items, dtype=torch.bool), torch.ones(num_items, dtype=torch.bool))
    return model.eval()


def windows(rows: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """What training shows: targets are the next items, some of which do not count; the first row has no history."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.randint(NUM_ITEMS, (rows, LENGTH + 1), generator=generator)
    lengths = torch.arange(rows) % (LENGTH + 1)
    is_input = torch.arange(LENGTH) < lengths.unsqueeze(1)
    histories, targets = torch.where(is_input, items[:, :-1], -1), torch.where(is_input, items[:, 1:], -1)
    targets[:, 0] = torch.where(lengths == 0, items[:, 0], targets[:, 0])
    targets[4:6, 1] = -1
    return histories, targets


def path_log_probs(model: DecoderOnlyRecommender, history: list[int], item: int) -> torch.Tensor:
    """The obvious way: one row, one token after another, the whole row anew for every code."""
    trie, tokens = model.trie, [model.start_vector]
    total = []

    def token(level: int, node: int) -> torch.Tensor:
        vector = model.tokens.codes[level][trie.child_codes[level][node]]
        return vector + model.node_embeddings.look_up(level, torch.tensor(node))

    for seen in history:
        path = trie.path_nodes(torch.tensor(seen)).tolist()
        tokens += [token(level, node) for level, node in enumerate(path)]
        assert model.tokens.items is not None
        tokens[-1] = tokens[-1] + model.tokens.items[seen]
    above = 0
    for level, node in enumerate(trie.path_nodes(torch.tensor(item)).tolist()):
        state = model.stack(torch.stack(tokens).unsqueeze(0))[0, -1]
        first, end = trie.child_offsets[level][above : above + 2].tolist()
        logits = model.output_codes[level][trie.child_codes[level][first:end]] @ state
        logits = logits + model.node_embeddings.look_up(level, torch.arange(first, end)) @ state
        total.append(logits.log_softmax(dim=0)[node - first])
        tokens.append(token(level, node))
        above = node
    return torch.stack(total)


def test_it_equals_the_obvious_loop() -> None:
    model = build()
    histories, targets = windows(8)
    with torch.no_grad():
        found = model.score_targets(histories, targets).log_probs
        for row, place in (targets >= 0).nonzero().tolist():
            history = [item for item in histories[row, : place + 1].tolist() if item >= 0]
            expected = path_log_probs(model, history, int(targets[row, place]))
            torch.testing.assert_close(found[row, place], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"normalisation": "vocabulary", "attention": "sdpa"}], ids=["trie", "sdpa"])
def test_one_pass_over_windows_gives_what_candidates_are_given(settings: dict[str, Any]) -> None:
    """Values and gradients, and each once: nothing of the one pass is wrong where nothing of the other is."""
    gradients = []
    histories, targets = windows(9)
    scores = []
    for score in (DecoderOnlyRecommender.score_targets, score_each_target):
        model = build(**settings)
        found = score(model, histories, targets, with_means=True)
        found.log_probs.square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        scores.append(found)
    torch.testing.assert_close(*(found.log_probs for found in scores), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*(found.means for found in scores), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)


def test_the_second_pass_is_taken_only_where_targets_are_no_continuation(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    histories, targets = windows(9)
    extensions = []
    extend = model.stack.extend
    monkeypatch.setattr(model.stack, "extend", lambda *given: extensions.append(1) or extend(*given))
    model.score_targets(histories, targets)
    assert not extensions
    targets[3, 0] = (targets[3, 0] + 1) % NUM_ITEMS
    model.score_targets(histories, targets)
    assert len(extensions) == len(SIZES) - 1


def test_prefixes_that_leave_no_choice_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their codes have log-probability 0, which is exact, and no gradient."""
    model = build(sizes=(4, 5, 40))  # hardly a prefix of two codes has several items below it
    trie, tokens = model.trie, []
    extend = model.stack.extend
    monkeypatch.setattr(
        model.stack, "extend", lambda x, *given: tokens.append(x.shape[:2].numel()) or extend(x, *given)
    )
    histories = torch.arange(8).view(2, 4)
    items = torch.arange(NUM_ITEMS).expand(8, NUM_ITEMS)
    with torch.no_grad():
        context = model.read_positions(histories, histories + 1)
        found = model.score_items(context, items).log_probs
        for place, item in ((0, 3), (5, 30)):
            history = histories[place // 4, : place % 4 + 1].tolist()
            torch.testing.assert_close(found[place, item], path_log_probs(model, history, item), rtol=1e-4, atol=1e-5)
    has_choice = [trie.child_ranges(depth, torch.arange(trie.num_nodes(depth)))[1] > 1 for depth in (1, 2)]
    assert 0 < has_choice[1].sum() < trie.num_nodes(2)
    is_on_the_way = has_choice[0].index_put((trie.parents[1][has_choice[1]],), torch.tensor(True))
    assert tokens == [8 * int(is_on_the_way.sum()), 8 * int(has_choice[1].sum())]
    forced = ~has_choice[1][trie.nodes_of_items(torch.arange(NUM_ITEMS), 2)]
    assert (found[:, forced, 2] == 0).all()


def test_the_future_of_a_window_does_not_change_its_past() -> None:
    model = build()
    histories, targets = windows(7)
    others, their_targets = windows(7, seed=2)
    others[:, :3], their_targets[:, :3] = histories[:, :3], targets[:, :3]
    others[:, 3] = torch.where(others[:, 3] >= 0, targets[:, 2], -1)  # what the third position predicts
    with torch.no_grad():
        before = model.score_targets(histories, targets).log_probs
        after = model.score_targets(others, their_targets).log_probs
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=0)
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_item_vectors_and_node_vectors_count_once_they_are_trained() -> None:
    model = build()
    histories, targets = windows(8)
    with torch.no_grad():
        full = model.score_targets(histories, targets).log_probs
        model.tokens.item_is_trained[:] = False
        no_items = model.score_targets(histories, targets).log_probs
        for level in model.node_embeddings.levels:
            model.node_embeddings.is_trained(level)[:] = False
        neither = model.score_targets(histories, targets).log_probs
        plain = build(node_embeddings=False, item_embeddings=False)
        plain.load_state_dict({name: value for name, value in model.state_dict().items() if name in plain.state_dict()})
        torch.testing.assert_close(plain.score_targets(histories, targets).log_probs, neither)
    assert not torch.allclose(full, no_items)
    assert not torch.allclose(no_items, neither)


def test_weights_move_to_another_version_of_the_catalogue() -> None:
    """Items in another order, one of them gone and one new: what is known of the others stays, under vocabulary."""
    old = build(normalisation="vocabulary")
    codes = torch.stack(
        [old.trie.child_codes[level][old.trie.path_nodes(torch.arange(NUM_ITEMS))[:, level]] for level in range(3)], 1
    )
    order = torch.randperm(NUM_ITEMS - 1, generator=torch.Generator().manual_seed(3))  # the last one is gone
    newer = torch.cat([codes[order], torch.tensor([[3, 4, 5]], dtype=torch.int32)]).numpy()
    new = DecoderOnlyRecommender(SemanticIdTrie.build(newer, SIZES), old.settings)
    places = torch.full((NUM_ITEMS,), -1)
    places[order] = torch.arange(NUM_ITEMS - 1)
    new.load_adapted(old.state_dict(), places)
    new.eval()
    assert not new.tokens.item_is_trained[-1]
    with torch.no_grad():
        assert new.tokens.items is not None
        assert old.tokens.items is not None
        torch.testing.assert_close(new.tokens.items[places[order]], old.tokens.items[order])
        shown = torch.arange(12).view(4, 3)
        assert (places[shown] >= 0).all()
        found, expected = (
            model.score_targets(rows[:, :2], rows[:, 1:]).log_probs
            for model, rows in ((new, places[shown]), (old, shown))
        )
    # prefixes that both catalogues have, whose siblings too are known to both: the tables say the same of them
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[..., 0], expected[..., 0], rtol=1e-4, atol=1e-5)


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation has made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, torch.Tensor):
                strides = zip(part.shape, part.stride(), strict=True)
                held = 1 + sum((size - 1) * stride for size, stride in strides) if part.numel() else 0
                self.numel = max(self.numel, held)  # a view counts as what it holds, not as what it shows
        return result


def test_no_step_copies_the_history_for_every_beam() -> None:
    beams, length, width = 30, 30, 32
    model = build(width=width, num_heads=2, num_kv_heads=2, history_length=length)
    histories = torch.randint(NUM_ITEMS, (2, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        context = model.encode(histories, torch.full((2,), length))
        with Largest() as largest:
            beam_search(model, model.trie, context, beam_width=beams, num_candidates=10)
    positions = 1 + length * len(SIZES)
    assert 2 * beams * positions <= largest.numel < 2 * beams * positions * width / 4


def test_positions_are_counted_from_the_first_item_that_is_read() -> None:
    """The same items at the end of a longer history: what was cut off leaves no trace, not even of where it was."""
    model = build()
    items = torch.randint(NUM_ITEMS, (1, 3 * LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        long = score_catalogue(model, model.trie, model.encode(items, torch.tensor([3 * LENGTH])))
        short = score_catalogue(model, model.trie, model.encode(items[:, -LENGTH:], torch.tensor([LENGTH])))
        # and what training says of the last position of a full window
        target = torch.full((1, LENGTH), -1)
        target[0, -1] = 7
        trained = model.score_targets(items[:, -LENGTH:], target).log_probs[0, -1].sum()
    torch.testing.assert_close(long, short, rtol=0, atol=0)
    torch.testing.assert_close(short[0, 7], trained, rtol=1e-4, atol=1e-5)


def test_half_precision_is_close() -> None:
    model = build(normalisation="vocabulary")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 0.5
    histories, targets = windows(7)
    targets[targets >= 0] = (targets[targets >= 0] + 1) % NUM_ITEMS  # candidates, not continuations
    lengths = (histories >= 0).sum(dim=1)

    def scores() -> tuple[torch.Tensor, torch.Tensor]:
        context = model.encode(histories, lengths)
        return model.score_targets(histories, targets).log_probs, score_catalogue(model, model.trie, context)

    with torch.no_grad():
        exact = scores()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = scores()
    for one, other in zip(half, exact, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.1, atol=0.1)


def test_training_begins_with_mark_trained() -> None:
    model = build().train()
    model.tokens.item_is_trained[:] = False
    with pytest.raises(AssertionError, match="mark_trained"):
        model.score_targets(*windows(3))


def test_a_few_steps_learn_a_cycle() -> None:
    """Item i is followed by i + 1: the loss of the next item falls far below that of guessing."""
    torch.manual_seed(0)
    whole = build()
    model = DecoderOnlyRecommender(whole.trie, whole.settings)
    everything = torch.ones(NUM_ITEMS, dtype=torch.bool)
    model.mark_trained(everything, everything)
    rows = (torch.arange(NUM_ITEMS).unsqueeze(1) + torch.arange(LENGTH + 1)) % NUM_ITEMS
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=2e-2)
    losses = []
    for _ in range(40):
        loss = -model.score_targets(rows[:, :-1], rows[:, 1:]).log_probs.sum(dim=2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.8 * np.log(NUM_ITEMS)
    assert losses[-1] < 0.3 * np.log(NUM_ITEMS)
