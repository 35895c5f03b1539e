"""Whether a dataset can tell methods apart: what `inspect --probe` measures and decides.

A dataset on which the expert fails measures the expert; one on which cloning is already good
measures nothing. So a card is accepted only with the behaviour's mean score in its band, an expert
of at least 90 %, where there is one, and SFT at most 20 points above the behaviour. What the other
methods reach is shown beside it and decides nothing; where the best of them reaches 97 %, the card
is saturated: it tells a method that learns from one that does not, and no good one from a better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.dataset_cards import DatasetCard
from cpl_bench.core.score import SATURATED
from cpl_bench.core.seeds import episode_seeds
from cpl_bench.learning.loop import fit
from cpl_bench.learning.methods import preset_of
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.format import Preferences
from cpl_bench.runs.assess import assess
from cpl_bench.runs.prepare import prepare
from cpl_bench.tasks.episodes import EXPERT, EpisodeRules
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.tasks.registry import find_task
from cpl_bench.trajectories.dataset import scores_of

EXPERT_EPISODES = 100
MINIMUM_EXPERT = 0.9
MAXIMUM_GAIN = 0.2
METHODS = ("sft", "cpl", "piql")
"""By their laptop presets, in the order of the columns."""
SEEDS = (0, 1)
EPISODES = 25  # a seed in each evaluation
EVALUATIONS = 4  # of the second half of training; their mean is a method's score


@dataclass(frozen=True)
class Probe:
    """What was measured of one dataset; scores, 1 is 100 %."""

    card: DatasetCard
    behaviour: float
    expert: float | None
    """None: the data are of another training's checkpoints, and there is no expert to ask."""
    methods: Mapping[str, tuple[float, float]]
    """Of each of METHODS its mean and standard error."""

    @property
    def sft(self) -> float:
        """What cloning reaches."""
        return self.methods["sft"][0]

    @property
    def problems(self) -> list[str]:
        """Why the card is not accepted; empty if it is."""
        low, high = self.card.cloned.score_band
        checks = {
            "behaviour outside its band": not low <= self.behaviour <= high,
            "expert below 90 %": self.expert is not None and self.expert < MINIMUM_EXPERT,
            "SFT more than 20 points above the behaviour": self.sft > self.behaviour + MAXIMUM_GAIN,
        }
        return [problem for problem, found in checks.items() if found]

    @property
    def verdict(self) -> str:
        """One line."""
        if self.problems:
            return "refused: " + "; ".join(self.problems)
        best = max(mean for mean, _ in self.methods.values())
        return "accepted, saturated" if best >= SATURATED else "accepted"

    def row(self) -> str:
        """A line of the Markdown table."""
        low, high = self.card.cloned.score_band
        cells = [
            self.card.name,
            f"{self.card.episodes:,}",
            f"{self.card.segments.count:,} × {self.card.segments.length}",
            f"{self.behaviour:.1%}",
            f"{low:.0%}–{high:.0%}",
            "–" if self.expert is None else f"{self.expert:.0%}",
            *(f"{mean:.1%} ± {error:.1%}" for mean, error in self.methods.values()),
            self.verdict,
        ]
        return "| " + " | ".join(cells) + " |"


def probe(card: DatasetCard, preference_file: Path, behaviour: float, pool: RolloutPool) -> Probe:
    """Measure the expert and METHODS beside the behaviour's known score."""
    task, preferences = find_task(card.task), load_preferences(preference_file)
    expert = None if card.cloned.checkpoints else _expert(task, card.seed, pool)
    found = {name: _method(name, preferences, task, pool) for name in METHODS}
    return Probe(card, behaviour, expert, found)


def _expert(task: TaskCard, seed: int, pool: RolloutPool) -> float:
    """Mean score of the scripted expert."""
    seeds = episode_seeds("expert probe", EXPERT_EPISODES, seed)
    stop = 0 if task.scoring.is_success else None
    rules = EpisodeRules(stop_steps_after_success=stop, keep_steps=False)
    episodes = pool.episodes(task, seeds, [EXPERT] * len(seeds), [], rules, caption="expert")
    return float(np.mean(scores_of(task, episodes)))


def _method(
    name: str, preferences: Preferences, task: TaskCard, pool: RolloutPool
) -> tuple[float, float]:
    """What a method's laptop preset reaches in the second half of training, and how surely."""
    config = preset_of(name, "laptop")
    trainee = prepare(name, config, preferences, SEEDS, torch.device("cpu"), task, pool)
    pauses = [config.steps - i * config.steps // (2 * EVALUATIONS) for i in range(EVALUATIONS)]
    scores: list[float] = []
    for pause in fit(trainee.training, pauses, torch.device("cpu"), caption=f"{name} probe"):
        if pause.step in pauses:
            own = [episode_seeds("monitoring", EPISODES, pause.step, seed) for seed in SEEDS]
            caption = f"{name}, step {pause.step}"
            rows = assess(pool, task, trainee.weights(), SEEDS, own, pause.step, caption)
            scores += task.scoring.of(rows["success"], rows["return"]).tolist()
    return float(np.mean(scores)), float(np.std(scores) / np.sqrt(len(scores)))
