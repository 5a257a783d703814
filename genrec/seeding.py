"""Counter-based randomness: every seed is a function of one seed and of where it is used.

There is no generator whose state has to be carried along or saved: the noise of a step is ``generator(seed, step)``, so
a run that was killed and resumed draws what an uninterrupted one draws. Knows nothing of models, data or
configuration, and must not import torch.
"""

from __future__ import annotations

import hashlib
import operator
import random
import sys
from typing import SupportsIndex

import numpy as np

from genrec.errors import ConfigError

_DOMAIN = b"genrec.fold_in/1"
_LIMIT = 2**64


def fold_in(seed: SupportsIndex, *ints: SupportsIndex) -> int:
    """A new seed for the place that `ints` name (an epoch, a step, a user index, the number of a purpose).

    BLAKE2b over the count and the 8-byte little-endian forms of the integers, so it is the same on every platform and
    for every version of Python and NumPy, and `(1, 2)`, `(2, 1)` and `(1, 2, 0)` are unrelated.

    Args:
        seed: in [0, 2^64).
        ints: each in [0, 2^64); NumPy integers will do.

    Returns:
        A seed in [0, 2^63).

    Raises:
        ConfigError: an integer is negative or too large.
        TypeError: something is not an integer.

    >>> fold_in(0), fold_in(0, 1, 2)
    (633769183969276012, 3172618065892724989)
    >>> 0 <= fold_in(7, 10**12) < 2**63
    True
    """
    values = [operator.index(value) for value in (seed, *ints)]
    for position, value in enumerate(values):
        if not 0 <= value < _LIMIT:
            name = "seed" if position == 0 else f"integer {position} folded into the seed"
            raise ConfigError(f"{name} is out of range", expected="0 <= value < 2**64", found=value)
    digest = hashlib.blake2b(digest_size=8, person=_DOMAIN)
    for value in (len(values), *values):
        digest.update(value.to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "little") >> 1


def generator(seed: SupportsIndex, *ints: SupportsIndex) -> np.random.Generator:
    """A NumPy generator for the place that `ints` name: Philox keyed by `fold_in`.

    The raw stream is stable for ever; what a method such as `normal` makes of it is up to the NumPy version.

    >>> generator(0, 1, 2).bit_generator.random_raw(2).tolist()
    [6292870920981898454, 18295889309119652875]
    """
    return np.random.Generator(np.random.Philox(key=fold_in(seed, *ints)))


def seed_everything(seed: SupportsIndex) -> None:
    """Seeds the global generators of Python, NumPy and, where it is already imported, torch.

    For code of others that draws from them; our own code asks for a `generator`. A torch that is imported later is not
    seeded: call this after the import.

    Args:
        seed: in [0, 2^64).
    """
    folded = fold_in(seed)
    random.seed(folded)
    np.random.seed(folded % 2**32)  # noqa: NPY002 - the legacy global state is what has to be seeded
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(folded)
