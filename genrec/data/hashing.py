"""Integers hashed to 64 bits, many at once: randomness as a function of where it is used, on tensors.

What `seeding` is for one seed, this is for one number a place: no generator, no state, the same in one process and in
several, and for a request alone or in a batch. The finaliser of SplitMix64 (Steele et al. 2014) mixes one integer after
the other into a word. Knows tensors alone.
"""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_FRACTION_BITS = 52


def fold_words(words: Int64[Tensor, "*P"], numbers: Int64[Tensor, "*P"]) -> Int64[Tensor, "*P"]:
    """New words that depend on the old ones and on a number each; shapes broadcast."""
    return _mix(words + numbers * _GOLDEN)


def top_bits(words: Int64[Tensor, "*P"], bits: int) -> Int64[Tensor, "*P"]:
    """The first `bits` (below 64) bits of each word, as an integer from 0."""
    return _shift(words, 64 - bits)


def gumbel_of(words: Int64[Tensor, "*P"]) -> Float[Tensor, "*P"]:
    """Standard Gumbel noise, -log(-log u), float64; u is uniform on 2^52 places inside (0, 1), so all is finite."""
    uniform = (top_bits(words, _FRACTION_BITS).double() + 0.5) * 2.0**-_FRACTION_BITS
    return -(-uniform.log()).log()


def _mix(words: Int64[Tensor, "*P"]) -> Int64[Tensor, "*P"]:
    words = (words ^ _shift(words, 30)) * _FIRST
    words = (words ^ _shift(words, 27)) * _SECOND
    return words ^ _shift(words, 31)


def _shift(words: Int64[Tensor, "*P"], places: int) -> Int64[Tensor, "*P"]:
    """To the right, filled up with zeros (torch's shift of signed integers fills up with the sign)."""
    return (words >> places) & ((1 << (64 - places)) - 1)
