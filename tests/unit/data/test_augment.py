"""Cropped and thinned windows against a loop over lists, and what they have to keep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.data.augment import Augmentation, augment
from genrec.data.batches import Batch, BatchStream
from genrec.data.sequences import Ragged

ROWS = Ragged.from_lists([list(range(100 * user, 100 * user + 2 + 5 * user % 17)) for user in range(1, 30)])


def stream(how: Augmentation, *, pairs: bool = False, seed: int = 3) -> BatchStream:
    change = None if not how else lambda batch, random: augment(batch, how, random)
    return BatchStream(ROWS, batch_size=4, max_length=6, seed=seed, pairs=pairs, change=change)


def windows(batch: Batch) -> list[tuple[list[int], list[bool]]]:
    """The events of each window, and which of them count as targets."""
    found = []
    for items, targets, counts in zip(batch.items, batch.targets, batch.is_target, strict=True):
        length = int((items >= 0).sum())
        assert (items[length:] == -1).all()
        assert (targets[length:] == -1).all()
        assert not counts[length:].any()
        assert items[1:length].tolist() == targets[: length - 1].tolist()
        found.append(([*items[:length].tolist(), int(targets[length - 1])], [False, *counts[:length].tolist()]))
    return found


@settings(max_examples=examples(30))
@given(
    drop=st.floats(0, 0.9), crop=st.floats(0, 1), share=st.floats(0, 1), pairs=st.booleans(), seed=st.integers(0, 99)
)
def test_a_changed_window_is_a_part_of_the_whole_one(
    drop: float, crop: float, share: float, pairs: bool, seed: int
) -> None:
    how = Augmentation(drop=drop, crop=crop, crop_share=share)
    plain = BatchStream(ROWS, batch_size=4, max_length=6, seed=3, pairs=pairs)
    for number, batch in enumerate(plain.epoch(0)):
        changed = augment(batch, how, np.random.default_rng([seed, number]))
        assert changed.user_index.tolist() == batch.user_index.tolist()
        for (before, counted), (after, counts) in zip(windows(batch), windows(changed), strict=True):
            places = [before.index(event) for event in after]  # the events of a user are all different here
            assert places == sorted(places)
            assert [counted[place] for place in places[1:]] == counts[1:]
            assert any(counts)


def test_nothing_changes_at_rate_0() -> None:
    for batch in stream(Augmentation()).epoch(1):
        changed = augment(batch, Augmentation(), np.random.default_rng(0))
        assert windows(changed) == windows(batch)


def test_a_cropped_window_is_in_one_piece_of_the_least_share() -> None:
    how = Augmentation(crop=1.0, crop_share=0.5)
    plain = BatchStream(ROWS, batch_size=4, max_length=6, seed=3)
    shares = []
    for number, batch in enumerate(plain.epoch(0)):
        changed = augment(batch, how, np.random.default_rng(number))
        for (before, _), (after, _) in zip(windows(batch), windows(changed), strict=True):
            start = before.index(after[0])
            assert before[start : start + len(after)] == after
            shares.append(len(after) / len(before))
    assert min(shares) >= 0.5
    assert np.mean(shares) < 0.95


def test_a_pair_keeps_its_target() -> None:
    plain = BatchStream(ROWS, batch_size=4, max_length=6, seed=3, pairs=True)
    lengths = []
    for number, batch in enumerate(plain.epoch(0)):
        changed = augment(batch, Augmentation(crop=1.0, crop_share=0.3), np.random.default_rng(number))
        for (before, _), (after, _) in zip(windows(batch), windows(changed), strict=True):
            assert after == before[-len(after) :]
            lengths.append((len(before), len(after)))
    assert any(after < before for before, after in lengths)


def test_events_are_dropped_at_the_rate_asked_for() -> None:
    rows = Ragged.from_lists([list(range(51))] * 200)
    batch = next(BatchStream(rows, batch_size=200, max_length=50).epoch(0))
    left = [len(events) for events, _ in windows(augment(batch, Augmentation(drop=0.2), np.random.default_rng(0)))]
    assert np.mean(left) == pytest.approx(51 * 0.8, abs=4 * np.sqrt(51 * 0.16 / 200))


def test_a_stream_changes_its_windows_by_seed_and_epoch_alone() -> None:
    how = Augmentation(drop=0.3, crop=0.5)
    whole = [windows(batch) for batch in stream(how).epoch(2)]
    assert [windows(batch) for batch in stream(how).epoch(2, start=5)] == whole[5:]
    assert [windows(batch) for batch in stream(how).epoch(3)] != whole
    assert [windows(batch) for batch in stream(how, seed=4).epoch(2)] != whole


def test_the_gap_of_an_event_goes_with_it() -> None:
    rows = Ragged.from_offsets(ROWS.values, np.append(ROWS.starts, ROWS.ends[-1]), ROWS.values.astype(np.int64) ** 2)
    for batch in BatchStream(rows, batch_size=4, max_length=6, seed=3, gaps=True).epoch(0):
        changed = augment(batch, Augmentation(drop=0.4, crop=0.5), np.random.default_rng(0))
        assert batch.gaps is not None
        assert changed.gaps is not None
        told = dict(zip(batch.items[batch.items >= 0].tolist(), batch.gaps[batch.items >= 0].tolist(), strict=True))
        found = zip(changed.items.ravel().tolist(), changed.gaps.ravel().tolist(), strict=True)
        assert all(gap == (told[item] if item >= 0 else 0) for item, gap in found)
