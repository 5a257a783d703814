"""From the ``model`` section of ``train`` to an untrained recommender."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from genrec.config import models
from genrec.models.decoder_only import DecoderOnlyRecommender
from genrec.models.encoder_decoder import EncoderDecoderRecommender
from genrec.models.hierarchical import HierarchicalRecommender
from genrec.models.huggingface import HuggingFaceRecommender
from genrec.models.item_features import FeatureValues
from genrec.models.settings import (
    DecoderOnlySettings,
    EncoderDecoderSettings,
    HierarchicalSettings,
    HuggingFaceSettings,
    LoraSettings,
    MemorySettings,
)
from genrec.semantic_ids.trie import SemanticIdTrie


def build_model(
    section: models.Model, trie: SemanticIdTrie, *, features: Mapping[str, FeatureValues] | None = None
) -> Any:
    """The `Recommender`, a torch module, with random weights drawn from torch's generator.

    Args:
        section: its settings.
        trie: the catalogue.
        features: what the `item_features` of a hierarchical model say of the items.

    Raises:
        ConfigError: values that do not go together.
    """
    if isinstance(section, models.HierarchicalModel):
        return _hierarchical(section, trie, features)
    return _BUILDERS[type(section)](section, trie)


def _hierarchical(
    section: models.HierarchicalModel, trie: SemanticIdTrie, features: Mapping[str, FeatureValues] | None
) -> HierarchicalRecommender:
    values = _values(section)
    memory = MemorySettings(**values.pop("memory"))
    return HierarchicalRecommender(trie, HierarchicalSettings(**values, memory=memory), features)


def _encoder_decoder(section: models.EncoderDecoderModel, trie: SemanticIdTrie) -> EncoderDecoderRecommender:
    return EncoderDecoderRecommender(trie, EncoderDecoderSettings(**_values(section)))


def _decoder_only(section: models.DecoderOnlyModel, trie: SemanticIdTrie) -> DecoderOnlyRecommender:
    return DecoderOnlyRecommender(trie, DecoderOnlySettings(**_values(section)))


def _huggingface(section: models.HuggingFaceModel, trie: SemanticIdTrie) -> HuggingFaceRecommender:
    values = _values(section)
    lora = LoraSettings(**values.pop("lora"))
    return HuggingFaceRecommender.from_pretrained(trie, HuggingFaceSettings(**values, lora=lora))


def _values(section: models.Model) -> dict[str, Any]:
    return {key: value for key, value in asdict(section).items() if key != "name"}


_BUILDERS: dict[type, Callable[[Any, SemanticIdTrie], Any]] = {
    models.EncoderDecoderModel: _encoder_decoder,
    models.DecoderOnlyModel: _decoder_only,
    models.HuggingFaceModel: _huggingface,
}
