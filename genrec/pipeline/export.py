"""``genrec export``: a recommender and its catalogue -> a bundle, certified in a fresh process."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrec import __version__
from genrec.artifacts import Artifact, ArtifactWriter, check_parent, load_artifact, write_artifact
from genrec.config.export import ExportConfig
from genrec.config.load import to_plain
from genrec.data.dataset import Dataset
from genrec.data.sequences import Ragged
from genrec.decoding.generator import CandidateGenerator
from genrec.errors import ConfigError
from genrec.files import read_json, write_json
from genrec.pipeline.open_recommender import open_generative
from genrec.pipeline.published import CODEBOOKS_FILE, Published, load_published
from genrec.seeding import generator as random_generator
from genrec.serving import bundle
from genrec.serving.graph import (
    SearchGraph,
    Widths,
    catalogue_tensors,
    check_supported,
    select_by_topk,
    trace,
)
from genrec.serving.runtime import BUNDLE_FORMAT, CONFIG, MODEL, PARITY, PREPARE, PROBES
from genrec.terminal import Outcome, Progress, Table

TORCH_RUNTIME = "genrec.serving.torch_runtime"


def export(config: ExportConfig, *, progress: Progress) -> Outcome:
    """Reads the recommender, traces its search or takes a graph that is there, asks it the probes, and seals."""
    dataset = Dataset.load(config.dataset)
    artifact, generator = open_generative(config.recommender, dataset, config.search, semantic_ids=config.semantic_ids)
    check_supported(generator.scorer, where=config.recommender)
    published = load_published(config.semantic_ids or Path(artifact.parent_paths["semantic_ids"]), dataset)
    parents = {"dataset": dataset.artifact, "recommender": artifact, "semantic_ids": published.artifact}
    before = None if config.graph is None else _earlier(config, artifact)
    if before is not None:
        parents["graph"] = before
    tensors = catalogue_tensors(generator.scorer, generator.train_counts.cpu().numpy())
    facts: dict[str, Any] = {"bundle_format": BUNDLE_FORMAT, "format": config.format}
    with write_artifact(
        config.output, kind=bundle.KIND, facts=facts, parents=parents, overwrite=config.overwrite
    ) as writer:
        progress("export", 0, 3)
        graph = _take_graph(config, before, generator, tensors, writer) if before else None
        graph = graph or _write_graph(config, generator, tensors, writer)
        progress("export", 1, 3)
        version = _write_catalogue(published, tensors, writer)
        description = _describe(config, artifact, generator, graph, version)
        bundle.write_runtime(writer, description)
        _write_probes(config, dataset, generator, graph["num_candidates"], writer)
        progress("export", 2, 3)
        writer.facts |= {name: description[name] for name in ("model_version", "catalogue_version")}
        certificate = _certify(config, writer)
        progress("export", 3, 3)
    return _outcome(config, writer.artifact, description, certificate)


def _earlier(config: ExportConfig, recommender: Artifact) -> Artifact:
    """The bundle whose graph is to be used again."""
    assert config.graph is not None
    before = load_artifact(config.graph, kind=bundle.KIND)
    check_parent(before, "recommender", recommender)
    if before.facts["format"] != config.format:
        raise ConfigError(
            "the graph of that bundle has another format",
            where="key 'graph'",
            expected=config.format,
            found=before.facts["format"],
            fix="leave out format",
        )
    return before


def _take_graph(
    config: ExportConfig,
    before: Artifact,
    generator: CandidateGenerator,
    tensors: Mapping[str, torch.Tensor],
    writer: ArtifactWriter,
) -> dict[str, Any]:
    """Copies the graph, if the catalogue fits into it; says what it was made for."""
    graph = read_json(before.file(CONFIG))["graph"]
    Widths(**{name: _tuples(value) for name, value in graph["widths"].items()}).check(
        generator.trie, where="key 'graph'"
    )
    found = _signature(tensors)
    if found != graph["signature"]:
        other = sorted(
            name for name in found.keys() | graph["signature"].keys() if found.get(name) != graph["signature"].get(name)
        )
        raise ConfigError(
            "the catalogue has other tables than the graph of that bundle reads",
            where="key 'graph'",
            found=", ".join(other),
            fix="leave out graph",
        )
    if (
        config.search.beam_width != graph["beam_width"]
        or (config.num_candidates or graph["num_candidates"]) != graph["num_candidates"]
    ):
        raise ConfigError(
            "the graph of that bundle searches otherwise",
            where="key 'graph'",
            expected=f"search.beam_width={graph['beam_width']} and num_candidates={graph['num_candidates']}",
            found=f"{config.search.beam_width} and {config.num_candidates}",
            fix="leave out graph, or ask for the same",
        )
    for name in (MODEL, PREPARE, bundle.EXPORTED):
        if name in before.files:
            shutil.copyfile(before.file(name), writer.path(name))
    return graph


def _write_graph(
    config: ExportConfig,
    generator: CandidateGenerator,
    tensors: Mapping[str, torch.Tensor],
    writer: ArtifactWriter,
) -> dict[str, Any]:
    """Traces the search and writes it; says what it was made for."""
    widths = Widths.of(generator.trie, spare_children=config.spare_children)
    num_candidates = config.num_candidates or config.search.beam_width
    sizes = {"widths": widths, "beam_width": config.search.beam_width, "num_candidates": num_candidates}
    model: Any = generator.scorer
    if config.format == "torch_export":
        program = trace(SearchGraph(model, **sizes).eval(), tensors)
        with writer.path(bundle.EXPORTED).open("wb") as file:
            torch.export.save(program, file)
    else:
        from genrec.serving.onnx_graph import split_by_request, to_onnx  # the extra `export`

        program = trace(SearchGraph(model, **sizes, select=select_by_topk).eval(), tensors)
        first, rest = split_by_request(to_onnx(program, list(tensors)))
        writer.path(MODEL).write_bytes(rest.SerializeToString(deterministic=True))
        if first is not None:
            writer.path(PREPARE).write_bytes(first.SerializeToString(deterministic=True))
    return {**sizes, "widths": asdict(widths), "signature": _signature(tensors)}


def _signature(tensors: Mapping[str, torch.Tensor]) -> dict[str, list[Any]]:
    """Of each array of a catalogue its type and what is not free of its shape."""
    return {name: [str(tensor.dtype).removeprefix("torch."), *tensor.shape[1:]] for name, tensor in tensors.items()}


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _write_catalogue(published: Published, tensors: Mapping[str, torch.Tensor], writer: ArtifactWriter) -> str:
    arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    arrays["codes"] = published.version.table.codes
    titles = published.items["title"].fill_null("").to_list()
    if CODEBOOKS_FILE in published.artifact.files:
        shutil.copyfile(published.artifact.file(CODEBOOKS_FILE), writer.path(CODEBOOKS_FILE))
    return bundle.write_catalogue(
        writer, arrays, item_ids=published.version.item_ids, titles=titles if any(titles) else None
    )


def _describe(
    config: ExportConfig, artifact: Artifact, generator: CandidateGenerator, graph: Mapping[str, Any], version: str
) -> dict[str, Any]:
    """config.json."""
    facts, trie = artifact.facts, generator.trie
    return {
        "bundle_format": BUNDLE_FORMAT,
        "genrec_version": __version__,
        "format": config.format,
        "model_version": artifact.identity,
        "catalogue_version": version,
        "history_length": generator.max_history,
        "num_candidates": graph["num_candidates"],
        "beam_width": graph["beam_width"],
        "catalogue": {"num_items": trie.num_items, "num_levels": trie.num_levels},
        "model": {name: value for name, value in generator.scorer.facts.items() if name != "features"},  # pyright: ignore[reportAttributeAccessIssue]
        "metrics": {name: value for name, value in facts.items() if "@" in name},
        "graph": dict(graph),
        "configuration": {name: value for name, value in to_plain(config).items() if name not in _PLACES},
    }


_PLACES = ("dataset", "recommender", "semantic_ids", "output", "graph")


def _write_probes(
    config: ExportConfig, dataset: Dataset, generator: CandidateGenerator, k: int, writer: ArtifactWriter
) -> None:
    """Requests with and without history, deny list and allowed set, and what the recommender answers.

    Histories are the ends of those of users; every fourth request denies what it has seen and some more, every third
    may get only a part of the catalogue, and the first has no history.
    """
    draw, num_items = random_generator(config.seed, 5), generator.num_items
    users = draw.choice(dataset.num_users, min(config.num_probes, dataset.num_users), replace=False)
    index = {item: place for place, item in enumerate(generator.item_ids)}
    names = dataset.item_ids.to_list()
    rows = [
        [index[names[item]] for item in row if names[item] in index][-generator.max_history :]
        for row in dataset.histories().take(np.sort(users)).to_lists()
    ]
    rows[0] = []
    denied = [[*row, *draw.integers(num_items, size=5)] if place % 4 == 0 else [] for place, row in enumerate(rows)]
    allow = np.ones((len(rows), num_items), dtype=bool)
    allow[::3] = draw.random((len(allow[::3]), num_items)) < 0.3
    histories, deny = _padded(rows), _padded(denied)
    found = generator.search(Ragged.from_lists(rows), k, deny=torch.from_numpy(deny), allow=torch.from_numpy(allow))
    with writer.path(PROBES).open("wb") as file:
        np.savez_compressed(
            file,
            histories=histories,
            lengths=np.array([len(row) for row in rows], dtype=np.int64),
            deny=deny,
            allow=allow,
            item_index=found.item_index.cpu().numpy(),
            score=found.score.cpu().numpy().astype(np.float32),
        )


def _padded(rows: list[list[int]]) -> np.ndarray:
    padded = np.full((len(rows), max(1, *map(len, rows))), -1, dtype=np.int64)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return padded


def _certify(config: ExportConfig, writer: ArtifactWriter) -> dict[str, Any] | None:
    if not config.verify:
        return None
    folder = writer.path(PARITY).parent
    certificate = bundle.certify(folder, module=TORCH_RUNTIME if config.format == "torch_export" else None)
    write_json(writer.path(PARITY), certificate)
    return certificate


def _outcome(
    config: ExportConfig, artifact: Artifact, description: Mapping[str, Any], certificate: Mapping[str, Any] | None
) -> Outcome:
    size = sum(file["size"] for file in artifact.files.values())
    summary: dict[str, Any] = {
        "output": str(config.output),
        "identity": artifact.identity,
        "model_version": description["model_version"],
        "catalogue_version": description["catalogue_version"],
        "num_items": description["catalogue"]["num_items"],
        "num_bytes": size,
        "parity": certificate,
    }
    rows = [("items", f"{summary['num_items']:,}"), ("size", f"{size / 1e6:.1f} MB")]
    rows += [("model version", artifact.facts["model_version"][:12])]
    rows += [("catalogue version", artifact.facts["catalogue_version"][:12])]
    if certificate is None:
        notes = ("nothing was compared: verify=false",)
    else:
        rows.append(("probes answered alike", f"{certificate['num_probes']} of {certificate['num_probes']}"))
        rows.append(("largest difference of scores", f"{certificate['largest_score_difference']:.1e}"))
        notes = ()
    table = Table(f"{config.output}: {config.format}", ("what", "value"), tuple(rows), left=("what",))
    follow = f"python {config.output}/runtime.py {config.output} --history ID,ID -k 10"
    return Outcome(summary, (table,), notes=notes, next=follow if config.format == "onnx" else "")
