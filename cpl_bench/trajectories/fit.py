"""Whether imported trajectories fit their card: its task's sizes, its segments, ±1."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.dataset_cards import DatasetCard
from cpl_bench.core.errors import UserError
from cpl_bench.core.progress import say
from cpl_bench.tasks.episodes import Trajectory
from cpl_bench.tasks.registry import action_bounds, check_sizes


def fitted(card: DatasetCard, task: TaskCard, trajectories: list[Trajectory]) -> list[Trajectory]:
    """The trajectories, with actions as our tasks take them.

    D4RL keeps the actions that its environment took; they are rescaled from the bounds of the
    task's own environment, to which a policy's are scaled.

    Raises:
        UserError: they do not fit the task, cannot be cut into the card's segments, or are not
            finite.
    """
    source, length = card.source, card.segments.length
    assert source is not None
    if not trajectories:
        raise UserError(f"{source} holds no episode of a step whose end is known.")
    shapes = {(e.observations.shape[1], e.actions.shape[1]) for e in trajectories}
    if len(shapes) > 1:
        raise UserError(f"{source}: episodes have different sizes: {sorted(shapes)}.")
    if source.rolled_out:
        check_sizes(task, shapes.pop(), str(source), hint_for(card))
    longest = max(len(each.rewards) for each in trajectories)
    if longest < length:
        raise UserError(
            f"{source}: its longest episode has {longest} steps, and {card.path} cuts segments of "
            f"{length}. Choose a shorter segments.length."
        )
    if source.rolled_out and source.format == "d4rl":
        trajectories = _rescaled(task, trajectories)
    for number, each in enumerate(trajectories):
        for what in ("observations", "actions", "rewards"):
            if not np.isfinite(getattr(each, what)).all():
                raise UserError(f"{source}: episode {number} has {what} that are not finite.")
        reach = float(np.abs(each.actions).max())
        if reach > 1 + 1e-6:
            raise UserError(
                f"{source}: actions must lie within [-1, 1], and reach {reach:g} in episode "
                f"{number}: it is another task's, or must be rescaled."
            )
    return trajectories


def hint_for(card: DatasetCard) -> str:
    """What to do about a card whose data are of other sizes than its task."""
    return f"Name its task in {card.path}, or say rolled_out = false in its [source]."


def _rescaled(task: TaskCard, trajectories: list[Trajectory]) -> list[Trajectory]:
    """With actions within [−1, 1], from the bounds of the task's own."""
    centre, reach = action_bounds(task)
    if (centre == 0).all() and (reach == 1).all():
        return trajectories
    say(f"  Actions are rescaled to [-1, 1] from the bounds of {task.source_id}.")
    return [
        replace(each, actions=((each.actions - centre) / reach).astype(np.float32))
        for each in trajectories
    ]
