"""Held-out comparisons: what a reward model is measured by, of episodes it has never seen.

The split is by episode, never by pair: pairs of one episode share its states. A comparison across
the split belongs to neither side, and of ranked answers only those are fitted to whose whole
question is on the fitting side. So few listed comparisons are left between held-out episodes (1 %)
that there, where a synthetic annotator can answer from the scores, every pair is asked.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from cpl_bench.annotators import ANNOTATORS
from cpl_bench.errors import UserError
from cpl_bench.interface import PreferenceBatch
from cpl_bench.preferences import Preferences
from cpl_bench.sampler import clipped
from cpl_bench.seeds import generator

SHARE = 0.1
"""Of the episodes that hold a segment; of ranked data less, 2/K of it, since a held-out segment
takes its whole question with it."""
SEGMENTS = 200
"""At most so many are measured at once: all pairs of 200 are 19,900."""


def split_by_episode(
    preferences: Preferences, share: float | None = None
) -> tuple[Preferences, Preferences]:
    """(fitting, held out): the same steps, each with its own segments and comparisons.

    The split depends on the episodes alone, so every method and seed has the same.

    Raises:
        UserError: one side would have nothing to compare.
    """
    ends, starts = preferences.episode_ends, preferences.segment_starts
    share = share or SHARE * 2 / max(preferences.info.ranked_size, 2)
    episodes = np.searchsorted(ends, starts, side="right")  # (n,)
    able = generator("held out", 0).permutation(np.unique(episodes))
    held = np.isin(episodes, able[: max(1, round(share * len(able)))])  # (n,)
    fitting = _restricted(preferences, _whole_questions(~held, preferences.info.ranked_size))
    sides = fitting, _asked(_restricted(preferences, held))
    for side in sides:
        compared = len(side.first) if side.info.pairs != "dense" else len(side.segment_starts) - 1
        if compared < 1:
            raise UserError(
                f"{preferences.info.title}: a reward model is fitted to comparisons within some "
                "episodes and measured on those within the others, held-out ones, and there are "
                f"too few here ({len(able)} episodes with segments, {len(starts)} segments). Label "
                "more segments, or use a method without a reward model."
            )
    return sides


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
    part = _restricted(held, np.isin(numbers, shown))
    rows = part.segment_starts[:, None] + np.arange(k)  # (m, k)
    if info.pairs == "dense":
        first, second = np.triu_indices(len(rows), 1)
        answers = ANNOTATORS[info.annotator](part.scores[first], part.scores[second])
    else:
        first, second, answers = part.first, part.second, part.prefers_second

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
    )


def reliability(
    probabilities: np.ndarray, prefers_second: np.ndarray, bins: int = 5
) -> list[tuple[float, float, float, int]]:
    """Calibration on decided comparisons: (lowest, mean predicted, share right, count) a bin.

    Each comparison is read from the side that the model favours: its confidence lies in [0.5, 1],
    and it is right if the annotator favours that side too. Bins are of equal width; empty ones are
    left out.
    """
    decided = prefers_second != 0.5
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


def _whole_questions(kept: Bool[np.ndarray, "n"], size: int) -> Bool[np.ndarray, "n"]:
    """Of the kept segments those whose question of `size` is kept whole; all if `size` is 0."""
    if not size:
        return kept
    questions = kept[: len(kept) // size * size].reshape(-1, size)  # (q, K)
    whole = np.zeros_like(kept)
    whole[: questions.size] = questions.all(1).repeat(size)
    return whole


def _asked(held: Preferences) -> Preferences:
    """As dense data if a synthetic annotator can answer, else as sparse, which ranked pairs are."""
    info, none = held.info, np.zeros(0, np.int64)
    if info.annotator not in ANNOTATORS:
        settings = {k: v for k, v in info.annotator_settings.items() if k != "ranked_size"}
        sparse = replace(info, pairs="sparse", annotator_settings=settings)
        return replace(held, info=sparse)
    dense = replace(info, pairs="dense", annotator_settings={})
    answers = none.astype(np.float32)
    return replace(held, first=none, second=none, prefers_second=answers, info=dense)


def _restricted(preferences: Preferences, kept: Bool[np.ndarray, "n"]) -> Preferences:
    """Only the segments kept, and the comparisons between two of them."""
    numbers = np.cumsum(kept) - 1  # the new number of each kept segment
    both = kept[preferences.first] & kept[preferences.second]
    return replace(
        preferences,
        segment_starts=preferences.segment_starts[kept],
        scores=preferences.scores[kept],
        first=numbers[preferences.first[both]],
        second=numbers[preferences.second[both]],
        prefers_second=preferences.prefers_second[both],
    )
