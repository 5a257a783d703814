"""Recommends from a bundle with NumPy and ONNX Runtime alone: one file, of which every bundle carries a copy.

    python runtime.py BUNDLE --history id1,id2 -k 10

The search runs inside the graph; here ids become indices, rows become rectangles, and files are checked before they
are believed. What depends on the catalogue alone is computed once, when a bundle is loaded. Must not import genrec,
torch or anything else that the file cannot expect to find where a bundle is served.
"""
# B requests, T items of a history, D denied items, N items of the catalogue, k recommendations

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

BUNDLE_FORMAT = 1
MANIFEST, CONFIG, CATALOGUE, ITEMS = "manifest.json", "config.json", "catalogue.npz", "items.json"
MODEL, PREPARE, PROBES, PARITY = "model.onnx", "prepare.onnx", "probes.npz", "parity.json"
TOLERANCE = 1e-4
_NO_ITEMS = np.zeros(0, dtype=np.int64)


class BundleError(Exception):
    """A bundle is missing, incomplete, corrupt or of another format version; one line says which and what to do."""


class RequestError(ValueError):
    """A request asks for what the bundle cannot give; one line says what it can."""


class Version(NamedTuple):
    """What made an answer.

    Attributes:
        model: identity of the recommender.
        catalogue: identity of the items, their semantic IDs and all that the graph reads of them.
    """

    model: str
    catalogue: str


class Limits(NamedTuple):
    """What the graph was exported for.

    Attributes:
        max_candidates: the largest k.
        history_length: the last items of a history that are read; longer ones are cut, not refused.
    """

    max_candidates: int
    history_length: int


@dataclass(frozen=True)
class Recommendations:
    """What B requests get.

    Attributes:
        item_ids: [B] lists of at most k ids, best first, none twice.
        scores: [B] lists of what they are sorted by: natural logarithms of probabilities, inner products of a dense
            recommender, what a hybrid makes of both; training counts where `is_popular`.
        num_unknown: [B] ids of the request's lists that are not in the catalogue, and were ignored.
        is_popular: [B] whether no item of the history is known, so that the list is one of popularity.
        num_unknown_tags: [B] tags of the request that no item has.
    """

    item_ids: list[list[str]]
    scores: list[list[float]]
    num_unknown: list[int]
    is_popular: list[bool]
    num_unknown_tags: list[int]


def engine() -> Any:
    """ONNX Runtime, without the telemetry that it would start as it is imported.

    Raises:
        BundleError: it is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        what = "a bundle needs the package onnxruntime, which is not installed"
        raise BundleError(f"{what}; pip install -r the requirements.txt that lies in it") from error
    return onnxruntime


class CandidateGenerator:
    """A bundle, ready to recommend; safe to call from several threads. Made by `load`.

    Attributes:
        folder: of the bundle.
        version: of model and catalogue.
        limits: what can be asked for.
        item_ids: [N] id of each item_index.
        titles: [N], or None where the catalogue has none.
        codes: [N, L] semantic ID of each item.
        tags: of each tag, "column=value", the items that have it (item_index, ascending); None where the bundle was
            exported without tags.
    """

    def __init__(self, folder: Path, *, num_threads: int = 1) -> None:
        config = _read_json(folder / CONFIG)
        items = _read_json(folder / ITEMS)
        with np.load(folder / CATALOGUE, allow_pickle=False) as arrays:
            catalogue = {name: arrays[name] for name in arrays.files}
        self.folder, self.config = folder, config
        self.version = Version(config["model_version"], config["catalogue_version"])
        self.limits = Limits(config["num_candidates"], config["history_length"])
        self.item_ids: list[str] = items["item_ids"]
        self.titles: list[str] | None = items.get("titles")
        self.codes = catalogue.pop("codes")
        tags: dict[str, list[int]] | None = items.get("tags")
        self.tags = None if tags is None else {tag: np.array(own, dtype=np.int64) for tag, own in tags.items()}
        self._index = {item_id: index for index, item_id in enumerate(self.item_ids)}
        self._open(folder, catalogue, num_threads)

    def _open(self, folder: Path, catalogue: dict[str, np.ndarray], num_threads: int) -> None:
        if not (folder / MODEL).is_file():
            what = f"{folder}: its graph is of format {self.config.get('format')}, and this runtime reads onnx"
            raise BundleError(f"{what}; export it with format=onnx, or see its README.md")
        self._session = _open_session(folder / MODEL, num_threads)
        self._inputs = _prepare(folder, self._session, catalogue, num_threads)

    @classmethod
    def load(cls, folder: Path | str, *, num_threads: int = 1, verify: bool = True) -> CandidateGenerator:
        """Opens a bundle.

        Args:
            folder: where it is.
            num_threads: threads that one call of the graph may use.
            verify: compare every file with the manifest first.

        Raises:
            BundleError: missing, incomplete, corrupt, or of a format version that this runtime does not read.
        """
        folder = Path(folder)
        if verify:
            check_manifest(folder)
        try:
            return cls(folder, num_threads=num_threads)
        except (OSError, KeyError, ValueError) as error:
            raise BundleError(f"{folder}: cannot be read ({error}); bring back the bundle from a copy") from error

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.item_ids)

    def knows(self, item_id: str) -> bool:
        """Whether an item is in the catalogue."""
        return item_id in self._index

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int,
        *,
        exclude: Sequence[Sequence[str]] | None = None,
        exclude_seen: bool | Sequence[bool] = False,
        allow: Sequence[Sequence[str] | None] | None = None,
        allow_tags: Sequence[Sequence[str] | None] | None = None,
        deny_tags: Sequence[Sequence[str]] | None = None,
    ) -> Recommendations:
        """The k best items for each of B histories.

        Args:
            histories: [B] item ids, oldest first. Unknown ids are ignored and counted; a history without a known item
                gets the most popular items.
            k: length of the lists, 1 to `limits.max_candidates`; a list is shorter where fewer items are admissible or
                found.
            exclude: [B] item ids that must not be recommended.
            exclude_seen: leave out the items of the (whole) history as well; one answer for all histories, or [B].
            allow: [B] the only item ids that may be recommended, None for all.
            allow_tags: [B] tags ("column=value") of the items that may be recommended, None for all: of every column
                that is named, an item needs one of the tags. A tag that no item has allows nothing, and is counted.
            deny_tags: [B] tags of items that must not be recommended: one of them is enough.

        Raises:
            RequestError: k out of range, lists of another length than the histories, or tags where the bundle has none.
        """
        if not 1 <= k <= self.limits.max_candidates:
            raise RequestError(f"k is out of range (expected 1 to {self.limits.max_candidates}, found {k})")
        named = {"exclude": exclude, "allow": allow, "allow_tags": allow_tags, "deny_tags": deny_tags}
        for name, lists in named.items():
            if lists is not None and len(lists) != len(histories):
                raise RequestError(f"{name} needs one list a history (expected {len(histories)}, found {len(lists)})")
        if any(isinstance(history, str) for history in histories):
            raise RequestError("a history is a list of item ids (found text; put it into a list of one)")
        if not histories:
            return Recommendations([], [], [], [], [])
        unknown = [0] * len(histories)
        known = self._indices(histories, unknown)
        denied = self._indices(exclude or [[]] * len(histories), unknown)
        hides = [exclude_seen] * len(known) if isinstance(exclude_seen, bool) else exclude_seen
        denied = [[*row, *(seen if hide else ())] for row, seen, hide in zip(denied, known, hides, strict=True)]
        may = self._allowed(allow, len(histories), unknown)
        unknown_tags = self._apply_tags(may, allow_tags or [None] * len(may), deny_tags or [[]] * len(may))
        items, scores = self.search(known, denied, may)
        is_found = items[:, :k] >= 0
        return Recommendations(
            [[self.item_ids[item] for item in row[own]] for row, own in zip(items[:, :k], is_found, strict=True)],
            [row[own].tolist() for row, own in zip(scores[:, :k], is_found, strict=True)],
            unknown,
            [not row for row in known],
            unknown_tags,
        )

    def search(
        self, histories: Sequence[Sequence[int]], denied: Sequence[Sequence[int]], allow: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The graph itself, in item indices.

        Args:
            histories: [B] rows of item_index.
            denied: [B] rows of item_index.
            allow: bool [B, N].

        Returns:
            item_index [B, max_candidates], -1 as padding, and scores, -inf as padding.
        """
        shown = [list(row)[-self.limits.history_length :] for row in histories]
        return self.run(
            histories=_rectangle(shown),
            lengths=np.array([len(row) for row in shown], dtype=np.int64),
            deny=_rectangle(denied),
            allow=allow,
        )

    def run(self, **inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`search` for rectangles that are there already: histories, lengths, deny, allow."""
        own = _values(inputs)
        items, scores = self._session.run_with_ort_values(["item_index", "score"], {**self._inputs, **own})
        return items.numpy(), scores.numpy()

    def _indices(self, rows: Sequence[Sequence[str]], unknown: list[int]) -> list[list[int]]:
        found = [[self._index[item] for item in row if item in self._index] for row in rows]
        for place, (row, own) in enumerate(zip(rows, found, strict=True)):
            unknown[place] += len(row) - len(own)
        return found

    def _allowed(
        self, allow: Sequence[Sequence[str] | None] | None, num_requests: int, unknown: list[int]
    ) -> np.ndarray:
        mask = np.ones((num_requests, self.num_items), dtype=bool)
        if allow is None:
            return mask
        for place, items in enumerate(self._indices([row or () for row in allow], unknown)):
            if allow[place] is not None:
                mask[place] = False
                mask[place, items] = True
        return mask

    def _apply_tags(
        self, may: np.ndarray, allow: Sequence[Sequence[str] | None], deny: Sequence[Sequence[str]]
    ) -> list[int]:
        """Leaves in `may`, bool [B, N], what the tags admit; of each request, how many of its tags no item has."""
        if not any(deny) and all(tags is None for tags in allow):
            return [0] * len(may)
        if self.tags is None:
            raise RequestError("this bundle has no tags; export it with tags=[brand,categories]")
        for row, wanted, unwanted in zip(may, allow, deny, strict=True):
            if wanted is not None:
                row &= self._having(wanted)
            for tag in set(unwanted):
                row[self._tagged(tag)] = False
        every = [(*(wanted or ()), *unwanted) for wanted, unwanted in zip(allow, deny, strict=True)]
        return [sum(tag not in self.tags for tag in tags) for tags in every]

    def _having(self, tags: Sequence[str]) -> np.ndarray:
        """bool [N]: items that have, of every column that is named, one of the tags; none if there is no tag."""
        columns: dict[str, list[np.ndarray]] = {}
        for tag in set(tags):
            columns.setdefault(tag.partition("=")[0], []).append(self._tagged(tag))
        may = np.full(self.num_items, bool(columns))
        for lists in columns.values():
            own = np.zeros_like(may)
            own[np.concatenate(lists)] = True
            may &= own
            if not may.any():
                break
        return may

    def _tagged(self, tag: str) -> np.ndarray:
        return (self.tags or {}).get(tag, _NO_ITEMS)


def check_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle, every file of which is the one that was written.

    Raises:
        BundleError: it is not.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"{folder}: not a complete bundle, it has no {MANIFEST}; check the path, or export it again")
    manifest = _read_json(path)
    mend = "bring back the bundle from a copy, or export it again"
    if not isinstance(manifest, dict) or manifest.get("kind") != "bundle":
        raise BundleError(f"{folder}: not a bundle; write one with genrec export")
    body = {key: value for key, value in manifest.items() if key != "checksum"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    if hashlib.sha256(text.encode()).hexdigest() != manifest.get("checksum"):
        raise BundleError(f"{path}: corrupt, its checksum does not fit its content; {mend}")
    version = manifest["facts"].get("bundle_format")
    if version != BUNDLE_FORMAT:
        what = f"{folder}: bundle format {version}, and this runtime reads format {BUNDLE_FORMAT}"
        raise BundleError(f"{what}; run the runtime.py that lies in the bundle, or export it again")
    for name, facts in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise BundleError(f"{file}: missing; {mend}")
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != facts["sha256"]:
                raise BundleError(f"{file}: corrupt, its sha256 is not the manifest's; {mend}")
    return manifest


def check_parity(generator: CandidateGenerator) -> dict[str, Any]:
    """Compares the graph with what the recommender gave, before export, for the probes that lie in the bundle.

    Lists are equal up to ties: at each rank the scores differ by at most 1e-4, and an item that one list has and the
    other has not (or has elsewhere) is within twice that of its neighbour there.

    Returns:
        What parity.json says: `passed`, the number of probes, the largest difference of scores, and lists that differ.
    """
    with np.load(generator.folder / PROBES, allow_pickle=False) as arrays:
        probes = {name: arrays[name] for name in arrays.files}
    expected_items, expected_scores = probes.pop("item_index"), probes.pop("score")
    items, scores = generator.run(**probes)
    is_found = np.isfinite(expected_scores)
    counts_agree = bool((np.isfinite(scores) == is_found).all() and ((items >= 0) == is_found).all())
    gaps = np.abs(np.where(is_found, scores, 0.0) - np.where(is_found, expected_scores, 0.0))
    largest = float(gaps.max(initial=0.0))
    rows = zip(items, scores, expected_items, expected_scores, strict=True)
    different = sum(not _same_up_to_ties(*row) for row in rows)
    package = sys.modules.get("onnxruntime")
    return {
        "passed": counts_agree and largest <= TOLERANCE and different == 0,
        "num_probes": len(items),
        "num_identical": int((items == expected_items).all(axis=1).sum()),
        "num_different": different,
        "largest_score_difference": largest,
        "tolerance": TOLERANCE,
        "model_version": generator.version.model,
        "catalogue_version": generator.version.catalogue,
        "numpy": np.__version__,
        "onnxruntime": getattr(package, "__version__", None),
    }


def _same_up_to_ties(items: np.ndarray, scores: np.ndarray, expected: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether every item stands where its score may be, and one that only one list has is tied with the end of it."""
    place = {int(item): rank for rank, item in enumerate(expected) if item >= 0}
    end = wanted[np.isfinite(wanted)].min(initial=np.inf)
    for item, score in zip(items, scores, strict=True):
        if item < 0:
            continue
        other = wanted[place[int(item)]] if int(item) in place else end
        if abs(float(score) - float(other)) > 2 * TOLERANCE:
            return False
    return len({int(item) for item in items if item >= 0}) == int((items >= 0).sum())


def _open_session(path: Path, num_threads: int) -> Any:
    onnxruntime = engine()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's are of many kinds without a base of their own
        raise BundleError(f"{path}: ONNX Runtime cannot open the graph ({' '.join(str(error).split())})") from error


def _values(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays as ONNX Runtime takes them."""
    make = engine().OrtValue.ortvalue_from_numpy
    return {name: make(array) for name, array in arrays.items()}


def _prepare(folder: Path, session: Any, catalogue: Mapping[str, np.ndarray], num_threads: int) -> dict[str, Any]:
    """All that the graph reads beside the requests: the catalogue, and what follows from it."""
    values = _values(catalogue)
    if (folder / PREPARE).is_file():
        first = _open_session(folder / PREPARE, num_threads)
        names = [output.name for output in first.get_outputs()]
        feeds = {entry.name: values[entry.name] for entry in first.get_inputs()}
        values.update(zip(names, first.run_with_ort_values(names, feeds), strict=True))
    wanted = [
        entry.name for entry in session.get_inputs() if entry.name not in ("histories", "lengths", "deny", "allow")
    ]
    if missing := [name for name in wanted if name not in values]:
        raise BundleError(
            f"{folder / CATALOGUE}: it lacks what the graph reads ({', '.join(missing)}); export it again"
        )
    return {name: values[name] for name in wanted}


def _rectangle(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Rows padded with -1 at the end, one column at least."""
    padded = np.full((len(rows), max(1, *map(len, rows))), -1, dtype=np.int64)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return padded


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); bring back the bundle from a copy") from error


def _split(text: str | None) -> list[str]:
    return [part for part in (text or "").split(",") if part]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: recommends for one history, or proves parity; one line an item, or of error."""
    parser = argparse.ArgumentParser(description="Recommendations from a genrec bundle.")
    parser.add_argument("bundle", type=Path, help="folder of a bundle")
    parser.add_argument("--history", help="item ids with commas between them, oldest first")
    parser.add_argument("-k", type=int, default=10, help="items to recommend")
    parser.add_argument("--exclude", help="item ids that must not come")
    parser.add_argument("--allow", help="the only item ids that may come")
    parser.add_argument(
        "--allow-tags", nargs="+", metavar="COLUMN=VALUE", help="tags, one of which (of each column) an item needs"
    )
    parser.add_argument(
        "--deny-tags", nargs="+", metavar="COLUMN=VALUE", default=[], help="tags of items that must not come"
    )
    parser.add_argument("--keep-seen", action="store_true", help="items of the history may come again")
    parser.add_argument("--parity", action="store_true", help="compare with the probes and print the certificate")
    parser.add_argument("--unsealed", action="store_true", help="a bundle that is still being written: no manifest yet")
    words = parser.parse_args(arguments)
    write = sys.stdout.write
    try:
        generator = CandidateGenerator.load(words.bundle, verify=not words.unsealed)
        if words.parity:
            certificate = check_parity(generator)
            write(json.dumps(certificate) + "\n")
            return 0 if certificate["passed"] else 4
        found = generator.recommend(
            [_split(words.history)],
            words.k,
            exclude=[_split(words.exclude)],
            exclude_seen=not words.keep_seen,
            allow=None if words.allow is None else [_split(words.allow)],
            allow_tags=None if words.allow_tags is None else [words.allow_tags],
            deny_tags=[words.deny_tags],
        )
    except (BundleError, RequestError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2 if isinstance(error, RequestError) else 3
    titles = dict(zip(generator.item_ids, generator.titles or (), strict=False))
    for item_id, score in zip(found.item_ids[0], found.scores[0], strict=True):
        write(f"{item_id}\t{score:.4f}\t{titles.get(item_id, '')}".rstrip() + "\n")
    if found.num_unknown[0]:
        sys.stderr.write(f"{found.num_unknown[0]} unknown item ids were ignored\n")
    if found.num_unknown_tags[0]:
        sys.stderr.write(f"no item has {found.num_unknown_tags[0]} of the tags\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
