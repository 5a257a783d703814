from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from genrec.quantization.examples import prefix_examples

tables = st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=60)


@given(tables, st.randoms(use_true_random=False))
def test_examples_are_prefixes_and_their_most_popular_items(rows, random) -> None:
    counts = [random.randrange(5) for _ in rows]
    examples = prefix_examples(np.array(rows), np.array(counts), max_items=3)
    assert [len(example.prefix) for example in examples] == sorted(len(example.prefix) for example in examples)
    assert len({example.prefix for example in examples}) == len(examples)
    for example in examples:
        depth = len(example.prefix)
        items = [item for item, row in enumerate(rows) if row[:depth] == example.prefix]
        assert example.num_items == len(items) > 1
        assert list(example.items) == sorted(items, key=lambda item: (-counts[item], item))[:3]
    for depth in (1, 2):
        sizes = [example.num_items for example in examples if len(example.prefix) == depth]
        assert sizes == sorted(sizes, reverse=True)
        shared = [sum(row[:depth] == other[:depth] for other in rows) for row in rows]
        assert bool(sizes) == (max(shared) > 1)
        if sizes:
            assert sizes[0] == max(shared)


def test_places_and_ties() -> None:
    """Sizes 5, 4, 3, 2, 2 and a single one; the two of size 2 stand in the order of their codes."""
    codes = np.repeat([7, 1, 9, 4, 2, 0], [5, 4, 3, 2, 2, 1])[:, None]
    examples = prefix_examples(codes, np.zeros(17, dtype=int))
    assert [(example.place, example.prefix) for example in examples] == [
        ("largest", (7,)),
        ("upper quartile", (1,)),
        ("median", (9,)),
        ("lower quartile", (2,)),
    ]
    assert examples[0].items == (0, 1, 2, 3)
    assert prefix_examples(np.arange(5)[:, None], np.zeros(5, dtype=int)) == []
