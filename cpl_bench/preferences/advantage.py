"""How much better than usual each recorded step was, by critics fitted to the data's rewards.

Implicit Q-learning (Kostrikov et al., arXiv 2110.06169) without its policy, on every recorded
transition: A(s, a) = min Q̄(s, a) − V(s), in the rewards' own unit. It needs neither an expert nor
simulator states. Networks are fitted in float32 on one thread: the same data and settings give the
same scores on like machines, elsewhere nearly the same ones; a card that is to give the same bytes
everywhere is labelled by something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cpl_bench.core.errors import UserError
from cpl_bench.preferences.stepwise import StepScores
from cpl_bench.tasks.episodes import Trajectory

if TYPE_CHECKING:
    from cpl_bench.learning.critics import Critics

RATE = 1e-3
POLYAK = 0.05
VALUE_SCALE = 100.0
"""Adam moves a network's output by as much a step whatever the value's size."""
ROWS = 20_000
"""Steps that are judged at once."""


@dataclass(frozen=True)
class CriticSettings:
    """`scorer_settings` of `advantage`; what isn't here is as in P-IQL's laptop preset."""

    steps: int = 8000
    """Gradient steps."""
    transitions: int = 256
    """Transitions in each."""
    expectile: float = 0.7
    """τ: 0.5 values what the data do on average, towards 1 the best that they do."""
    gamma: float = 0.99
    """The discount of the critics, within (0, 1); that of the labelling is another."""
    width: int = 256
    """Units in each of two hidden layers."""
    seed: int = 0
    """Decides first weights and batches."""

    def __post_init__(self) -> None:
        if min(self.steps, self.transitions, self.width) < 1 or self.seed < 0:
            raise UserError("steps, transitions and width must be at least 1, seed at least 0.")
        if not (0 < self.expectile < 1 and 0 <= self.gamma < 1):
            raise UserError("expectile must lie in (0, 1) and gamma in [0, 1).")


def advantages(trajectories: Sequence[Trajectory], settings: CriticSettings) -> StepScores:
    """min Q̄ − V of each step.

    Raises:
        UserError: rewards that are all alike: nothing is better than anything.
    """
    import torch

    from cpl_bench.core.seeds import training_seeds
    from cpl_bench.learning.config import Optimiser, ValueConfig
    from cpl_bench.learning.critics import CriticConfig, Critics
    from cpl_bench.learning.inputs import Inputs

    rewards = np.concatenate([each.rewards for each in trajectories])
    unit = float(rewards.std())
    if np.ptp(rewards) == 0:  # of equal ones the deviation may be no exact 0
        raise UserError(
            f"All rewards of the data are {rewards[0]:g}: no advantage can be learned from them."
        )
    inputs = Inputs.of(np.concatenate([each.observations for each in trajectories]))
    looks = [inputs.seen(each.observations) for each in trajectories]
    config = CriticConfig(
        ValueConfig((settings.width,) * 2, Optimiser(RATE)),
        VALUE_SCALE,
        settings.expectile,
        settings.gamma,
        POLYAK,
        settings.steps,
    )
    sizes = looks[0].shape[1], trajectories[0].actions.shape[1]
    with _one_thread():
        critics = Critics(config, *sizes, training_seeds([settings.seed]), torch.device("cpu"))
        _fit(critics, trajectories, looks, unit, settings)
        return _judged(critics, trajectories, looks, unit)


def _fit(
    critics: Critics,
    trajectories: Sequence[Trajectory],
    looks: list[np.ndarray],
    unit: float,
    settings: CriticSettings,
) -> None:
    """Gradient steps on transitions of all episodes, the last ones with what they ended in.

    Episodes lie flat with T + 1 rows each: the last is there as what followed alone.
    """
    from cpl_bench.core.progress import progress_bar
    from cpl_bench.core.seeds import training_seeds
    from cpl_bench.learning.moves import moves_of
    from cpl_bench.learning.transitions import Steps, TransitionSampler

    def flat(values: list[np.ndarray]) -> np.ndarray:
        width = [(0, 1)] + [(0, 0)] * (values[0].ndim - 1)
        return np.concatenate([np.pad(each, width) for each in values])

    ended = [
        np.arange(len(e.rewards)) == len(e.rewards) - 1 + (not e.terminated) for e in trajectories
    ]
    real = flat([np.ones(len(each.rewards), bool) for each in trajectories])
    steps = Steps(
        np.concatenate(looks),
        flat([each.actions for each in trajectories]),
        rewards=(flat([each.rewards for each in trajectories]) / unit).astype(np.float32),
        terminations=flat(ended),
    )
    sampler = TransitionSampler(
        steps,
        training_seeds([settings.seed]),
        settings.transitions,
        rows=np.flatnonzero(real),
        following=True,
        rewards=True,
    )
    with progress_bar("fitting critics", settings.steps) as bar:
        for step in range(settings.steps):
            moves = moves_of(sampler.draw(step), settings.transitions)
            assert moves.rewards is not None, "asked for above"
            critics.improve(
                moves.observations,
                moves.actions,
                moves.next_observations,
                moves.rewards,
                moves.terminated,
            )
            bar.update(1)


def _judged(
    critics: Critics, trajectories: Sequence[Trajectory], looks: list[np.ndarray], unit: float
) -> StepScores:
    """The advantage of each step in the rewards' unit."""
    import torch

    from cpl_bench.learning.transitions import clipped

    seen = np.concatenate([each[:-1] for each in looks])
    done = clipped(np.concatenate([each.actions for each in trajectories]))
    found = [
        critics.advantages(
            torch.tensor(seen[None, i : i + ROWS]), torch.tensor(done[None, i : i + ROWS])
        )
        for i in range(0, len(seen), ROWS)
    ]
    better = torch.cat(found, 1)[0].double().numpy() * unit
    return np.split(better, np.cumsum([len(each.rewards) for each in trajectories])[:-1])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums are added up in one order, however many processors there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
