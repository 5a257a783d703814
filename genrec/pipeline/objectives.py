"""From the ``loss`` section of ``train`` to the objective of its steps."""

from __future__ import annotations

from genrec.config import losses
from genrec.errors import ConfigError
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.training.objectives import Likelihood, Objective, Prefixes


def build_objective(section: losses.Loss, trie: SemanticIdTrie, *, seed: int) -> Objective:
    """The objective.

    Args:
        section: what is minimised.
        trie: the catalogue of the model.
        seed: of sampled items.

    Raises:
        ConfigError: weights for another number of levels, or a loss of dense recommenders.
    """
    if isinstance(section, losses.SampledSoftmaxLoss | losses.GbceLoss):
        raise ConfigError(
            "a loss over items, which only model=sasrec has",
            where="key 'loss'",
            expected="cross_entropy, prefix_pointwise or prefix_pairwise",
            found=section.name,
            fix="loss=cross_entropy",
        )
    likelihood = Likelihood(section.label_smoothing, section.level_weights)
    prefixes = None
    if not isinstance(section, losses.CrossEntropyLoss):
        stateless = section.weights == "stateless"
        prefixes = Prefixes(section.beta, section.eta, stateless=stateless)
        if isinstance(section, losses.PrefixPairwiseLoss):
            prefixes = Prefixes(
                section.beta,
                section.eta,
                stateless=stateless,
                num_negatives=section.num_negatives,
                temperature=section.temperature,
                depth_scaled=section.depth_scaled,
            )
    num_prefixes = [trie.num_nodes(level + 1) for level in range(trie.num_levels)]
    return Objective(num_prefixes, likelihood=likelihood, prefixes=prefixes, seed=seed)
