"""Batches for training, drawn on the device: a pure function of (member's seed, step).

Nothing here waits for the device or branches on data, so `draw` can be part of a CUDA graph.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from cpl_bench.annotators import ANNOTATORS
from cpl_bench.errors import UserError
from cpl_bench.interface import PreferenceBatch
from cpl_bench.pairs import pairs_within
from cpl_bench.preferences import Preferences
from cpl_bench.random_bits import BATCH_STREAM, member_keys, uniform_indices
from cpl_bench.returns import true_rewards

ACTION_LIMIT = 1 - 1e-5
"""Actions are clipped to ± this, as in the paper: a tanh policy reaches no further."""


class PreferenceSampler:
    """Draws m segments for each of s members, with their comparisons.

    Dense data: m segments, uniform with replacement, and all m(m-1)/2 pairs, answered by the
    annotator from the scores. Listed data: questions of the file, uniform with replacement. Sparse:
    m/2 comparisons, comparison i between positions 2i and 2i + 1. Ranked: m/K questions, question i
    about positions iK … iK + K − 1, with all its pairs.
    """

    def __init__(
        self,
        preferences: Preferences,
        seeds: Sequence[int],
        segments_per_batch: int,
        device: torch.device | str = "cpu",
        with_rewards: bool = False,
    ) -> None:
        """Copy to the device what batches are made of.

        Args:
            preferences: verified, as `load_preferences` returns them.
            seeds: one a member, s of them.
            segments_per_batch: m, segments a member sees in a step.
            device: where the data lie and batches appear.
            with_rewards: whether batches hold the environment's rewards.

        Raises:
            UserError: an m that the pairs do not allow, or rewards that the file does not hold.
        """
        info, m = preferences.info, segments_per_batch
        k = info.segment_length
        size = info.ranked_size or 2  # segments of a question
        if m < size or (info.pairs != "dense" and m % size):
            multiple = "" if info.pairs == "dense" else f", a multiple of {size}"
            raise UserError(
                f"A batch of {info.pairs} preferences needs at least {size} segments{multiple}; "
                f"got {m}. Choose another --segments-per-batch."
            )
        self.keys = member_keys(seeds, device)  # (s,)
        self.segments_per_batch = m
        self._dense = info.pairs == "dense"
        self._observations = _windows(preferences.observations, k, device)
        self._actions = _windows(clipped(preferences.actions), k, device)
        self._rewards = None
        if with_rewards:
            rewards = true_rewards(preferences)
            self._rewards = _windows(rewards[:, None], k, device)
        self._starts = torch.tensor(preferences.segment_starts, device=device)  # (n,)
        if self._dense:
            size = m  # the whole batch is one question
            self._scores = torch.tensor(preferences.scores, device=device)  # (n,)
            self._annotator = ANNOTATORS[info.annotator]
        else:
            questions = np.stack([preferences.first, preferences.second], axis=1)  # (q, 2)
            if info.pairs == "ranked":
                whole = len(preferences.segment_starts) // size * size
                questions = np.arange(whole).reshape(-1, size)  # (q, K)
            answers = preferences.prefers_second.reshape(len(questions), -1)  # (q, K(K-1)/2)
            self._questions = torch.tensor(questions, device=device)
            self._prefers_second = torch.tensor(answers, device=device)
        self._size = size
        self._ranked = 0 if info.pairs == "sparse" else size
        first, second = torch.tensor(np.stack(pairs_within(m // size, size)), device=device)
        self._first = first.expand(len(seeds), -1)  # (s, c)
        self._second = second.expand(len(seeds), -1)

    def draw(self, step: int | Int64[Tensor, ""]) -> PreferenceBatch:
        """The batch of a training step; a captured graph needs `step` as a tensor on the device."""
        step = torch.as_tensor(step, dtype=torch.int64, device=self.keys.device)
        if self._dense:
            segments = self._indices(step, self.segments_per_batch, len(self._starts))  # (s, m)
            scores = self._scores[segments]
            answers = self._annotator(
                scores.gather(1, self._first), scores.gather(1, self._second)
            ).float()  # (s, c)
        else:
            count = self.segments_per_batch // self._size
            drawn = self._indices(step, count, len(self._questions))  # (s, m/K)
            segments = self._questions[drawn].flatten(1)  # (s, m)
            answers = self._prefers_second[drawn].flatten(1)  # (s, c)
        rows = self._starts[segments]  # (s, m)
        return PreferenceBatch(
            step=step,
            observations=_take(self._observations, rows),
            actions=_take(self._actions, rows),
            first=self._first,
            second=self._second,
            prefers_second=answers,
            rewards=None if self._rewards is None else _take(self._rewards, rows).squeeze(-1),
            ranked=self._ranked,
        )

    def _indices(self, step: Tensor, count: int, limit: int) -> Int64[Tensor, "s count"]:
        return uniform_indices(self.keys, step, BATCH_STREAM, count, limit)


class TransitionSampler:
    """Draws transitions one by one, uniform with replacement.

    Its batches are m segments with no comparisons, c = 0: of k = 1 step, or of 2 where what
    followed counts.
    """

    def __init__(
        self,
        observations: Float32[np.ndarray, "N o"],
        actions: Float32[np.ndarray, "N a"],
        seeds: Sequence[int],
        transitions_per_batch: int,
        device: torch.device | str = "cpu",
        *,
        rewards: Float32[np.ndarray, "N"] | None = None,
        rows: Int64[np.ndarray, "n"] | None = None,
        steps: int = 1,
    ) -> None:
        """Copy the transitions to the device.

        Args:
            observations: of every step.
            actions: of every step.
            seeds: one a member, s of them.
            transitions_per_batch: m, transitions a member sees in a step.
            device: where the data lie and batches appear.
            rewards: of every step; None leaves them out of the batches.
            rows: which steps are drawn, one as often as it is named; None: every step.
            steps: k, the step drawn and those after it.
        """
        self.keys = member_keys(seeds, device)  # (s,)
        self.transitions_per_batch = transitions_per_batch
        self._observations = _windows(observations, steps, device)
        self._actions = _windows(clipped(actions), steps, device)
        self._rewards = None if rewards is None else _windows(rewards[:, None], steps, device)
        self._rows = torch.arange(len(self._observations), device=device)
        if rows is not None:
            self._rows = torch.tensor(rows, device=device)
        self._no_index = torch.empty(len(seeds), 0, dtype=torch.int64, device=device)
        self._no_answer = torch.empty(len(seeds), 0, device=device)

    def draw(self, step: int | Int64[Tensor, ""]) -> PreferenceBatch:
        """The batch of a training step; a captured graph needs `step` as a tensor on the device."""
        step = torch.as_tensor(step, dtype=torch.int64, device=self.keys.device)
        count, limit = self.transitions_per_batch, len(self._rows)
        rows = self._rows[uniform_indices(self.keys, step, BATCH_STREAM, count, limit)]  # (s, m)
        return PreferenceBatch(
            step=step,
            observations=_take(self._observations, rows),
            actions=_take(self._actions, rows),
            first=self._no_index,
            second=self._no_index,
            prefers_second=self._no_answer,
            rewards=None if self._rewards is None else _take(self._rewards, rows).squeeze(-1),
        )


def clipped(actions: np.ndarray) -> np.ndarray:
    """Actions as learners see them, within ± ACTION_LIMIT."""
    return np.clip(actions, -ACTION_LIMIT, ACTION_LIMIT)


def _windows(flat: np.ndarray, k: int, device: torch.device | str) -> Float[Tensor, "w k width"]:
    """Every window of k rows as one overlapping view, so that a segment is gathered in one copy."""
    rows = torch.tensor(flat, dtype=torch.float32, device=device)  # (N, width)
    width = rows.shape[1]
    return rows.as_strided((len(rows) - k + 1, k, width), (width, width, 1))


def _take(windows: Float[Tensor, "w k width"], rows: Int64[Tensor, "s m"]) -> Tensor:
    return windows.index_select(0, rows.flatten()).view(*rows.shape, *windows.shape[1:])
