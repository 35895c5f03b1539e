"""Recorded steps on the device, and single transitions drawn from them.

A draw is a pure function of (member's seed, step): nothing waits for the device or branches on
data, so it can be part of a CUDA graph.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from cpl_bench.learning.interface import PreferenceBatch
from cpl_bench.learning.random_bits import BATCH_STREAM, member_keys, uniform_indices

ACTION_LIMIT = 1 - 1e-5
"""Actions are clipped to ± this, as in the paper: a tanh policy reaches no further."""


class Steps:
    """N recorded steps on the device, copied there once for all that draw from them.

    A window of k steps is a row of an overlapping view, so that a segment is gathered in one copy.
    """

    def __init__(
        self,
        observations: Float32[np.ndarray, "N o"],
        actions: Float32[np.ndarray, "N a"],
        device: torch.device | str = "cpu",
        *,
        rewards: Float32[np.ndarray, "N"] | None = None,
        terminations: Bool[np.ndarray, "N"] | None = None,
    ) -> None:
        """Copy to the device what batches are made of.

        Args:
            observations: of every step.
            actions: of every step; clipped here to ± ACTION_LIMIT.
            device: where the data lie and batches appear.
            rewards: of every step; None where there are none.
            terminations: whether the task ended with a step; None where it never does.
        """
        self.count, self.device = len(observations), torch.device(device)
        self._observations = _padded(observations, device)  # (N + 1, o)
        self._actions = _padded(actions, device, ACTION_LIMIT)
        self._rewards = None if rewards is None else _padded(rewards[:, None], device)
        self._terminated = None
        if terminations is not None and terminations.any():
            self._terminated = _padded(terminations[:, None].astype(np.float32), device)

    def observations(self, rows: Int64[Tensor, "s m"], k: int) -> Float[Tensor, "s m k o"]:
        """Those of k steps from each of the rows on."""
        return _windows(self._observations, rows, k)

    def actions(self, rows: Int64[Tensor, "s m"], k: int) -> Float[Tensor, "s m k a"]:
        """Those of k steps from each of the rows on."""
        return _windows(self._actions, rows, k)

    def rewards(self, rows: Int64[Tensor, "s m"], k: int) -> Float[Tensor, "s m k"]:
        """The environment's, of k steps from each of the rows on."""
        assert self._rewards is not None, "batches with rewards need steps with rewards"
        return _windows(self._rewards, rows, k).squeeze(-1)

    def terminated(self, rows: Int64[Tensor, "s m"], k: int) -> Bool[Tensor, "s m k"] | None:
        """Whether each of k steps ends its task; None if no step of the data does."""
        if self._terminated is None:
            return None
        return _windows(self._terminated, rows, k).squeeze(-1) > 0


class TransitionSampler:
    """Draws transitions one by one, uniform with replacement.

    Its batches are m segments with no comparisons, c = 0: of k = 1 step, of 2 where what followed
    counts, or of the steps of a chunk of actions.
    """

    def __init__(
        self,
        steps: Steps,
        seeds: Sequence[int],
        count: int,
        *,
        rows: Int64[np.ndarray, "n"] | None = None,
        following: bool = False,
        rewards: bool = False,
        window: int = 1,
    ) -> None:
        """Draw from `steps`.

        Args:
            steps: on the device.
            seeds: one a member, s of them.
            count: m, transitions a member sees in a step.
            rows: which steps are drawn, one as often as it is named; None: every step.
            following: whether the step after the one drawn is in the batch, too.
            rewards: whether batches hold the environment's rewards.
            window: steps from the one drawn on that are in the batch; `rows` must leave room.
        """
        self.keys = member_keys(seeds, steps.device)  # (s,)
        self.steps, self.count, self.with_rewards = steps, count, rewards
        self.k, self._window = window + following, window
        self._rows = torch.arange(steps.count, device=steps.device)
        if rows is not None:
            self._rows = torch.tensor(rows, device=steps.device)
        self._no_index = torch.empty(len(seeds), 0, dtype=torch.int64, device=steps.device)
        self._no_answer = torch.empty(len(seeds), 0, device=steps.device)

    def draw(self, step: int | Int64[Tensor, ""]) -> PreferenceBatch:
        """The batch of a training step; a captured graph needs `step` as a tensor on the device."""
        step = torch.as_tensor(step, dtype=torch.int64, device=self.keys.device)
        limit = len(self._rows)
        drawn = uniform_indices(self.keys, step, BATCH_STREAM, self.count, limit)
        rows = self._rows[drawn]  # (s, m)
        terminated = self.steps.terminated(rows, self.k)
        if terminated is not None:
            terminated[..., self._window :] = False  # it is there as what followed alone
        return PreferenceBatch(
            step=step,
            observations=self.steps.observations(rows, self.k),
            actions=self.steps.actions(rows, self.k),
            first=self._no_index,
            second=self._no_index,
            prefers_second=self._no_answer,
            weight=self._no_answer,
            rewards=self.steps.rewards(rows, self.k) if self.with_rewards else None,
            terminated=terminated,
        )


def clipped(actions: np.ndarray) -> np.ndarray:
    """Actions as learners see them, within ± ACTION_LIMIT."""
    return np.clip(actions, -ACTION_LIMIT, ACTION_LIMIT)


def _padded(
    rows: np.ndarray, device: torch.device | str, limit: float = np.inf
) -> Float[Tensor, "padded width"]:
    """The rows within ± `limit`, and the last one again: it too has one that follows it.

    A mapped file goes into the tensor in one pass.
    """
    tensor = torch.empty((len(rows) + 1, rows.shape[1]), dtype=torch.float32)
    target = tensor.numpy()[:-1]
    if limit < np.inf:
        np.clip(rows, -limit, limit, out=target)
    else:
        target[:] = rows
    tensor[-1] = tensor[-2]
    return tensor.to(device)


def _windows(flat: Tensor, rows: Int64[Tensor, "s m"], k: int) -> Float[Tensor, "s m k width"]:
    width = flat.shape[1]
    windows = flat.as_strided((len(flat) - k + 1, k, width), (width, width, 1))
    return windows.index_select(0, rows.flatten()).view(*rows.shape, k, width)
