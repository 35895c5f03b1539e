"""Scores of single steps, and what they add up to over segments.

    steps     ──r₀──r₁──r₂──r₃──r₄──►
    segment         ╞════════╡          score = γ²r₁ + γr₂ + r₃

With a discount γ below 1 the last steps count most: the myopic teacher of B-Pref (Lee et al., arXiv
2111.03026, eq. 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.errors import UserError
from cpl_bench.preferences.segments import SegmentSet
from cpl_bench.tasks.episodes import Trajectory

StepScores = Sequence[np.ndarray]
"""One array an episode, (T,): a number a step, higher is better."""


def summed(segments: SegmentSet, scores: StepScores, discount: float = 1.0) -> np.ndarray:
    """Σ γ^(k-1-t) of the steps' scores over each segment's k steps, (n,).

    Args:
        segments: n of them.
        scores: of every step of every episode.
        discount: γ in (0, 1]; below 1 a segment's last steps count most.
    """
    lengths = np.array([len(each) for each in scores])
    firsts = np.cumsum(lengths) - lengths  # (E,) the row of each episode's first step
    rows, k = firsts[segments.episodes] + segments.offsets, segments.length
    if discount == 1:
        begun = [np.concatenate([[0.0], np.cumsum(each)]) for each in scores]
        sums = np.concatenate(begun)  # one more than steps in each episode
        rows = rows + segments.episodes
        return sums[rows + k] - sums[rows]
    flat = np.concatenate(scores)
    total = np.zeros(len(flat) - k + 1)  # of the windows that begin at each row
    for step in range(k):
        total *= discount
        total += flat[step : step + len(total)]
    return total[rows]


def rewards(trajectories: Sequence[Trajectory]) -> StepScores:
    """The environment's rewards."""
    return [each.rewards for each in trajectories]


def successes(trajectories: Sequence[Trajectory], task: TaskCard) -> StepScores:
    """1 at each step after which the task's condition held.

    Raises:
        UserError: it never did: no segment is better than another, or the data do not say.
    """
    if not any(each.succeeded for each in trajectories):
        raise UserError(
            f"The trajectories of {task.name} know no success, and success is to score them. Label "
            "with --scorer partial_return."
        )
    return [each.successes.astype(np.float64) for each in trajectories]


def nearness(
    trajectories: Sequence[Trajectory], task: TaskCard, settings: dict[str, Any]
) -> StepScores:
    """Minus the distance to the goal after each step, in the observation's units.

    Raises:
        UserError: neither the task's card nor the settings say where in an observation to look, or
            they look beyond it.
    """
    ends = goal_of(task, settings)
    beyond = max(max(each) for each in ends)
    if beyond >= (size := trajectories[0].observations.shape[1]):
        raise UserError(
            f"The goal of {task.name} is looked for at entry {beyond} of an observation that has "
            f"{size}, numbered from 0."
        )
    pairs = list(zip(*ends, strict=True))

    def distance(each: Trajectory) -> np.ndarray:
        looks = each.observations[1:].astype(np.float64)
        return np.sqrt(sum((looks[:, a] - looks[:, d]) ** 2 for a, d in pairs))

    return [-distance(each) for each in trajectories]


def goal_of(task: TaskCard, settings: dict[str, Any]) -> tuple[list[int], list[int]]:
    """The entries of an observation that are to become equal: the achieved ones, the desired ones.

    Raises:
        UserError: nobody says which, or the two do not belong together.
    """
    named = {**task.goal, **settings}
    ends = named.get("achieved", []), named.get("desired", [])
    whole = all(type(i) is int and i >= 0 for end in ends for i in end)
    if not ends[0] or len(ends[0]) != len(ends[1]) or not whole:
        raise UserError(
            f"goal_distance must know which entries of an observation of {task.name} are to become "
            "equal. Say so on the task's card, goal = { achieved = [0, 1], desired = [4, 5] }, or "
            f"in scorer_settings on the dataset's; got {named or 'nothing'}."
        )
    return ends
