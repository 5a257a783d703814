"""A recipe: the configurations of several commands, whose folders the recipe names. Standard library only."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec.config.fields import key
from genrec.config.schema import EmbedConfig, EvaluateConfig, PrepareConfig
from genrec.config.training import TokenizeConfig, TrainConfig

# Where each command of a recipe writes and reads, below the recipe's output.
FOLDERS = {
    "prepare": {"output": "dataset"},
    "embed": {"dataset": "dataset", "output": "embeddings"},
    "tokenize": {"dataset": "dataset", "output": "semantic_ids"},
    "train": {"dataset": "dataset", "semantic_ids": "semantic_ids", "run": "train"},
    "evaluate": {"dataset": "dataset", "output": "evaluation"},
}


def decided_by(output: str, sections: Set[str]) -> dict[str, dict[str, Any]]:
    """The keys of the commands that the recipe decides, by section: their folders, and that these are replaced."""
    folder = Path(output)
    decided: dict[str, dict[str, Any]] = {
        section: {name: str(folder / part) for name, part in parts.items()} for section, parts in FOLDERS.items()
    }
    for section in decided.keys() - {"train"}:
        decided[section]["overwrite"] = True
    if "embed" in sections:
        decided["tokenize"]["tokenizer.embeddings"] = str(folder / "embeddings")
    decided["evaluate"]["recommenders.hierarchical"] = str(folder / "train" / "recommender")
    return decided


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """Raw files -> table: prepare, embed, tokenize, train, evaluate; what has not changed is used again."""

    output: Path = key("folder of everything the recipe makes")
    prepare: PrepareConfig = key("raw files -> dataset")
    embed: EmbedConfig | None = key("dataset -> embeddings; null where the semantic IDs are imported", None)
    tokenize: TokenizeConfig = key("embeddings -> semantic IDs")
    train: TrainConfig = key("semantic IDs -> recommender")
    evaluate: EvaluateConfig = key("everything -> table")
