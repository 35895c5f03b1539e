"""What every training is watched by, whatever its method: beside what the method says of itself.

`data_log_prob` says how likely the data are under the policy that acts. A policy that runs off the
data explains every answer and fails, so it is the quantity to watch. Methods log likelihoods of
their own, of what their losses see, with dropout, with σ, or relative to a clone; this one is the
same for all, so that curves can be laid over each other.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cpl_bench.learning.interface import OnlinePhase, Phase, RewardLearner, Segments
from cpl_bench.learning.loop import Pause
from cpl_bench.learning.losses import fixed_variance_log_prob
from cpl_bench.learning.transitions import clipped
from cpl_bench.runs.held_out import held_out_batch
from cpl_bench.runs.metrics import LOG_PROB
from cpl_bench.runs.prepare import Trainee

SEGMENTS = 100
"""So many are looked at for it, spread evenly over all that there are."""


class Watched:
    """Looks at a training's policy, and at its reward model while that is fitted."""

    def __init__(self, trainee: Trainee):
        self.learner, source = trainee.learner, trainee.source
        phases = trainee.phases if hasattr(self.learner, "examine") else ()
        self._fitted = {phase.name for phase in phases if phase.steps and _is_fitting(phase)}
        self._held_out = None
        if self._fitted:
            self._held_out = held_out_batch(source.sides[1], len(source.members), source.device)
        data, k = source.data, source.data.info.segment_length
        count = len(data.segment_starts)
        shown = np.linspace(0, count - 1, min(SEGMENTS, count)).astype(int)
        rows = (data.segment_starts[shown][:, None] + np.arange(k)).ravel()

        def tensor(values: np.ndarray) -> Tensor:
            one = torch.tensor(values, dtype=torch.float32, device=source.device)
            return one.expand(len(source.members), *one.shape)

        self._observations = tensor(data.observations[rows])  # (s, n, o)
        self._actions = tensor(clipped(data.actions[rows]))  # (s, n, a)

    def look(self, pause: Pause, at_checkpoint: bool) -> None:
        """Add to a pause's metrics what is seen now: the data's likelihood at checkpoints."""
        if self._held_out is not None and pause.phase in self._fitted:
            pause.metrics.update(cast(RewardLearner, self.learner).examine(self._held_out))
        if at_checkpoint:
            pause.metrics[LOG_PROB] = self.data_log_prob()

    def data_log_prob(self) -> Float[Tensor, " s"]:
        """The mean over steps of −‖μ(s) − a‖², μ(s) what the policy would do there.

        For a learned variance, too, and for the first action of a chunk.
        """
        with torch.no_grad():
            acts = self.learner.act(self._observations)
            return fixed_variance_log_prob(acts, self._actions).mean(1)


def _is_fitting(phase: Phase | OnlinePhase) -> bool:
    return isinstance(phase.feed, Segments) and phase.feed.side == "fitting"
