"""Held-out comparisons: what a reward model is measured by, of episodes it has never seen.

The split is by episode, never by pair: pairs of one episode share its states. A comparison across
the split belongs to neither side, and of ranked answers only those are fitted to whose whole
question is on the fitting side. So few listed comparisons are left between held-out episodes (1 %)
that there, where a synthetic annotator can answer from the scores, every pair is asked. People
cannot be asked again: episodes are held out by the pair that was compared, until they are as many.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int64

from cpl_bench.core.errors import UserError
from cpl_bench.core.seeds import generator
from cpl_bench.preferences.annotators import can_answer
from cpl_bench.preferences.format import Preferences

SHARE = 0.1
"""Of the episodes that hold a segment; of ranked data less, 2/K of it, since a held-out segment
takes its whole question with it."""


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
    able = np.unique(episodes)
    held = np.isin(episodes, _held_episodes(preferences, episodes, share))  # (n,)
    fitting = restricted(preferences, _whole_questions(~held, preferences.info.ranked_size))
    sides = fitting, _asked(restricted(preferences, held))
    for side in sides:
        asked = len(side.first) if side.weight is None else np.count_nonzero(side.weight)
        compared = asked if side.info.pairs != "dense" else len(side.segment_starts) - 1
        if compared < 1:
            raise UserError(
                f"{preferences.info.title}: a reward model is fitted to comparisons within some "
                "episodes and measured on those within the others, held-out ones, and there are "
                f"too few here ({len(able)} episodes with segments, {len(starts)} segments). Label "
                "more segments, or use a method without a reward model."
            )
    return sides


def _held_episodes(
    preferences: Preferences, episodes: Int64[np.ndarray, "n"], share: float
) -> list[int]:
    """Which episodes are held out: a share of them, by whole answers where people gave them."""
    rng, able = generator("held out", 0), np.unique(episodes)
    wanted = max(1, round(share * len(able)))
    if _can_be_asked(preferences):
        return rng.permutation(able)[:wanted].tolist()
    held: set[int] = set()
    for comparison in rng.permutation(len(preferences.first)):
        if len(held) >= wanted:
            break
        ends = preferences.first[comparison], preferences.second[comparison]
        held.update(episodes[list(ends)].tolist())
    return sorted(held)


def _can_be_asked(preferences: Preferences) -> bool:
    """Whether the annotator can answer further questions from scores."""
    return preferences.scores is not None and can_answer(preferences.info.annotator)


def _whole_questions(kept: Bool[np.ndarray, "n"], size: int) -> Bool[np.ndarray, "n"]:
    """Of the kept segments those whose question of `size` is kept whole; all if `size` is 0."""
    if not size:
        return kept
    questions = kept[: len(kept) // size * size].reshape(-1, size)  # (q, K)
    whole = np.zeros_like(kept)
    whole[: questions.size] = questions.all(1).repeat(size)
    return whole


def _asked(held: Preferences) -> Preferences:
    """As dense data if scores can be asked about, else as sparse, which ranked pairs are."""
    info, none = held.info, np.zeros(0, np.int64)
    if not _can_be_asked(held):
        return replace(held, info=replace(info, pairs="sparse", ranked_size=0))
    dense = replace(info, pairs="dense", ranked_size=0)
    answers = none.astype(np.float32)
    return replace(held, info=dense, first=none, second=none, prefers_second=answers, weight=None)


def restricted(preferences: Preferences, kept: Bool[np.ndarray, "n"]) -> Preferences:
    """Only the segments kept, and the comparisons between two of them."""
    numbers = np.cumsum(kept) - 1  # the new number of each kept segment
    both = kept[preferences.first] & kept[preferences.second]
    return replace(
        preferences,
        segment_starts=preferences.segment_starts[kept],
        scores=None if preferences.scores is None else preferences.scores[kept],
        first=numbers[preferences.first[both]],
        second=numbers[preferences.second[both]],
        prefers_second=preferences.prefers_second[both],
        weight=None if preferences.weight is None else preferences.weight[both],
    )
