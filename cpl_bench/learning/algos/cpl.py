"""Contrastive Preference Learning, CPL and CPL(λ): clone, then contrast.

Hejna et al., arXiv 2310.13639v3: after behaviour cloning on all segments, the policy itself is the
advantage, A(s, a) = α log π(a|s), and learns from comparisons by cross-entropy. λ < 1 lowers the
weight of the rejected segment and with it the pull away from the data.

Deviations: dense data use every pair of a batch (the paper's dense setting; the released code draws
one partner a segment). The warm-up after cloning is linear, as released. The laptop preset's
λ = 0.65 is ours: with 0.5 bin-picking gained about half as much on its clone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cpl_bench.learning.config import (
    COUNT,
    LAPTOP_CLONE,
    LAPTOP_POLICY,
    NOT_NEGATIVE,
    POSITIVE,
    SEGMENTS,
    Optimiser,
    PolicyConfig,
    Stage,
    refuse,
    share_out,
)
from cpl_bench.learning.interface import Entry, Metrics, Phase, PreferenceBatch, Segments
from cpl_bench.learning.losses import (
    averaged,
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
    policy: PolicyConfig = PolicyConfig()
    clone: Stage = Stage(200_000, Optimiser(1e-4))
    """The first steps clone all segments."""
    contrast: Optimiser = Optimiser(1e-4, warmup_steps=10_000)
    """Adam after cloning: fresh, and warmed up."""
    steps: int = 500_000
    """Gradient steps in all."""
    segments: int = 192
    """Segments a gradient step sees; with dense data all their pairs are compared."""

    def __post_init__(self) -> None:
        within = ("in (0, 1] (1 is plain CPL)", lambda value: 0 < value <= 1)
        refuse(self, {"lam": within, "alpha": POSITIVE, "bc_weight": NOT_NEGATIVE})
        refuse(self, {"steps": COUNT, "segments": SEGMENTS})
        share_out(self.steps, "contrast", clone=self.clone.steps)


PAPER = CPLConfig()
LAPTOP = CPLConfig(
    lam=0.65,
    policy=LAPTOP_POLICY,
    clone=LAPTOP_CLONE,
    contrast=Optimiser(3e-4, warmup_steps=200),
    steps=8000,
    segments=16,
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
        self.policy = Policy(observation_size, action_size, config.policy, seeds, device)
        clone = config.clone.steps
        self.policy.add_optimiser("clone", config.clone.optimiser, clone)
        self.policy.add_optimiser("contrast", config.contrast, config.steps - clone)
        self.act, self.weights = self.policy.act, self.policy.weights
        self.state, self.load_state = self.policy.state, self.policy.load_state

    def phases(self) -> list[Phase]:
        """Clone all segments, then contrast them."""
        clone, feed = self.config.clone, Segments(self.config.segments)
        return [
            self.policy.clone_phase(clone, feed),
            Phase("contrast", self.config.steps - clone.steps, self._contrast, feed),
        ]

    def _contrast(self, batch: PreferenceBatch) -> Metrics:
        log_probs = self.policy.log_probs(batch)  # (s, m, k)
        scores = segment_score(log_probs, self.config.alpha)  # (s, m)
        first, second = of_comparisons(scores, batch.first, batch.second)  # (s, c)
        answers, weight = batch.prefers_second, batch.weight
        contrast = averaged(preference_nll(first, second, answers, self.config.lam), weight)
        loss = contrast
        if self.config.bc_weight:
            ends = of_comparisons(-log_probs.mean(2), batch.first, batch.second)
            loss = loss + self.config.bc_weight * averaged(preferred(*ends, answers), weight)
        self.policy.improve("contrast", loss)
        return {
            "contrast_loss": contrast.detach(),
            "accuracy": preference_accuracy(first, second, answers, weight).detach(),
            "log_prob": log_probs.detach().mean((1, 2)),
        }


ENTRY = Entry(
    CPL,
    {"paper": PAPER, "laptop": LAPTOP},
    title=lambda config: f"CPL(λ={config.lam:g})" if config.lam < 1 else "CPL",
)
