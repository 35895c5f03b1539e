"""How policies act in a worker: arrays in, actions out, in numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cpl_bench.core.errors import UserError
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.tasks.alike import executed
from cpl_bench.tasks.protocol import Task, has_expert

Plan = Callable[[Sequence[Task], np.ndarray], np.ndarray]
"""(b tasks, observations (b, o)) → the actions of the steps up to the next look, (b, h, a)."""


def planner(policy: PolicyWeights | None) -> Plan:
    """How a policy acts, without noise; None stands for the task's scripted expert."""
    if policy is None:
        return _expert

    arrays = {name: value.astype(np.float64) for name, value in policy.arrays.items()}

    def plan(tasks: Sequence[Task], observations: np.ndarray) -> np.ndarray:
        actions = mlp_action(arrays, observations)  # (b, h a)
        chunks = actions.reshape(len(actions), policy.chunk_length, -1)
        return chunks[:, : policy.executed_steps]

    return plan


def of_callable(act: Callable[[np.ndarray], np.ndarray]) -> Plan:
    """How a function of observations (b, o) → actions (b, a), or (b, h, a) for h steps, acts.

    Raises (when it acts):
        UserError: it gives something else.
    """

    def plan(tasks: Sequence[Task], observations: np.ndarray) -> np.ndarray:
        actions = np.asarray(act(observations), np.float64)
        wanted = (len(tasks), *tasks[0].action_space.shape)
        given = actions.shape if actions.ndim != 3 else (len(actions), actions.shape[2])
        if given != wanted or not actions.size or not np.isfinite(actions).all():
            raise UserError(
                f"The policy must give finite actions of shape {wanted} for observations of shape "
                f"{observations.shape}; got shape {actions.shape}."
            )
        return actions if actions.ndim == 3 else actions[:, None]

    return plan


def mlp_action(arrays: Mapping[str, np.ndarray], observations: np.ndarray) -> np.ndarray:
    """The deterministic action, (b, o) → (b, a) float64: ReLU layers, tanh at the end."""
    layers = sum(name.startswith("w") for name in arrays)
    x = np.asarray(observations, np.float64)
    for i in range(layers):
        x = x @ np.asarray(arrays[f"w{i}"], np.float64) + arrays[f"b{i}"]
        x = np.maximum(x, 0.0) if i < layers - 1 else np.tanh(x)
    return x


def _expert(tasks: Sequence[Task], observations: np.ndarray) -> np.ndarray:
    return np.stack([expert_action(task) for task in tasks])[:, None]


def expert_action(task: Task) -> np.ndarray:
    """What the task's scripted expert does here, (a,), as executed.

    Raises:
        UserError: it has none.
    """
    if not has_expert(task):
        raise UserError(
            f"{type(task).__name__} has no scripted expert (no method expert_action): nobody can "
            "demonstrate, and regret cannot be measured. Bring trajectories or preferences of your "
            "own, or label with --scorer partial_return."
        )
    return executed(task.expert_action())
