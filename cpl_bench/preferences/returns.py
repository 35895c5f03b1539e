"""The environment's rewards, for the methods and measurements that may see them."""

import numpy as np
from jaxtyping import Float32, Int64

from cpl_bench.core.errors import UserError
from cpl_bench.preferences.format import Preferences


def true_rewards(preferences: Preferences) -> Float32[np.ndarray, "N"]:
    """The reward of each step.

    Raises:
        UserError: the file holds none.
    """
    if preferences.rewards is None:
        raise UserError(f"The preference file of {preferences.info.title} holds no true rewards.")
    return preferences.rewards


def best_episodes(
    preferences: Preferences, percent: float, horizon_steps: int
) -> Int64[np.ndarray, "r"]:
    """The rows of the `percent` % of the episodes with the highest true returns, at least one.

    Ties go to the earlier episode; the rows are in the file's order.

    A deviation from the plain sum of rewards: the data end an episode soon after its first success,
    and a long failure would often outdo a short success. So an episode that succeeded counts its
    last reward once more for each step that is left up to the horizon. In a file without
    `successes` nothing is added.

    Args:
        preferences: E episodes with rewards.
        percent: in (0, 100], rounded to whole episodes.
        horizon_steps: the task's.

    Raises:
        UserError: the file holds no rewards.
    """
    rewards = true_rewards(preferences)
    starts, ends = preferences.episode_starts, preferences.episode_ends
    returns = np.add.reduceat(rewards, starts, dtype=np.float64)  # (E,)
    if preferences.episode_successes is not None:
        left = np.maximum(horizon_steps - (ends - starts), 0)
        ended = preferences.terminations
        going_on = 1 if ended is None else 1 - ended[ends - 1]  # nothing follows a termination
        returns += preferences.episode_successes * going_on * left * rewards[ends - 1]
    count = max(1, round(len(ends) * percent / 100))
    chosen = np.zeros(len(ends), bool)
    chosen[np.argsort(-returns, kind="stable")[:count]] = True
    return np.flatnonzero(chosen.repeat(ends - starts))
