"""What a rollout worker does: whole episodes and forks, in numpy. Never imports torch.

`cpl_bench.tasks.pool.RolloutPool` starts `main` in a process of its own and talks to it through an
inherited socket; the worker leaves when the socket closes.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.errors import UserError
from cpl_bench.tasks.episodes import kept_task, run_episodes
from cpl_bench.tasks.policies import Weights, mlp_action
from cpl_bench.tasks.registry import make_task


def expert_steps_to_success(card: TaskCard, states: np.ndarray, cap_steps: int) -> np.ndarray:
    """From each state (n, d) roll the expert: steps until it succeeds, at most `cap_steps`."""
    task = kept_task(card, 0)
    steps = np.full(len(states), cap_steps, np.int64)
    for i, state in enumerate(states):
        task.set_state(state)
        for step in range(1, cap_steps + 1):
            if task.step(task.expert_action())[4]["success"]:
                steps[i] = step
                break
    return steps


def expert_returns(card: TaskCard, states: np.ndarray, horizons: np.ndarray) -> np.ndarray:
    """From each state (n, d) roll the expert for `horizons[i]` steps: its undiscounted return."""
    task = kept_task(card, 0)
    returns = np.zeros(len(states))
    for i, (state, horizon) in enumerate(zip(states, horizons, strict=True)):
        task.set_state(state)
        returns[i] = sum(float(task.step(task.expert_action())[1]) for _ in range(int(horizon)))
    return returns


def render_episode(
    card: TaskCard, seed: int, weights: Weights | None, every: int
) -> tuple[list[np.ndarray], bool]:
    """Images (h, w, 3) of every `every`-th step of one episode, and whether it succeeded."""
    task = make_task(card, render_mode="rgb_array")
    observation, _ = task.reset(seed=seed)
    frames, success = [np.array(task.render())], False
    for step in range(1, card.horizon_steps + 1):
        action = (
            task.expert_action() if weights is None else mlp_action(weights, observation[None])[0]
        )
        observation, _, _, _, info = task.step(action)
        success |= info["success"]
        if step % every == 0:
            frames.append(np.array(task.render()))
        if info["success"] and step % every == 0:
            break
    task.close()
    return frames, success


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "run_episodes": run_episodes,
    "expert_steps_to_success": expert_steps_to_success,
    "expert_returns": expert_returns,
    "render_episode": render_episode,
}


def main() -> None:
    """Serve jobs from the socket named on the command line until it closes."""
    from multiprocessing.connection import Connection

    connection = Connection(int(sys.argv[1]))
    try:
        while True:
            number, function, arguments = connection.recv()
            try:
                connection.send((number, FUNCTIONS[function](**arguments), None))
            except (BrokenPipeError, EOFError, ConnectionResetError):
                raise
            except UserError as mistake:
                connection.send((number, None, mistake))
            except Exception:
                connection.send((number, None, traceback.format_exc()))
    except (BrokenPipeError, EOFError, ConnectionResetError):
        pass
