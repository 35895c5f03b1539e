"""Behaviour cloning: SFT, the paper's imitation baseline.

SFT clones all segments, then only the preferred ones (arXiv 2310.13639v3, section 4). In a
comparison the preferred segment counts 1; in a tie each counts ½. Both phases share one Adam: its
rate and moments go on. Deviation: the paper doesn't say what it does with ties, nor whether a
segment that wins often counts often; here it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cpl_bench.learning.config import (
    COUNT,
    LAPTOP_CLONE,
    LAPTOP_POLICY,
    SEGMENTS,
    Optimiser,
    PolicyConfig,
    Stage,
    refuse,
    share_out,
)
from cpl_bench.learning.interface import Entry, Metrics, Phase, PreferenceBatch, Segments
from cpl_bench.learning.losses import averaged, of_comparisons, preferred
from cpl_bench.learning.networks import Policy


@dataclass(frozen=True)
class SFTConfig:
    """SFT; the defaults are the paper's for Meta-World with state observations."""

    policy: PolicyConfig = PolicyConfig()
    clone: Stage = Stage(200_000, Optimiser(1e-4))
    """The first steps clone all segments; its optimiser goes on with the preferred ones."""
    steps: int = 500_000
    """Gradient steps in all."""
    segments: int = 192
    """Segments a gradient step sees."""

    def __post_init__(self) -> None:
        refuse(self, {"steps": COUNT, "segments": SEGMENTS})
        share_out(self.steps, "imitate", clone=self.clone.steps)


PAPER = SFTConfig()
LAPTOP = SFTConfig(LAPTOP_POLICY, LAPTOP_CLONE, steps=8000, segments=16)


class SFT:
    """See the module's header."""

    def __init__(
        self,
        config: SFTConfig,
        observation_size: int,
        action_size: int,
        seeds: Sequence[int],
        device: torch.device,
    ):
        self.config = config
        self.policy = Policy(observation_size, action_size, config.policy, seeds, device)
        self.policy.add_optimiser("clone", config.clone.optimiser, config.steps)
        self.act, self.weights = self.policy.act, self.policy.weights
        self.state, self.load_state = self.policy.state, self.policy.load_state

    def phases(self) -> list[Phase]:
        """Clone all segments, then the preferred ones."""
        clone, feed = self.config.clone, Segments(self.config.segments)
        return [
            self.policy.clone_phase(clone, feed),
            Phase("imitate", self.config.steps - clone.steps, self._imitate, feed),
        ]

    def _imitate(self, batch: PreferenceBatch) -> Metrics:
        of_segments = -self.policy.log_probs(batch).mean(2)  # (s, m)
        ends = of_comparisons(of_segments, batch.first, batch.second)
        loss = averaged(preferred(*ends, batch.prefers_second), batch.weight)
        self.policy.improve("clone", loss)
        return {"imitation_loss": loss.detach()}


ENTRY = Entry(SFT, {"paper": PAPER, "laptop": LAPTOP}, title=lambda config: "SFT")
