"""What networks see of an observation: as it comes, or standardised.

Simulators give positions in metres that vary by centimetres around large means; networks learn from
numbers near 1. The data are standardised once, before any batch is drawn, and so are the episodes
of a policy that learns online; every network of a method then sees the same. Outside a learner
observations are raw: a policy that leaves it takes the standardisation along, folded into its first
layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cpl_bench.core.policy import PolicyWeights
from cpl_bench.learning.config import MethodConfig, PolicyConfig

LEAST_DEVIATION = 1e-3
"""A dimension that varies less is left alone: what it says is noise, or a constant."""

T = TypeVar("T", np.ndarray, Tensor)


@dataclass(frozen=True, eq=False)
class Inputs:
    """Observations standardised by the data's mean and deviation, a dimension each."""

    centre: Float[np.ndarray, " o"]
    spread: Float[np.ndarray, " o"]

    @classmethod
    def of(cls, observations: Float[np.ndarray, "n o"]) -> Inputs:
        """Mean and deviation over all steps; 0 and 1 of what deviates less than 1e-3."""
        values = np.asarray(observations, np.float64)
        centre, spread = values.mean(0), values.std(0)
        alone = spread < LEAST_DEVIATION
        return cls(np.where(alone, 0.0, centre), np.where(alone, 1.0, spread))

    def seen(self, observations: T) -> T:
        """(…, o) as simulators give them → as networks see them, of the same kind and type."""
        if isinstance(observations, Tensor):
            centre, spread = (
                torch.tensor(each, dtype=observations.dtype, device=observations.device)
                for each in (self.centre, self.spread)
            )
            return (observations - centre) / spread
        kind = observations.dtype
        return (observations - self.centre.astype(kind)) / self.spread.astype(kind)

    def folded(self, weights: PolicyWeights) -> PolicyWeights:
        """The policy of standardised observations as one of raw ones: w0 and b0 change."""
        w0, b0 = (weights.arrays[name].astype(np.float64) for name in ("w0", "b0"))
        scaled = w0 / self.spread[:, None]  # (s, o, h)
        arrays = {
            **weights.arrays,
            "w0": scaled.astype(weights.arrays["w0"].dtype),
            "b0": (b0 - self.centre @ scaled).astype(weights.arrays["b0"].dtype),
        }
        return replace(weights, arrays=arrays)


def inputs_of(config: MethodConfig, observations: Float[np.ndarray, "n o"]) -> Inputs | None:
    """The standardisation that a method's `policy: PolicyConfig` asks for; None: as they come."""
    policy = getattr(config, "policy", None)
    if isinstance(policy, PolicyConfig) and policy.standardise:
        return Inputs.of(observations)
    return None


def folded(weights: PolicyWeights, inputs: Inputs | None) -> PolicyWeights:
    """A learner's policy as it acts outside, on raw observations."""
    return weights if inputs is None else inputs.folded(weights)
