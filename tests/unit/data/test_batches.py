"""Windows and batches: every target once, the same order for the same (seed, epoch), little padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.batches import BatchStream, cut_pairs, cut_windows
from genrec.data.sequences import Ragged
from genrec.errors import DataError

HISTORIES = st.lists(st.lists(st.integers(0, 99), max_size=30), min_size=1, max_size=20).filter(
    lambda rows: any(len(row) > 1 for row in rows)
)


@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=10), max_length=st.integers(1, 12), data=st.data())
def test_every_target_is_in_exactly_one_window(lengths: list[int], max_length: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, max_length))
    windows = cut_windows(np.array(lengths), max_length, stride)
    found = [
        (user, position)
        for user, end, first in zip(windows.user_index, windows.end, windows.first_target, strict=True)
        for position in range(first, end)
    ]
    assert sorted(found) == [(user, at) for user, length in enumerate(lengths) for at in range(length - 1)]
    size = windows.end - windows.start
    assert ((size >= 1) & (size <= max_length)).all()
    assert (windows.start >= 0).all()
    assert (windows.first_target >= windows.start).all()
    # A target has at least T - S + 1 items before it, or all there are.
    context = windows.first_target - windows.start + 1
    assert (context >= np.minimum(max_length - stride + 1, windows.first_target + 1)).all()


@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=8), max_length=st.integers(1, 12))
def test_a_pair_has_all_that_comes_before_its_target(lengths: list[int], max_length: int) -> None:
    windows = cut_pairs(np.array(lengths), max_length)
    targets = list(zip(windows.user_index.tolist(), windows.end.tolist(), strict=True))
    assert targets == [(user, at) for user, length in enumerate(lengths) for at in range(1, length)]
    assert (windows.first_target == windows.end - 1).all()
    assert (windows.end - windows.start == np.minimum(windows.end, max_length)).all()
    last = cut_pairs(np.array(lengths), max_length, last_only=True)
    pairs = list(zip(last.user_index.tolist(), last.end.tolist(), strict=True))
    assert pairs == [(user, length - 1) for user, length in enumerate(lengths) if length > 1]
    assert (last.end - last.start == np.minimum(last.end, max_length)).all()


def test_repeated_batches_come_in_a_row_from_any_place() -> None:
    rows = [[user, user + 1, user + 2] for user in range(7)]
    once = BatchStream(Ragged.from_lists(rows), batch_size=3, max_length=2, seed=4, pairs=True)
    often = once.repeated(3)
    assert (often.num_batches, often.num_targets) == (3 * once.num_batches, 3 * once.num_targets)
    expected = [batch.items.tolist() for batch in once.epoch(1) for _ in range(3)]
    assert [batch.items.tolist() for batch in often.epoch(1)] == expected
    assert [batch.items.tolist() for batch in often.epoch(1, 4)] == expected[4:]
    assert once.repeats == 1


@pytest.mark.parametrize("pairs", [False, True])
@given(rows=HISTORIES, batch_size=st.integers(1, 7), max_length=st.integers(1, 9), epoch=st.integers(0, 3))
def test_batches_hold_the_histories(
    pairs: bool, rows: list[list[int]], batch_size: int, max_length: int, epoch: int
) -> None:
    stream = BatchStream(Ragged.from_lists(rows), batch_size=batch_size, max_length=max_length, seed=1, pairs=pairs)
    batches = list(stream.epoch(epoch))
    assert len(batches) == stream.num_batches
    assert sum(batch.num_targets for batch in batches) == stream.num_targets == sum(max(len(r) - 1, 0) for r in rows)
    found = []
    for batch in batches:
        assert not pairs or (batch.is_target.sum(axis=1) == 1).all()
        for items, targets, counts, user in zip(
            batch.items, batch.targets, batch.is_target, batch.user_index, strict=True
        ):
            size = int((items >= 0).sum())
            assert (items[size:] == -1).all()
            assert (targets[size:] == -1).all()
            assert not counts[size:].any()
            window = [*items[:size].tolist(), int(targets[size - 1])]
            row = rows[user]
            assert any(row[at : at + size + 1] == window for at in range(len(row)))
            assert targets[:size].tolist() == window[1:]
            found += [(int(user), int(target)) for target in targets[counts]]
    assert sorted(found) == sorted((user, item) for user, row in enumerate(rows) for item in row[1:])


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    random = np.random.default_rng(0)
    histories = Ragged.from_lists([random.integers(0, 50, size=random.integers(2, 12)).tolist() for _ in range(200)])

    def orders(seed: int, epoch: int) -> list[list[int]]:
        stream = BatchStream(histories, batch_size=8, max_length=10, seed=seed)
        return [windows.tolist() for windows in stream.epoch_order(epoch)]

    assert orders(0, 3) == orders(0, 3)
    assert orders(0, 3) != orders(0, 4)
    assert orders(0, 3) != orders(1, 3)
    stream = BatchStream(histories, batch_size=8, max_length=10, seed=0)
    whole, rest = list(stream.epoch(3)), list(stream.epoch(3, start=5))
    assert len(rest) == len(whole) - 5
    assert all((a.items == b.items).all() for a, b in zip(whole[5:], rest, strict=True))


def test_padding_is_small_on_skewed_lengths() -> None:
    random = np.random.default_rng(0)
    lengths = np.clip(random.geometric(0.12, size=5000) + 4, 5, 200)
    histories = Ragged.from_offsets(np.zeros(lengths.sum(), dtype=np.int32), np.concatenate([[0], np.cumsum(lengths)]))
    stream = BatchStream(histories, batch_size=64, max_length=50)
    cells = used = 0
    for batch in stream.epoch(0):
        cells += batch.items.size
        used += int((batch.items >= 0).sum())
    assert 1 - used / cells < 0.2


def test_nothing_to_predict_is_an_error() -> None:
    with pytest.raises(DataError, match="nothing to predict"):
        BatchStream(Ragged.from_lists([[1], []]), batch_size=2, max_length=3)
