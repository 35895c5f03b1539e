"""Batches of segments with their comparisons: a pure function of (member's seed, step).

Nothing here waits for the device or branches on data, so `draw` can be part of a CUDA graph.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cpl_bench.core.errors import UserError
from cpl_bench.core.pairs import pair_keys, pairs_within
from cpl_bench.learning.interface import PreferenceBatch
from cpl_bench.learning.random_bits import BATCH_STREAM, member_keys, uniform_indices
from cpl_bench.learning.transitions import Steps
from cpl_bench.preferences.annotators import find_annotator
from cpl_bench.preferences.format import PreferenceInfo, Preferences


def steps_of(preferences: Preferences, device: torch.device | str = "cpu") -> Steps:
    """The recorded steps of a preference file on the device."""
    ended = preferences.terminations
    return Steps(
        preferences.observations,
        preferences.actions,
        device,
        rewards=preferences.rewards,
        terminations=None if ended is None else ended.astype(bool),
    )


def check_count(info: PreferenceInfo, count: int) -> None:
    """Refuse a number of segments that a batch of such data cannot have.

    Raises:
        UserError: fewer than a question has, or part of one.
    """
    size = info.ranked_size or 2  # segments of a question
    if count < size or (info.pairs != "dense" and count % size):
        multiple = "" if info.pairs == "dense" else f", a multiple of {size}"
        raise UserError(
            f"A batch of {info.pairs} preferences needs at least {size} segments{multiple}; got "
            f"{count}. Choose another --segments (of rso: --candidates)."
        )


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
        count: int,
        steps: Steps | None = None,
        rewards: bool = False,
    ) -> None:
        """Copy to the device what batches are made of.

        Args:
            preferences: verified, as `load_preferences` returns them.
            seeds: one a member, s of them.
            count: m, segments a member sees in a step.
            steps: those of the preferences on the device, if they are there already.
            rewards: whether batches hold the environment's rewards.

        Raises:
            UserError: an m that the pairs do not allow.
        """
        info, m = preferences.info, count
        check_count(info, m)
        self.steps = steps_of(preferences) if steps is None else steps
        device, size = self.steps.device, info.ranked_size or 2
        self.keys = member_keys(seeds, device)  # (s,)
        self.count, self.k, self.with_rewards = m, info.segment_length, rewards
        self._dense = info.pairs == "dense"
        self._starts = torch.tensor(preferences.segment_starts, device=device)  # (n,)
        if self._dense:
            size = m  # the whole batch is one question
            self._scores = torch.tensor(preferences.scores, device=device)  # (n,)
            self._annotator, self._settings = (
                find_annotator(info.annotator),
                info.annotator_settings,
            )
            self._annotator_seed = info.seeds.get("annotator", 0)
        else:
            questions = np.stack([preferences.first, preferences.second], axis=1)  # (q, 2)
            if info.pairs == "ranked":
                whole = len(preferences.segment_starts) // size * size
                questions = np.arange(whole).reshape(-1, size)  # (q, K)
            answers = preferences.prefers_second.reshape(len(questions), -1)  # (q, K(K-1)/2)
            self._questions = torch.tensor(questions, device=device)
            self._answers = torch.tensor(answers, device=device)
            self._weight = torch.ones_like(self._answers)
            if preferences.weight is not None:
                self._weight = torch.tensor(
                    preferences.weight.reshape(answers.shape), device=device
                )
        self._size = size
        self._ranked = 0 if info.pairs == "sparse" else size
        first, second = torch.tensor(np.stack(pairs_within(m // size, size)), device=device)
        self._first = first.expand(len(seeds), -1)  # (s, c)
        self._second = second.expand(len(seeds), -1)

    def draw(self, step: int | Int64[Tensor, ""]) -> PreferenceBatch:
        """The batch of a training step; a captured graph needs `step` as a tensor on the device."""
        step = torch.as_tensor(step, dtype=torch.int64, device=self.keys.device)
        if self._dense:
            segments = self._indices(step, self.count, len(self._starts))  # (s, m)
            rows = self._starts[segments]  # (s, m)
            answers, weight = self._asked(self._scores[segments], rows)
        else:
            drawn = self._indices(step, self.count // self._size, len(self._questions))  # (s, m/K)
            rows = self._starts[self._questions[drawn].flatten(1)]  # (s, m)
            answers, weight = self._answers[drawn].flatten(1), self._weight[drawn].flatten(1)
        return PreferenceBatch(
            step=step,
            observations=self.steps.observations(rows, self.k),
            actions=self.steps.actions(rows, self.k),
            first=self._first,
            second=self._second,
            prefers_second=answers,
            weight=weight,
            rewards=self.steps.rewards(rows, self.k) if self.with_rewards else None,
            terminated=self.steps.terminated(rows, self.k),
            ranked=self._ranked,
        )

    def _asked(
        self, scores: Float[Tensor, "s m"], rows: Int64[Tensor, "s m"]
    ) -> tuple[Float[Tensor, "s c"], Float[Tensor, "s c"]]:
        """What the annotator says of all pairs of a batch: answers and weights."""
        ends = (self._first, self._second)
        of_first, of_second = (scores.gather(1, end) for end in ends)
        keys = pair_keys(self._annotator_seed, *(rows.gather(1, end) for end in ends))
        found = self._annotator(of_first, of_second, keys, self._settings)
        device, number = scores.device, torch.float32
        answers, weight = (torch.as_tensor(each, dtype=number, device=device) for each in found)
        return answers, weight

    def _indices(self, step: Tensor, count: int, limit: int) -> Int64[Tensor, "s count"]:
        return uniform_indices(self.keys, step, BATCH_STREAM, count, limit)
