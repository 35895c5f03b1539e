"""The policy's own episodes as a feed: a collection whenever the last one is used up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.seeds import episode_seeds
from cpl_bench.learning.inputs import Inputs, folded
from cpl_bench.learning.interface import (
    Episodes,
    OnlinePhase,
    OnPolicy,
    Phase,
    PreferenceBatch,
    RolloutBatch,
    Rollouts,
)
from cpl_bench.tasks.episodes import EpisodeRules, Trajectory
from cpl_bench.tasks.pool import RolloutPool


def whole_episodes(feed: Rollouts, horizon_steps: int) -> int:
    """Whole episodes of the horizon that hold the transitions a collection wants, a member."""
    return -(-feed.transitions // horizon_steps)


def online_transitions(phases: Sequence[Phase | OnlinePhase], horizon_steps: int) -> int:
    """Simulator steps that a member is to take to learn from; 0 for offline methods.

    Where episodes terminate a collection holds more of them, and about as many steps.
    """
    total = 0
    for phase in phases:
        if isinstance(phase, OnlinePhase) and phase.steps:
            collections = -(-phase.steps // phase.feed.updates)
            total += collections * whole_episodes(phase.feed, horizon_steps) * horizon_steps
    return total


class RolloutFeed:
    """Runs the members' episodes whenever their last collection is used up."""

    def __init__(
        self,
        feed: Rollouts,
        learner: OnPolicy,
        task: TaskCard,
        pool: RolloutPool,
        members: Sequence[int],
        device: torch.device,
        begins: int,
        offline: Callable[[Tensor], PreferenceBatch] | None,
        inputs: Inputs | None = None,
    ):
        """`begins`: the training step at which the phase begins; `offline`: data to come along.

        `inputs`: how the learner sees observations.
        """
        self.feed, self.learner, self.task, self.pool = feed, learner, task, pool
        self.members, self.device, self.begins, self.offline = members, device, begins, offline
        self.inputs = inputs

    def draw(self, step: Tensor) -> RolloutBatch:
        """The batch of a training step, with fresh episodes if it is the first to use them."""
        collection, update = divmod(int(step) - self.begins, self.feed.updates)
        fresh = self._collect(collection) if update == 0 else None
        return RolloutBatch(step, fresh, self.offline(step) if self.offline else None)

    def _collect(self, collection: int) -> Episodes:
        """Whole episodes, as many of each member, until each has the transitions it needs."""
        policies = folded(self.learner.behaviour(), self.inputs).stilled().members()
        own: list[list[Trajectory]] = [[] for _ in self.members]
        count = whole_episodes(self.feed, self.task.horizon_steps)
        while count:
            before = len(own[0])
            seeds = [
                episode_seeds("rollouts", before + count, collection, member)[before:]
                for member in self.members
            ]
            found = self.pool.episodes(
                self.task,
                [seed for each in seeds for seed in each],
                [i for i in range(len(seeds)) for _ in range(count)],
                policies,
                EpisodeRules(sampled=True),
                caption=f"collection {collection + 1}",
            )
            for i, each in enumerate(own):
                each.extend(found[i * count : (i + 1) * count])
            lengths = [[len(episode.rewards) for episode in each] for each in own]
            fewest = min(map(sum, lengths))
            missing = max(self.feed.transitions - fewest, 0)
            count = -(-missing * len(own[0]) // max(fewest, 1))  # at the length of those so far
        episodes = stacked(own, self.device)
        if self.inputs is None:
            return episodes
        return replace(episodes, observations=self.inputs.seen(episodes.observations))


def stacked(own: Sequence[Sequence[Trajectory]], device: torch.device) -> Episodes:
    """E episodes of each of s members as tensors, short ones padded to the longest."""
    lengths = np.array([[len(episode.rewards) for episode in each] for each in own])  # (s, E)
    longest = int(lengths.max())

    def padded(name: str, steps: int, kind: torch.dtype) -> Tensor:
        first = getattr(own[0][0], name)
        values = np.zeros((*lengths.shape, steps, *first.shape[1:]), first.dtype)
        for i, each in enumerate(own):
            for e, episode in enumerate(each):
                array = getattr(episode, name)
                values[i, e, : len(array)] = array
        return torch.tensor(values, device=device).to(kind)

    ended = np.array([[episode.terminated for episode in each] for each in own])  # (s, E)
    last = np.arange(longest) == lengths[..., None] - 1  # (s, E, T)
    return Episodes(
        observations=padded("observations", longest + 1, torch.float32),
        actions=padded("actions", longest, torch.float32),
        rewards=padded("rewards", longest, torch.float32),
        terminated=torch.tensor(last & ended[..., None], device=device),
        lengths=torch.tensor(lengths, device=device),
        successes=torch.tensor([[e.succeeded for e in each] for each in own], device=device),
    )
