"""Held-out comparisons as a batch, and how sure a model is of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cpl_bench.learning.interface import PreferenceBatch
from cpl_bench.learning.transitions import clipped
from cpl_bench.preferences.annotators import ask
from cpl_bench.preferences.format import Preferences
from cpl_bench.preferences.holdout import restricted

SEGMENTS = 200
"""At most so many are measured at once: all pairs of 200 are 19,900."""


def held_out_batch(
    held: Preferences, members: int, device: torch.device | str = "cpu"
) -> PreferenceBatch:
    """At most SEGMENTS held-out segments with all their comparisons, the same for each member.

    Dense data: the first ones. Listed comparisons: those of the first comparisons.
    """
    info, k = held.info, held.info.segment_length
    numbers = np.arange(len(held.segment_starts))
    shown = numbers[:SEGMENTS]
    if info.pairs != "dense":
        shown = np.concatenate([held.first[: SEGMENTS // 2], held.second[: SEGMENTS // 2]])
    part = restricted(held, np.isin(numbers, shown))
    rows = part.segment_starts[:, None] + np.arange(k)  # (m, k)
    if info.pairs == "dense":
        first, second = np.triu_indices(len(rows), 1)
        answers, weight = ask(part, first, second)
    else:
        first, second, answers = part.first, part.second, part.prefers_second
        weight = np.ones(len(first)) if part.weight is None else part.weight

    def tensor(values: np.ndarray, kind: torch.dtype) -> Tensor:
        one = torch.tensor(values, dtype=kind, device=device)
        return one.expand(members, *one.shape)

    return PreferenceBatch(
        step=torch.zeros((), dtype=torch.int64, device=device),
        observations=tensor(part.observations[rows], torch.float32),
        actions=tensor(clipped(part.actions[rows]), torch.float32),
        first=tensor(first, torch.int64),
        second=tensor(second, torch.int64),
        prefers_second=tensor(answers, torch.float32),
        weight=tensor(weight, torch.float32),
    )


def reliability(
    probabilities: np.ndarray,
    prefers_second: np.ndarray,
    bins: int = 5,
    weight: np.ndarray | None = None,
) -> list[tuple[float, float, float, int]]:
    """Calibration on decided comparisons: (lowest, mean predicted, share right, count) a bin.

    Each comparison is read from the side that the model favours: its confidence lies in [0.5, 1],
    and it is right if the annotator favours that side too. Bins are of equal width; empty ones are
    left out.
    """
    decided = prefers_second != 0.5
    if weight is not None:  # skipped questions were not decided
        decided &= weight > 0
    predicted, answers = probabilities[decided], prefers_second[decided]
    confidence = np.maximum(predicted, 1 - predicted)
    right = (predicted > 0.5) == (answers > 0.5)
    places = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    table = []
    for place in np.unique(places):
        mine = places == place
        low = 0.5 + place / (2 * bins)
        table.append(
            (float(low), float(confidence[mine].mean()), float(right[mine].mean()), int(mine.sum()))
        )
    return table
