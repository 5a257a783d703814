"""``genrec triton`` and ``genrec trie``: what was made here, for engines that are not."""

from __future__ import annotations

import io
from collections.abc import Callable
from string import Formatter, ascii_lowercase

import numpy as np

from genrec.artifacts import check_outside_artifacts, load_artifact, write_artifact
from genrec.config.export import TrieConfig, TritonConfig
from genrec.errors import ConfigError, RunError
from genrec.files import pretty_json, write_text, writing_by_others
from genrec.semantic_ids.layouts import prefixes, sparse_rows
from genrec.semantic_ids.table import load_semantic_ids
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.serving import bundle
from genrec.serving.graph import REQUEST_INPUTS
from genrec.serving.runtime import CATALOGUE, ITEMS, MODEL, PREPARE, engine
from genrec.serving.triton import check_config, entries_of, write_config
from genrec.terminal import Outcome, Progress, Table

REPOSITORY = "model_repository"


def triton(config: TritonConfig, *, progress: Progress) -> Outcome:
    """The graph with the catalogue as its constants, so that requests alone are sent; config.pbtxt beside it."""
    artifact = load_artifact(config.bundle, kind=bundle.KIND)
    if artifact.facts["format"] != "onnx":
        fix = "export one with format=onnx"
        raise ConfigError("the bundle has no ONNX graph", where=config.bundle, found=artifact.facts["format"], fix=fix)
    try:
        import onnx

        from genrec.serving.onnx_graph import joined, with_constants
    except ModuleNotFoundError as error:
        fix = "pip install 'genrec[export]'"
        raise ConfigError(f"a model repository needs the package {error.name}", fix=fix) from error
    with np.load(artifact.file(CATALOGUE), allow_pickle=False) as arrays:
        catalogue = {name: arrays[name] for name in arrays.files}
    model = onnx.load(artifact.file(MODEL))
    if PREPARE in artifact.files:
        model = joined(onnx.load(artifact.file(PREPARE)), model)
    model = with_constants(model, catalogue)
    folder, facts = f"{config.model_name}/{config.version}", {"bundle": artifact.identity, "name": config.model_name}
    with write_artifact(
        config.output, kind=REPOSITORY, facts=facts, parents={"bundle": artifact}, overwrite=config.overwrite
    ) as writer:
        path = writer.path(f"{folder}/model.onnx")
        path.write_bytes(model.SerializeToString(deterministic=True))
        session = engine().InferenceSession(str(path), providers=["CPUExecutionProvider"])
        inputs, outputs = entries_of(session.get_inputs()), entries_of(session.get_outputs())
        assert {entry.name for entry in inputs} == set(REQUEST_INPUTS), "an input that is no request's"
        text = write_config(
            config.model_name,
            inputs,
            outputs,
            max_batch_size=config.max_batch_size,
            max_queue_delay=config.max_queue_delay,
        )
        check_config(text, inputs, outputs)
        write_text(writer.path(f"{config.model_name}/config.pbtxt"), text)
        writer.path(f"{config.model_name}/{ITEMS}").write_bytes(artifact.file(ITEMS).read_bytes())
    rows = tuple((entry.name, entry.kind, str(list(entry.dims))) for entry in (*inputs, *outputs))
    table = Table(
        f"{config.output}: {config.model_name}", ("tensor", "type", "sizes a request"), rows, left=("tensor",)
    )
    summary = {"output": str(config.output), "identity": writer.artifact.identity, "inputs": len(inputs)}
    note = f"item_index counts the item_ids of {config.model_name}/{ITEMS}"
    return Outcome(summary, (table,), notes=(note,), next=f"tritonserver --model-repository={config.output}")


def trie(config: TrieConfig, *, progress: Progress) -> Outcome:
    """One file; whole or not at all."""
    if config.output.exists() and not config.overwrite:
        raise RunError("the file is there already", where=config.output, fix="set overwrite=true or another output")
    check_outside_artifacts(config.output)
    _, table = load_semantic_ids(config.semantic_ids)
    built = SemanticIdTrie.build(table.codes, table.codebook_sizes)
    if config.format == "csr":
        arrays, file = sparse_rows(built), io.BytesIO()
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
        content, size = file.getvalue(), len(arrays["csr_indptr"]) - 2
    else:
        found = prefixes(built, _namer(config.token))
        content, size = pretty_json(found).encode(), len(found)
    with writing_by_others(config.output, inside=config.output.parent):
        config.output.parent.mkdir(parents=True, exist_ok=True)
        partial = config.output.with_name(f".{config.output.name}.partial")
        partial.write_bytes(content)
        partial.replace(config.output)
    unit = "states" if config.format == "csr" else "prefixes"
    summary = {"output": str(config.output), "format": config.format, "num_items": built.num_items, f"num_{unit}": size}
    rows = (("items", f"{built.num_items:,}"), (unit, f"{size:,}"), ("size", f"{len(content) / 1e6:.1f} MB"))
    return Outcome(summary, (Table(f"{config.output}: {config.format}", ("what", "value"), rows, left=("what",)),))


def _namer(template: str) -> Callable[[int, int], str]:
    names = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    if names != {"level", "code"}:
        raise ConfigError(
            "a token is named by level and code", where="key 'token'", expected="{level} and {code}", found=template
        )
    return lambda level, code: template.format(level=ascii_lowercase[level], code=code)
