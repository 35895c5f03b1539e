"""The behaviour policies behind datasets: one clone of the expert, stopped at several levels.

The clone's weights are kept at geometrically spaced steps; few of them are measured, and bisection
finds the one nearest to each level that a card names.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.dataset_cards import DatasetCard
from cpl_bench.core.errors import UserError
from cpl_bench.core.folders import data_root
from cpl_bench.core.names import file_part
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.core.progress import say
from cpl_bench.core.seeds import episode_seeds, generator
from cpl_bench.core.versions import installed
from cpl_bench.tasks.episodes import EXPERT, EpisodeRules
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.tasks.registry import find_task
from cpl_bench.trajectories.checkpoints import (
    Checkpoints,
    checkpoint_file,
    file_hash,
    read_checkpoints,
    write_checkpoints,
)
from cpl_bench.trajectories.cloning import cloned
from cpl_bench.trajectories.dataset import scores_of

CLONE_VERSION = 3  # raise it when a clone of the same recipe would come out differently
FIRST_STOP, STOP_RATIO, STRIDE = 5, 1.15, 5
ENOUGH_ABOVE = 0.05  # training ends at a stop that exceeds the highest level by this


def make_clone(card: DatasetCard, task: TaskCard, pool: RolloutPool) -> Checkpoints:
    """The clone of a card's recipe: read where a card of the same recipe has left it."""
    key = hashlib.sha256(json.dumps(recipe(card), sort_keys=True).encode()).hexdigest()[:12]
    name = file_part(Path(card.task).stem)  # of a card's path, its name
    path = data_root() / "clones" / f"{name}-{key}.safetensors"
    clone = _read_clone(path, len(card.cloned.levels))
    if clone is None:
        clone = _train_clone(card, task, pool)
        write_checkpoints(path, clone)
    scoring = task.scoring
    for wanted, step, score in zip(card.cloned.levels, clone.steps, clone.score, strict=True):
        say(
            f"  level {scoring.shown(wanted, 0)}{scoring.unit}: the clone at step {step} has a "
            f"{scoring.name} of {scoring.shown(score, 0)}{scoring.unit}"
        )
    return clone


def recipe(card: DatasetCard) -> dict[str, Any]:
    """Everything that decides a card's behaviour policies, as JSON has it."""
    task = find_task(card.task)
    behaviour = asdict(card.cloned)
    del behaviour["score_band"]
    if behaviour.pop("checkpoints"):
        behaviour["checkpoints"] = file_hash(checkpoint_file(card))
    decisive = {
        "behaviour": behaviour,
        "rules": [card.seed, card.stop_steps_after_success, card.minimum_steps],
        "task": [*task.simulated, task.score, installed(task)],
        "version": CLONE_VERSION,
    }
    return json.loads(json.dumps(decisive))


def _train_clone(card: DatasetCard, task: TaskCard, pool: RolloutPool) -> Checkpoints:
    behaviour = card.cloned
    demonstrations = pool.episodes(
        task,
        episode_seeds("demonstrations", behaviour.demonstrations, card.seed),
        [EXPERT] * behaviour.demonstrations,
        [],
        EpisodeRules(
            action_noise=behaviour.demonstration_noise,
            stop_steps_after_success=card.stop_steps_after_success,
            minimum_steps=card.minimum_steps,
        ),
        caption="demonstrations",
    )
    observations = np.concatenate([each.observations[:-1] for each in demonstrations])
    actions = np.concatenate([each.actions for each in demonstrations])
    search = _LevelSearch(card, task, pool)
    rng, stops = generator("clone", card.seed), _geometric(behaviour.clone_steps)
    for step, policy in cloned(observations, actions, rng, stops):
        if search.add(step, policy):
            break
    chosen = [search.nearest(level) for level in behaviour.levels]
    return Checkpoints(
        [search.policies[i] for i in chosen],
        [search.steps[i] for i in chosen],
        [search.score[i] for i in chosen],
    )


class _LevelSearch:
    """Finds the stop of a clone whose success is nearest to a level, measuring few of them."""

    def __init__(self, card: DatasetCard, task: TaskCard, pool: RolloutPool):
        self.task, self.pool, self.recipe = task, pool, card.cloned
        self.seeds = episode_seeds("clone probe", card.cloned.probe_episodes, card.seed)
        self.steps: list[int] = []
        self.policies: list[PolicyWeights] = []
        self.score: dict[int, float] = {}
        """Measured mean score by the stop's number."""

    def add(self, step: int, weights: PolicyWeights) -> bool:
        """Note a stop; every STRIDE-th is measured. True: no level lies higher."""
        self.steps.append(step)
        self.policies.append(weights)
        number = len(self.steps) - 1
        last = step >= self.recipe.clone_steps
        if number % STRIDE and not last:
            return False
        return self._measure(number) > max(self.recipe.levels) + ENOUGH_ABOVE

    def nearest(self, level: float) -> int:
        """Bisect between the measured stops around `level`, then take the nearest measured."""
        measured = sorted(self.score)
        above = [number for number in measured if self.score[number] >= level]
        if above and above[0] > 0:
            high = above[0]
            low = max(number for number in measured if number < high)
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if self._measure(middle) >= level else (middle, high)
        # of several as near, the last: an early failure is a blank policy, a late one nearly works
        return min(self.score, key=lambda number: (abs(self.score[number] - level), -number))

    def _measure(self, number: int) -> float:
        """Mean score of a stop; 0 without further episodes if the first quarter all fail."""
        if number not in self.score:
            quarter = max(len(self.seeds) // 4, 1)
            outcomes = self._outcomes(number, self.seeds[:quarter])
            if any(outcomes) or not self.task.scoring.is_success:
                outcomes += self._outcomes(number, self.seeds[quarter:])
            self.score[number] = float(np.mean(outcomes))
        return self.score[number]

    def _outcomes(self, number: int, seeds: list[int]) -> list[float]:
        stop = 0 if self.task.scoring.is_success else None  # a return is of the whole episode
        rules = EpisodeRules(self.recipe.action_noise, stop, keep_steps=False)
        caption = f"clone at step {self.steps[number]}"
        policy = self.policies[number : number + 1]
        episodes = self.pool.episodes(self.task, seeds, [0] * len(seeds), policy, rules, caption)
        return scores_of(self.task, episodes).tolist()


def _geometric(last: int) -> list[int]:
    """Steps at which the clone's weights are kept, each STOP_RATIO times the one before."""
    stops = [FIRST_STOP]
    while stops[-1] * STOP_RATIO < last:
        stops.append(round(stops[-1] * STOP_RATIO))
    return [*stops, last]


def _read_clone(path: Path, levels: int) -> Checkpoints | None:
    """None if there is none of so many levels, or a damaged one."""
    if not path.is_file():
        return None
    try:
        found = read_checkpoints(path, "It is made again.")
    except UserError:
        return None
    return found if len(found.policies) == levels and min(found.steps) > 0 else None
