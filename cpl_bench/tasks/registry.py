"""Simulated tasks as Gymnasium environments. Importing this registers every card's id.

Each suite's module has one environment class. Beyond the Gymnasium API it offers what data
collection needs, the `Task` protocol below: exact states, and the scripted expert.

    env = gymnasium.make("cpl_bench.tasks.registry:cpl_bench/drawer-open-v0")
"""

from __future__ import annotations

import importlib
from typing import Any, cast

import gymnasium

from cpl_bench.core.cards import TaskCard, load_task, task_names
from cpl_bench.tasks.protocol import Task

ENTRY_POINTS = {
    "metaworld": "cpl_bench.tasks.metaworld:MetaWorldTask",
    "fetch": "cpl_bench.tasks.fetch:FetchTask",
    "pointmass": "cpl_bench.tasks.pointmass:PointMassTask",
}


def make_task(card: TaskCard, render_mode: str | None = None) -> Task:
    """The bare environment of a card, without Gymnasium's wrappers."""
    module, name = ENTRY_POINTS[card.suite].split(":")
    build = getattr(importlib.import_module(module), name)
    return cast(Task, build(**spec_kwargs(card), render_mode=render_mode))


def make_env(name: str, render_mode: str | None = None) -> gymnasium.Env:
    """The Gymnasium environment of the task card `name`.

    Raises:
        UserError: no such task.
    """
    return gymnasium.make(load_task(name).env_id, render_mode=render_mode)


def spec_kwargs(card: TaskCard) -> dict[str, Any]:
    """What a spec must hold so that it can be rebuilt without the card."""
    kwargs = {"source_id": card.source_id, "horizon_steps": card.horizon_steps}
    return {**kwargs, "camera": card.camera} if card.camera else kwargs


def register() -> None:
    """Register `cpl_bench/NAME-v0` for every task card, once."""
    for name in task_names():
        card = load_task(name)
        if card.env_id not in gymnasium.registry:
            gymnasium.register(card.env_id, ENTRY_POINTS[card.suite], kwargs=spec_kwargs(card))


register()
