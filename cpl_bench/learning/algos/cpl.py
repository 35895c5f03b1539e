"""Contrastive Preference Learning, CPL and CPL(λ): clone, then contrast.

Hejna et al., arXiv 2310.13639v3: after behaviour cloning on all segments, the policy itself is the
advantage, A(s, a) = α log π(a|s), and learns from comparisons by cross-entropy. λ < 1 lowers the
weight of the rejected segment and with it the pull away from the data.

Deviations: dense data use every pair of a batch (the paper's dense setting; the released code draws
one partner a segment). The warm-up after cloning is linear, as released. The laptop preset's
λ = 0.65 is ours: 0.5 stayed near cloning on sweep-into, 0.75 ran off on drawer-open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from cpl_bench.core.errors import UserError
from cpl_bench.learning.config import check_training
from cpl_bench.learning.interface import Metrics, Phase, PreferenceBatch
from cpl_bench.learning.losses import (
    of_comparisons,
    preference_accuracy,
    preference_nll,
    preferred,
    segment_score,
)
from cpl_bench.learning.networks import Policy


@dataclass(frozen=True)
class CPLConfig:
    """CPL and CPL(λ); the defaults are the paper's for Meta-World with state observations."""

    lam: float = 0.5
    """λ in (0, 1]: the weight of the rejected segment; 1 is plain CPL."""
    alpha: float = 0.1
    """The temperature α of the segment score Σ α log π."""
    bc_weight: float = 0.0
    """Weight of an added cloning loss on the preferred segments; the paper's CPL(BC) has 1."""
    learning_rate: float = 1e-4
    """Adam's, in both phases."""
    hidden: tuple[int, ...] = (512, 512)
    """Widths of the hidden layers."""
    dropout: float = 0.25
    """Probability of dropping a hidden unit, rounded to a multiple of 1/256."""
    steps: int = 500_000
    """Gradient steps in all."""
    clone_steps: int = 200_000
    """The first of them clone all segments."""
    warmup_steps: int = 10_000
    """Steps over which the learning rate grows after cloning."""
    segments_per_batch: int = 192
    """Segments a gradient step sees; with dense data all their pairs are compared."""

    def __post_init__(self) -> None:
        if not 0 < self.lam <= 1:
            raise UserError(f"--lam must lie in (0, 1], not {self.lam}; 1 is plain CPL.")
        if not 0 < self.alpha < float("inf"):
            raise UserError(f"--alpha must be positive, not {self.alpha}.")
        if not 0 <= self.bc_weight < float("inf"):
            raise UserError(f"--bc-weight must not be negative, not {self.bc_weight}.")
        if self.warmup_steps < 0:
            raise UserError(f"--warmup-steps must not be negative, not {self.warmup_steps}.")
        check_training(self)


PAPER = CPLConfig()
LAPTOP = replace(
    PAPER,
    lam=0.65,
    learning_rate=3e-4,
    hidden=(256, 256),
    steps=4000,
    clone_steps=1500,
    warmup_steps=200,
    segments_per_batch=32,
)


class CPL:
    """See the module's header."""

    def __init__(
        self,
        config: CPLConfig,
        observation_size: int,
        action_size: int,
        seeds: Sequence[int],
        device: torch.device,
    ):
        self.config = config
        self.policy = Policy(
            observation_size, action_size, config.hidden, config.dropout, seeds, device
        )
        self.policy.add_optimiser("clone", config.learning_rate)
        self.policy.add_optimiser("contrast", config.learning_rate, config.warmup_steps)
        self.act, self.weights = self.policy.act, self.policy.weights
        self.state, self.load_state = self.policy.state, self.policy.load_state

    def phases(self, total_steps: int) -> list[Phase]:
        """Clone all segments, then contrast them."""
        clone_steps = min(self.config.clone_steps, total_steps)
        return [
            Phase("clone", clone_steps, self.policy.clone),
            Phase("contrast", total_steps - clone_steps, self._contrast),
        ]

    def _contrast(self, batch: PreferenceBatch) -> Metrics:
        log_probs = self.policy.log_probs(batch)  # (s, m, k)
        first, second = of_comparisons(
            segment_score(log_probs, self.config.alpha), batch.first, batch.second
        )
        contrast = preference_nll(first, second, batch.prefers_second, self.config.lam).mean(1)
        loss = contrast
        if self.config.bc_weight:
            ends = of_comparisons(-log_probs.mean(2), batch.first, batch.second)
            loss = loss + self.config.bc_weight * preferred(*ends, batch.prefers_second).mean(1)
        self.policy.improve("contrast", loss)
        return {
            "contrast_loss": contrast.detach(),
            "accuracy": preference_accuracy(first, second, batch.prefers_second).detach(),
            "log_prob": log_probs.detach().mean((1, 2)),
        }
