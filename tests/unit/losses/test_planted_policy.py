"""Sibling-GRPO on a planted reward: where candidates share long prefixes it learns what GRPO loses in the noise.

The policy is a table of logits of the last code behind each of six prefixes of three codes. A prefix brings luck that
is drawn anew for every request and cannot be learnt; behind each, one of four last codes is worth a little more. The
candidates of a request are two distinct last codes behind every prefix. GRPO measures what they are worth against the
spread of the whole request, siblings measure it against each other alone.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genrec.losses.advantages import build_candidate_tree, group_advantages, sibling_advantages
from genrec.losses.policy import policy_loss

REQUESTS, PREFIXES, LAST = 4, 6, 4
GOOD = torch.tensor([2, 1, 0, 3, 1, 2])  # the last code that is worth more, behind each prefix
WORTH = 0.05


def sample(logits: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Codes [R, 4] and the request of each candidate."""
    last = torch.multinomial(logits.softmax(1).repeat(REQUESTS, 1), 2, generator=random)
    prefix = torch.arange(PREFIXES).repeat(REQUESTS).repeat_interleave(2)
    request = torch.arange(REQUESTS).repeat_interleave(2 * PREFIXES)
    return torch.stack([prefix, prefix, prefix, last.flatten()], dim=1), request


def tune(alpha: float, rate: float, seed: int, num_steps: int = 40) -> float:
    """How probable the better last codes are after some steps, from 1/4: the planted reward over its most."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.nn.Parameter(torch.zeros(PREFIXES, LAST))
    optimizer = torch.optim.SGD([logits], lr=rate)
    for _ in range(num_steps):
        codes, request = sample(logits.detach(), random)
        luck = torch.randn(REQUESTS, PREFIXES, generator=random)[request, codes[:, 0]]
        rewards = luck + WORTH * (codes[:, 3] == GOOD[codes[:, 0]])
        tree = build_candidate_tree(codes, request)
        own = torch.nn.functional.pad(logits.log_softmax(1)[codes[:, 0], codes[:, 3]].unsqueeze(1), (3, 0))
        siblings = sibling_advantages(rewards, tree) if alpha else None
        weights, group = torch.ones(len(codes), 4), group_advantages(rewards, tree)
        optimizer.zero_grad()
        policy_loss(own, own.detach(), weights, group, siblings=siblings, alpha=alpha).loss.backward()
        optimizer.step()
    return float(logits.detach().softmax(1)[torch.arange(PREFIXES), GOOD].mean())


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_siblings_learn_what_a_request_drowns(seed: int) -> None:
    tuned = tune(alpha=1.0, rate=10.0, seed=seed)
    plain = {rate: tune(alpha=0.0, rate=rate, seed=seed) for rate in (3.0, 10.0, 30.0, 100.0)}
    print(f"seed {seed}: Sibling-GRPO {tuned:.3f}, GRPO by learning rate {plain}")
    assert tuned > 0.9
    assert tuned > max(plain.values()) + 0.2, "whatever the rate of the other"
