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
from cpl_bench.preferences import Preferences
from cpl_bench.random_bits import BATCH_STREAM, CROP_STREAM, member_keys, uniform_indices

ACTION_LIMIT = 1 - 1e-5
"""Actions are clipped to ± this, as in the paper: a tanh policy reaches no further."""


class PreferenceSampler:
    """Draws m segments for each of s members, with their comparisons.

    Dense data: m segments, uniform with replacement, and all m(m-1)/2 pairs, answered by the
    annotator from the scores. Sparse data: m/2 comparisons, uniform with replacement; comparison i
    is between positions 2i and 2i + 1.
    """

    def __init__(
        self,
        preferences: Preferences,
        seeds: Sequence[int],
        segments_per_batch: int,
        device: torch.device | str = "cpu",
        segment_length: int | None = None,
    ) -> None:
        """Copy to the device what batches are made of.

        Args:
            preferences: verified, as `load_preferences` returns them.
            seeds: one a member, s of them.
            segments_per_batch: m, segments a member sees in a step.
            device: where the data lie and batches appear.
            segment_length: steps k of a drawn segment, the file's if None. If it is smaller, each
                draw cuts its segments at a random place; answers are still the whole segments'.

        Raises:
            UserError: an m that the pairs do not allow, or a k that the file does not hold.
        """
        info, m = preferences.info, segments_per_batch
        if m < 2 or (info.pairs == "sparse" and m % 2):
            raise UserError(
                f"A batch of {info.pairs} preferences needs at least 2 segments"
                f"{', an even number' if info.pairs == 'sparse' else ''}; got {m}."
            )
        k = info.segment_length if segment_length is None else segment_length
        if not 1 <= k <= info.segment_length:
            raise UserError(
                f"The segments of {info.card or info.source} have {info.segment_length} steps; "
                f"batches can use 1 to {info.segment_length} of them, not {k}."
            )
        self.keys = member_keys(seeds, device)  # (s,)
        self.segments_per_batch = m
        self._dense = info.pairs == "dense"
        self._cut_places = info.segment_length - k + 1
        self._observations = _windows(preferences.observations, k, device)
        self._actions = _windows(_clip(preferences.actions), k, device)
        self._starts = torch.tensor(preferences.segment_starts, device=device)  # (n,)
        if self._dense:
            self._scores = torch.tensor(preferences.scores, device=device)  # (n,)
            self._annotator = ANNOTATORS[info.annotator]
            first, second = torch.triu_indices(m, m, offset=1, device=device)
        else:
            compared = np.stack([preferences.first, preferences.second], axis=1)
            self._compared = torch.tensor(compared, device=device)  # (c, 2)
            self._prefers_second = torch.tensor(preferences.prefers_second, device=device)
            first, second = torch.arange(m, device=device).view(-1, 2).T
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
            comparisons = self._indices(step, self.segments_per_batch // 2, len(self._compared))
            segments = self._compared[comparisons].flatten(1)  # (s, m)
            answers = self._prefers_second[comparisons]  # (s, c)
        rows = self._starts[segments]  # (s, m)
        if self._cut_places > 1:
            m = self.segments_per_batch
            rows += uniform_indices(self.keys, step, CROP_STREAM, m, self._cut_places)
        return PreferenceBatch(
            step=step,
            observations=_take(self._observations, rows),
            actions=_take(self._actions, rows),
            first=self._first,
            second=self._second,
            prefers_second=answers,
        )

    def _indices(self, step: Tensor, count: int, limit: int) -> Int64[Tensor, "s count"]:
        return uniform_indices(self.keys, step, BATCH_STREAM, count, limit)


class TransitionSampler:
    """Draws single transitions, uniform with replacement, to clone demonstrations from.

    Its batches are m segments of k = 1 step with no comparisons, c = 0.
    """

    def __init__(
        self,
        observations: Float32[np.ndarray, "N o"],
        actions: Float32[np.ndarray, "N a"],
        seeds: Sequence[int],
        transitions_per_batch: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """Copy the transitions to the device; one seed a member."""
        self.keys = member_keys(seeds, device)  # (s,)
        self.transitions_per_batch = transitions_per_batch
        self._observations = _windows(observations, 1, device)
        self._actions = _windows(_clip(actions), 1, device)
        self._no_index = torch.empty(len(seeds), 0, dtype=torch.int64, device=device)
        self._no_answer = torch.empty(len(seeds), 0, device=device)

    def draw(self, step: int | Int64[Tensor, ""]) -> PreferenceBatch:
        """The batch of a training step; a captured graph needs `step` as a tensor on the device."""
        step = torch.as_tensor(step, dtype=torch.int64, device=self.keys.device)
        count, limit = self.transitions_per_batch, len(self._observations)
        rows = uniform_indices(self.keys, step, BATCH_STREAM, count, limit)  # (s, m)
        return PreferenceBatch(
            step=step,
            observations=_take(self._observations, rows),
            actions=_take(self._actions, rows),
            first=self._no_index,
            second=self._no_index,
            prefers_second=self._no_answer,
        )


def _clip(actions: np.ndarray) -> np.ndarray:
    return np.clip(actions, -ACTION_LIMIT, ACTION_LIMIT)


def _windows(flat: np.ndarray, k: int, device: torch.device | str) -> Float[Tensor, "w k width"]:
    """Every window of k rows as one overlapping view, so that a segment is gathered in one copy."""
    rows = torch.tensor(flat, dtype=torch.float32, device=device)  # (N, width)
    width = rows.shape[1]
    return rows.as_strided((len(rows) - k + 1, k, width), (width, width, 1))


def _take(windows: Float[Tensor, "w k width"], rows: Int64[Tensor, "s m"]) -> Tensor:
    return windows.index_select(0, rows.flatten()).view(*rows.shape, *windows.shape[1:])
