"""The dataset on disk: what is written, and what histories, training rows and cases it gives back."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from genrec.artifacts import write_artifact
from genrec.data.audit import audit
from genrec.data.dataset import KIND, Dataset, save_dataset
from genrec.data.filters import FilterPolicy
from genrec.data.prepare import OrderPolicy, Prepared, prepare
from genrec.data.schema import INTERACTIONS, ITEMS, SPLIT_DTYPE, SPLITS, USERS, RawData
from genrec.data.splits import SplitPolicy
from genrec.errors import ArtifactError, ConfigError, RunError

OFF = FilterPolicy(min_user_interactions=0, min_item_interactions=0)


def table(seed: int = 0, rows: int = 400) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user_id": rng.integers(0, 60, rows).astype(str),
            "item_id": rng.integers(0, 40, rows).astype(str),
            "timestamp": rng.integers(0, 90, rows) * 500,
            "split": pl.Series(SPLITS, dtype=SPLIT_DTYPE).gather(rng.integers(0, 3, rows)),
        }
    )


def make(split: str = "leave_one_out", data: pl.DataFrame | None = None, **kwargs) -> Prepared:
    raw = RawData((table() if data is None else data).lazy(), **kwargs)
    order = OrderPolicy("timestamp" if "timestamp" in raw.interactions.collect_schema() else "file")
    return prepare(raw, filters=OFF, order=order, split=SplitPolicy(split))


def save(prepared: Prepared, path: Path, **kwargs) -> Dataset:
    save_dataset(prepared, path, audit=audit(prepared.interactions, prepared.items), **kwargs)
    return Dataset.load(path)


@pytest.mark.parametrize("split", ["leave_one_out", "temporal", "provided"])
def test_sequences_and_cases_equal_plain_loops(tmp_path, split):
    prepared = make(split)
    dataset = save(prepared, tmp_path / "dataset")
    users = prepared.interactions.partition_by("user_index", maintain_order=True)
    assert dataset.histories().to_lists() == [user["item_index"].to_list() for user in users]
    times, train_times = dataset.timestamps(), dataset.train_timestamps()
    assert times is not None
    assert train_times is not None
    assert times.to_lists() == [user["timestamp"].to_list() for user in users]
    trained = [user.filter(pl.col("split") == "train") for user in users]
    assert dataset.train().to_lists() == [user["item_index"].to_list() for user in trained]
    assert train_times.to_lists() == [user["timestamp"].to_list() for user in trained]
    for name in SPLITS:
        expected = [
            (user["user_index"][n], user["item_index"][n], user["item_index"][:n].to_list(), user["timestamp"][n])
            for user in users
            for n in range(len(user))
            if user["split"][n] == name
        ]
        cases = dataset.cases(name)
        found = zip(
            cases.user_index.tolist(),
            cases.target.tolist(),
            cases.histories.to_lists(),
            times.values[cases.histories.ends].tolist(),
            strict=True,
        )
        assert list(found) == expected


def test_test_history_ends_with_the_validation_item(tmp_path):
    dataset = save(make(), tmp_path / "dataset")
    validation, test = dataset.cases("validation"), dataset.cases("test")
    assert validation.user_index.tolist() == test.user_index.tolist()
    assert len(test) == dataset.num_users - dataset.facts["users_without_evaluation"] > 0
    assert [history[-1] for history in test.histories] == validation.target.tolist()


def test_memory_maps_are_shared_read_only_and_outlive_the_dataset(tmp_path):
    dataset = save(make(), tmp_path / "dataset")
    arrays = [dataset.histories().values, dataset.train().values, dataset.cases("test").histories.values]
    expected = arrays[0].tolist()
    assert all(isinstance(values, np.memmap) and values.dtype == np.int32 for values in arrays)
    times = dataset.timestamps()
    assert times is not None
    assert times.values.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        arrays[1][0] = 1
    del dataset
    shutil.rmtree(tmp_path / "dataset")
    assert [values.tolist() for values in arrays] == [expected] * 3


def test_training_rows_after_held_out_ones_are_copied(tmp_path):
    dataset = save(make("provided"), tmp_path / "dataset")
    assert dataset.facts["train_after_evaluation"] > 0
    assert not isinstance(dataset.train().values, np.memmap)
    assert len(dataset.train().values) == dataset.facts["num_train"]


def test_tables_facts_and_audit_come_back(tmp_path):
    prepared = make()
    dataset = save(prepared, tmp_path / "dataset", facts={"source": {"name": "made up"}})
    assert dataset.facts == prepared.facts | {"source": {"name": "made up"}}
    for found, expected, schema in (
        (dataset.load_interactions(), prepared.interactions, INTERACTIONS),
        (dataset.items, prepared.items, ITEMS),
        (dataset.users, prepared.users, USERS),
    ):
        assert dict(found.schema) == schema
        assert_frame_equal(found, expected)
    assert (dataset.num_users, dataset.num_items) == (len(dataset.user_ids), len(dataset.item_ids))
    assert dataset.num_interactions == 400
    assert dataset.audit == audit(prepared.interactions, prepared.items)
    assert dataset.item_codes() is None
    assert sorted(dataset.artifact.files) == [
        "audit.json",
        "interactions.parquet",
        "items.parquet",
        "sequences/item_index.npy",
        "sequences/offsets.npy",
        "sequences/split.npy",
        "sequences/timestamp.npy",
        "users.parquet",
    ]


def test_without_a_clock_there_are_no_timestamps(tmp_path):
    dataset = save(make(data=table().drop("timestamp")), tmp_path / "none")
    assert (dataset.has_clock, dataset.timestamps(), dataset.train_timestamps()) == (False, None, None)
    gaps = table().with_columns(pl.when(pl.col("item_id") == "3").then(None).otherwise("timestamp").alias("timestamp"))
    partly = save(prepare(RawData(gaps.lazy()), filters=OFF, order=OrderPolicy("file")), tmp_path / "some")
    assert partly.timestamps() is None
    assert partly.load_interactions()["timestamp"].null_count() == partly.facts["rows_without_timestamp"] > 0


def test_item_codes_come_back(tmp_path):
    codes = pl.DataFrame({"item_id": [str(n) for n in range(40)], "codes": [[n, n % 3] for n in range(40)]})
    codes = codes.cast({"codes": pl.List(pl.Int32)})
    dataset = save(make(item_codes=codes), tmp_path / "dataset")
    found = dataset.item_codes()
    assert found is not None
    assert found.dtype == np.int32
    assert found.tolist() == [[n, n % 3] for n in range(40)]


def test_the_same_events_in_another_order_have_the_same_identity(tmp_path):
    data = table().drop("split")
    first = save(make(data=data), tmp_path / "first")
    second = save(make(data=data.sample(fraction=1, shuffle=True, seed=1)), tmp_path / "second")
    assert first.artifact.identity == second.artifact.identity
    assert first.artifact.identity != save(make(data=data[1:]), tmp_path / "third").artifact.identity


def test_a_taken_folder_is_refused_unless_overwritten(tmp_path):
    save(make(), tmp_path / "dataset")
    with pytest.raises(RunError, match="already there"):
        save(make("temporal"), tmp_path / "dataset")
    assert "cuts" in save(make("temporal"), tmp_path / "dataset", overwrite=True).facts


def test_one_flipped_byte_is_named(tmp_path):
    save(make(), tmp_path / "dataset")
    path = tmp_path / "dataset/sequences/item_index.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"item_index\.npy: corrupt file"):
        Dataset.load(tmp_path / "dataset")
    assert Dataset.load(tmp_path / "dataset", verify=False).num_interactions == 400


def test_other_artifacts_and_splits_are_refused(tmp_path):
    with write_artifact(tmp_path / "other", kind="embeddings"):
        pass
    with pytest.raises(ArtifactError, match="expected 'dataset', found 'embeddings'"):
        Dataset.load(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"unknown split \(expected train \| validation \| test, found 'valid'\)"):
        save(make(), tmp_path / "dataset").cases("valid")


def test_sequences_that_contradict_the_facts_are_refused(tmp_path):
    facts = {"num_users": 2, "num_items": 1, "num_interactions": 3, "has_clock": False}
    with write_artifact(tmp_path / "dataset", kind=KIND, facts=facts) as writer:
        np.save(writer.path("sequences/item_index.npy"), np.zeros(3, np.int32))
        np.save(writer.path("sequences/split.npy"), np.zeros(3, np.uint8))
        np.save(writer.path("sequences/offsets.npy"), np.array([0, 1, 2]))
    with pytest.raises(ArtifactError, match="sequences and facts disagree"):
        Dataset.load(tmp_path / "dataset")
