"""What the phases of a training are fed with, each feed made once and only if a phase wants it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.errors import UserError
from cpl_bench.core.seeds import episode_seeds
from cpl_bench.learning.interface import (
    Feed,
    OnPolicy,
    Phase,
    PreferenceBatch,
    RolloutBatch,
    Rollouts,
)
from cpl_bench.learning.transitions import TransitionSampler
from cpl_bench.preferences.format import Preferences
from cpl_bench.preferences.holdout import split_by_episode
from cpl_bench.preferences.returns import best_episodes, true_rewards
from cpl_bench.runs.assess import member_weights
from cpl_bench.runs.batches import PreferenceSampler
from cpl_bench.tasks.episodes import EpisodeRules
from cpl_bench.tasks.pool import RolloutPool


@dataclass(frozen=True)
class Source:
    """Where batches come from."""

    preferences: Preferences
    task: TaskCard
    pool: RolloutPool
    members: Sequence[int]
    """The seeds as the user counts them, from 0: they decide the episodes."""
    seeds: Sequence[int]
    """The members' training seeds: they decide the batches."""
    device: torch.device


def make_feeds(
    source: Source, phases: Sequence[Phase], learner: Any, config: Any
) -> Mapping[Feed, Callable[[Tensor], Any]]:
    """The feeds that these phases name.

    Raises:
        UserError: the data do not hold what a feed needs.
    """
    least = getattr(config, "least_segment_length", None)
    if least and (info := source.preferences.info).segment_length < least:
        raise UserError(
            f"{info.title} holds segments of {info.segment_length} step, and this method needs "
            f"at least {least}. Label with --segment-length {least} or more."
        )
    makers: dict[Feed, Callable[[], Callable[[Tensor], Any]]] = {
        "segments": lambda: _segments(source, source.preferences, config),
        "rewarded segments": lambda: _segments(source, source.preferences, config, rewards=True),
        "transitions": lambda: _transitions(source, config),
        "rewarded transitions": lambda: _transitions(source, config, rewards=True),
        "fitting": lambda: _fitting(source, config),
        "best episodes": lambda: _best(source, config),
        "rollouts": lambda: _RolloutFeed(source, phases, learner, config),
    }
    wanted: list[Feed] = list(dict.fromkeys(phase.feed for phase in phases if phase.steps))
    return {name: makers[name]() for name in wanted}


def _segments(
    source: Source, preferences: Preferences, config: Any, rewards: bool = False
) -> Callable[[Tensor], PreferenceBatch]:
    return PreferenceSampler(
        preferences,
        source.seeds,
        config.segments_per_batch,
        source.device,
        with_rewards=rewards,
    ).draw


def _transitions(
    source: Source, config: Any, rewards: bool = False
) -> Callable[[Tensor], PreferenceBatch]:
    preferences = source.preferences
    within = np.arange(preferences.info.segment_length - 1)  # a segment's last step has no next one
    return TransitionSampler(
        preferences.observations,
        preferences.actions,
        source.seeds,
        config.transitions_per_batch,
        source.device,
        rewards=true_rewards(preferences) if rewards else None,
        rows=np.add.outer(preferences.segment_starts, within).ravel(),
        steps=2,
    ).draw


def _fitting(source: Source, config: Any) -> Callable[[Tensor], PreferenceBatch]:
    if config.reward_loss == "ranking" and source.preferences.info.pairs == "sparse":
        raise UserError(
            f"{source.preferences.info.title} holds single comparisons, and --reward-loss ranking "
            "needs ranked answers. Label with --pairs ranked or dense, or use --reward-loss pairs."
        )
    return _segments(source, split_by_episode(source.preferences)[0], config)


def _best(source: Source, config: Any) -> Callable[[Tensor], PreferenceBatch]:
    rows = best_episodes(source.preferences, config.percent, source.task.horizon_steps)
    return TransitionSampler(
        source.preferences.observations[rows],
        source.preferences.actions[rows],
        source.seeds,
        config.transitions_per_batch,
        source.device,
    ).draw


def episodes_per_collection(learner: OnPolicy, horizon_steps: int) -> int:
    """Whole episodes that hold the transitions a collection wants, a member."""
    return -(-learner.transitions_per_collection // horizon_steps)


class _RolloutFeed:
    """Runs a member's episodes whenever its last collection is used up."""

    def __init__(self, source: Source, phases: Sequence[Phase], learner: OnPolicy, config: Any):
        self.source, self.learner = source, learner
        self.begins = sum(phase.steps for phase in phases if phase.feed != "rollouts")
        if phases[-1].feed != "rollouts" or sum(p.feed == "rollouts" for p in phases) != 1:
            raise ValueError("rollouts feed the last phase, and only that")
        self.episodes = episodes_per_collection(learner, source.task.horizon_steps)
        self.offline = (
            _segments(source, source.preferences, config) if learner.mixes_offline else None
        )

    def __call__(self, step: Tensor) -> RolloutBatch:
        collection, update = divmod(int(step) - self.begins, self.learner.updates_per_collection)
        fresh = self._collect(collection) if update == 0 else None
        return RolloutBatch(step, fresh, self.offline(step) if self.offline else None)

    def _collect(self, collection: int) -> Rollouts:
        source, count = self.source, self.episodes
        seeds = [
            seed
            for member in source.members
            for seed in episode_seeds("rollouts", count, collection, member)
        ]
        policies = [i for i in range(len(source.members)) for _ in range(count)]
        trajectories = source.pool.episodes(
            source.task,
            seeds,
            policies,
            member_weights(self.learner.behaviour()),
            EpisodeRules(sampled=True),
            label=f"collection {collection + 1}",
        )

        def stacked(name: str) -> Tensor:
            values = np.stack([getattr(each, name) for each in trajectories])
            tensor = torch.tensor(values, device=source.device)
            return tensor.view(len(source.members), count, *tensor.shape[1:])

        return Rollouts(
            observations=stacked("observations"),
            actions=stacked("actions"),
            rewards=stacked("rewards").float(),
            successes=stacked("succeeded"),
        )
