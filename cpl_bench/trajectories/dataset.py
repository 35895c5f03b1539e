"""The episodes of a dataset, as every room above reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpl_bench.tasks.episodes import Trajectory


@dataclass(frozen=True)
class TrajectorySet:
    """The episodes of a dataset and what is known of how they came about."""

    minari_id: str
    trajectories: list[Trajectory]
    record: dict[str, Any]
    """What `collect` recorded: the card, the clone's levels, versions."""

    @property
    def success_rate(self) -> float:
        """Share of the episodes with a success at any step."""
        return float(np.mean([trajectory.succeeded for trajectory in self.trajectories]))

    @property
    def episode_ends(self) -> np.ndarray:
        """(E,) the row after each episode's last, all episodes laid end to end."""
        return np.cumsum([len(trajectory.rewards) for trajectory in self.trajectories])


def content_hash(trajectories: Sequence[Trajectory]) -> str:
    """SHA-256 over what preferences are made of: observations, actions, rewards, successes."""
    digest = hashlib.sha256()
    for each in trajectories:
        for array in (each.observations, each.actions, each.rewards, each.successes):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
