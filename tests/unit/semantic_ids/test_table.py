"""The table: policies, import, identity, the artifact."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec.artifacts import Artifact, write_artifact
from genrec.errors import ArtifactError, ConfigError, DataError, GenrecError, LineageError, RunError
from genrec.seeding import generator
from genrec.semantic_ids.collisions import Reassignment, reassign
from genrec.semantic_ids.table import (
    KIND,
    SemanticIds,
    build_semantic_ids,
    from_codes,
    load_codebooks,
    load_health,
    load_semantic_ids,
    save_semantic_ids,
    table_identity,
)
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles.code_tables import CodeTable, code_tables

CODES = np.array([[0, 1], [2, 0], [0, 1], [1, 1], [0, 1]])
SIZES = (3, 2)
ERRORS = np.array([[3, 0], [1, 2], [4, 2], [5, 1], [5, 4.0]])  # of each item at the codes of the last level
CODEBOOKS = {"level_0": generator(1).standard_normal((3, 4)), "level_1": np.ones((2, 4), dtype=np.float32)}


def dataset(folder: Path, number: int = 0) -> Artifact:
    with write_artifact(folder, kind="dataset", facts={"number": number}) as writer:
        writer.path("items.txt").write_text("5 items")
    return writer.artifact


@given(code_tables(), st.integers(0, 9))
def test_a_suffix_numbers_the_items_of_a_bucket(table: CodeTable, reserve: int) -> None:
    ids, report = build_semantic_ids(table.codes, table.sizes, reserve=reserve)
    seen: Counter[tuple[int, ...]] = Counter()
    for item, row in enumerate(table.rows):
        assert ids.codes[item].tolist() == [*row, seen[row]]
        seen[row] += 1
    largest = max(seen.values())
    assert ids.codebook_sizes == (*table.sizes, largest + reserve)
    assert (ids.collisions, ids.has_collisions, ids.num_levels) == ("suffix", False, len(table.sizes) + 1)
    assert (report.num_items, report.num_buckets, report.largest_bucket) == (len(table.rows), len(seen), largest)
    assert report.num_colliding == sum(count for count in seen.values() if count > 1)
    assert report.num_touched == sum(count - 1 for count in seen.values())
    assert report.suffix_size == largest + reserve


def moved(limit: float | None = None, codes: np.ndarray = CODES[:4]) -> Reassignment:
    """Item 2 leaves the bucket of item 0 for a squared error 2 higher."""
    return reassign(
        codes, SIZES, lambda items, last: ERRORS[items[:, None], last], mean_error=4.0, max_added_distortion=limit
    )


def test_reassigned_codes_need_no_level() -> None:
    ids, report = build_semantic_ids(CODES[:4], SIZES, collisions="reassign", reassignment=moved())
    assert ids.codes.tolist() == [[0, 1], [2, 0], [0, 0], [1, 1]]
    assert (ids.codebook_sizes, ids.collisions, ids.has_collisions) == (SIZES, "reassign", False)
    assert (report.num_colliding, report.num_touched, report.num_moved, report.num_suffixed) == (2, 1, 1, 0)
    assert (report.mean_added, report.largest_added, report.largest_bucket, report.suffix_size) == (0.5, 0.5, 2, None)


def test_what_cannot_move_has_a_suffix() -> None:
    """Items 0, 2 and 4 share their codes and there is one that is free: 2 goes there, unless the limit is below."""
    ids, report = build_semantic_ids(CODES, SIZES, collisions="reassign_or_suffix", reassignment=moved(0.5, CODES))
    assert ids.codes.tolist() == [[0, 1, 0], [2, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 0]]
    assert (ids.codebook_sizes, ids.max_added_distortion) == ((3, 2, 2 + 8), 0.5)
    assert (report.num_touched, report.num_moved, report.num_suffixed, report.suffix_size) == (2, 1, 1, 10)
    assert (report.mean_added, report.largest_bucket) == (0.25, 3)
    ids, report = build_semantic_ids(CODES, SIZES, collisions="reassign_or_suffix", reassignment=moved(0.2, CODES))
    suffixed, plain = build_semantic_ids(CODES, SIZES)
    assert np.array_equal(ids.codes, suffixed.codes)
    assert (report.num_touched, report.num_moved, report.num_suffixed, report.mean_added) == (2, 0, 2, None)
    assert (plain.num_moved, plain.num_suffixed) == (0, 2)


def test_a_suffix_level_is_there_for_later_items_even_if_all_have_moved() -> None:
    ids, report = build_semantic_ids(
        CODES[:4], SIZES, collisions="reassign_or_suffix", reassignment=moved(0.5), reserve=3
    )
    assert ids.codebook_sizes == (3, 2, 4)
    assert (report.num_suffixed, report.suffix_size) == (0, 4)


def test_the_identity_of_a_suffix_is_what_it_was() -> None:
    """Written down before other policies were there: recommenders trained then still accept their tables."""
    arrays = {"mean": np.zeros(2, dtype="<f4"), "codebook.0": np.arange(6, dtype="<f4").reshape(3, 2)}
    expected = "b6c3abb2da25b12d44c0a4062dd9e8f5dac63a03158c4e23d5934e6263069c91"
    assert table_identity(arrays, (3, 11), "suffix") == expected


def test_the_identity_knows_policy_and_limit() -> None:
    """The same codebooks and level sizes, and still other codes for the same items."""
    tables = [
        build_semantic_ids(
            CODES[:4], SIZES, codebooks=CODEBOOKS, collisions=policy, reassignment=moves, reserve=reserve
        )
        for policy, moves, reserve in (
            ("suffix", None, 8),
            ("reassign_or_suffix", moved(0.5), 9),
            ("reassign_or_suffix", moved(0.6), 9),
            ("reassign_or_suffix", moved(0.2), 8),
            ("reassign", moved(), 8),
            ("keep", None, 8),
        )
    ]
    assert [ids.codebook_sizes[2:] for ids, _ in tables] == [(10,), (10,), (10,), (10,), (), ()]
    assert len({ids.identity for ids, _ in tables}) == len(tables)


def test_reassigned_tables_survive_a_round_trip(tmp_path: Path) -> None:
    parents = {"dataset": dataset(tmp_path / "d")}
    for policy, moves in (("reassign", moved()), ("reassign_or_suffix", moved(0.5))):
        ids, _ = build_semantic_ids(CODES[:4], SIZES, codebooks=CODEBOOKS, collisions=policy, reassignment=moves)
        saved = save_semantic_ids(tmp_path / policy, ids, parents=parents, codebooks=CODEBOOKS)
        assert saved.facts.get("max_added_distortion") == moves.max_added_distortion
        _, loaded = load_semantic_ids(tmp_path / policy)
        assert np.array_equal(loaded.codes, ids.codes)
        assert (loaded.identity, loaded.collisions) == (ids.identity, policy)
        assert loaded.max_added_distortion == moves.max_added_distortion


@given(code_tables())
def test_kept_codes_are_the_given_ones(table: CodeTable) -> None:
    ids, report = from_codes(table.codes)
    assert np.array_equal(ids.codes, table.codes)
    assert ids.codebook_sizes == tuple((table.codes.max(axis=0) + 1).tolist())
    assert ids.has_collisions == (len(set(table.rows)) < len(table.rows))
    assert (ids.collisions, report.num_touched, report.suffix_size) == ("keep", 0, None)


def test_resolved_codes_are_those_of_the_suffix() -> None:
    resolved, report = from_codes(CODES, SIZES, collisions="resolve", reserve=2)
    suffixed, _ = build_semantic_ids(CODES, SIZES, reserve=2)
    assert np.array_equal(resolved.codes, suffixed.codes)
    assert (resolved.identity, resolved.collisions) == (suffixed.identity, "suffix")
    assert (report.num_colliding, report.num_touched, report.largest_bucket, report.suffix_size) == (3, 2, 3, 5)


def test_the_identity_is_that_of_codebooks_sizes_and_policy() -> None:
    """Not that of the codes: a version with more items is the same table to a recommender."""
    first, _ = build_semantic_ids(CODES, SIZES, codebooks=CODEBOOKS)
    other_items, _ = build_semantic_ids(CODES[[3, 0, 2, 4]], SIZES, codebooks=dict(reversed(CODEBOOKS.items())))
    assert first.identity == other_items.identity == table_identity(CODEBOOKS, (*SIZES, 11), "suffix")
    assert len(first.identity) == 64
    moved = {**CODEBOOKS, "level_1": CODEBOOKS["level_1"] * np.float32(1.001)}
    renamed = {"level_0": CODEBOOKS["level_0"], "level_2": CODEBOOKS["level_1"]}
    narrowed = {**CODEBOOKS, "level_1": CODEBOOKS["level_1"].reshape(4, 2)}
    others = [
        build_semantic_ids(CODES, SIZES, codebooks=moved)[0],
        build_semantic_ids(CODES, SIZES, codebooks=renamed)[0],
        build_semantic_ids(CODES, SIZES, codebooks=narrowed)[0],
        build_semantic_ids(CODES, SIZES, codebooks=CODEBOOKS, reserve=7)[0],
        build_semantic_ids(CODES, SIZES, codebooks=CODEBOOKS, collisions="keep")[0],
        build_semantic_ids(CODES, SIZES)[0],
    ]
    assert len({first.identity, *(ids.identity for ids in others)}) == len(others) + 1


def test_the_identity_of_imported_codes_is_theirs() -> None:
    identity = from_codes(CODES)[0].identity
    assert identity == table_identity({"codes": CODES.astype(np.int32)}, SIZES, "keep")
    assert identity == from_codes(CODES.astype(np.int16))[0].identity
    assert identity == from_codes(np.asfortranarray(CODES))[0].identity
    assert identity != from_codes(CODES[::-1])[0].identity
    assert identity != from_codes(CODES, (4, 2))[0].identity
    assert identity != from_codes(CODES, collisions="resolve")[0].identity


def test_published_ids_of_office(data_root: Path) -> None:
    text = (data_root / "apao_office" / "Office.index.rq-kmeans.json").read_text("utf-8")
    by_item = {int(item): [int(token[3:-1]) for token in tokens] for item, tokens in json.loads(text).items()}
    codes = np.array([by_item[item] for item in range(2420)])
    kept, report = from_codes(codes)
    assert (kept.num_items, kept.num_levels, kept.has_collisions) == (2420, 4, True)
    assert (report.num_buckets, report.largest_bucket) == (2415, 2)
    trie = SemanticIdTrie.build(kept.codes, kept.codebook_sizes)
    assert (trie.num_nodes(4), trie.max_bucket) == (2415, 2)
    assert trie.lookup(torch.from_numpy(codes)).diff().sum() == 2415 + 5 * 3  # 5 leaves of two, each seen twice
    resolved, _ = from_codes(codes, collisions="resolve")
    assert SemanticIdTrie.build(resolved.codes, resolved.codebook_sizes).max_bucket == 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: from_codes(CODES, collisions="none"),
            DataError,
            r"semantic IDs: items 0 and 2 have the same codes \[0, 1\] \(expected distinct codes .* policy 'none'",
        ),
        (
            lambda: SemanticIds(CODES.astype(np.int32), SIZES, "0" * 64, "suffix"),
            DataError,
            "items 0 and 2 have the same",
        ),
        (
            lambda: SemanticIds(CODES.astype(np.int32), SIZES, "0" * 64, "move"),
            ConfigError,
            "unknown collision policy",
        ),
        (
            lambda: build_semantic_ids(CODES, SIZES, collisions="keeep"),
            ConfigError,
            "expected suffix, reassign, reassign_or_suffix, keep, none, found 'keeep'",
        ),
        (
            lambda: build_semantic_ids(CODES, SIZES, collisions="reassign"),
            ConfigError,
            r"wrong reassignment for the collision policy 'reassign' .*found none",
        ),
        (
            lambda: build_semantic_ids(CODES[:4], SIZES, reassignment=moved()),
            ConfigError,
            r"wrong reassignment for the collision policy 'suffix' .*found one",
        ),
        (
            lambda: build_semantic_ids(CODES[:4], SIZES, collisions="reassign", reassignment=moved(0.5)),
            ConfigError,
            r"collision policy is at odds .*found 0.5 with 'reassign'",
        ),
        (
            lambda: build_semantic_ids(CODES[:3], SIZES, collisions="reassign", reassignment=moved()),
            DataError,
            "the reassignment is of other items",
        ),
        (lambda: from_codes(CODES, collisions="suffix"), ConfigError, "expected keep, resolve, none, found 'suffix'"),
        (lambda: build_semantic_ids(CODES, SIZES, reserve=-1), ConfigError, "reserve of the suffix level is negative"),
        (
            lambda: build_semantic_ids(CODES, (3, 1)),
            DataError,
            r"item 0 has a code out of range at level 1 \(expected 0 to 0",
        ),
        (lambda: build_semantic_ids(CODES, (3,)), DataError, r"wrong shape or type \(expected integers \[N, 1\]"),
        (lambda: from_codes(-CODES), DataError, "item 1 has a code out of range at level 0"),
        (lambda: from_codes(CODES * 0.5), DataError, "wrong shape or type"),
        (lambda: from_codes(CODES[0]), DataError, "wrong shape or type"),
        (lambda: from_codes(CODES[:0]), DataError, "wrong shape or type"),
        (lambda: from_codes(CODES.astype(np.int64) + 2**31), DataError, "item 0 has a code out of range at level 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(make, error: type[GenrecError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("codebooks", [CODEBOOKS, None], ids=["with codebooks", "imported"])
def test_round_trip(tmp_path: Path, codebooks: dict[str, np.ndarray] | None) -> None:
    parent = dataset(tmp_path / "dataset")
    ids, _ = build_semantic_ids(CODES, SIZES, codebooks=codebooks)
    health = {"collision_rate": 0.6, "gates": {"dead_codes": True}}
    saved = save_semantic_ids(tmp_path / "ids", ids, parents={"dataset": parent}, codebooks=codebooks, health=health)
    artifact, loaded = load_semantic_ids(tmp_path / "ids", parent, num_items=5)
    assert artifact == saved
    assert artifact.kind == KIND == "semantic_ids"
    assert artifact.parents == {"dataset": parent.identity}
    assert artifact.facts == {
        "codebook_sizes": [3, 2, 11],
        "identity": ids.identity,
        "collisions": "suffix",
        "num_items": 5,
    }
    assert np.array_equal(loaded.codes, ids.codes)
    assert loaded.codes.dtype == np.int32
    assert (loaded.codebook_sizes, loaded.identity, loaded.collisions) == (ids.codebook_sizes, ids.identity, "suffix")
    assert load_health(artifact) == health
    if codebooks is None:
        with pytest.raises(ArtifactError, match=r"has no file 'codebooks.safetensors'"):
            load_codebooks(artifact)
    else:
        again = load_codebooks(artifact)
        assert {name: array.dtype for name, array in again.items()} == {n: a.dtype for n, a in codebooks.items()}
        assert all(np.array_equal(array, codebooks[name]) for name, array in again.items())


def test_kept_collisions_survive_a_round_trip(tmp_path: Path) -> None:
    save_semantic_ids(tmp_path / "ids", from_codes(CODES)[0], parents={"dataset": dataset(tmp_path / "d")})
    artifact, ids = load_semantic_ids(tmp_path / "ids")
    assert ids.has_collisions
    assert load_health(artifact) == {}


def test_another_dataset_is_refused(tmp_path: Path) -> None:
    parent, other = dataset(tmp_path / "one", 1), dataset(tmp_path / "two", 2)
    save_semantic_ids(tmp_path / "ids", from_codes(CODES)[0], parents={"dataset": parent})
    with pytest.raises(LineageError, match="was made from another 'dataset'"):
        load_semantic_ids(tmp_path / "ids", other)
    with pytest.raises(
        DataError, match=r"number of items differs from the dataset's \(expected 6 rows of codes, found 5"
    ):
        load_semantic_ids(tmp_path / "ids", parent, num_items=6)
    with pytest.raises(RunError, match="already there"):
        save_semantic_ids(tmp_path / "ids", from_codes(CODES)[0], parents={"dataset": parent})
    with pytest.raises(ArtifactError, match="wrong kind of artifact"):
        load_semantic_ids(tmp_path / "one")


def test_foreign_codebooks_are_refused(tmp_path: Path) -> None:
    ids, _ = build_semantic_ids(CODES, SIZES, codebooks=CODEBOOKS)
    others = {**CODEBOOKS, "level_0": CODEBOOKS["level_0"] + 1}
    parents = {"dataset": dataset(tmp_path / "d")}
    with pytest.raises(LineageError, match=r"identity of the semantic IDs is not that of their codebooks"):
        save_semantic_ids(tmp_path / "ids", ids, parents=parents, codebooks=others)
    assert not (tmp_path / "ids").exists()


def test_one_flipped_byte_is_found(tmp_path: Path) -> None:
    ids, _ = build_semantic_ids(CODES, SIZES, codebooks=CODEBOOKS)
    save_semantic_ids(tmp_path / "ids", ids, parents={"dataset": dataset(tmp_path / "d")}, codebooks=CODEBOOKS)
    for name in ("codes.npy", "codebooks.safetensors", "health.json"):
        file = tmp_path / "ids" / name
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ArtifactError, match=f"{name}: corrupt file"):
            load_semantic_ids(tmp_path / "ids")
        file.write_bytes(content)
    assert load_semantic_ids(tmp_path / "ids")[1].num_items == 5
