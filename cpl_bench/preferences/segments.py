"""Segments: windows of recorded episodes, how they are drawn and found again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from cpl_bench.core.errors import UserError
from cpl_bench.tasks.episodes import Trajectory
from cpl_bench.trajectories.dataset import TrajectorySet


def draw_segments(
    episode_ends: Int64[np.ndarray, "E"], length: int, count: int, rng: np.random.Generator
) -> Int64[np.ndarray, "n"]:
    """Draw `count` windows of `length` steps: every episode alike, within it uniform over time.

    Episodes that hold a window take turns, in random order. (Episodes end soon after success: were
    windows drawn uniformly over all steps, hardly any would show one. For episodes of one length
    the two are the same.) An episode repeats a window only when it has no other left. The result
    is in random order.

    Raises:
        UserError: no episode is as long as a segment.
    """
    if length < 1:
        raise UserError(f"A segment must have at least 1 step, got {length}.")
    begins = np.concatenate(([0], episode_ends[:-1]))
    longest = int((episode_ends - begins).max())
    if length > longest:
        raise UserError(
            f"A segment of {length} steps is longer than the longest episode, {longest} steps; "
            f"choose --segment-length ≤ {longest}."
        )
    windows = np.maximum(episode_ends - begins - length + 1, 0)  # (E,) starts that each offers
    able = rng.permutation(np.flatnonzero(windows))
    turns = np.bincount(np.resize(able, count), minlength=len(windows))  # (E,) draws of each
    drawn = [
        begins[episode] + _spread(int(windows[episode]), int(turns[episode]), rng)
        for episode in np.flatnonzero(turns)
    ]
    return rng.permutation(np.concatenate(drawn))


def _spread(limit: int, count: int, rng: np.random.Generator) -> Int64[np.ndarray, "n"]:
    """`count` numbers below `limit`, uniform, each as often as any other give or take one."""
    rounds = [rng.permutation(limit) for _ in range(-(-count // limit))]
    return np.concatenate(rounds)[:count]


@dataclass(frozen=True)
class SegmentSet:
    """n segments of `length` steps among recorded episodes."""

    trajectories: list[Trajectory]
    episodes: np.ndarray
    """(n,) which episode a segment is in."""
    offsets: np.ndarray
    """(n,) its first step within that episode."""
    length: int

    @property
    def ends(self) -> np.ndarray:
        """(n,) the step after a segment's last: the number of the state it ends in."""
        return self.offsets + self.length


def segments_of(source: TrajectorySet, starts: np.ndarray, length: int) -> SegmentSet:
    """The windows that begin at the flat rows `starts` (n,)."""
    episodes = np.searchsorted(source.episode_ends, starts, side="right")
    first_rows = np.concatenate([[0], source.episode_ends[:-1]])
    return SegmentSet(source.trajectories, episodes, starts - first_rows[episodes], length)
