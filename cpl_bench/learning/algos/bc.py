"""Behaviour cloning: SFT, the paper's imitation baseline, and the clones behind datasets.

SFT clones all segments, then only the preferred ones (arXiv 2310.13639v3, section 4). In a
comparison the preferred segment counts 1; in a tie each counts ½. Deviation: the paper doesn't say
what it does with ties, nor whether a segment that wins often counts often; here it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from cpl_bench.learning.config import check_training
from cpl_bench.learning.interface import Metrics, Phase, PreferenceBatch
from cpl_bench.learning.losses import of_comparisons, preferred
from cpl_bench.learning.networks import Policy


@dataclass(frozen=True)
class SFTConfig:
    """SFT; the defaults are the paper's for Meta-World with state observations."""

    learning_rate: float = 1e-4
    """Adam's, in both phases."""
    hidden: tuple[int, ...] = (512, 512)
    """Widths of the hidden layers."""
    dropout: float = 0.25
    """Probability of dropping a hidden unit, rounded to a multiple of 1/256."""
    steps: int = 500_000
    """Gradient steps in all."""
    clone_steps: int = 200_000
    """The first of them clone all segments, the others only preferred ones."""
    segments_per_batch: int = 192
    """Segments a gradient step sees."""

    def __post_init__(self) -> None:
        check_training(self)


PAPER = SFTConfig()
LAPTOP = replace(
    PAPER,
    learning_rate=3e-4,
    hidden=(256, 256),
    steps=4000,
    clone_steps=1500,
    segments_per_batch=32,
)


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
        self.policy = Policy(
            observation_size, action_size, config.hidden, config.dropout, seeds, device
        )
        self.policy.add_optimiser("clone", config.learning_rate)
        self.act, self.weights = self.policy.act, self.policy.weights
        self.state, self.load_state = self.policy.state, self.policy.load_state

    def phases(self, total_steps: int) -> list[Phase]:
        """Clone all segments, then the preferred ones."""
        clone_steps = min(self.config.clone_steps, total_steps)
        return [
            Phase("clone", clone_steps, self.policy.clone),
            Phase("imitate", total_steps - clone_steps, self._imitate),
        ]

    def _imitate(self, batch: PreferenceBatch) -> Metrics:
        of_segments = -self.policy.log_probs(batch).mean(2)  # (s, m)
        ends = of_comparisons(of_segments, batch.first, batch.second)
        loss = preferred(*ends, batch.prefers_second).mean(1)
        self.policy.improve("clone", loss)
        return {"imitation_loss": loss.detach()}
