"""The behaviour policies behind datasets: one clone of the expert, stopped at several levels.

The clone's weights are kept at geometrically spaced steps; few of them are measured, and bisection
finds the one nearest to each level that a card names.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cpl_bench.core.cards import TaskCard, load_task
from cpl_bench.core.dataset_cards import DatasetCard
from cpl_bench.core.errors import UserError
from cpl_bench.core.folders import data_root
from cpl_bench.core.names import file_part
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.core.progress import say
from cpl_bench.core.seeds import episode_seeds, generator
from cpl_bench.core.tensors import read_tensors, write_tensors
from cpl_bench.core.versions import installed
from cpl_bench.tasks.episodes import EXPERT, EpisodeRules
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.trajectories.cloning import cloned
from cpl_bench.trajectories.dataset import scores_of

CLONE_VERSION = 3  # raise it when a clone of the same recipe would come out differently
FIRST_STOP, STOP_RATIO, STRIDE = 5, 1.15, 5
ENOUGH_ABOVE = 0.05  # training ends at a stop that exceeds the highest level by this


@dataclass(frozen=True)
class Clone:
    """One clone of the expert, stopped at the levels of a card."""

    policies: list[PolicyWeights]
    """One a level."""
    steps: list[int]
    """Gradient steps at each."""
    score: list[float]
    """Measured mean score of each, with the card's action noise."""


def make_clone(card: DatasetCard, task: TaskCard, pool: RolloutPool) -> Clone:
    """The clone of a card's recipe: read where a card of the same recipe has left it."""
    key = hashlib.sha256(json.dumps(recipe(card), sort_keys=True).encode()).hexdigest()[:12]
    name = file_part(Path(card.task).stem)  # of a card's path, its name
    path = data_root() / "clones" / f"{name}-{key}.safetensors"
    clone = _read_clone(path, len(card.behaviour.levels))
    if clone is None:
        clone = _train_clone(card, task, pool)
        _write_clone(path, clone)
    scoring = task.scoring
    for wanted, step, score in zip(card.behaviour.levels, clone.steps, clone.score, strict=True):
        say(
            f"  level {scoring.shown(wanted, 0)}{scoring.unit}: the clone at step {step} has a "
            f"{scoring.name} of {scoring.shown(score, 0)}{scoring.unit}"
        )
    return clone


def recipe(card: DatasetCard) -> dict[str, Any]:
    """Everything that decides the clone of a card, as JSON has it."""
    task = load_task(card.task)
    decisive = {
        "behaviour": {k: v for k, v in asdict(card.behaviour).items() if k != "score_band"},
        "rules": [card.seed, card.stop_steps_after_success, card.minimum_steps],
        "task": [task.suite, task.source_id, task.horizon_steps, task.score, installed(task)],
        "version": CLONE_VERSION,
    }
    return json.loads(json.dumps(decisive))


def _train_clone(card: DatasetCard, task: TaskCard, pool: RolloutPool) -> Clone:
    behaviour = card.behaviour
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
    return Clone(
        [search.policies[i] for i in chosen],
        [search.steps[i] for i in chosen],
        [search.score[i] for i in chosen],
    )


class _LevelSearch:
    """Finds the stop of a clone whose success is nearest to a level, measuring few of them."""

    def __init__(self, card: DatasetCard, task: TaskCard, pool: RolloutPool):
        self.task, self.pool, self.recipe = task, pool, card.behaviour
        self.seeds = episode_seeds("clone probe", card.behaviour.probe_episodes, card.seed)
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


def _write_clone(path: Path, clone: Clone) -> None:
    tensors = {
        f"{i}.{name}": value
        for i, policy in enumerate(clone.policies)
        for name, value in policy.arrays.items()
    }
    write_tensors(path, tensors, {"steps": clone.steps, "score": clone.score})


def _read_clone(path: Path, levels: int) -> Clone | None:
    """None if there is none of so many levels, or a damaged one."""
    if not path.is_file():
        return None
    try:
        about, tensors = read_tensors(path, "It is made again.")
        steps, score = list(about["steps"]), list(about["score"])
        policies = _by_level(tensors, len(steps))
        for policy in policies:
            replace(policy, arrays={k: v[None] for k, v in policy.arrays.items()}).check_members()
    except (UserError, KeyError, TypeError):
        return None
    numbers = all(type(each) is int and each > 0 for each in steps) and all(
        type(x) is float for x in score
    )
    whole = len(steps) == len(score) == levels and numbers
    return Clone(policies, steps, score) if whole else None


def _by_level(tensors: dict[str, np.ndarray], levels: int) -> list[PolicyWeights]:
    return [
        PolicyWeights(
            "deterministic",
            {k.removeprefix(f"{i}."): v for k, v in tensors.items() if k.startswith(f"{i}.")},
        )
        for i in range(levels)
    ]
