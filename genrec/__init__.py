"""Generative recommendation, from raw interactions to the served item id.

The public names, each imported when it is first used:

>>> import genrec
>>> genrec.Ragged.from_lists([[3, 1], [4]]).lengths.tolist()
[2, 1]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrec.artifacts import Artifact as Artifact
    from genrec.artifacts import load_artifact as load_artifact
    from genrec.baselines.base import recommend as recommend
    from genrec.baselines.item_knn import DirectedItemKnn as DirectedItemKnn
    from genrec.baselines.markov import LastItemMarkov as LastItemMarkov
    from genrec.baselines.popularity import Popularity as Popularity
    from genrec.baselines.popularity import RecentPopularity as RecentPopularity
    from genrec.data.audit import audit as audit
    from genrec.data.dataset import Dataset as Dataset
    from genrec.data.dataset import save_dataset as save_dataset
    from genrec.data.prepare import prepare as prepare
    from genrec.data.schema import RawData as RawData
    from genrec.data.sequences import Cases as Cases
    from genrec.data.sequences import Ragged as Ragged
    from genrec.data.sources.registry import read_source as read_source
    from genrec.data.synthetic import PlantedCatalogue as PlantedCatalogue
    from genrec.embeddings.store import load_embeddings as load_embeddings
    from genrec.errors import GenrecError as GenrecError
    from genrec.evaluation.evaluate import evaluate_models as evaluate_models
    from genrec.evaluation.evaluate import load_evaluation as load_evaluation
    from genrec.runs import RunDirectory as RunDirectory

__version__ = "0.1.0"

_HOMES = {
    "Artifact": "artifacts",
    "load_artifact": "artifacts",
    "recommend": "baselines.base",
    "DirectedItemKnn": "baselines.item_knn",
    "LastItemMarkov": "baselines.markov",
    "Popularity": "baselines.popularity",
    "RecentPopularity": "baselines.popularity",
    "audit": "data.audit",
    "Dataset": "data.dataset",
    "save_dataset": "data.dataset",
    "prepare": "data.prepare",
    "RawData": "data.schema",
    "Cases": "data.sequences",
    "Ragged": "data.sequences",
    "read_source": "data.sources.registry",
    "PlantedCatalogue": "data.synthetic",
    "load_embeddings": "embeddings.store",
    "GenrecError": "errors",
    "evaluate_models": "evaluation.evaluate",
    "load_evaluation": "evaluation.evaluate",
    "RunDirectory": "runs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'genrec' has no attribute {name!r}")
    return getattr(importlib.import_module(f"genrec.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])
