"""Whole episodes, run side by side in one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.tasks.alike import executed
from cpl_bench.tasks.policies import Plan, planner
from cpl_bench.tasks.protocol import Task, can_fork
from cpl_bench.tasks.registry import make_task

EXPERT = -1
"""The policy number of the scripted expert."""


NOISE_STREAM = 1


@dataclass(frozen=True)
class EpisodeRules:
    """How episodes are run and what is kept of them."""

    action_noise: float = 0.0
    """Standard deviation of Gaussian noise on each action, which is clipped afterwards."""
    stop_steps_after_success: int | None = None
    """End the episode this many steps after its first success; None: only at the horizon."""
    minimum_steps: int = 0
    """…but not before this many steps."""
    keep_states: bool = False
    """Record the simulator state before every step and after the last."""
    keep_steps: bool = True
    """Record observations, actions and states; rewards and successes are always kept."""
    sampled: bool = False
    """Draw actions from a gaussian policy. Trajectories then hold the actions as drawn, which the
    simulator was given clipped."""


@dataclass(frozen=True)
class Trajectory:
    """One episode of T steps."""

    seed: int
    policy: int
    """Which of the policies acted; EXPERT is the scripted expert."""
    observations: np.ndarray
    """(T+1, o) float32; (0, o) where steps are not kept."""
    actions: np.ndarray
    """(T, a) float32, as executed (as drawn if sampled); (0, a) where steps are not kept."""
    rewards: np.ndarray
    """(T,) float64"""
    successes: np.ndarray
    """(T,) bool, after each step."""
    states: np.ndarray
    """(T+1, d) float64; (0, 0) where states are not kept."""
    terminated: bool = False
    """Whether the task ended with the last step; else time did, and a value goes on after it."""

    @property
    def succeeded(self) -> bool:
        """Success at any step: the paper's rule."""
        return bool(self.successes.any())

    @property
    def steps_to_success(self) -> int:
        """Steps up to and including the first success; the episode's length where there is none."""
        return int(self.successes.argmax()) + 1 if self.succeeded else len(self.rewards)


def run_episodes(
    card: TaskCard,
    seeds: Sequence[int],
    policy: int,
    weights: PolicyWeights | None,
    rules: EpisodeRules,
) -> list[Trajectory]:
    """Run one episode a seed, side by side; `weights` None stands for the scripted expert."""
    std = weights.arrays["std"] if rules.sampled and weights is not None else rules.action_noise
    return run_plan(card, seeds, planner(weights), rules, std, policy)


def run_plan(
    card: TaskCard,
    seeds: Sequence[int],
    plan: Plan,
    rules: EpisodeRules,
    std: float | np.ndarray = 0.0,
    policy: int = 0,
) -> list[Trajectory]:
    """Run one episode a seed, side by side, by `plan`, with noise of deviation `std`."""
    episodes = [
        _Episode(kept_task(card, place), seed, policy, card.horizon_steps, rules, std)
        for place, seed in enumerate(seeds)
    ]
    going, ahead, chunk = list(episodes), 0, 1
    while going:
        if ahead == 0:
            looks = np.stack([episode.observation for episode in going])
            planned = plan([episode.task for episode in going], looks)  # (b, h, a)
            chunk = planned.shape[1]
            for episode, actions in zip(going, planned, strict=True):
                episode.planned = actions
        for episode in going:
            episode.step(episode.planned[ahead])
        ahead = (ahead + 1) % chunk
        going = [episode for episode in going if not episode.over]
    return [episode.trajectory() for episode in episodes]


class _Episode:
    """An episode under way."""

    def __init__(
        self,
        task: Task,
        seed: int,
        policy: int,
        horizon: int,
        rules: EpisodeRules,
        std: float | np.ndarray,
    ):
        self.task, self.seed, self.policy = task, seed, policy
        self.rules, self.std, self.noisy = rules, std, bool(np.any(std))
        self.planned = np.zeros((0, 0))  # (h, a)
        self.noise = np.random.default_rng([seed, NOISE_STREAM])
        self.observation, _ = task.reset(seed=seed)
        self.observations, self.actions, self.states = [self.observation], [], []
        self.rewards: list[float] = []
        self.successes: list[bool] = []
        self.end = horizon
        self.over = self.terminated = False
        self._keep_state()

    def step(self, action: np.ndarray) -> None:
        rules = self.rules
        if self.noisy:
            action = action + self.noise.normal(0.0, self.std, action.shape)
        drawn = executed(action)
        action = np.minimum(np.maximum(drawn, -1.0), 1.0)
        self.observation, reward, self.terminated, cut, info = self.task.step(action)
        self.rewards.append(reward)
        success = bool(info.get("success", False))
        self.successes.append(success)
        steps = len(self.rewards)
        if success and rules.stop_steps_after_success is not None:
            stop = max(steps + rules.stop_steps_after_success, rules.minimum_steps)
            self.end = min(self.end, stop)
        self.over = self.terminated or cut or steps >= self.end
        if rules.keep_steps:
            self.observations.append(self.observation)
            self.actions.append(drawn if rules.sampled else action)
        self._keep_state()

    def trajectory(self) -> Trajectory:
        width = self.task.action_space.shape[0]
        kept = self.rules.keep_steps
        return Trajectory(
            seed=self.seed,
            policy=self.policy,
            observations=np.stack(self.observations)[: None if kept else 0],
            actions=np.stack(self.actions) if kept else np.zeros((0, width), np.float32),
            rewards=np.array(self.rewards),
            successes=np.array(self.successes, bool),
            states=np.stack(self.states) if self.states else np.zeros((0, 0)),
            terminated=bool(self.terminated),
        )

    def _keep_state(self) -> None:
        if self.rules.keep_states and can_fork(self.task):
            self.states.append(self.task.get_state())


def kept_task(card: TaskCard, place: int) -> Task:
    """The simulator kept for the `place`-th episode of a job, made once."""
    kind = card.simulated
    for other in [key for key in _TASKS if key[0] != kind]:
        _TASKS.pop(other).close()  # tens of MB each
    if (kind, place) not in _TASKS:
        _TASKS[kind, place] = make_task(card)
    return _TASKS[kind, place]


_TASKS: dict[tuple[tuple[str | int, ...], int], Task] = {}
