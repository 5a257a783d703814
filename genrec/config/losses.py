"""The training losses of recommenders: the ``loss`` section of ``train``. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class CrossEntropyLoss:
    """Cross-entropy of the codes, the mean over the levels; under model.normalisation=trie it is MSL's."""

    name: Literal["cross_entropy"] = "cross_entropy"


Loss = CrossEntropyLoss
