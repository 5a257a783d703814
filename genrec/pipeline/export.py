"""``genrec export``: a recommender and its catalogue -> a bundle, certified in a fresh process."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from genrec.artifacts import Artifact, ArtifactWriter, check_parent, load_artifact, write_artifact
from genrec.config.export import ExportConfig
from genrec.config.load import to_plain
from genrec.data.dataset import Dataset
from genrec.data.item_tags import tags_of
from genrec.data.sequences import Ragged
from genrec.decoding.hybrid import Hybrid
from genrec.errors import ConfigError
from genrec.files import read_json, write_json
from genrec.pipeline.open_recommender import HYBRID, open_recommender
from genrec.pipeline.published import CODEBOOKS_FILE, Published, load_published
from genrec.pipeline.recommenders import KIND
from genrec.seeding import generator as random_generator
from genrec.serving import bundle
from genrec.serving.exportable import Exportable, exportable
from genrec.serving.graph import Widths
from genrec.serving.programs import PROGRAMS
from genrec.serving.runtime import BUNDLE_FORMAT, CONFIG, MODEL, PARITY, PREPARE, TOLERANCE
from genrec.terminal import Outcome, Progress, Table

TORCH_RUNTIME = "genrec.serving.torch_runtime"


def export(config: ExportConfig, *, progress: Progress) -> Outcome:
    """Reads the recommender, traces its search or takes a graph that is there, asks it the probes, and seals."""
    dataset = Dataset.load(config.dataset)
    artifact, search = open_recommender(config.recommender, dataset, config.search, semantic_ids=config.semantic_ids)
    source = exportable(search, where=config.recommender)
    parents = {"dataset": dataset.artifact, "recommender": artifact}
    published = _published(config, artifact, dataset) if source.trie is not None else None
    if published is not None:
        parents["semantic_ids"] = published.artifact
    items = dataset.items if published is None else published.items
    tags = tags_of(items, config.tags, where="key 'tags'") if config.tags else None
    before = None if config.graph is None else _earlier(config, artifact)
    if before is not None:
        parents["graph"] = before
    facts: dict[str, Any] = {"bundle_format": BUNDLE_FORMAT, "format": config.format}
    with write_artifact(
        config.output, kind=bundle.KIND, facts=facts, parents=parents, overwrite=config.overwrite
    ) as writer:
        progress("export", 0, 3)
        graph = _take_graph(config, before, source, writer) if before else None
        graph = graph or _write_graph(config, source, writer)
        progress("export", 1, 3)
        description = bundle.describe(
            search,
            graph,
            model_version=artifact.identity,
            catalogue_version=_write_catalogue(source, published, items, tags, writer),
            format=config.format,
            metrics={name: value for name, value in artifact.facts.items() if "@" in name},
            configuration={name: value for name, value in to_plain(config).items() if name not in _PLACES},
        )
        bundle.write_runtime(writer, description)
        requests = _probes(config, dataset, source)
        bundle.write_probes(writer, search, graph["num_candidates"], **requests)
        progress("export", 2, 3)
        writer.facts |= {name: description[name] for name in ("model_version", "catalogue_version")}
        certificate = _certify(config, writer)
        progress("export", 3, 3)
    return _outcome(config, writer.artifact, description, certificate, num_tags=len(tags or ()))


def _published(config: ExportConfig, artifact: Artifact, dataset: Dataset) -> Published:
    """The version of the semantic IDs whose items are recommended; a hybrid's are those of its generative side."""
    if config.semantic_ids is not None:
        return load_published(config.semantic_ids, dataset)
    if artifact.facts.get("name") == HYBRID:
        artifact = load_artifact(artifact.parent_paths["generative"], kind=KIND)
    return load_published(Path(artifact.parent_paths["semantic_ids"]), dataset)


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
    source: Exportable,
    writer: ArtifactWriter,
) -> dict[str, Any]:
    """Copies the graph, if the catalogue fits into it; says what it was made for."""
    graph = read_json(before.file(CONFIG))["graph"]
    if source.trie is not None:
        widths = Widths(**{name: _tuples(value) for name, value in graph["widths"].items()})
        widths.check(source.trie, where="key 'graph'")
    found = bundle.signature(source.tensors)
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
    _check_search(graph, source.settings | {"num_candidates": num_candidates(config)})
    for name in (MODEL, PREPARE, *PROGRAMS.values()):
        if name in before.files:
            shutil.copyfile(before.file(name), writer.path(name))
    return graph


def _check_search(graph: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raises ConfigError if a graph searches otherwise than asked."""
    width = graph["beam_width"]  # bundles of before there were other searches say nothing else
    settings = graph.get("search", {} if width is None else {"name": "beam", "beam_width": width})
    known = {**settings, "num_candidates": graph["num_candidates"]}
    if asked == known:
        return
    names = [name for name in {**known, **asked} if known.get(name) != asked.get(name)]
    raise ConfigError(
        "the graph of that bundle searches otherwise",
        where="key 'graph'",
        expected=", ".join(f"search.{name}={known[name]}" for name in names if name in known),
        found=", ".join(f"search.{name}={asked[name]}" for name in names if name in asked),
        fix="leave out graph, or ask for the same",
    )


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_SPARE_PROBES = 5  # times as many are drawn where not all of them can be asked
_PLACES = ("dataset", "recommender", "semantic_ids", "output", "graph")


def _write_graph(config: ExportConfig, source: Exportable, writer: ArtifactWriter) -> dict[str, Any]:
    widths = None if source.trie is None else Widths.of(source.trie, spare_children=config.spare_children)
    return bundle.write_graph(
        writer, source.search, widths=widths, num_candidates=num_candidates(config), form=config.format
    )


def num_candidates(config: ExportConfig) -> int:
    """Length of the lists."""
    return config.search.num_candidates or config.search.beam_width


def _write_catalogue(
    source: Exportable,
    published: Published | None,
    items: pl.DataFrame,
    tags: Mapping[str, list[int]] | None,
    writer: ArtifactWriter,
) -> str:
    """A dense recommender has no codes."""
    codes = np.zeros((len(items), 0), dtype=np.int32)
    if published is not None:
        codes = published.version.table.codes
        if CODEBOOKS_FILE in published.artifact.files:
            shutil.copyfile(published.artifact.file(CODEBOOKS_FILE), writer.path(CODEBOOKS_FILE))
    titles = items["title"].fill_null("").to_list()
    return bundle.write_catalogue(
        writer,
        source.tensors,
        codes,
        item_ids=source.search.item_ids,
        titles=titles if any(titles) else None,
        tags=tags,
    )


def _probes(config: ExportConfig, dataset: Dataset, source: Exportable) -> dict[str, Any]:
    """Requests with and without history, deny list and allowed set.

    Histories are the ends of those of users; every fourth request denies what it has seen and some more, every third
    may get only a part of the catalogue, and the first has no history. A hybrid is not asked where its list hangs on
    rounding (`Hybrid.is_firm`): no two machines would agree.
    """
    search = source.search
    draw, num_items = random_generator(config.seed, 5), search.num_items
    num_drawn = config.num_probes * (_SPARE_PROBES if isinstance(search, Hybrid) else 1)
    users = draw.choice(dataset.num_users, min(num_drawn, dataset.num_users), replace=False)
    index = {item: place for place, item in enumerate(search.item_ids)}
    names = dataset.item_ids.to_list()
    rows = [
        [index[names[item]] for item in row if names[item] in index][-source.history_length :]
        for row in dataset.histories().take(np.sort(users)).to_lists()
    ]
    rows[0] = []
    denied = [[*row, *draw.integers(num_items, size=5)] if place % 4 == 0 else [] for place, row in enumerate(rows)]
    allow = np.ones((len(rows), num_items), dtype=bool)
    allow[::3] = draw.random((len(allow[::3]), num_items)) < 0.3
    asked = range(len(rows))
    if isinstance(search, Hybrid):
        firm = (place for place in asked if _is_firm(search, rows[place], denied[place], allow[place]))
        asked = list(islice(firm, config.num_probes))
    return {
        "histories": [rows[place] for place in asked],
        "denied": [denied[place] for place in asked],
        "allow": allow[asked],
    }


def _is_firm(search: Hybrid, history: list[int], denied: list[int], allow: np.ndarray) -> bool:
    deny, asked = torch.from_numpy(bundle.padded([denied])), Ragged.from_lists([history])
    return bool(search.is_firm(asked, 2 * TOLERANCE, deny=deny, allow=torch.from_numpy(allow)))


def _certify(config: ExportConfig, writer: ArtifactWriter) -> dict[str, Any] | None:
    if not config.verify:
        return None
    folder = writer.path(PARITY).parent
    certificate = bundle.certify(folder, module=TORCH_RUNTIME if config.format in PROGRAMS else None)
    write_json(writer.path(PARITY), certificate)
    return certificate


def _outcome(
    config: ExportConfig,
    artifact: Artifact,
    description: Mapping[str, Any],
    certificate: Mapping[str, Any] | None,
    *,
    num_tags: int,
) -> Outcome:
    size = sum(file["size"] for file in artifact.files.values())
    summary: dict[str, Any] = {
        "output": str(config.output),
        "identity": artifact.identity,
        "model_version": description["model_version"],
        "catalogue_version": description["catalogue_version"],
        "num_items": description["catalogue"]["num_items"],
        "num_tags": num_tags,
        "num_bytes": size,
        "parity": certificate,
    }
    rows = [("items", f"{summary['num_items']:,}"), ("tags", f"{num_tags:,}"), ("size", f"{size / 1e6:.1f} MB")]
    rows += [("model version", artifact.facts["model_version"][:12])]
    rows += [("catalogue version", artifact.facts["catalogue_version"][:12])]
    notes = ["nothing was compared: verify=false"] if certificate is None else []
    if config.tags and not num_tags:
        notes.append(f"no item has a value in {' or '.join(config.tags)}, so requests cannot filter by tags")
    if certificate is not None:
        if certificate["num_probes"] < config.num_probes:
            notes.append(
                f"{certificate['num_probes']} probes of {config.num_probes}: the lists of others hang on rounding"
            )
        rows.append(("probes answered alike", f"{certificate['num_probes']} of {certificate['num_probes']}"))
        rows.append(("largest difference of scores", f"{certificate['largest_score_difference']:.1e}"))
    table = Table(f"{config.output}: {config.format}", ("what", "value"), tuple(rows), left=("what",))
    follow = f"python {config.output}/runtime.py {config.output} --history ID,ID -k 10"
    return Outcome(summary, (table,), notes=tuple(notes), next=follow if config.format == "onnx" else "")
