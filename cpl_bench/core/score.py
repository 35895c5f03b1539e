"""What an episode achieved, in one number: what tables, curves, probes and pages speak of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

SATURATED = 0.97
"""A share from which on better methods are no longer told from good ones."""


@dataclass(frozen=True)
class Score:
    """Success at any step, or a return, normalised between two references where there are any."""

    name: str = "success"
    """success, normalised return, or return."""
    low: float = 0.0
    """The return that scores 0."""
    high: float = 1.0
    """The return that scores 1."""

    @property
    def is_success(self) -> bool:
        """Whether it counts successes."""
        return self.name == "success"

    @property
    def is_share(self) -> bool:
        """Whether it is read in percent: 1 is what an expert achieves."""
        return self.name != "return"

    @property
    def unit(self) -> str:
        """With a space before it, to be put behind a number; empty for a plain return."""
        return " %" if self.is_share else ""

    @property
    def axis(self) -> str:
        """A figure's axis."""
        return f"{self.name} (%)" if self.is_share else self.name

    def of(self, successes: ArrayLike, returns: ArrayLike) -> NDArray[np.float64]:
        """The scores of episodes, by whether they succeeded and what they returned."""
        if self.is_success:
            return np.asarray(successes, np.float64)
        return (np.asarray(returns, np.float64) - self.low) / (self.high - self.low)

    def shown(self, value: float, decimals: int = 1) -> str:
        """A number as tables have it, without its unit."""
        return f"{100 * value:.{decimals}f}" if self.is_share else f"{value:,.{decimals}f}"


SUCCESS = Score()
