"""Single transitions, drawn on the device: a pure function of (member's seed, step)."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from cpl_bench.learning.interface import PreferenceBatch
from cpl_bench.learning.random_bits import BATCH_STREAM, member_keys, uniform_indices

ACTION_LIMIT = 1 - 1e-5
"""Actions are clipped to ± this, as in the paper: a tanh policy reaches no further."""


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
        self._observations = windows(observations, steps, device)
        self._actions = windows(clipped(actions), steps, device)
        self._rewards = None if rewards is None else windows(rewards[:, None], steps, device)
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
            observations=taken(self._observations, rows),
            actions=taken(self._actions, rows),
            first=self._no_index,
            second=self._no_index,
            prefers_second=self._no_answer,
            rewards=None if self._rewards is None else taken(self._rewards, rows).squeeze(-1),
        )


def clipped(actions: np.ndarray) -> np.ndarray:
    """Actions as learners see them, within ± ACTION_LIMIT."""
    return np.clip(actions, -ACTION_LIMIT, ACTION_LIMIT)


def windows(flat: np.ndarray, k: int, device: torch.device | str) -> Float[Tensor, "w k width"]:
    """Every window of k rows as one overlapping view, so that a segment is gathered in one copy."""
    rows = torch.tensor(flat, dtype=torch.float32, device=device)  # (N, width)
    width = rows.shape[1]
    return rows.as_strided((len(rows) - k + 1, k, width), (width, width, 1))


def taken(windows: Float[Tensor, "w k width"], rows: Int64[Tensor, "s m"]) -> Tensor:
    return windows.index_select(0, rows.flatten()).view(*rows.shape, *windows.shape[1:])
