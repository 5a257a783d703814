"""What lies in a bundle beside the graph, and the certificate that a fresh process gives it.

Knows arrays, JSON and the runtime, of which every bundle takes a copy along; must not know models or searches.
"""
# N items, L levels

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genrec.artifacts import ArtifactWriter
from genrec.errors import GateError
from genrec.files import write_json, write_text
from genrec.serving import runtime

KIND = "bundle"
EXPORTED = "model.pt2"
REQUIREMENTS = "numpy>=2.0\nonnxruntime>=1.20\n"


def write_catalogue(
    writer: ArtifactWriter, arrays: Mapping[str, np.ndarray], *, item_ids: Sequence[str], titles: Sequence[str] | None
) -> str:
    """catalogue.npz and items.json.

    Args:
        writer: of the bundle.
        arrays: what the graph reads, and `codes` [N, L].
        item_ids: [N].
        titles: [N]; None: there are none.

    Returns:
        The version of the catalogue: a sha256 over all of it.
    """
    with writer.path(runtime.CATALOGUE).open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    items: dict[str, Any] = {"item_ids": list(item_ids)}
    if titles is not None:
        items["titles"] = list(titles)
    write_json(writer.path(runtime.ITEMS), items)
    digest = hashlib.sha256(json.dumps(items, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def write_runtime(writer: ArtifactWriter, config: Mapping[str, Any]) -> None:
    """config.json, the copy of the runtime, what it needs, and the model card."""
    write_json(writer.path(runtime.CONFIG), config)
    write_text(writer.path("runtime.py"), Path(runtime.__file__).read_text("utf-8"))
    write_text(writer.path("requirements.txt"), REQUIREMENTS)
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

A {model["name"]} recommender over {counts["num_items"]:,} items with semantic IDs of {counts["num_levels"]} codes. The
graph reads at most the last {config["history_length"]} items of a history and finds up to {config["num_candidates"]}
items by a beam search of width {config["beam_width"]} over the trie of the catalogue, so that it cannot name an item
that is not there, is denied, or is outside of an allowed set.

    pip install -r requirements.txt
    python runtime.py . --history ID,ID,ID -k 10

From Python: `CandidateGenerator.load(folder).recommend([[id, id]], 10)`, with `runtime.py` on the path.

- model version: {config["model_version"]}
- catalogue version: {config["catalogue_version"]}
- bundle format: {config["bundle_format"]}, written by genrec {config["genrec_version"]}
{metrics}
Users without a known item in their history get the most popular items. `parity.json` certifies that the graph gives
the lists of the evaluated recommender for the requests in `probes.npz`; `manifest.json` has the sha256 of every file.

Intended use: candidates for users of the catalogue that the recommender was trained on. It has seen the interactions of
its training data and nothing else; items that these rarely show are rarely recommended.
"""
