"""Scorers: segments → a number each, higher is better.

A segment runs from state s_0 through k steps to state s_k. Regret is what it lost against the
scripted expert E, measured by forking the simulator at both ends and rolling the expert:

    ──●══════════════●──────►  the recorded episode
      s_0            s_k
      └─ expert ─► T_E(s_0) steps to success      └─ expert ─► T_E(s_k)

    regret = (steps of the segment before the episode's first success) + T(s_k) − T(s_0)

T(s) is the best known number of steps to success: the expert's own T_E(s), or fewer if the episode
itself went on to a success, or to a state (among those rolled from) that less was left from.
Scripted experts get stuck in states that are not lost; without this, a segment is praised for
leaving such a state and blamed for passing it. With it, regret is never negative.

Success is absorbing: after it, steps cost nothing and T = 0. The dense reward is no good measure
of this (the expert's own return depends on the goal far more than on skill), which is why `regret`
counts steps and `return_regret` is only for tasks that have no success rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cpl_bench.core import plugins
from cpl_bench.core.cards import TaskCard
from cpl_bench.core.dataset_cards import Labelling
from cpl_bench.core.errors import UserError, unknown_name
from cpl_bench.core.toml import replaced
from cpl_bench.preferences import stepwise
from cpl_bench.preferences.segments import SegmentSet
from cpl_bench.tasks.pool import RolloutPool


def partial_return(
    segments: SegmentSet, task: TaskCard, labelling: Labelling, pool: RolloutPool
) -> np.ndarray:
    """Σ r over the segment, undiscounted but for a myopic teacher, (n,)."""
    return stepwise.summed(segments, stepwise.rewards(segments.trajectories), labelling.discount)


def success(
    segments: SegmentSet, task: TaskCard, labelling: Labelling, pool: RolloutPool
) -> np.ndarray:
    """Steps of the segment at which the task's condition held, (n,): the sparse reward's return."""
    held = stepwise.successes(segments.trajectories, task)
    return stepwise.summed(segments, held, labelling.discount)


def goal_distance(
    segments: SegmentSet, task: TaskCard, labelling: Labelling, pool: RolloutPool
) -> np.ndarray:
    """Minus the distances to the goal after each step, summed, (n,).

    Which entries of an observation are compared the task's card says (`goal`), or the settings
    `achieved` and `desired`.
    """
    near = stepwise.nearness(segments.trajectories, task, labelling.scorer_settings)
    return stepwise.summed(segments, near, labelling.discount)


def advantage(
    segments: SegmentSet, task: TaskCard, labelling: Labelling, pool: RolloutPool
) -> np.ndarray:
    """Σ (Q − V) of critics fitted to the data's rewards by IQL; the same on like machines, (n,).

    For data with neither an expert nor simulator states. See `cpl_bench.preferences.advantage`; its
    settings are there, too.
    """
    from cpl_bench.preferences.advantage import CriticSettings, advantages

    settings = replaced(CriticSettings(), labelling.scorer_settings, "scorer_settings")
    better = advantages(segments.trajectories, settings)
    return stepwise.summed(segments, better, labelling.discount)


def regret(
    segments: SegmentSet, task: TaskCard, labelling: Labelling, pool: RolloutPool
) -> np.ndarray:
    """Minus the steps lost on the way to success, (n,), ≤ 0; T is at most `cap_steps`."""
    success_states = np.array(  # the number of the first state after a success
        [each.steps_to_success if each.succeeded else np.inf for each in segments.trajectories]
    )
    success_state = success_states[segments.episodes]
    spent = np.clip(success_state - segments.offsets, 0, segments.length)
    at_start, at_end = _at_both_ends(
        segments,
        task,
        pool,
        "expert_steps_to_success",
        lambda states: {"cap_steps": labelling.cap_steps},
        skip=lambda states: states >= success_state,
        lost=labelling.cap_steps,
        refine=lambda episode, states, steps: _best_known(states, steps, success_states[episode]),
    )
    return -(spent + at_end - at_start)


def return_regret(
    segments: SegmentSet, task: TaskCard, labelling: Labelling, pool: RolloutPool
) -> np.ndarray:
    """Minus the reward lost against the expert until the horizon, undiscounted, (n,)."""
    at_start, at_end = _at_both_ends(
        segments,
        task,
        pool,
        "expert_returns",
        lambda states: {"horizons": np.maximum(task.horizon_steps - states, 0)},
        skip=lambda states: states >= task.horizon_steps,
    )
    return partial_return(segments, task, labelling, pool) + at_end - at_start


def _best_known(states: np.ndarray, steps: np.ndarray, success_state: float) -> np.ndarray:
    """The expert's steps from ascending states, or fewer by way of a later one or of success."""
    best = steps.astype(float)
    later, left = success_state, 0.0
    for i in reversed(range(len(states))):
        best[i] = min(best[i], later - states[i] + left)
        later, left = states[i], best[i]
    return best


Scorer = Callable[[SegmentSet, TaskCard, Labelling, RolloutPool], np.ndarray]


GROUP = "cpl_bench.scorers"
FORKING = ("regret", "return_regret")
"""Those that fork the simulator and roll its expert."""
SCORERS: dict[str, Scorer] = {
    "regret": regret,
    "return_regret": return_regret,
    "partial_return": partial_return,
    "success": success,
    "goal_distance": goal_distance,
    "advantage": advantage,
}
"""What `label --scorer` and a dataset card may name, besides `module:function`."""
STEPWISE = ("partial_return", "success", "goal_distance", "advantage")
"""Those that add up scores of steps, and so may discount them."""


def find_scorer(name: str) -> Scorer:
    """The scorer called `name`, or anybody's `module:function`.

    Raises:
        UserError: there is none.
    """
    return plugins.find_function("scorer", name, SCORERS, GROUP)


def check_scorer(name: str, settings: dict[str, Any], task: TaskCard) -> None:
    """Whether it can be asked with these settings; somebody else's function may take any.

    Raises:
        UserError: there is none of that name, or it refuses its settings.
    """
    find_scorer(name)
    if name == "advantage":
        from cpl_bench.preferences.advantage import CriticSettings

        replaced(CriticSettings(), settings, "scorer_settings")
    elif name == "goal_distance":
        for each in settings.keys() - GOAL:
            raise unknown_name("setting of goal_distance", each, GOAL)
        stepwise.goal_of(task, settings)
    elif name in SCORERS and settings:
        raise UserError(f"The scorer '{name}' has no settings; got {', '.join(settings)}.")


GOAL = ("achieved", "desired")


def _at_both_ends(
    segments: SegmentSet,
    task: TaskCard,
    pool: RolloutPool,
    function: str,
    settings: Callable[[np.ndarray], dict[str, object]],
    skip: Callable[[np.ndarray], np.ndarray],
    lost: float = 0.0,
    refine: Callable[[int, np.ndarray, np.ndarray], np.ndarray] = lambda episode, states, x: x,
) -> tuple[np.ndarray, np.ndarray]:
    """An expert's value of the segments' first and last states, 0 where `skip` says so.

    From a state in which the task has ended nobody goes on: there it is `lost`.
    Every state is rolled from once, however many segments share it; the forks of an episode go to
    one worker together. `refine` may better the values of an episode's states, in ascending order.
    """
    values = []
    wanted: dict[int, set[int]] = {}
    ends = np.array([len(e.rewards) if e.terminated else -1 for e in segments.trajectories])
    ended = ends[segments.episodes]
    for states in (segments.offsets, segments.ends):
        known = skip(states) | (states == ended)
        for episode, state in zip(segments.episodes[~known], states[~known], strict=True):
            wanted.setdefault(int(episode), set()).add(int(state))
    if any(not len(segments.trajectories[episode].states) for episode in wanted):
        raise UserError(
            f"The trajectories of {task.name} hold no simulator states, and regret is measured by "
            "forking there. Label with --scorer partial_return."
        )
    numbers = {episode: np.array(sorted(states)) for episode, states in sorted(wanted.items())}
    calls = {
        f"episode {episode} (seed {segments.trajectories[episode].seed})": {
            "states": segments.trajectories[episode].states[states],
            **settings(states),
        }
        for episode, states in numbers.items()
    }
    results = pool.forks(task, function, calls, caption=f"expert rollouts on {task.name}")
    rolled = {
        (episode, int(state)): float(value)
        for (episode, states), found in zip(numbers.items(), results, strict=True)
        for state, value in zip(states, refine(episode, states, found), strict=True)
    }
    for states in (segments.offsets, segments.ends):
        places = zip(segments.episodes, states, strict=True)
        found = np.array([rolled.get((int(e), int(t)), 0.0) for e, t in places])
        values.append(np.where(~skip(states) & (states == ended), lost, found))
    return values[0], values[1]
