"""From a method's name and preferences to a learner with its batches, ready to be trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.core.seeds import training_seeds
from cpl_bench.learning.chunks import chunk_of
from cpl_bench.learning.config import MethodConfig
from cpl_bench.learning.inputs import folded, inputs_of
from cpl_bench.learning.interface import Algorithm, OnlinePhase, Phase
from cpl_bench.learning.loop import Stretch
from cpl_bench.learning.methods import find_method
from cpl_bench.learning.precision import Precision, computed_in
from cpl_bench.preferences.format import Preferences
from cpl_bench.runs.feeds import Source, check_feeds, stretches
from cpl_bench.tasks.pool import RolloutPool


@dataclass(frozen=True)
class Trainee:
    """A learner, and what it will be fed with."""

    learner: Algorithm
    phases: Sequence[Phase | OnlinePhase]
    source: Source
    """Its preferences are as networks see them."""
    training: list[Stretch]
    """The phases that get any steps, with their batches."""

    def weights(self) -> PolicyWeights:
        """The policy as it acts on a simulator's observations."""
        return folded(self.learner.weights(), self.source.inputs)


def prepare(
    algorithm: str,
    config: MethodConfig,
    preferences: Preferences,
    members: Sequence[int],
    device: torch.device,
    task: TaskCard | None,
    pool: RolloutPool | None,
    title: str = "",
    precision: Precision = "fp32",
    varied: Mapping[str, Sequence[float]] | None = None,
) -> Trainee:
    """Build a method for some data; `members` are the seeds as the user counts them.

    Args:
        algorithm: its name.
        config: its settings.
        preferences: the data.
        members: one a seed.
        device: where it learns.
        task: what the data are of; None where nothing is rolled out.
        pool: of workers, likewise.
        title: what messages call the method; empty for its own name.
        precision: what matrix products are computed in.
        varied: settings of which each member has its own number.

    Raises:
        UserError: an unknown algorithm, or data that do not hold what it needs.
    """
    entry, seeds = find_method(algorithm), training_seeds(members)
    sizes = preferences.observations.shape[1], preferences.actions.shape[1]
    learner = entry.build(config, *sizes, seeds, device)
    if varied:
        cast(Any, learner).config = _with_columns(config, varied, device)
    phases = learner.phases()
    rewards = preferences.rewards is not None
    named = title or entry.title(config)
    check_feeds(phases, preferences.info, rewards, named, chunk_of(config))
    inputs = inputs_of(config, preferences.observations)
    if inputs is not None:
        preferences = replace(preferences, observations=inputs.seen(preferences.observations))
    source = Source(preferences, task, pool, members, seeds, device, inputs)
    training = stretches(source, phases, learner)
    training = [computed_in(precision, device, each) for each in training]
    return Trainee(learner, phases, source, training)


def _with_columns(
    config: MethodConfig, varied: Mapping[str, Sequence[float]], device: torch.device
) -> MethodConfig:
    """The config with columns (s, 1) in place of some of its numbers, for an update to read."""
    made = copy(config)
    for name, values in varied.items():
        column = torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(1)
        object.__setattr__(made, name, column)  # each number was checked in a config of its own
    return made
