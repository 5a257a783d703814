"""What lies in a bundle, and the certificate that a fresh process gives it.

Writes parts that are given to it, each by one function; where they come from is for `pipeline` to know.
"""
# N items, L levels, B probes, k candidates

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec import __version__
from genrec.artifacts import ArtifactWriter
from genrec.data.sequences import Ragged
from genrec.decoding.catalogue_search import CatalogueSearch
from genrec.decoding.selection import select_best
from genrec.errors import ConfigError, GateError
from genrec.files import write_json, write_text
from genrec.serving import runtime
from genrec.serving.exportable import exportable
from genrec.serving.graph import Widths, select_by_topk, trace
from genrec.serving.programs import PROGRAMS, write_program

KIND = "bundle"
REQUIREMENTS = "numpy>=2.0\nonnxruntime>=1.20\n"
SERVER_REQUIREMENTS = REQUIREMENTS + "fastapi>=0.115\nuvicorn>=0.34\nprometheus-client>=0.21\n"  # and genrec, --no-deps


def write_graph(
    writer: ArtifactWriter, search: CatalogueSearch, *, widths: Widths | None, num_candidates: int, form: str = "onnx"
) -> dict[str, Any]:
    """Traces a search and writes it.

    Args:
        writer: of the bundle.
        search: of any recommender that is `exportable`.
        widths: what later catalogues may have; None for a search without a trie.
        num_candidates: k.
        form: "onnx" (model.onnx, and prepare.onnx where something depends on the catalogue alone), or one of
            `programs.PROGRAMS`.

    Returns:
        What the graph was made for, as JSON values.
    """
    source = exportable(search)
    if form in PROGRAMS:
        program = trace(source.graph(widths, num_candidates, select_best).eval(), source.tensors)
        write_program(program, writer.path(PROGRAMS[form]), form=form)
    else:
        try:
            from genrec.serving.onnx_graph import split_by_request, to_onnx
        except ModuleNotFoundError as error:
            what, fix = f"an ONNX graph needs the package {error.name}", "pip install 'genrec[export]'"
            raise ConfigError(what, fix=fix) from error
        program = trace(source.graph(widths, num_candidates, select_by_topk).eval(), source.tensors)
        first, rest = split_by_request(to_onnx(program, list(source.tensors)))
        writer.path(runtime.MODEL).write_bytes(rest.SerializeToString(deterministic=True))
        if first is not None:
            writer.path(runtime.PREPARE).write_bytes(first.SerializeToString(deterministic=True))
    return {
        "beam_width": source.settings.get("beam_width"),
        "num_candidates": num_candidates,
        "search": source.settings,
        "seed": source.seed,
        "widths": None if widths is None else asdict(widths),
        "signature": signature(source.tensors),
    }


def signature(tensors: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Of each array of a catalogue its type and what is not free of its shape."""
    return {name: [str(tensor.dtype).removeprefix("torch."), *tensor.shape[1:]] for name, tensor in tensors.items()}


def write_catalogue(
    writer: ArtifactWriter,
    tensors: Mapping[str, Tensor],
    codes: np.ndarray,
    *,
    item_ids: Sequence[str],
    titles: Sequence[str] | None,
    tags: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """catalogue.npz and items.json.

    Args:
        writer: of the bundle.
        tensors: what the graph reads.
        codes: semantic IDs [N, L].
        item_ids: [N].
        titles: [N]; None: there are none.
        tags: of each tag the item_index of those that have it, ascending; None: requests cannot name tags.

    Returns:
        The version of the catalogue: a sha256 over all of it.
    """
    arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()} | {"codes": codes}
    with writer.path(runtime.CATALOGUE).open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    items: dict[str, Any] = {"item_ids": list(item_ids)}
    if titles is not None:
        items["titles"] = list(titles)
    if tags is not None:
        items["tags"] = {tag: list(own) for tag, own in tags.items()}
    write_json(writer.path(runtime.ITEMS), items)
    digest = hashlib.sha256(json.dumps(items, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def write_probes(
    writer: ArtifactWriter,
    search: CatalogueSearch,
    num_candidates: int,
    *,
    histories: Sequence[Sequence[int]],
    denied: Sequence[Sequence[int]],
    allow: np.ndarray,
) -> None:
    """Requests in item_index, and what the search answers, one by one; `allow` is bool [B, N]."""
    probes = {"histories": padded(histories), "deny": padded(denied), "allow": allow}
    found = [
        search.search(
            Ragged.from_lists([list(row)]),
            num_candidates,
            deny=torch.from_numpy(probes["deny"][place : place + 1]),
            allow=torch.from_numpy(allow[place]),
        )
        for place, row in enumerate(histories)
    ]
    probes["lengths"] = np.array([len(row) for row in histories], dtype=np.int64)
    probes["item_index"] = np.concatenate([part.item_index.cpu().numpy() for part in found])
    probes["score"] = np.concatenate([part.score.cpu().numpy() for part in found]).astype(np.float32)
    with writer.path(runtime.PROBES).open("wb") as file:
        np.savez_compressed(file, **probes)  # pyright: ignore[reportArgumentType]


def padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Rows as a matrix, padded with -1 at the end, one column at least."""
    matrix = np.full((len(rows), max(1, *map(len, rows))), -1, dtype=np.int64)
    for place, row in enumerate(rows):
        matrix[place, : len(row)] = row
    return matrix


def describe(
    search: CatalogueSearch, graph: Mapping[str, Any], *, model_version: str, catalogue_version: str, **more: Any
) -> dict[str, Any]:
    """config.json, but for what `more` adds: format, metrics, configuration."""
    source = exportable(search)
    num_levels = 0 if source.trie is None else source.trie.num_levels
    return {
        "bundle_format": runtime.BUNDLE_FORMAT,
        "genrec_version": __version__,
        "model_version": model_version,
        "catalogue_version": catalogue_version,
        "history_length": source.history_length,
        "num_candidates": graph["num_candidates"],
        "beam_width": graph["beam_width"],
        "catalogue": {"num_items": search.num_items, "num_levels": num_levels},
        "model": _without_features(source.facts),
        "method": source.method,
        "graph": dict(graph),
        **more,
    }


def _without_features(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The vocabularies of item features are long, and in the recommender."""
    return {
        name: _without_features(value) if isinstance(value, dict) else value
        for name, value in facts.items()
        if name != "features"
    }


def write_runtime(writer: ArtifactWriter, config: Mapping[str, Any]) -> None:
    """config.json, the copy of the runtime, what it needs, and the model card."""
    write_json(writer.path(runtime.CONFIG), config)
    write_text(writer.path("runtime.py"), Path(runtime.__file__).read_text("utf-8"))
    if config.get("format") in PROGRAMS:
        write_text(writer.path("requirements.txt"), f"numpy>=2.0\ntorch=={torch.__version__.split('+')[0]}\n")
    else:
        write_text(writer.path("requirements.txt"), REQUIREMENTS)
        write_text(writer.path("requirements-serve.txt"), SERVER_REQUIREMENTS)
    write_text(writer.path("README.md"), model_card(config))


def certify(folder: Path, *, module: str | None = None) -> dict[str, Any]:
    """parity.json, as a fresh process finds it with the copy of the runtime that lies in the bundle.

    Args:
        folder: a bundle that has no manifest yet.
        module: run this module of genrec instead of the copy.

    Raises:
        GateError: the graph does not answer the probes as the recommender did, or cannot be run at all.
    """
    program = ["-m", module] if module else ["-I", str(folder / "runtime.py")]
    words = [sys.executable, "-B", *program, str(folder), "--parity", "--unsealed"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 4):
        found = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise GateError("the exported graph cannot be run in a fresh process", where="parity", found=found)
    certificate = json.loads(done.stdout.strip().splitlines()[-1])
    if not certificate["passed"]:
        raise GateError(
            "the exported graph does not answer as the recommender does; no bundle was written",
            where="parity",
            expected=f"the same lists up to ties, scores within {certificate['tolerance']:g}",
            found=f"{certificate['num_different']} of {certificate['num_probes']} lists differ, scores by "
            f"{certificate['largest_score_difference']:.2g}",
            fix="export again without graph, or report this with the recommender's facts",
        )
    return certificate


def model_card(config: Mapping[str, Any]) -> str:
    """README.md of a bundle: what it is, what it was made from, and how to ask it."""
    model, counts = config["model"], config["catalogue"]
    metrics = "".join(f"- {name} on validation: {value:.4f}\n" for name, value in config["metrics"].items())
    return f"""# A genrec bundle

A {model["name"]} recommender over {counts["num_items"]:,} items{_codes(counts["num_levels"])}.
The graph reads at most the last {config["history_length"]} items of a history and finds up to
{config["num_candidates"]} items {config["method"]},
so that it cannot name an item that is not there, is denied, or is outside of an allowed set.

{_PROGRAM if config.get("format") in PROGRAMS else _ONNX}
- model version: {config["model_version"]}
- catalogue version: {config["catalogue_version"]}
- bundle format: {config["bundle_format"]}, written by genrec {config["genrec_version"]}
{metrics}
Users without a known item in their history get the most popular items. `parity.json` certifies that the graph gives
the lists of the evaluated recommender for the requests in `probes.npz`; `manifest.json` has the sha256 of every file.

Intended use: candidates for users of the catalogue that the recommender was trained on. It has seen the interactions of
its training data and nothing else; items that these rarely show are rarely recommended.
"""


# How a bundle is asked. genrec comes from its sources or a wheel of them.
_ONNX = """    pip install -r requirements.txt
    python runtime.py . --history ID,ID,ID -k 10

As an HTTP server, without torch:

    pip install -r requirements-serve.txt
    pip install --no-deps genrec    # or its sources: a folder, a wheel
    python -m genrec.serving.server .

From Python: `CandidateGenerator.load(folder).recommend([[id, id]], 10)`, with `runtime.py` on the path.
"""
_PROGRAM = """The graph is a program of PyTorch, which needs torch and genrec to run. Servers and batch jobs take
format=onnx instead. From Python:

    from genrec.serving.torch_runtime import TorchGenerator
    TorchGenerator.load(folder).recommend([[id, id]], 10)
"""


def _codes(num_levels: int) -> str:
    return f" with semantic IDs of {num_levels} codes" if num_levels else ""
