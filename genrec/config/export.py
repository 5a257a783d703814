"""The keys of ``export``, ``triton`` and ``trie``. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genrec.config.fields import key
from genrec.config.training import Search, SearchSection


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """A recommender -> a bundle: one folder that recommends with NumPy and ONNX Runtime alone."""

    dataset: Path = key("folder of the prepared dataset that the recommender was trained on")
    recommender: Path = key("folder of a recommender: generative, dense or a hybrid")
    semantic_ids: Path | None = key(
        "folder of a later version of its semantic IDs, whose items are recommended; null: those it was trained on",
        None,
    )
    output: Path = key("folder of the bundle to write")
    overwrite: bool = key("replace an existing output", False)
    format: Literal["onnx", "torch_export", "aot_inductor"] = key(
        "the graph: for ONNX Runtime; as torch.export's .pt2, which needs torch; or compiled by AOTInductor for this "
        "kind of processor, which needs torch to run and a C++ compiler to make",
        "onnx",
    )
    graph: Path | None = key(
        "folder of an earlier bundle of this recommender, whose graph the new catalogue goes into; null: a new graph",
        None,
    )
    search: Search = key("how it searches", SearchSection)
    spare_children: int = key(
        "more children of a node, on each level, that later catalogues may have without a new graph", 8, minimum=0
    )
    tags: tuple[str, ...] = key(
        "item columns that requests may filter by, as 'column=value'; []: none", ("brand", "categories")
    )
    num_probes: int = key("requests that the exported graph has to answer as the recommender does", 24, minimum=1)
    verify: bool = key("compare both in a fresh process, and fail (exit code 4) if they differ", True)
    seed: int = key("seed of the probes", 0, minimum=0)


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """A bundle -> a model repository of Triton or KServe, whose model holds the catalogue."""

    bundle: Path = key("folder of a bundle")
    output: Path = key("folder of the model repository to write")
    overwrite: bool = key("replace an existing output", False)
    model_name: str = key("name of the model in it", "genrec")
    version: int = key("its version", 1, minimum=1)
    max_batch_size: int = key("requests that the server may put together", 64, minimum=1)
    max_queue_delay: int = key("microseconds that it may wait for more", 500, minimum=0)


@dataclass(frozen=True, kw_only=True)
class TrieConfig:
    """Semantic IDs -> their trie, in a form that other engines decode under."""

    semantic_ids: Path = key("folder of semantic IDs, of any version")
    output: Path = key("file to write: .npz of `csr`, .json of `prefixes`")
    overwrite: bool = key("replace an existing output", False)
    format: Literal["csr", "prefixes"] = key(
        "compressed sparse rows over states and tokens, or the tokens that may follow each prefix", "csr"
    )
    token: str = key("text of a code in `prefixes`; {level} is a, b, c, ... and {code} the number", "<{level}_{code}>")
