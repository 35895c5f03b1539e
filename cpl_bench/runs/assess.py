"""Rolling members' policies out: one row of numbers an episode."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.runs.evaluations import Evaluations
from cpl_bench.tasks.episodes import EpisodeRules, Trajectory
from cpl_bench.tasks.pool import RolloutPool


def assess(
    pool: RolloutPool,
    task: TaskCard,
    weights: PolicyWeights,
    seeds: Sequence[int],
    episode_seeds: Sequence[Sequence[int]],
    step: int,
    caption: str,
    diverged: Collection[int] = (),
) -> Evaluations:
    """Run every member for the whole horizon, without noise, on its own list of episode seeds.

    Seeds that have `diverged` count as 0 whatever they do: no success, and a normalised return
    of 0.
    """
    members = [i for i, own in enumerate(episode_seeds) for _ in own]
    episodes = pool.episodes(
        task,
        [seed for own in episode_seeds for seed in own],
        members,
        weights.members(),
        EpisodeRules(keep_steps=False),
        caption=caption,
    )
    numbers = [number for own in episode_seeds for number in range(len(own))]
    rows = rows_of(episodes, step, [seeds[i] for i in members], numbers)
    failed = np.isin(rows["seed"], list(diverged))
    rows["success"][failed], rows["length"][failed] = 0, task.horizon_steps
    if task.scoring.name == "normalised return":
        rows["return"][failed] = task.scoring.low
    return rows


def rows_of(
    episodes: Sequence[Trajectory], step: int, seeds: Sequence[int], numbers: Sequence[int]
) -> Evaluations:
    """The columns of an evaluation file, each (n,).

    `success` is success at any step, `return` the sum of rewards, `length` the steps to the first
    success (those of the episode if there is none).
    """
    return {
        "step": np.full(len(episodes), step),
        "seed": np.array(seeds),
        "episode": np.array(numbers),
        "success": np.array([float(each.succeeded) for each in episodes]),
        "return": np.array([float(each.rewards.sum()) for each in episodes]),
        "length": np.array([each.steps_to_success for each in episodes]),
    }
