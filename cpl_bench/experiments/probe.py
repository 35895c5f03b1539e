"""Whether a dataset can tell methods apart: what `inspect --probe` measures and decides.

A dataset on which the expert fails measures the expert; one on which cloning is already good
measures nothing. So a card is accepted only with the behaviour's mean score in its band, an expert
of at least 90 %, and SFT at most 20 points above the behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cpl_bench.core.cards import load_task
from cpl_bench.core.dataset_cards import DatasetCard
from cpl_bench.core.seeds import episode_seeds, training_seeds
from cpl_bench.learning.loop import fit
from cpl_bench.learning.methods import find_method
from cpl_bench.preferences.file import load_preferences
from cpl_bench.runs.assess import assess
from cpl_bench.runs.feeds import Source, stretches
from cpl_bench.tasks.episodes import EXPERT, EpisodeRules
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.trajectories.dataset import scores_of

EXPERT_EPISODES = 100
MINIMUM_EXPERT = 0.9
MAXIMUM_GAIN = 0.2
SEEDS = (0, 1)
EPISODES = 25  # a seed in each evaluation
EVALUATIONS = 4  # of the second half of training; their mean is SFT's success


@dataclass(frozen=True)
class Probe:
    """What was measured of one dataset; scores, 1 is 100 %."""

    card: DatasetCard
    behaviour: float
    expert: float
    sft: float
    sft_error: float
    """Standard error of `sft`."""

    @property
    def problems(self) -> list[str]:
        """Why the card is not accepted; empty if it is."""
        low, high = self.card.behaviour.score_band
        checks = {
            "behaviour outside its band": not low <= self.behaviour <= high,
            "expert below 90 %": self.expert < MINIMUM_EXPERT,
            "SFT more than 20 points above the behaviour": self.sft > self.behaviour + MAXIMUM_GAIN,
        }
        return [problem for problem, found in checks.items() if found]

    @property
    def verdict(self) -> str:
        """One line."""
        return "accepted" if not self.problems else "refused: " + "; ".join(self.problems)

    def row(self) -> str:
        """A line of the Markdown table."""
        low, high = self.card.behaviour.score_band
        cells = [
            self.card.name,
            f"{self.card.episodes:,}",
            f"{self.card.segments.count:,} × {self.card.segments.length}",
            f"{self.behaviour:.1%}",
            f"{low:.0%}–{high:.0%}",
            f"{self.expert:.0%}",
            f"{self.sft:.1%} ± {self.sft_error:.1%}",
            self.verdict,
        ]
        return "| " + " | ".join(cells) + " |"


def probe(card: DatasetCard, preference_file: Path, behaviour: float, pool: RolloutPool) -> Probe:
    """Measure the expert and SFT beside the behaviour's known score."""
    task = load_task(card.task)
    scoring = task.scoring
    seeds = episode_seeds("expert probe", EXPERT_EPISODES, card.seed)
    rules = EpisodeRules(
        stop_steps_after_success=0 if scoring.is_success else None, keep_steps=False
    )
    expert = pool.episodes(task, seeds, [EXPERT] * len(seeds), [], rules, caption="expert")
    preferences = load_preferences(preference_file)
    entry = find_method("sft")
    config, device, members = entry.presets["laptop"], torch.device("cpu"), training_seeds(SEEDS)
    sizes = preferences.observations.shape[1], preferences.actions.shape[1]
    learner = entry.build(config, *sizes, members, device)
    source = Source(preferences, task, pool, SEEDS, members, device)
    training = stretches(source, learner.phases(), learner)
    pauses = [config.steps - i * config.steps // (2 * EVALUATIONS) for i in range(EVALUATIONS)]
    scores: list[float] = []
    for pause in fit(training, pauses, device, caption="SFT probe"):
        if pause.step in pauses:
            own = [episode_seeds("monitoring", EPISODES, pause.step, seed) for seed in SEEDS]
            caption = f"SFT, step {pause.step}"
            rows = assess(pool, task, learner.weights(), SEEDS, own, pause.step, caption)
            scores += scoring.of(rows["success"], rows["return"]).tolist()
    sft = float(np.mean(scores))
    error = float(np.std(scores) / np.sqrt(len(scores)))
    achieved = float(np.mean(scores_of(task, expert)))
    return Probe(card, behaviour, achieved, sft, error)
