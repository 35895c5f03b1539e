"""%BC: behaviour cloning of the best X % of the episodes by true return.

An oracle row of the paper's tables (arXiv 2310.13639v3, table 1): it sees the rewards that the
other methods must do without. Deviations: the data here end an episode soon after its success, so
returns are taken to the horizon (see `best_episodes`); the released script for this row copies one
episode over and over, this doesn't.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from cpl_bench.learning.config import check_training, refuse
from cpl_bench.learning.interface import Phase
from cpl_bench.learning.networks import Policy


@dataclass(frozen=True)
class PercentBCConfig:
    """%BC; the defaults are the paper's for Meta-World with state observations."""

    percent: float = 10.0
    """Share of the episodes that is cloned, those with the highest returns."""
    learning_rate: float = 1e-4
    """Adam's."""
    hidden: tuple[int, ...] = (512, 512)
    """Widths of the hidden layers."""
    dropout: float = 0.25
    """Probability of dropping a hidden unit, rounded to a multiple of 1/256."""
    steps: int = 500_000
    """Gradient steps."""
    transitions_per_batch: int = 1024
    """Transitions a gradient step sees."""

    def __post_init__(self) -> None:
        check_training(self)
        refuse(
            self,
            {
                "percent": ("in (0, 100]", lambda value: 0 < value <= 100),
                "transitions_per_batch": ("at least 1", lambda value: value >= 1),
            },
        )


PAPER = PercentBCConfig()
LAPTOP = replace(PAPER, learning_rate=3e-4, hidden=(256, 256), steps=4000)


class PercentBC:
    """See the module's header."""

    def __init__(
        self,
        config: PercentBCConfig,
        observation_size: int,
        action_size: int,
        seeds: Sequence[int],
        device: torch.device,
    ):
        self.policy = Policy(
            observation_size, action_size, config.hidden, config.dropout, seeds, device
        )
        self.policy.add_optimiser("clone", config.learning_rate)
        self.act, self.weights = self.policy.act, self.policy.weights
        self.state, self.load_state = self.policy.state, self.policy.load_state

    def phases(self, total_steps: int) -> list[Phase]:
        """Clone the best episodes."""
        return [Phase("clone", total_steps, self.policy.clone, "best episodes")]
