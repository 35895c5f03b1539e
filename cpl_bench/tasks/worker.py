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
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.tasks.alike import executed, mathematics
from cpl_bench.tasks.episodes import kept_task, run_episodes
from cpl_bench.tasks.policies import expert_action, planner
from cpl_bench.tasks.protocol import Forkable, can_fork, has_expert
from cpl_bench.tasks.registry import make_task


def expert_steps_to_success(card: TaskCard, states: np.ndarray, cap_steps: int) -> np.ndarray:
    """From each state (n, d) roll the expert: steps until it succeeds, at most `cap_steps`.

    A termination without success costs `cap_steps`: the task is lost there.
    """
    task = _rolled_from(card)
    steps = np.full(len(states), cap_steps, np.int64)
    for i, state in enumerate(states):
        task.set_state(state)
        for step in range(1, cap_steps + 1):
            _, _, terminated, _, info = task.step(expert_action(task))
            if info["success"]:
                steps[i] = step
            if info["success"] or terminated:  # what ends without success is lost
                break
    return steps


def expert_returns(card: TaskCard, states: np.ndarray, horizons: np.ndarray) -> np.ndarray:
    """From each state (n, d) roll the expert for `horizons[i]` steps, or to its end: its return."""
    task = _rolled_from(card)
    returns = np.zeros(len(states))
    for i, (state, horizon) in enumerate(zip(states, horizons, strict=True)):
        task.set_state(state)
        for _ in range(int(horizon)):
            _, reward, terminated, _, _ = task.step(expert_action(task))
            returns[i] += float(reward)
            if terminated:
                break
    return returns


def render_episode(
    card: TaskCard, seed: int, weights: PolicyWeights | None, every: int
) -> tuple[list[np.ndarray], bool]:
    """Images (h, w, 3) of every `every`-th step of one episode, and whether it succeeded."""
    task, plan = make_task(card, render_mode="rgb_array"), planner(weights)
    observation, _ = task.reset(seed=seed)
    frames, success = [np.array(task.render())], False
    actions = np.zeros((0, 0))
    for step in range(1, card.horizon_steps + 1):
        if not len(actions):
            actions = plan([task], observation[None])[0]  # (h, a)
        observation, _, terminated, cut, info = task.step(executed(actions[0]))
        actions = actions[1:]
        now = bool(info.get("success", False))
        success |= now
        if step % every == 0 or terminated:
            frames.append(np.array(task.render()))
        if (now and step % every == 0) or terminated or cut:
            break
    task.close()
    return frames, success


def render_states(card: TaskCard, states: np.ndarray) -> list[np.ndarray]:
    """An image (h, w, 3) of each state (n, d)."""
    task = make_task(card, render_mode="rgb_array")
    if not can_fork(task):
        raise UserError(f"{card.name} cannot take up its states again (no set_state): no pictures.")
    task.reset(seed=0)
    frames = []
    for state in states:
        task.set_state(state)
        frames.append(np.array(task.render()))
    task.close()
    return frames


def _rolled_from(card: TaskCard) -> Forkable:
    """A task that an expert can be rolled in from any state.

    Raises:
        UserError: it can't be forked, or there is no expert.
    """
    task = kept_task(card, 0)
    if has_expert(task) and can_fork(task):
        return task
    raise UserError(
        f"{card.name} cannot be forked (no get_state and set_state), and regret is measured on "
        "forks. Label with --scorer partial_return."
        if not can_fork(task)
        else f"{card.name} has no expert (no method expert_action), and regret is measured against "
        "one. Label with --scorer partial_return."
    )


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "run_episodes": run_episodes,
    "expert_steps_to_success": expert_steps_to_success,
    "expert_returns": expert_returns,
    "render_episode": render_episode,
    "render_states": render_states,
    "mathematics": mathematics,
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
