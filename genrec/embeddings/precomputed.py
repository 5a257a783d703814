"""The user's own vectors, from .npy or .parquet, put in the order of item_index.

Knows file formats and item ids; nothing of datasets or configuration. Never unpickles.
"""
# N items, E width, R rows of the file

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float32

from genrec.embeddings.rows import row_chunks
from genrec.errors import ConfigError, DataError, StorageError

logger = logging.getLogger(__name__)

_NPY_MAGIC = b"\x93NUMPY"
_SHOWN = 3  # ids in a message


@dataclass(frozen=True)
class Precomputed:
    """Vectors by item_index, and how many rows of the file belong to no item of the dataset."""

    vectors: Float32[np.ndarray, "N E"]
    num_dropped: int


def read_precomputed(path: Path, item_ids: Sequence[str], *, ids: Path | None = None) -> Precomputed:
    """Reads vectors and puts them in the order of the dataset.

    Args:
        path: `.npy`, [R, E] of float16, float32 or float64; or `.parquet` with the column item_id and either a list or
            array column (named `vector`, or the only one) or one float column a dimension, in the file's order.
        item_ids: N ids of the dataset, by item_index.
        ids: for .npy: R item ids, one a line (UTF-8) or an .npy of strings or integers; None: row i is item_index i.

    Returns:
        float32 [N, E], and the number of rows whose id is not in the dataset.

    Raises:
        ConfigError: another kind of file, or `ids` beside a .parquet.
        StorageError: a file cannot be read.
        DataError: wrong shape or dtype, pickled content, NaN, infinity or overflow (row and item id), ids that are
            null, empty or twice in the file, items of the dataset that are not.
    """
    if path.suffix == ".npy":
        vectors = _read_npy(path)
        file_ids = None if ids is None else _read_ids(ids)
    elif path.suffix == ".parquet":
        if ids is not None:
            raise ConfigError(
                "ids go with .npy vectors; a .parquet has a column item_id", where=path, fix="set embedding.ids=null"
            )
        vectors, file_ids = _read_parquet(path)
    else:
        raise ConfigError("unknown file of vectors", where=path, expected=".npy or .parquet", found=path.suffix)
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise DataError(
            "vectors have the wrong shape", where=path, expected="[items, width]", found=list(vectors.shape)
        )
    if vectors.dtype.kind != "f" or vectors.dtype.itemsize > 8:
        raise DataError(
            "vectors have the wrong type", where=path, expected="float16, float32 or float64", found=vectors.dtype
        )
    if file_ids is None:
        return Precomputed(_by_index(vectors, item_ids, path), 0)
    if len(file_ids) != len(vectors):
        raise DataError(
            "vectors and item ids differ in number", where=ids or path, expected=len(vectors), found=len(file_ids)
        )
    rows = _rows_of(item_ids, file_ids, ids or path)
    num_dropped = len(file_ids) - len(rows)
    if num_dropped:
        logger.warning("%s: %d of %d rows belong to no item of the dataset", path, num_dropped, len(file_ids))
    return Precomputed(_cast(vectors, rows, item_ids, path), num_dropped)


def _by_index(vectors: np.ndarray, item_ids: Sequence[str], path: Path) -> np.ndarray:
    if len(vectors) != len(item_ids):
        raise DataError(
            "vectors without item ids must have one row an item of the dataset",
            where=path,
            expected=f"{len(item_ids)} rows",
            found=f"{len(vectors)}",
            fix="set embedding.ids=... to the file of the rows' item ids",
        )
    return _cast(vectors, np.arange(len(vectors)), item_ids, path)


def _rows_of(item_ids: Sequence[str], file_ids: list[str], where: Path) -> np.ndarray:
    """The row of the file for each item of the dataset."""
    row_of = {item_id: row for row, item_id in enumerate(file_ids)}
    if len(row_of) < len(file_ids):
        twice = [item_id for item_id, count in Counter(file_ids).items() if count > 1]
        first = [row for row, item_id in enumerate(file_ids) if item_id == twice[0]]
        raise DataError(
            "duplicate item ids", where=where, found=f"{_some(twice)}, the first in rows {first[0]} and {first[1]}"
        )
    missing = [item_id for item_id in item_ids if item_id not in row_of]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(item_ids)} items of the dataset have no vector", where=where, found=_some(missing)
        )
    return np.fromiter((row_of[item_id] for item_id in item_ids), dtype=np.int64, count=len(item_ids))


def _cast(vectors: np.ndarray, rows: np.ndarray, item_ids: Sequence[str], path: Path) -> np.ndarray:
    """The chosen rows as float32; what is finite there must have been finite and small enough in the file."""
    cast = np.empty((len(rows), vectors.shape[1]), dtype=np.float32)
    for part in row_chunks(cast):
        chosen = vectors[rows[part]]
        with np.errstate(over="ignore"):
            cast[part] = chosen
        bad = np.flatnonzero(~np.isfinite(cast[part]).all(axis=1))
        if len(bad):
            index = part.start + int(bad[0])
            values = vectors[rows[index]]
            worst = values[~np.isfinite(cast[index])][0]
            problem = "exceeds float32" if np.isfinite(worst) else "is not finite"
            raise DataError(
                f"a vector {problem} in row {rows[index]} (item {item_ids[index]!r})", where=path, found=worst
            )
    return cast


def _read_npy(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            magic = file.read(len(_NPY_MAGIC))
        if magic != _NPY_MAGIC:
            raise DataError("not an .npy file", where=path, fix="write it with numpy.save")
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise StorageError(f"cannot read the file: {error.strerror or error}", where=path) from error
    except ValueError as error:  # pickled objects, or a file that was cut off
        raise DataError(
            f"cannot read the array: {error}", where=path, expected="a plain array", fix="write it with numpy.save"
        ) from error


def _read_ids(path: Path) -> list[str]:
    if path.suffix == ".npy":
        array = _read_npy(path)
        if array.ndim != 1 or array.dtype.kind not in "Uiu":
            raise DataError(
                "item ids have the wrong type",
                where=path,
                expected="one dimension of strings or integers",
                found=f"{array.dtype} {list(array.shape)}",
            )
        file_ids = [str(item_id) for item_id in array]
    else:
        try:
            file_ids = path.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise StorageError(f"cannot read the file: {error.strerror}", where=path) from error
        except UnicodeDecodeError as error:
            raise DataError(
                f"item ids are not UTF-8: {error.reason} at byte {error.start}",
                where=path,
                fix="save the file as UTF-8",
            ) from error
    for row, item_id in enumerate(file_ids):
        if not item_id:
            raise DataError("empty item id", where=f"{path}:{row + 1}")
    return file_ids


def _read_parquet(path: Path) -> tuple[np.ndarray, list[str]]:
    try:
        frame = pl.read_parquet(path, glob=False)
    except OSError as error:
        raise StorageError(f"cannot read the file: {error.strerror or error}", where=path) from error
    except pl.exceptions.PolarsError as error:
        raise DataError(f"cannot read the Parquet file: {error}", where=path) from error
    if "item_id" not in frame.columns:
        raise DataError("missing column 'item_id'", where=path, found=f"columns {', '.join(frame.columns)}")
    column = frame["item_id"]
    if not (column.dtype == pl.String or column.dtype.is_integer()):
        raise DataError("column 'item_id' has the wrong type", where=path, expected=pl.String, found=column.dtype)
    if column.null_count():
        raise DataError(f"item_id is null in row {column.is_null().arg_max()}", where=path)
    return _vectors_of(frame, path), column.cast(pl.String).to_list()


def _vectors_of(frame: pl.DataFrame, path: Path) -> np.ndarray:
    lists = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.List | pl.Array)]
    floats = [name for name, dtype in frame.schema.items() if dtype.is_float()]
    if "vector" in lists:
        return _from_lists(frame["vector"], path)
    if len(lists) == 1 and not floats:
        return _from_lists(frame[lists[0]], path)
    if floats and not lists:
        return frame.select(floats).to_numpy()
    raise DataError(
        "cannot tell which columns are the vectors",
        where=path,
        expected="a list or array column 'vector', or float columns only",
        found=f"columns {', '.join(frame.columns)}",
    )


def _from_lists(column: pl.Series, path: Path) -> np.ndarray:
    """[R, E]; a null, whole or within, becomes NaN."""
    if isinstance(column.dtype, pl.List):
        lengths = column.list.len()
        width = int(lengths.mode().min() or 0)  # type: ignore[arg-type]
        odd = (lengths != width).arg_true()
        if len(odd):
            raise DataError(
                f"vectors differ in width, first in row {odd[0]}", where=path, expected=width, found=lengths[odd[0]]
            )
        column = column.cast(pl.Array(column.dtype.inner, width))
    return column.to_numpy()


def _some(item_ids: Sequence[str]) -> str:
    """The first few ids, for a message."""
    shown = ", ".join(map(repr, item_ids[:_SHOWN]))
    return shown if len(item_ids) <= _SHOWN else f"{shown} and {len(item_ids) - _SHOWN} more"
