"""What a figure of curves is drawn from: curves, in panels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpl_bench.core.score import SUCCESS, Score


@dataclass(frozen=True)
class Curve:
    """One method on one dataset: mean scores at t checkpoints."""

    method: str
    steps: NDArray[np.int64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """One dataset."""

    dataset: str
    curves: tuple[Curve, ...]
    behaviour: float | None
    """The score of the policy behind the data: a dashed line, where it is known."""
    boundary: int | None
    """The step at which the first phase ends, where the runs agree on one."""
    scoring: Score = SUCCESS
    """What the scores are."""
    quantity: str = ""
    """What is drawn in their place."""

    @property
    def times(self) -> int:
        """What a score is multiplied by: shares are drawn in percent."""
        return 100 if self.scoring.is_share and not self.quantity else 1

    @property
    def axis(self) -> str:
        """What the vertical axis says."""
        return self.quantity or self.scoring.axis

    @property
    def is_success(self) -> bool:
        """Whether the axis goes from 0 to 100."""
        return self.scoring.is_success and not self.quantity
