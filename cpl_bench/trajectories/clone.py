"""The behaviour policies behind datasets: one clone of the expert, stopped at several levels.

The clone's weights are kept at geometrically spaced steps; few of them are measured, and bisection
finds the one nearest to each level that a card names.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cpl_bench.core.cards import TaskCard, load_task
from cpl_bench.core.dataset_cards import DatasetCard
from cpl_bench.core.folders import data_root
from cpl_bench.core.progress import say
from cpl_bench.core.seeds import episode_seeds
from cpl_bench.core.versions import installed
from cpl_bench.tasks.episodes import EXPERT, EpisodeRules
from cpl_bench.tasks.policies import Weights
from cpl_bench.tasks.pool import RolloutPool

CLONE_VERSION = 2  # raise it when a clone of the same recipe would come out differently
FIRST_STOP, STOP_RATIO, STRIDE = 5, 1.15, 5
BATCH_TRANSITIONS = 512
LEARNING_RATE = 1e-3
HIDDEN = (256, 256)
ENOUGH_ABOVE = 0.05  # training ends at a stop that exceeds the highest level by this


@dataclass(frozen=True)
class Clone:
    """One clone of the expert, stopped at the levels of a card."""

    weights: list[Weights]
    """One policy a level."""
    steps: list[int]
    """Gradient steps at each."""
    success: list[float]
    """Measured success rate of each, with the card's action noise."""


def make_clone(card: DatasetCard, task: TaskCard, pool: RolloutPool) -> Clone:
    """The clone of a card's recipe: read where a card of the same recipe has left it."""
    key = hashlib.sha256(json.dumps(recipe(card), sort_keys=True).encode()).hexdigest()[:12]
    path = data_root() / "clones" / f"{card.task}-{key}.safetensors"
    clone = _read_clone(path)
    if clone is None:
        clone = _train_clone(card, task, pool)
        _write_clone(path, clone)
    for wanted, step, success in zip(
        card.behaviour.levels, clone.steps, clone.success, strict=True
    ):
        say(f"  level {wanted:.0%}: the clone at step {step} succeeds in {success:.0%}")
    return clone


def recipe(card: DatasetCard) -> dict[str, Any]:
    """Everything that decides the clone of a card, as JSON has it."""
    task = load_task(card.task)
    decisive = {
        "behaviour": asdict(card.behaviour) | {"success_band": None},
        "rules": [card.seed, card.stop_steps_after_success, card.minimum_steps],
        "task": [task.suite, task.source_id, task.horizon_steps, installed(task)],
        "version": CLONE_VERSION,
    }
    return json.loads(json.dumps(decisive))


def _train_clone(card: DatasetCard, task: TaskCard, pool: RolloutPool) -> Clone:
    import torch

    from cpl_bench.learning.algos.bc import SFT, SFTConfig
    from cpl_bench.learning.loop import fit
    from cpl_bench.learning.transitions import TransitionSampler

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
        label="demonstrations",
    )
    observations = np.concatenate([each.observations[:-1] for each in demonstrations])
    actions = np.concatenate([each.actions for each in demonstrations])
    device = torch.device("cpu")
    config = SFTConfig(LEARNING_RATE, HIDDEN, 0.0, behaviour.clone_steps, behaviour.clone_steps)
    search = _LevelSearch(card, task, pool)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums, and so the data, would depend on the number of processors
    try:
        algorithm = SFT(config, observations.shape[1], actions.shape[1], [card.seed], device)
        sampler = TransitionSampler(observations, actions, [card.seed], BATCH_TRANSITIONS, device)
        pauses = _geometric(behaviour.clone_steps)
        phases = algorithm.phases(behaviour.clone_steps)
        for pause in fit(phases, {"segments": sampler.draw}, pauses, device, label="clone"):
            weights = {name: value[0] for name, value in algorithm.weights().items()}
            if search.add(pause.step, weights):
                break
    finally:
        torch.set_num_threads(threads)
    chosen = [search.nearest(level) for level in behaviour.levels]
    return Clone(
        [search.policies[i] for i in chosen],
        [search.steps[i] for i in chosen],
        [search.success[i] for i in chosen],
    )


class _LevelSearch:
    """Finds the stop of a clone whose success is nearest to a level, measuring few of them."""

    def __init__(self, card: DatasetCard, task: TaskCard, pool: RolloutPool):
        self.task, self.pool, self.recipe = task, pool, card.behaviour
        self.seeds = episode_seeds("clone probe", card.behaviour.probe_episodes, card.seed)
        self.steps: list[int] = []
        self.policies: list[Weights] = []
        self.success: dict[int, float] = {}
        """Measured success by the stop's number."""

    def add(self, step: int, weights: Weights) -> bool:
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
        measured = sorted(self.success)
        above = [number for number in measured if self.success[number] >= level]
        if above and above[0] > 0:
            high = above[0]
            low = max(number for number in measured if number < high)
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if self._measure(middle) >= level else (middle, high)
        # of several as near, the last: an early failure is a blank policy, a late one nearly works
        return min(self.success, key=lambda number: (abs(self.success[number] - level), -number))

    def _measure(self, number: int) -> float:
        """Success rate of a stop; 0 without further episodes if the first quarter all fail."""
        if number not in self.success:
            quarter = max(len(self.seeds) // 4, 1)
            outcomes = self._outcomes(number, self.seeds[:quarter])
            if any(outcomes):
                outcomes += self._outcomes(number, self.seeds[quarter:])
            self.success[number] = float(np.mean(outcomes))
        return self.success[number]

    def _outcomes(self, number: int, seeds: list[int]) -> list[bool]:
        rules = EpisodeRules(self.recipe.action_noise, stop_steps_after_success=0, keep_steps=False)
        label = f"clone at step {self.steps[number]}"
        policy = self.policies[number : number + 1]
        episodes = self.pool.episodes(self.task, seeds, [0] * len(seeds), policy, rules, label)
        return [episode.succeeded for episode in episodes]


def _geometric(last: int) -> list[int]:
    """Steps at which the clone's weights are kept, each STOP_RATIO times the one before."""
    stops = [FIRST_STOP]
    while stops[-1] * STOP_RATIO < last:
        stops.append(round(stops[-1] * STOP_RATIO))
    return [*stops, last]


def _write_clone(path: Path, clone: Clone) -> None:
    from safetensors.numpy import save

    from cpl_bench.core.files import write_atomically

    tensors = {
        f"{i}.{name}": value
        for i, weights in enumerate(clone.weights)
        for name, value in weights.items()
    }
    levels = json.dumps({"steps": clone.steps, "success": clone.success})
    write_atomically(path, save(tensors, {"levels": levels}))


def _read_clone(path: Path) -> Clone | None:
    """None if there is none, or a damaged one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            levels = json.loads(file.metadata()["levels"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return Clone(_by_level(tensors, len(levels["steps"])), levels["steps"], levels["success"])


def _by_level(tensors: dict[str, np.ndarray], levels: int) -> list[Weights]:
    return [
        {name.split(".")[1]: value for name, value in tensors.items() if name.startswith(f"{i}.")}
        for i in range(levels)
    ]
