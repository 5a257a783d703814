"""Row operations, which work in chunks, against the whole array at once."""

from __future__ import annotations

import numpy as np
import pytest

from genrec.embeddings import rows
from genrec.errors import DataError
from genrec.seeding import generator


@pytest.fixture(params=[2**26, 100], ids=["one chunk", "many chunks"])
def chunk_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(rows, "_CHUNK_BYTES", request.param)
    return request.param


def test_chunks_cover_every_row_once(chunk_bytes: int) -> None:
    for shape in ((17, 3), (1, 50), (0, 4), (5, 0)):
        covered = [row for part in rows.row_chunks(np.zeros(shape)) for row in range(part.start, part.stop)]
        assert covered == list(range(shape[0]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_normalise(chunk_bytes: int, dtype: type) -> None:
    vectors = generator(0).standard_normal((30, 8)).astype(dtype)
    vectors[[4, 29]] = 0.0
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    expected = vectors / np.where(lengths > 0, lengths, 1)
    normal = rows.normalise_rows(vectors)
    assert normal.dtype == np.float32
    np.testing.assert_allclose(normal, expected, atol=1e-7)
    assert np.flatnonzero(rows.is_zero_row(normal)).tolist() == [4, 29]


@pytest.mark.parametrize("size", [1e-300, 5e-324, 1e300])
def test_normalise_extreme_numbers(size: float) -> None:
    normal = rows.normalise_rows(np.array([[size, -size]]))
    np.testing.assert_allclose(normal, [[2**-0.5, -(2**-0.5)]], rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_check_finite_names_row_and_item(chunk_bytes: int, value: float) -> None:
    vectors = np.ones((40, 3), dtype=np.float32)
    rows.check_finite(vectors, where="x.npy")
    vectors[[33, 37], 1] = value
    with pytest.raises(DataError, match=rf"^x.npy: a vector is not finite in row 33 .*found {value}"):
        rows.check_finite(vectors, where="x.npy")
    with pytest.raises(DataError, match=r"in row 33 \(item 'i33'\)"):
        rows.check_finite(vectors, where="x.npy", item_ids=[f"i{row}" for row in range(40)])
