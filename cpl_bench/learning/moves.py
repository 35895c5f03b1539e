"""The transitions within a batch of segments: what a critic learns from."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cpl_bench.learning.interface import PreferenceBatch
from cpl_bench.learning.losses import averaged


class Moves(NamedTuple):
    """n transitions a member."""

    segments: PreferenceBatch
    """The same steps, still in their segments."""
    observations: Tensor  # (s, n, o)
    actions: Tensor  # (s, n, a)
    next_observations: Tensor  # (s, n, o)
    rewards: Tensor | None  # (s, n), None: the batch has none
    terminated: Tensor | None  # (s, n), None: none does
    counts: Tensor | None  # (s, n), 0 for what is no transition; None: all are


def moves_of(batch: PreferenceBatch, wanted: int = 0) -> Moves:
    """About `wanted` steps of a batch, evenly spaced in each segment, and what followed; 0: all.

    A segment's last step has no next observation in the batch: it is no candidate, unless the data
    hold terminations. Then it is one, and counts only where the task ended with it, for then
    nothing follows. A transition drawn alone (k = 2, no comparisons) is its first step.
    """
    _, segments, k, _ = batch.observations.shape
    alone = k == 2 and not batch.first.shape[1]
    candidates = k - 1 if alone or batch.terminated is None else k
    count = min(max((wanted or segments * candidates) // segments, 1), candidates)
    spread = torch.arange(count, device=batch.step.device) * candidates
    steps = (spread + batch.step % candidates) // count  # each equally often, over time
    after = (steps + 1).clamp_max(k - 1)
    rewards, terminated, counts = batch.rewards, batch.terminated, None
    if rewards is not None:
        rewards = rewards.index_select(2, steps)
    if terminated is not None:
        terminated = terminated.index_select(2, steps)
        counts = None if alone else ((steps < k - 1) | terminated).flatten(1).float()
    chosen = replace(
        batch,
        observations=batch.observations.index_select(2, steps),
        actions=batch.actions.index_select(2, steps),
        rewards=rewards,
        terminated=terminated,
    )
    return Moves(
        segments=chosen,
        observations=chosen.observations.flatten(1, 2),
        actions=chosen.actions.flatten(1, 2),
        next_observations=batch.observations.index_select(2, after).flatten(1, 2),
        rewards=None if rewards is None else rewards.flatten(1),
        terminated=None if terminated is None else terminated.flatten(1),
        counts=counts,
    )


def standardised(
    rewards: Float[Tensor, "s n"], counts: Float[Tensor, "s n"] | None
) -> Float[Tensor, "s n"]:
    """Each member's rewards with mean 0 and deviation 1 over those that count."""
    if counts is None:
        mean, spread = rewards.mean(1, keepdim=True), rewards.std(1, keepdim=True)
    else:
        mean = averaged(rewards, counts).unsqueeze(1)
        squares = ((rewards - mean).square() * counts).sum(1, keepdim=True)
        spread = (squares / (counts.sum(1, keepdim=True) - 1).clamp_min(1)).sqrt()
    return (rewards - mean) / spread.clamp_min(1e-6)
