"""Rolling members' policies out: one row of numbers an episode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cpl_bench.core.cards import TaskCard
from cpl_bench.runs.evaluations import Evaluations
from cpl_bench.tasks.episodes import EpisodeRules
from cpl_bench.tasks.policies import Weights
from cpl_bench.tasks.pool import RolloutPool


def member_weights(weights: Weights) -> list[Weights]:
    """Split weights with members on the leading axis into one policy a member."""
    members = len(next(iter(weights.values())))
    return [{name: value[i] for name, value in weights.items()} for i in range(members)]


def assess(
    pool: RolloutPool,
    task: TaskCard,
    weights: Weights,
    seeds: Sequence[int],
    episode_seeds: Sequence[Sequence[int]],
    step: int,
    label: str,
) -> Evaluations:
    """Run every member for the whole horizon, without noise, on its own list of episode seeds.

    Returns the columns of an evaluation file: `success` is success at any step, `return` the sum
    of rewards over the horizon, `length` the steps to the first success (the horizon if none).
    """
    members = [i for i, own in enumerate(episode_seeds) for _ in own]
    episodes = pool.episodes(
        task,
        [seed for own in episode_seeds for seed in own],
        members,
        member_weights(weights),
        EpisodeRules(keep_steps=False),
        label=label,
    )
    return {
        "step": np.full(len(members), step),
        "seed": np.array([seeds[i] for i in members]),
        "episode": np.concatenate([np.arange(len(own)) for own in episode_seeds]),
        "success": np.array([float(each.succeeded) for each in episodes]),
        "return": np.array([float(each.rewards.sum()) for each in episodes]),
        "length": np.array([each.steps_to_success for each in episodes]),
    }


def by_seed(evaluations: Evaluations) -> dict[int, float]:
    """Success rate of each seed."""
    return {
        int(seed): float(evaluations["success"][evaluations["seed"] == seed].mean())
        for seed in np.unique(evaluations["seed"])
    }
