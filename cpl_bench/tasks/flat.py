"""Observations as one row of numbers: the same rule for simulators and for data from elsewhere.

Of a goal environment (a dictionary of observation, achieved_goal and desired_goal) the observation
comes first and then the desired goal; the achieved goal is left out, for the observation holds it.
All else is laid out as Gymnasium flattens it: other dictionaries by key, arrays row by row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Space, Tuple, flatten, flatten_space

GOAL_KEYS = {"observation", "achieved_goal", "desired_goal"}


def flat_space(space: Space[Any]) -> Space[Any]:
    """The space of what `flat` gives: a Box (o,), where the parts are numbers."""
    if isinstance(space, Dict) and set(space.spaces) == GOAL_KEYS:
        space = Tuple((space["observation"], space["desired_goal"]))
    return flatten_space(space)


def flat(space: Space[Any], observation: Any) -> np.ndarray:
    """An observation of `space` as a row (o,); or T of them, stacked in each part, as (T, o)."""
    if isinstance(space, Dict):
        goal = set(space.spaces) == GOAL_KEYS
        names = ("observation", "desired_goal") if goal else tuple(space.spaces)
        parts = [flat(space[name], observation[name]) for name in names]
        return np.concatenate(parts, axis=-1)
    if isinstance(space, Tuple):
        parts = [flat(each, part) for each, part in zip(space.spaces, observation, strict=True)]
        return np.concatenate(parts, axis=-1)
    if isinstance(space, Box):
        array = np.asarray(observation, space.dtype)
        return array.reshape(*array.shape[: array.ndim - len(space.shape)], -1)
    return np.asarray(flatten(space, observation))
