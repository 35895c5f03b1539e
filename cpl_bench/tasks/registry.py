"""Simulated tasks as Gymnasium environments. Importing this registers every card's id.

Each suite's module has one environment class. Beyond the Gymnasium API it offers what data
collection needs (`cpl_bench.tasks.protocol`): exact states, and the scripted expert.

    env = gymnasium.make("cpl_bench.tasks.registry:cpl_bench/drawer-open-v0")
"""

from __future__ import annotations

import inspect
import re
from importlib.metadata import entry_points
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from cpl_bench.core import plugins
from cpl_bench.core.cards import TaskCard, known_task, task_cards, unknown_task
from cpl_bench.core.errors import UserError, unknown_name
from cpl_bench.tasks.plain import is_class
from cpl_bench.tasks.protocol import Task

GROUP = "cpl_bench.tasks"
SUITES = {
    "metaworld": "cpl_bench.tasks.metaworld:MetaWorldTask",
    "fetch": "cpl_bench.tasks.fetch:FetchTask",
    "pointmass": "cpl_bench.tasks.pointmass:PointMassTask",
    "gymnasium": "cpl_bench.tasks.plain:PlainTask",
}


def make_task(card: TaskCard, render_mode: str | None = None) -> Task:
    """The bare environment of a card, without Gymnasium's wrappers.

    Raises:
        UserError: a suite that does not exist, or that cannot make it (so).
    """
    build = plugins.load("task suite", entry_point(card.suite))
    if card.kwargs and "kwargs" not in inspect.signature(build).parameters:
        raise UserError(f"{card.name}: the suite {card.suite} takes no [kwargs]; gymnasium does.")
    return cast(Task, build(**spec_kwargs(card), render_mode=render_mode))


def make_env(name: str, render_mode: str | None = None) -> gymnasium.Env:
    """The Gymnasium environment of a task: a card's name or path, an id, or `module:Class`.

    Raises:
        UserError: no such task.
    """
    return gymnasium.make(env_spec(find_task(name)), render_mode=render_mode)


def find_task(name: str) -> TaskCard:
    """The task that is meant: a card's name or path, a Gymnasium id, or `module:Class`.

    An environment without a card is scored by success if it says so in a first step's info, else by
    its return; its horizon is the limit that it was registered with.

    Raises:
        UserError: none of these, or an environment without a known step limit.
    """
    if (known := known_task(name)) is not None:
        return known
    own = name.rpartition(":")[2]
    if is_class(name):
        limit = getattr(plugins.load("environment", name), "horizon_steps", None)
    else:
        if own != name:
            plugins.imported("environment", name)
        if own not in gymnasium.registry:
            raise unknown_task(name)
        limit = gymnasium.spec(own).max_episode_steps
    if not isinstance(limit, int):
        raise UserError(
            f"{name} has no step limit. Give a class an attribute 'horizon_steps', register an id "
            "with max_episode_steps, or write a task card."
        )
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")
    card = TaskCard(stem, "gymnasium", name, limit, description="a Gymnasium environment")
    task = make_task(card)
    try:
        info = task.reset(seed=0)[1] | task.step(task.action_space.sample())[4]
    finally:
        task.close()
    return card if info.get("has_success", False) else TaskCard(**{**vars(card), "score": "return"})


def check_sizes(
    card: TaskCard,
    sizes: tuple[int, int],
    whose: str,
    hint: str = "Name the task that they come from with --task.",
) -> None:
    """Refuse a task whose observations or actions are not `whose`.

    Raises:
        UserError: they hold other numbers than `sizes` says.
    """
    task = make_task(card)
    of_task = task.observation_space.shape[0], task.action_space.shape[0]
    task.close()
    if of_task != sizes:
        raise UserError(
            f"{card.name} has observations of {of_task[0]} and actions of {of_task[1]} numbers, "
            f"{whose} of {sizes[0]} and {sizes[1]}. {hint}"
        )


def action_bounds(card: TaskCard) -> tuple[np.ndarray, np.ndarray]:
    """(centre, reach) of the actions that a task's own environment takes; ours are within ±1."""
    task = make_task(card)
    task.close()
    return getattr(task, "own_actions", (np.zeros(1), np.ones(1)))


def entry_point(suite: str) -> str:
    """Where a suite's class is, `module:Class`.

    Raises:
        UserError: no such suite.
    """
    if suite in SUITES:
        return SUITES[suite]
    others = {point.name: f"{point.module}:{point.attr}" for point in entry_points(group=GROUP)}
    if suite in others:
        return others[suite]
    if ":" in suite:
        return suite
    raise unknown_name("task suite", suite, [*SUITES, *others], "Or module:Class.")


def env_spec(card: TaskCard) -> EnvSpec:
    """What rebuilds the environment without the card: Minari stores it with a dataset."""
    return EnvSpec(card.env_id, entry_point(card.suite), kwargs=spec_kwargs(card))


def spec_kwargs(card: TaskCard) -> dict[str, Any]:
    """What a spec must hold so that it can be rebuilt without the card."""
    own = {"camera": card.camera, "kwargs": card.kwargs}
    chosen = {name: value for name, value in own.items() if value}
    return {"source_id": card.source_id, "horizon_steps": card.horizon_steps, **chosen}


def register() -> None:
    """Register `cpl_bench/NAME-v0` for every task card, once."""
    for card in task_cards().values():
        if card.env_id not in gymnasium.registry:
            gymnasium.register(card.env_id, entry_point(card.suite), kwargs=spec_kwargs(card))


register()
