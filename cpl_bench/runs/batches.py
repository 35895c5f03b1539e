"""Batches for training, drawn on the device: a pure function of (member's seed, step).

Nothing here waits for the device or branches on data, so `draw` can be part of a CUDA graph.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from cpl_bench.core.errors import UserError
from cpl_bench.core.pairs import pairs_within
from cpl_bench.learning.interface import PreferenceBatch
from cpl_bench.learning.random_bits import BATCH_STREAM, member_keys, uniform_indices
from cpl_bench.learning.transitions import clipped, taken, windows
from cpl_bench.preferences.annotators import ANNOTATORS
from cpl_bench.preferences.format import Preferences
from cpl_bench.preferences.returns import true_rewards


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
        self._observations = windows(preferences.observations, k, device)
        self._actions = windows(clipped(preferences.actions), k, device)
        self._rewards = None
        if with_rewards:
            rewards = true_rewards(preferences)
            self._rewards = windows(rewards[:, None], k, device)
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
            observations=taken(self._observations, rows),
            actions=taken(self._actions, rows),
            first=self._first,
            second=self._second,
            prefers_second=answers,
            rewards=None if self._rewards is None else taken(self._rewards, rows).squeeze(-1),
            ranked=self._ranked,
        )

    def _indices(self, step: Tensor, count: int, limit: int) -> Int64[Tensor, "s count"]:
        return uniform_indices(self.keys, step, BATCH_STREAM, count, limit)
