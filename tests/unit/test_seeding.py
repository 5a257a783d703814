"""Seeds are functions of where they are used: the same everywhere, different from each other."""

from __future__ import annotations

import hashlib
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import genrec
from genrec.errors import ConfigError
from genrec.seeding import fold_in, generator, seed_everything

PROJECT = Path(genrec.__file__).parents[1]
integers = st.integers(0, 2**64 - 1)


def run_python(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return result.stdout.strip()


@given(st.lists(integers, min_size=1, max_size=5))
def test_fold_in_is_blake2b_of_the_count_and_the_integers(values: list[int]) -> None:
    message = struct.pack(f"<{len(values) + 1}Q", len(values), *values)
    digest = hashlib.blake2b(message, digest_size=8, person=b"genrec.fold_in/1").digest()
    assert fold_in(*values) == struct.unpack("<Q", digest)[0] // 2


def test_golden_values() -> None:
    # These may never change: stored experiments depend on them.
    assert fold_in(0) == 633769183969276012
    assert fold_in(0, 1, 2) == 3172618065892724989
    assert fold_in(2**64 - 1, 2**64 - 1) == 8734749072106457914
    assert generator(0, 1, 2).bit_generator.random_raw(2).tolist() == [6292870920981898454, 18295889309119652875]


def test_nearby_places_are_unrelated() -> None:
    places = [(s, *ints) for s in range(8) for ints in [(), *((a,) for a in range(40)), *((a, 0) for a in range(40))]]
    seeds = [fold_in(*place) for place in places]
    assert len(set(seeds)) == len(places)
    assert all(0 <= seed < 2**63 for seed in seeds)
    bits = np.array([[seed >> bit & 1 for bit in range(63)] for seed in seeds])
    # 648 fair coins a bit: five standard deviations are 0.098.
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.1


@given(st.lists(integers, min_size=2, max_size=4, unique=True))
def test_order_and_length_matter(values: list[int]) -> None:
    assert fold_in(*values) != fold_in(*values[::-1])
    assert fold_in(*values) != fold_in(*values, 0)


def test_numpy_integers_count_as_integers() -> None:
    assert fold_in(np.uint8(7), np.int64(3)) == fold_in(7, 3)
    assert generator(np.int32(7), np.int64(3)).integers(2**60) == generator(7, 3).integers(2**60)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((-1,), "seed is out of range (expected 0 <= value < 2**64, found -1)"),
        ((0, 5, -3), "integer 2 folded into the seed is out of range (expected 0 <= value < 2**64, found -3)"),
        ((2**64,), f"seed is out of range (expected 0 <= value < 2**64, found {2**64})"),
    ],
)
def test_out_of_range(values: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        fold_in(*values)
    assert str(raised.value) == message
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("value", [1.0, "1", None])
def test_not_an_integer(value: object) -> None:
    with pytest.raises(TypeError):
        fold_in(0, value)  # pyright: ignore[reportArgumentType]


def test_generators_repeat_and_differ() -> None:
    assert generator(3, 1).random(5).tolist() == generator(3, 1).random(5).tolist()
    assert generator(3, 1).random(5).tolist() != generator(3, 2).random(5).tolist()
    assert type(generator(3).bit_generator) is np.random.Philox


def test_the_same_in_another_process() -> None:
    code = "from genrec.seeding import fold_in; print([fold_in(5, i) for i in range(9)])"
    expected = str([fold_in(5, i) for i in range(9)])
    assert run_python(code, PYTHONHASHSEED="1") == expected
    assert run_python(code, PYTHONHASHSEED="2") == expected


def test_seed_everything_seeds_what_is_there() -> None:
    import torch

    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        draws = []
        for seed in (1, 1, 2):
            seed_everything(seed)
            draws.append((random.random(), np.random.random(), torch.rand(()).item()))  # noqa: NPY002
        assert draws[0] == draws[1]
        assert all(first != second for first, second in zip(draws[0], draws[2], strict=True))
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)


def test_seed_everything_does_not_import_torch() -> None:
    code = "import sys; from genrec.seeding import seed_everything; seed_everything(1); print('torch' in sys.modules)"
    assert run_python(code) == "False"
