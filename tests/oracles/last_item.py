"""A scorer of tables that reads histories, for tests of what searches for the lists of users."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from genrec.decoding.scorer import TableScorer


class LastItemScorer(TableScorer):
    """The table of a history is that of its last item, modulo the number of tables."""

    def encode(self, histories: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        last = F.pad(histories, (0, 1)).gather(1, (lengths - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
        return last.clamp(min=0) % len(self.log_probs[0])
