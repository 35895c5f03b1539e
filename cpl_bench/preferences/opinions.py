"""What further scorers say of segments that are labelled already, for `inspect` to compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.dataset_cards import Labelling
from cpl_bench.core.errors import UserError
from cpl_bench.core.toml import build
from cpl_bench.preferences.examine import partial_returns
from cpl_bench.preferences.format import Preferences
from cpl_bench.preferences.labelling import discount_of
from cpl_bench.preferences.scorers import STEPWISE, find_scorer
from cpl_bench.preferences.segments import segments_of
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.tasks.registry import find_task
from cpl_bench.trajectories.dataset import TrajectorySet, content_hash
from cpl_bench.trajectories.formats.minari import read_trajectories

OURS = "cpl_bench/"
"""How the source of segments is called that were cut here."""


def opinions(
    preferences: Preferences,
    source: TrajectorySet,
    task: TaskCard,
    labelling: Labelling,
    scorers: Sequence[str],
    pool: RolloutPool,
) -> dict[str, np.ndarray]:
    """The partial return of each segment, if it is known, and what `scorers` say, (n,) each.

    They are asked as the labelling was, but for its settings; the file's own scorer is left out.
    """
    info, returns = preferences.info, partial_returns(preferences)
    others = {} if returns is None else {"partial_return": returns}
    segments = segments_of(source, preferences.segment_starts, info.segment_length)
    for name in scorers:
        if name not in (*others, info.scorer):
            discount = discount_of(labelling) if name in STEPWISE else 1.0
            how = replace(labelling, scorer=name, scorer_settings={}, discount=discount)
            others[name] = find_scorer(name)(segments, task, how, pool)
    others.pop(info.scorer, None)
    return others


def opinions_on_file(
    path: Path, preferences: Preferences, scorers: Sequence[str], pool: RolloutPool
) -> dict[str, np.ndarray]:
    """The same of a preference file, from the trajectories that it names.

    Raises:
        UserError: it names none, they are not here, or they are others by now.
    """
    info, asked = preferences.info, preferences.info.scorer_settings
    if not info.source.startswith(OURS):
        raise UserError(
            f"{path} holds the segments of {info.source or 'nobody knows what'} and no "
            f"trajectories, and {', '.join(scorers)} would score those: leave out --scorers."
        )
    source = read_trajectories(info.source, states=not set(scorers) <= set(STEPWISE))
    if content_hash(source.trajectories) != info.source_hash:
        raise UserError(
            f"The trajectories {info.source} here are not those that {path} was cut from: leave "
            "out --scorers, or label them anew."
        )
    task = find_task(info.task or str(source.record.get("card", {}).get("task", "")))
    kept = {key: asked[key] for key in ("cap_steps", "discount") if key in asked}
    how = build(Labelling, kept, f"{path}: scorer_settings")
    return opinions(preferences, source, task, how, scorers, pool)
