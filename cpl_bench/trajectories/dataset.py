"""The episodes of a dataset, as every room above reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpl_bench.core.cards import TaskCard
from cpl_bench.tasks.episodes import Trajectory


@dataclass(frozen=True)
class Level:
    """At which step a clone was stopped for a level of its card, and what it scored there."""

    wanted: float
    step: int
    measured: float


@dataclass(frozen=True)
class Recorded:
    """What of a dataset's record is looked at; a record is checked by it, and holds more."""

    card: dict[str, Any] = field(default_factory=dict)
    content_hash: str = ""
    levels: tuple[Level, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrajectorySet:
    """The episodes of a dataset and what is known of how they came about."""

    minari_id: str
    trajectories: list[Trajectory]
    record: dict[str, Any]
    """What `collect` recorded: the card, the clone's levels, versions; {} for foreign data."""

    @property
    def knows_successes(self) -> bool:
        """Whether it was written down where episodes succeeded; where not, none seems to."""
        return self.record.get("knows_successes", True)

    @property
    def episode_ends(self) -> np.ndarray:
        """(E,) the row after each episode's last, all episodes laid end to end."""
        return np.cumsum([len(trajectory.rewards) for trajectory in self.trajectories])


def check_alike(trajectories: Sequence[Trajectory]) -> None:
    """Refuse episodes whose arrays do not go together, or not with each other's.

    Raises:
        ValueError: the first that does not.
    """
    if not trajectories:
        raise ValueError("it holds no episode")
    first = trajectories[0]
    for number, each in enumerate(trajectories):
        steps = len(each.rewards)
        wanted = {
            "observations": (steps + 1, *first.observations.shape[1:]),
            "actions": (steps, *first.actions.shape[1:]),
            "rewards": (steps,),
            "successes": (steps,),
            "states": (steps + 1, *first.states.shape[1:]) if len(each.states) else (0, 0),
        }
        for name, shape in wanted.items():
            array = getattr(each, name)
            axes = 1 if name in ("rewards", "successes") else 2
            if array.shape != shape or array.ndim != axes or steps < 1:
                raise ValueError(
                    f"episode {number} has {name} of shape {array.shape}, of {steps} steps"
                )
            if not np.isfinite(array).all():
                raise ValueError(f"{name} of episode {number} are not all finite")


def scores_of(task: TaskCard, trajectories: Sequence[Trajectory]) -> NDArray[np.float64]:
    """What each episode achieved, as the task's card counts it, (E,)."""
    return task.scoring.of(
        [each.succeeded for each in trajectories],
        [float(each.rewards.sum()) for each in trajectories],
    )


def hashes_of_tenths(trajectories: Sequence[Trajectory]) -> list[str]:
    """The content hash of each tenth of the episodes; some are of none if there are few."""
    ends = [len(trajectories) * i // 10 for i in range(11)]
    return [content_hash(trajectories[begin:end]) for begin, end in pairwise(ends)]


def content_hash(trajectories: Sequence[Trajectory]) -> str:
    """SHA-256 over what preferences are made of, observations to endings.

    Simulator states are left out: some remember a last bit that no label depends on.
    """
    digest = hashlib.sha256()
    for each in trajectories:
        for array in (each.observations, each.actions, each.rewards, each.successes):
            digest.update(np.ascontiguousarray(array).tobytes())
        if each.terminated:
            digest.update(b"terminated")
    return digest.hexdigest()
