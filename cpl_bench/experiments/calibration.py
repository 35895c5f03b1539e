"""How good a reward model a dataset allows: what `inspect --reward` measures.

A fresh model is fitted to nine tenths of the episodes and asked about the others: how often does it
agree with the annotator, and is it as often right as it is sure?
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cpl_bench.core.errors import UserError
from cpl_bench.core.seeds import training_seeds
from cpl_bench.learning.config import Optimiser, RewardConfig
from cpl_bench.learning.inputs import Inputs
from cpl_bench.learning.interface import Phase, Segments
from cpl_bench.learning.loop import fit, stretch
from cpl_bench.learning.losses import of_comparisons, preference_accuracy
from cpl_bench.learning.reward import RewardModel
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.holdout import split_by_episode
from cpl_bench.runs.batches import PreferenceSampler
from cpl_bench.runs.held_out import held_out_batch, reliability

MODEL = RewardConfig(steps=2000, optimiser=Optimiser(1e-3), hidden=(256, 256), bounded=True)
"""The reward model, whatever the presets come to use, so that all datasets' numbers compare.
Observations are standardised."""
SEGMENTS_PER_BATCH = 32
SEEDS = (0, 1)
BINS = 5
LAST_STEPS = 100
"""Accuracy on the data fitted to is the mean over so many last steps."""


@dataclass(frozen=True)
class Calibration:
    """What was measured, seeds averaged; shares in 0..1."""

    card: str
    labels: str
    """Scorer and kind of comparisons."""
    segments: int
    """Held-out ones."""
    accuracy: float
    """On the decided comparisons between held-out segments."""
    fitted_accuracy: float
    bins: list[tuple[float, float, float, int]]
    """(lowest confidence, mean confidence, share right, comparisons) each."""

    @property
    def error(self) -> float:
        """Expected calibration error: |share right − confidence|, averaged over comparisons."""
        counts = np.array([count for *_, count in self.bins])
        gaps = np.array([abs(right - sure) for _, sure, right, _ in self.bins])
        return float((counts * gaps).sum() / counts.sum())

    def row(self) -> str:
        """A line of the Markdown table."""
        cells = [self.card, self.labels, f"{self.segments}", f"{self.accuracy:.1%}"]
        cells += [f"{self.fitted_accuracy:.1%}", f"{self.error:.1%}"]
        return "| " + " | ".join(cells) + " |"

    def lines(self) -> list[str]:
        """The reliability table for a terminal."""
        width = 0.5 / BINS
        return [
            f"reward model   right on {self.accuracy:.1%} of the comparisons between "
            f"{self.segments} held-out segments ({self.fitted_accuracy:.1%} of those fitted to)",
            f"calibration    error {self.error:.1%}",
            "                  sure     mean    right   comparisons of both seeds",
            *(
                f"               {low:>4.0%}–{low + width:.0%}".ljust(25)
                + f"{sure:>7.1%}  {right:>7.1%}  {count:>12,}"
                for low, sure, right, count in self.bins
            ),
        ]


def calibrate(preference_file: Path) -> Calibration:
    """Fit a plain reward model and measure it on held-out comparisons.

    Raises:
        UserError: too few comparisons to hold some out, or nothing but ties among those.
    """
    preferences = load_preferences(preference_file)
    observations = Inputs.of(preferences.observations).seen(preferences.observations)
    preferences = replace(preferences, observations=observations)
    fitting, held = split_by_episode(preferences)
    device = torch.device("cpu")
    seeds = training_seeds(SEEDS)
    sizes = preferences.observations.shape[1], preferences.actions.shape[1]
    model = RewardModel(MODEL, *sizes, seeds, device)
    size = preferences.info.ranked_size or 2
    count = -(-SEGMENTS_PER_BATCH // size) * size  # whole questions
    draw = PreferenceSampler(fitting, seeds, count).draw
    phase, pauses = (
        Phase("reward", MODEL.steps, model.fit, Segments(count)),
        [MODEL.steps - LAST_STEPS],
    )
    fitted = torch.zeros(len(seeds))
    for pause in fit([stretch(phase, draw)], pauses, device, caption="reward model"):
        fitted = pause.metrics["reward_accuracy"]
    batch = held_out_batch(held, len(seeds), device)
    first, second = of_comparisons(model.segment_sums(batch), batch.first, batch.second)
    answers = batch.prefers_second
    if bool(((answers == 0.5) | (batch.weight == 0)).all()):
        raise UserError(
            f"All comparisons between held-out segments of {preferences.info.title} are ties or "
            "skipped: no reward model can be right about them. Label with another --scorer, or "
            "more --segments."
        )
    sure, answered, weight = (second - first).sigmoid(), answers.flatten(), batch.weight.flatten()
    table = reliability(sure.flatten().numpy(), answered.numpy(), BINS, weight.numpy())
    info = preferences.info
    return Calibration(
        card=info.title,
        labels=f"{info.scorer}, {info.pairs}",
        segments=batch.observations.shape[1],
        accuracy=float(preference_accuracy(first, second, answers, batch.weight).mean()),
        fitted_accuracy=float(fitted.mean()),
        bins=table,
    )
