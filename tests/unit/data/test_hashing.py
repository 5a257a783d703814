"""Hashes of integers against SplitMix64 in Python's integers, and the noise that is made of them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.hashing import fold_words, gumbel_of, top_bits

words = st.integers(-(2**63), 2**63 - 1)


def splitmix(state: int) -> int:
    """The finaliser of Steele et al. 2014, on unsigned words."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


@given(words, words, st.integers(1, 63))
def test_the_same_words_as_in_pythons_integers(word: int, number: int, bits: int) -> None:
    found = fold_words(torch.tensor([word]), torch.tensor([number]))
    expected = splitmix((word + number * 0x9E3779B97F4A7C15) % 2**64)
    assert int(found) % 2**64 == expected
    assert int(top_bits(found, bits)) == expected >> (64 - bits)


def test_noise_is_finite_and_that_of_gumbel() -> None:
    extremes = gumbel_of(torch.tensor([0, -1, 2**63 - 1, -(2**63)]))  # the smallest word, the largest, and both middles
    assert bool(extremes.isfinite().all())
    assert extremes[1] == extremes.max()
    assert extremes[2:].tolist() == pytest.approx([-math.log(math.log(2))] * 2)
    noise = gumbel_of(fold_words(torch.tensor(5), torch.arange(100_000)))
    assert noise.dtype == torch.float64
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)  # 5 standard errors
    assert noise.std().item() == pytest.approx(math.pi / math.sqrt(6), abs=0.02)
    shares = (noise.view(-1, 4) + torch.tensor([0.1, 0.2, 0.3, 0.4]).log()).argmax(dim=1).bincount() / 25_000
    assert shares.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.016)
