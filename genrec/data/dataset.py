"""The dataset artifact: prepared tables on disk, and the memory-mapped sequences that training and evaluation read.

Knows Polars, NumPy and artifacts, and nothing of how a dataset is prepared from raw files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec.artifacts import Artifact, load_artifact, read_json, write_artifact, write_json
from genrec.data.prepare import Prepared
from genrec.data.schema import SPLITS
from genrec.data.sequences import Cases, Ragged
from genrec.errors import ArtifactError, ConfigError

KIND = "dataset"
_SEQUENCES = {"item_index": np.int32, "split": np.uint8, "timestamp": np.int64}


def save_dataset(
    prepared: Prepared,
    path: Path | str,
    *,
    facts: Mapping[str, Any] | None = None,
    audit: Mapping[str, Any],
    overwrite: bool = False,
) -> Artifact:
    """Writes a dataset: the tables as Parquet, the audit as JSON, the sequences as .npy.

    Args:
        prepared: from `genrec.data.prepare.prepare`.
        path: folder to make.
        facts: JSON values to record beside those of `prepared`, the source for instance.
        audit: from `genrec.data.audit.audit`.
        overwrite: replace a dataset that is there.

    Raises:
        RunError: the folder is taken.
        StorageError: it cannot be written.
    """
    facts = dict(facts or {})
    assert not facts.keys() & prepared.facts.keys(), f"facts given twice: {facts.keys() & prepared.facts.keys()}"
    table = prepared.interactions
    arrays = {
        "item_index": table.get_column("item_index").to_numpy(),
        "split": table.get_column("split").to_physical().to_numpy(),
    }
    if prepared.facts["has_clock"]:
        arrays["timestamp"] = table.get_column("timestamp").to_numpy()
    lengths = prepared.users.get_column("num_interactions").to_numpy()
    with write_artifact(path, kind=KIND, facts=prepared.facts | facts, overwrite=overwrite) as writer:
        table.write_parquet(writer.path("interactions.parquet"))
        prepared.items.write_parquet(writer.path("items.parquet"))
        prepared.users.write_parquet(writer.path("users.parquet"))
        write_json(writer.path("audit.json"), audit)
        for name, values in arrays.items():
            np.save(writer.path(f"sequences/{name}.npy"), values.astype(_SEQUENCES[name], copy=False))
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        np.save(writer.path("sequences/offsets.npy"), offsets)
        if prepared.item_codes is not None:
            np.save(writer.path("item_codes.npy"), prepared.item_codes)
    return writer.artifact


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk. Arrays are memory-mapped and read-only, tables are read when they are first asked for.

    Attributes:
        artifact: identity, facts and files.
    """

    artifact: Artifact

    @classmethod
    def load(cls, path: Path | str, *, verify: bool = True) -> Dataset:
        """Opens a dataset.

        Args:
            path: its folder.
            verify: hash every file first.

        Raises:
            ArtifactError: missing, incomplete, corrupt, or not a dataset.
        """
        dataset = cls(load_artifact(path, kind=KIND, verify=verify))
        rows = dataset.num_interactions
        sizes = [len(dataset._sequence(name)) for name in _SEQUENCES if dataset.has_clock or name != "timestamp"]
        offsets = dataset._offsets
        if set(sizes) != {rows} or len(offsets) != dataset.num_users + 1 or offsets[-1] != rows:
            found = f"{sizes} values, {len(offsets)} offsets up to {offsets[-1]}"
            expected = f"{rows} interactions of {dataset.num_users} users"
            raise ArtifactError("sequences and facts disagree", where=path, expected=expected, found=found)
        return dataset

    @property
    def facts(self) -> dict[str, Any]:
        """What `prepare` recorded: counts, steps, cuts, policies."""
        return self.artifact.facts

    @property
    def num_users(self) -> int:
        return self.facts["num_users"]

    @property
    def num_items(self) -> int:
        return self.facts["num_items"]

    @property
    def num_interactions(self) -> int:
        return self.facts["num_interactions"]

    @property
    def has_clock(self) -> bool:
        """Whether every event has a timestamp."""
        return self.facts["has_clock"]

    @cached_property
    def items(self) -> pl.DataFrame:
        """Columns `genrec.data.schema.ITEMS`, row i is item_index i."""
        return pl.read_parquet(self.artifact.file("items.parquet"))

    @cached_property
    def users(self) -> pl.DataFrame:
        """Columns `genrec.data.schema.USERS`, row i is user_index i."""
        return pl.read_parquet(self.artifact.file("users.parquet"))

    @property
    def item_ids(self) -> pl.Series:
        """String [N], by item_index."""
        return self.items.get_column("item_id")

    @property
    def user_ids(self) -> pl.Series:
        """String [U], by user_index."""
        return self.users.get_column("user_id")

    @cached_property
    def audit(self) -> dict[str, Any]:
        """What `genrec.data.audit.audit` found when the dataset was prepared."""
        return read_json(self.artifact.file("audit.json"))

    def load_interactions(self) -> pl.DataFrame:
        """Columns `genrec.data.schema.INTERACTIONS`, by (user_index, position); read anew each time."""
        return pl.read_parquet(self.artifact.file("interactions.parquet"))

    def histories(self) -> Ragged:
        """All events of each user, item_index int32, oldest first; with their times where the data have a clock."""
        return Ragged.from_offsets(self._sequence("item_index"), self._offsets, self._times)

    def timestamps(self) -> Ragged | None:
        """Seconds UTC (int64) of the events of `histories`; None for data without a clock."""
        return Ragged.from_offsets(self._sequence("timestamp"), self._offsets) if self.has_clock else None

    def train(self) -> Ragged:
        """The training events of each user, oldest first; a user may have none. With times, as `histories`."""
        rows, times = self._train_rows("item_index"), self.train_timestamps()
        return rows if times is None else replace(rows, times=times.values)

    def train_timestamps(self) -> Ragged | None:
        """Seconds UTC of the events of `train`; None for data without a clock."""
        return self._train_rows("timestamp") if self.has_clock else None

    def cases(self, split: str) -> Cases:
        """One case for every event of a split, by (user_index, position).

        A history is everything of that user before the target, whatever split it is in: under leave-one-out the history
        of a test case ends with the validation item. The target of case c is row ``histories.ends[c]`` of the flat
        arrays, so ``timestamps().values[histories.ends]`` are the times of the targets.

        Args:
            split: "train", "validation" or "test".
        """
        if split not in SPLITS:
            raise ConfigError("unknown split", expected=" | ".join(SPLITS), found=repr(split))
        rows = np.flatnonzero(self._sequence("split") == SPLITS.index(split))
        user = np.searchsorted(self._offsets, rows, side="right") - 1
        items = self._sequence("item_index")
        return Cases(user.astype(np.int32), items[rows], Ragged(items, self._offsets[user], rows, self._times))

    def item_codes(self) -> np.ndarray | None:
        """int32 [N, L] imported semantic IDs, rows by item_index, or None."""
        return self._map("item_codes.npy") if "item_codes.npy" in self.artifact.files else None

    def _map(self, name: str) -> np.ndarray:
        return np.load(self.artifact.file(name), mmap_mode="r", allow_pickle=False)

    def _sequence(self, name: str) -> np.ndarray:
        return self._map(f"sequences/{name}.npy")

    @property
    def _times(self) -> np.ndarray | None:
        return self._sequence("timestamp") if self.has_clock else None

    @cached_property
    def _offsets(self) -> np.ndarray:
        return self._map("sequences/offsets.npy")

    @cached_property
    def _train_mask(self) -> tuple[np.ndarray, np.ndarray, bool]:
        """Training rows bool [M], their number a user int64 [U], and whether they are a prefix of every user's rows."""
        is_train = self._sequence("split") == SPLITS.index("train")
        before = np.concatenate([[0], np.cumsum(is_train)])
        starts = self._offsets[:-1]
        counts = before[self._offsets[1:]] - before[starts]
        return is_train, counts, bool((before[starts + counts] - before[starts] == counts).all())

    def _train_rows(self, name: str) -> Ragged:
        values = self._sequence(name)
        is_train, counts, is_prefix = self._train_mask
        if is_prefix:
            return Ragged(values, self._offsets[:-1], self._offsets[:-1] + counts)
        # only a provided split can have training rows after held-out ones
        return Ragged.from_offsets(values[is_train], np.concatenate([[0], np.cumsum(counts)]))
