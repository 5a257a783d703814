"""The table of semantic IDs: codes by item, collision policies, identity, and the artifact "semantic_ids".

Knows arrays and artifacts; must not know how codes were made, nor tensors.
"""
# N items, L levels, K codes of a level

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from genrec.artifacts import Artifact, check_parent, load_artifact, read_json, write_artifact
from genrec.errors import ConfigError, DataError, LineageError
from genrec.files import pretty_json
from genrec.semantic_ids.collisions import Reassignment
from genrec.semantic_ids.rows import check_codes, sort_rows

KIND = "semantic_ids"
POLICIES = ("suffix", "reassign", "reassign_or_suffix", "keep", "none")
_WITH_SUFFIX = ("suffix", "reassign_or_suffix")
IMPORTS = ("keep", "resolve", "none")

_CODES, _CODEBOOKS, _HEALTH = "codes.npy", "codebooks.safetensors", "health.json"
ITEMS = "items.parquet"  # of a later version, whose rows are not those of the dataset
_DOMAIN = "genrec.semantic_ids/1"


@dataclass(frozen=True, eq=False)
class SemanticIds:
    """A checked table of semantic IDs.

    Attributes:
        codes: row i for item_index i, each in [0, K_l); rows are unique unless `has_collisions`.
        codebook_sizes: K_l of each level, a suffix level included.
        identity: sha256 (hex) of codebooks, level sizes and collision policy: what a recommender is trained on. Later
            versions of a table keep it.
        collisions: "suffix" (the last level numbers the items of a bucket), "reassign" (all but one item of a bucket
            have another last code), "reassign_or_suffix" (those that are not too far from one, and then a suffix),
            "keep" (items may share their codes; only for imported tables), or "none" (there never were any).
        max_added_distortion: how far is too far under "reassign_or_suffix", part of that policy; otherwise None.
        has_collisions: some items share their codes; only possible under "keep".

    Raises:
        DataError: codes out of range or of the wrong shape, or equal rows where the policy rules them out.
        ConfigError: unknown policy.
    """

    codes: Int32[np.ndarray, "N L"]
    codebook_sizes: tuple[int, ...]
    identity: str
    collisions: str
    max_added_distortion: float | None = None
    has_collisions: bool = field(init=False)

    def __post_init__(self) -> None:
        if self.collisions not in POLICIES:
            raise ConfigError("unknown collision policy", expected=", ".join(POLICIES), found=repr(self.collisions))
        check_codes(self.codes, self.codebook_sizes, where="semantic IDs")
        pair = _find_collision(self.codes, self.codebook_sizes)
        object.__setattr__(self, "has_collisions", pair is not None)
        if pair is not None and self.collisions != "keep":
            raise DataError(
                f"items {pair[0]} and {pair[1]} have the same codes {self.codes[pair[0]].tolist()}",
                where="semantic IDs",
                expected=f"distinct codes under the collision policy {self.collisions!r}",
                fix="resolve the collisions with a suffix, or keep them",
            )
        if (self.max_added_distortion is not None) != (self.collisions == "reassign_or_suffix"):
            expected = "a limit of added distortion where collisions are 'reassign_or_suffix', and only there"
            found = f"{self.max_added_distortion} with {self.collisions!r}"
            raise ConfigError("the collision policy is at odds with itself", expected=expected, found=found)

    @property
    def num_items(self) -> int:
        return len(self.codes)

    @property
    def num_levels(self) -> int:
        return len(self.codebook_sizes)


@dataclass(frozen=True)
class CollisionReport:
    """What the codes looked like before the policy, and what it did.

    Attributes:
        num_items: N.
        num_buckets: distinct rows of codes.
        num_colliding: items that share their codes with another.
        num_touched: items whose ID the policy changed: num_moved + num_suffixed.
        num_moved: items that have another last code of the quantiser than it gave them.
        num_suffixed: items that share the quantiser's codes and have a suffix other than 0.
        mean_added: of the items that moved, what moving added to the squared error, as a share of the mean squared
            error of the set that the quantiser was fitted on; None if none moved, or if that is 0.
        largest_added: the largest of these.
        largest_bucket: most items with the same codes.
        suffix_size: number of codes of the suffix level, its reserve included; None without one.
    """

    num_items: int
    num_buckets: int
    num_colliding: int
    num_touched: int
    num_moved: int
    num_suffixed: int
    mean_added: float | None
    largest_added: float | None
    largest_bucket: int
    suffix_size: int | None


def build_semantic_ids(
    codes: np.ndarray,
    codebook_sizes: Sequence[int],
    *,
    codebooks: Mapping[str, np.ndarray] | None = None,
    collisions: str = "suffix",
    reserve: int = 8,
    reassignment: Reassignment | None = None,
) -> tuple[SemanticIds, CollisionReport]:
    """The table of codes that a quantiser gave, with its collisions resolved.

    `suffix` (TIGER) adds a level that numbers the items of a bucket by item_index, from 0. It is there even if no two
    items collide, so that later items can. TIGER sizes that level like the others; here it is the largest bucket and a
    reserve. `reassign` adds no level: all but one item of a bucket have moved to free codes, and a later item can only
    have a code that is free. `reassign_or_suffix` moves what can move at a bearable cost, and adds a suffix level for
    the rest and for later items.

    Args:
        codes: integers [N, L], row i for item_index i.
        codebook_sizes: K_l of each level.
        codebooks: all arrays that turn an embedding into codes, by name, for the identity. None: the codes themselves
            are hashed.
        collisions: "suffix"; "reassign"; "reassign_or_suffix"; "keep" (items may share their codes); "none" (two equal
            rows are an error).
        reserve: codes of the suffix level beyond the largest bucket (after the moves), for later items; at least 0.
        reassignment: of these codes, by `collisions.reassign`: without a limit for "reassign", with one for
            "reassign_or_suffix", None for the others. The limit is part of the identity.

    Returns:
        The table, and what happened to the collisions.

    Raises:
        DataError: codes out of range or of the wrong shape, or two equal rows under "none".
        ConfigError: unknown policy, a negative reserve, or a reassignment that is missing or not the policy's.

    >>> ids, report = build_semantic_ids(np.array([[0, 1], [2, 0], [0, 1]]), (3, 2), reserve=1)
    >>> ids.codes.tolist(), ids.codebook_sizes
    ([[0, 1, 0], [2, 0, 0], [0, 1, 1]], (3, 2, 3))
    >>> report.num_colliding, report.num_touched, report.largest_bucket
    (2, 1, 2)
    """
    if collisions not in POLICIES:
        raise ConfigError("unknown collision policy", expected=", ".join(POLICIES), found=repr(collisions))
    if reserve < 0:
        raise ConfigError("the reserve of the suffix level is negative", expected="0 or more", found=reserve)
    if (reassignment is not None) != collisions.startswith("reassign"):
        found = "none" if reassignment is None else "one"
        raise ConfigError(
            f"wrong reassignment for the collision policy {collisions!r}",
            expected="one for reassign and reassign_or_suffix, none for the others",
            found=found,
        )
    check_codes(codes, codebook_sizes)
    codes = np.ascontiguousarray(codes, dtype=np.int32)
    sizes = tuple(int(size) for size in codebook_sizes)
    _, bucket_sizes = _number_buckets(codes, sizes)
    moves = _moves(reassignment)
    limit = None
    if reassignment is not None:
        if reassignment.codes.shape != codes.shape:
            found = list(reassignment.codes.shape)
            raise DataError("the reassignment is of other items", expected=f"codes {list(codes.shape)}", found=found)
        codes, limit = reassignment.codes, reassignment.max_added_distortion
    resolved = codes
    num_suffixed = 0
    if collisions in _WITH_SUFFIX:
        number, left = _number_buckets(codes, sizes)
        resolved = np.concatenate([codes, number[:, None]], axis=1)
        sizes = (*sizes, int(left.max()) + reserve)
        num_suffixed = int((number > 0).sum())
    report = CollisionReport(
        num_items=len(codes),
        num_buckets=len(bucket_sizes),
        num_colliding=int(bucket_sizes[bucket_sizes > 1].sum()),
        num_touched=moves["num_moved"] + num_suffixed,
        num_suffixed=num_suffixed,
        largest_bucket=int(bucket_sizes.max()),
        suffix_size=sizes[-1] if collisions in _WITH_SUFFIX else None,
        **moves,
    )
    identity = table_identity(codebooks or {"codes": codes}, sizes, collisions, limit)
    return SemanticIds(resolved, sizes, identity, collisions, limit), report


def from_codes(
    codes: np.ndarray,
    codebook_sizes: Sequence[int] | None = None,
    *,
    collisions: str = "keep",
    reserve: int = 8,
) -> tuple[SemanticIds, CollisionReport]:
    """A table of codes that somebody else published; there are no codebooks, so the identity is that of the codes.

    Args:
        codes: integers [N, L], row i for item_index i.
        codebook_sizes: K_l of each level; None: one more than the largest code of each level.
        collisions: "keep" (items may share their codes, as in published protocols), "resolve" (the policy "suffix"), or
            "none" (two equal rows are an error).
        reserve: as in `build_semantic_ids`.

    Returns:
        The table, and what happened to the collisions.

    Raises:
        DataError, ConfigError: as `build_semantic_ids`.

    >>> ids, report = from_codes(np.array([[0, 1], [2, 0], [0, 1]]))
    >>> ids.codebook_sizes, ids.collisions, ids.has_collisions, report.largest_bucket
    ((3, 2), 'keep', True, 2)
    """
    if collisions not in IMPORTS:
        raise ConfigError("unknown way to import collisions", expected=", ".join(IMPORTS), found=repr(collisions))
    if codebook_sizes is None:
        check_codes(codes, [np.iinfo(np.int32).max] * (codes.shape[1] if codes.ndim == 2 else 0))
        codebook_sizes = [int(size) + 1 for size in codes.max(axis=0)]
    policy = "suffix" if collisions == "resolve" else collisions
    return build_semantic_ids(codes, codebook_sizes, collisions=policy, reserve=reserve)


def table_identity(
    arrays: Mapping[str, np.ndarray],
    codebook_sizes: Sequence[int],
    collisions: str,
    max_added_distortion: float | None = None,
) -> str:
    """sha256 (hex) of the arrays (names, types, shapes, bytes in C order), the level sizes and the collision policy.

    The limit of "reassign_or_suffix" is part of the policy: with another one the same items have other codes.
    """
    header: dict[str, Any] = {
        "domain": _DOMAIN,
        "codebook_sizes": [int(size) for size in codebook_sizes],
        "collisions": collisions,
        "arrays": [[name, arrays[name].dtype.str, list(arrays[name].shape)] for name in sorted(arrays)],
    }
    if max_added_distortion is not None:  # absent, not null: the identities of all other tables stay what they were
        header["max_added_distortion"] = float(max_added_distortion)
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode() + b"\n")
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def save_semantic_ids(
    path: Path | str,
    ids: SemanticIds,
    *,
    parents: Mapping[str, Artifact],
    codebooks: Mapping[str, np.ndarray] | None = None,
    health: Mapping[str, Any] | None = None,
    write_more: Callable[[Callable[[str], Path]], object] | None = None,
    overwrite: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> Artifact:
    """Writes the artifact: codes.npy int32 [N, L], health.json, and codebooks.safetensors if there are codebooks.

    Args:
        path: folder to make.
        ids: the table.
        parents: what it was made from, by role ("dataset", "embeddings").
        codebooks: the arrays that the identity was made from.
        health: JSON facts about the quality of the table.
        write_more: writes further files of the artifact, each at the path that it gets for its relative name; their
            bytes are part of the artifact's identity.
        overwrite: replace an artifact that is there.
        facts: more of them, of a later version for instance.

    Returns:
        The artifact; its facts are codebook_sizes, identity, collisions, num_items, and max_added_distortion if there
        is one.

    Raises:
        LineageError: the identity is not that of the codebooks.
        RunError, StorageError, ArtifactError: as `write_artifact`.
    """
    if codebooks is not None:
        _check_identity(ids, codebooks, where="semantic IDs to save")
    facts = {
        **(facts or {}),
        "codebook_sizes": list(ids.codebook_sizes),
        "identity": ids.identity,
        "collisions": ids.collisions,
        "num_items": ids.num_items,
    }
    if ids.max_added_distortion is not None:
        facts["max_added_distortion"] = ids.max_added_distortion
    with write_artifact(path, kind=KIND, facts=facts, parents=parents, overwrite=overwrite) as writer:
        np.save(writer.path(_CODES), np.ascontiguousarray(ids.codes), allow_pickle=False)
        writer.path(_HEALTH).write_text(pretty_json(dict(health or {})), "utf-8")
        if codebooks is not None:
            arrays = {name: np.ascontiguousarray(array) for name, array in codebooks.items()}
            save_file(arrays, writer.path(_CODEBOOKS))
        if write_more is not None:
            write_more(writer.path)
    return writer.artifact


def load_semantic_ids(
    path: Path | str, dataset: Artifact | None = None, *, num_items: int | None = None, verify: bool = True
) -> tuple[Artifact, SemanticIds]:
    """Reads and checks the artifact.

    Args:
        path: its folder.
        dataset: the dataset it has to be made from, row i for its item_index i; None: not checked.
        num_items: the N it has to have; None: the one it was written with.
        verify: hash the files, and compare the identity with the codebooks.

    Returns:
        The artifact and its table.

    Raises:
        ArtifactError: missing, incomplete, corrupt or of another kind.
        LineageError: made from another dataset, a later version whose rows are not the dataset's items, or the identity
            is not that of the codebooks.
        DataError: the codes are not what the facts say.
    """
    artifact = load_artifact(path, kind=KIND, verify=verify)
    if dataset is not None:
        check_parent(artifact, "dataset", dataset)
        _check_rows(artifact)
    file = artifact.file(_CODES)
    try:
        codes = np.load(file, allow_pickle=False)
    except ValueError as error:
        raise DataError(f"cannot read the array: {error}", where=file) from error
    facts = artifact.facts
    sizes = tuple(facts["codebook_sizes"])
    check_codes(codes, sizes, where=file)
    check_num_items(codes, facts["num_items"] if num_items is None else num_items, where=file)
    limit = facts.get("max_added_distortion")
    ids = SemanticIds(codes.astype(np.int32, copy=False), sizes, facts["identity"], facts["collisions"], limit)
    if verify and _CODEBOOKS in artifact.files:
        _check_identity(ids, load_codebooks(artifact), where=artifact.path)
    return artifact, ids


def load_codebooks(artifact: Artifact) -> dict[str, np.ndarray]:
    """The arrays of the quantiser, by name.

    Raises:
        ArtifactError: the table was imported without codebooks.
        DataError: the file cannot be read.
    """
    file = artifact.file(_CODEBOOKS)
    try:
        return load_file(file)
    except SafetensorError as error:
        raise DataError(f"cannot read the codebooks: {error}", where=file) from error


def load_health(artifact: Artifact) -> dict[str, Any]:
    """The facts about the quality of the table that were saved with it."""
    return read_json(artifact.file(_HEALTH))


def check_num_items(codes: np.ndarray, num_items: int, *, where: object = "codes") -> None:
    """Raises DataError unless there is one row of codes for each of the dataset's items."""
    if len(codes) != num_items:
        raise DataError(
            "the number of items differs from the dataset's",
            where=where,
            expected=f"{num_items} rows of codes",
            found=len(codes),
            fix="make the semantic IDs again from this dataset",
        )


def _check_rows(artifact: Artifact) -> None:
    if ITEMS in artifact.files:
        raise LineageError(
            f"version {artifact.facts['version']} of the semantic IDs has its own items, not those of the dataset",
            where=artifact.path,
            fix="recommend with semantic_ids=... of this version; to train or evaluate, prepare a newer dataset and "
            "tokenize it with tokenizer=published",
        )


def _moves(reassignment: Reassignment | None) -> dict[str, Any]:
    """What a report says of them."""
    added = np.empty(0) if reassignment is None else reassignment.added
    if reassignment is None or not len(added) or reassignment.mean_error <= 0:
        return {"num_moved": len(added), "mean_added": None, "largest_added": None}
    shares = added / reassignment.mean_error
    return {"num_moved": len(added), "mean_added": float(shares.mean()), "largest_added": float(shares.max())}


def _number_buckets(codes: np.ndarray, sizes: Sequence[int]) -> tuple[Int32[np.ndarray, " N"], Int64[np.ndarray, " _"]]:
    """Number of each item among those with its codes, by item_index; and the sizes of the buckets, sorted by codes."""
    order, first_change = sort_rows(codes, sizes)
    starts = np.concatenate([[0], np.flatnonzero(first_change < len(sizes)) + 1])
    bucket_sizes = np.diff(starts, append=len(codes))
    number = np.empty(len(codes), dtype=np.int32)
    number[order] = np.arange(len(codes)) - np.repeat(starts, bucket_sizes)
    return number, bucket_sizes


def _find_collision(codes: np.ndarray, sizes: Sequence[int]) -> tuple[int, int] | None:
    """Two items with the same codes, the first pair in the order of codes; None if there are none."""
    order, first_change = sort_rows(codes, sizes)
    equal = np.flatnonzero(first_change == len(sizes))
    return (int(order[equal[0]]), int(order[equal[0] + 1])) if len(equal) else None


def _check_identity(ids: SemanticIds, codebooks: Mapping[str, np.ndarray], *, where: object) -> None:
    expected = table_identity(codebooks, ids.codebook_sizes, ids.collisions, ids.max_added_distortion)
    if expected != ids.identity:
        raise LineageError(
            "the identity of the semantic IDs is not that of their codebooks, level sizes and collision policy",
            where=where,
            expected=expected[:12],
            found=ids.identity[:12],
            fix="use the codebooks that the codes were made with",
        )
