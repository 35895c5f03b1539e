"""What the phases of a training are fed with: each feed made once, from a value that says what.

A feed (`cpl_bench.learning.interface`) is read here alone, and no method's config is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.errors import UserError
from cpl_bench.learning.inputs import Inputs
from cpl_bench.learning.interface import (
    BestEpisodes,
    Feed,
    OnlinePhase,
    OnPolicy,
    Phase,
    PreferenceBatch,
    Segments,
    Transitions,
)
from cpl_bench.learning.loop import Stretch, stretch
from cpl_bench.learning.transitions import Steps, TransitionSampler
from cpl_bench.preferences.annotators import check_annotator
from cpl_bench.preferences.format import PreferenceInfo, Preferences
from cpl_bench.preferences.holdout import split_by_episode
from cpl_bench.preferences.returns import best_episodes
from cpl_bench.runs.batches import PreferenceSampler, check_count, steps_of
from cpl_bench.runs.rollouts import RolloutFeed
from cpl_bench.tasks.pool import RolloutPool

Draw = Callable[[Tensor], PreferenceBatch]


@dataclass(frozen=True)
class Source:
    """Where batches come from."""

    preferences: Preferences | None
    """None for methods that only learn from their own episodes."""
    task: TaskCard | None
    pool: RolloutPool | None
    """None: nothing can be rolled out."""
    members: Sequence[int]
    """The seeds as the user counts them, from 0: they decide the episodes."""
    seeds: Sequence[int]
    """The members' training seeds: they decide the batches."""
    device: torch.device
    inputs: Inputs | None = None
    """How the preferences' observations were standardised, for those that come later."""

    @cached_property
    def data(self) -> Preferences:
        """The preferences, by whoever needs them."""
        assert self.preferences is not None, "this feed draws from preferences"
        return self.preferences

    @cached_property
    def steps(self) -> Steps:
        """The recorded steps on the device, one copy for all feeds."""
        return steps_of(self.data, self.device)

    @cached_property
    def sides(self) -> tuple[Preferences, Preferences]:
        """(fitting, held out)."""
        return split_by_episode(self.data)


def check_feeds(
    phases: Sequence[Phase | OnlinePhase],
    info: PreferenceInfo,
    rewards: bool,
    method: str,
    chunk: int = 1,
) -> None:
    """Refuse data that do not hold what a phase is fed with; the data need not be there yet.

    Args:
        phases: of the method.
        info: what the data are, or will be.
        rewards: whether they hold the environment's rewards.
        method: what messages call it.
        chunk: actions that one look of its policy decides.

    Raises:
        UserError: the first thing that is missing.
    """
    if info.pairs == "dense":
        check_annotator(info.annotator, info.annotator_settings)
    for phase in phases:
        if not phase.steps:
            continue
        feed = phase.feed if isinstance(phase, Phase) else phase.feed.offline
        least = max(feed.least_length, chunk) if isinstance(feed, Segments) else 1
        least = feed.window + feed.following if isinstance(feed, Transitions) else least
        if info.segment_length < least:
            steps = f"{info.segment_length} step" + "s" * (info.segment_length > 1)
            chunks = f", or take chunks of at most {info.segment_length}" * (chunk > 1)
            raise UserError(
                f"{info.title} holds segments of {steps}, and {method} needs at least {least}. "
                f"Label with --segment-length {least} or more{chunks}."
            )
        if (isinstance(feed, BestEpisodes) or getattr(feed, "rewards", False)) and not rewards:
            raise UserError(
                f"{info.title} holds no rewards, and {method} learns from the true ones. Take a "
                "method that learns from comparisons alone, such as cpl."
            )
        if isinstance(feed, Segments):
            check_count(info, feed.count)
            if feed.ranked and info.pairs == "sparse":
                raise UserError(
                    f"{info.title} holds single comparisons, and a loss of rankings needs ranked "
                    "answers. Label with --pairs ranked or dense, or choose a loss of pairs."
                )


def stretches(
    source: Source, phases: Sequence[Phase | OnlinePhase], learner: object
) -> list[Stretch]:
    """The phases that get any steps, with their batches.

    Raises:
        UserError: the data do not hold what a feed needs, or nothing can be rolled out.
    """
    wanted = [phase for phase in phases if phase.steps]
    made: dict[Feed, Draw] = {}

    def draw(feed: Feed) -> Draw:
        if feed not in made:
            made[feed] = _draw(source, feed)
        return made[feed]

    result, begins = [], 0
    for phase in wanted:
        if isinstance(phase, Phase):
            result.append(stretch(phase, draw(phase.feed)))
        else:
            result.append(_online(source, phase, learner, begins, draw))
        begins += phase.steps
    return result


def _draw(source: Source, feed: Feed) -> Draw:
    data = source.data
    if isinstance(feed, Segments):
        side = data if feed.side == "all" else source.sides[0]
        return PreferenceSampler(side, source.seeds, feed.count, source.steps, feed.rewards).draw
    if isinstance(feed, Transitions):
        return TransitionSampler(
            source.steps,
            source.seeds,
            feed.count,
            rows=followed_rows(data) if feed.following else segment_rows(data, feed.window),
            following=feed.following,
            rewards=feed.rewards,
            window=feed.window,
        ).draw
    if source.task is None:
        raise UserError(f"{data.info.title} names no task, and its horizon decides returns.")
    rows, window = best_episodes(data, feed.percent, source.task.horizon_steps), feed.window
    rows = rows[episode_steps_left(data, rows) >= window]
    if not len(rows):
        raise UserError(
            f"None of the best {feed.percent:g} % of the episodes of {data.info.title} has "
            f"{window} steps, a chunk. Take a smaller --policy.chunk."
        )
    return TransitionSampler(source.steps, source.seeds, feed.count, rows=rows, window=window).draw


def segment_rows(preferences: Preferences, window: int = 1) -> np.ndarray:
    """The steps of all segments that have `window - 1` more after them, once a segment."""
    steps = np.arange(preferences.info.segment_length - window + 1)
    return np.add.outer(preferences.segment_starts, steps).ravel()


def episode_steps_left(preferences: Preferences, rows: np.ndarray) -> np.ndarray:
    """How many steps each row's episode has from there on, with its own."""
    ends = preferences.episode_ends
    return ends[np.searchsorted(ends, rows, side="right")] - rows


def followed_rows(preferences: Preferences) -> np.ndarray:
    """The steps of all segments of which it is known what followed: another step, or the end."""
    starts, k = preferences.segment_starts, preferences.info.segment_length
    rows = np.add.outer(starts, np.arange(k - 1)).ravel()
    if preferences.terminations is None:
        return rows
    last = starts + k - 1
    return np.concatenate([rows, last[preferences.terminations[last] > 0]])


def _online(
    source: Source,
    phase: OnlinePhase,
    learner: object,
    begins: int,
    draw: Callable[[Feed], Draw],
) -> Stretch:
    if source.task is None or source.pool is None:
        raise UserError(
            f"The phase '{phase.name}' learns from its own episodes, and there is no simulator: "
            "name a task."
        )
    feed = RolloutFeed(
        phase.feed,
        cast(OnPolicy, learner),
        source.task,
        source.pool,
        source.members,
        source.device,
        begins,
        draw(phase.feed.offline) if phase.feed.offline else None,
        source.inputs,
    )
    return stretch(phase, feed.draw)
