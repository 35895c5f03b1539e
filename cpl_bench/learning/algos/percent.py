"""%BC: behaviour cloning of the best X % of the episodes by true return.

An oracle row of the paper's tables (arXiv 2310.13639v3, table 1): it sees the rewards that the
other methods must do without. Deviations: the data here end an episode soon after its success, so
returns are taken to the horizon (see `best_episodes`); the released script for this row copies one
episode over and over, this doesn't.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cpl_bench.learning.config import (
    BATCH,
    COUNT,
    LAPTOP_CLONE,
    LAPTOP_POLICY,
    Optimiser,
    PolicyConfig,
    refuse,
)
from cpl_bench.learning.interface import BestEpisodes, Entry, Phase
from cpl_bench.learning.networks import Policy


@dataclass(frozen=True)
class PercentBCConfig:
    """%BC; the defaults are the paper's for Meta-World with state observations."""

    percent: float = 10.0
    """Share of the episodes that is cloned, those with the highest returns."""
    policy: PolicyConfig = PolicyConfig()
    optimiser: Optimiser = Optimiser(1e-4)
    steps: int = 500_000
    """Gradient steps."""
    transitions: int = 1024
    """Transitions a gradient step sees."""

    def __post_init__(self) -> None:
        within = ("in (0, 100]", lambda value: 0 < value <= 100)
        refuse(self, {"percent": within, "steps": COUNT, "transitions": BATCH})


PAPER = PercentBCConfig()
LAPTOP = PercentBCConfig(
    policy=LAPTOP_POLICY, optimiser=LAPTOP_CLONE.optimiser, steps=8000, transitions=512
)


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
        self.config = config
        self.policy = Policy(observation_size, action_size, config.policy, seeds, device)
        self.policy.add_optimiser("clone", config.optimiser, config.steps)
        self.act, self.weights = self.policy.act, self.policy.weights
        self.state, self.load_state = self.policy.state, self.policy.load_state

    def phases(self) -> list[Phase]:
        """Clone the best episodes."""
        config, chunk = self.config, self.config.policy.chunk
        feed = BestEpisodes(config.percent, config.transitions, chunk)
        return [Phase("clone", config.steps, self.policy.clone, feed)]


ENTRY = Entry(
    PercentBC,
    {"paper": PAPER, "laptop": LAPTOP},
    title=lambda config: f"{config.percent:g}%BC",
    oracle=True,
)
