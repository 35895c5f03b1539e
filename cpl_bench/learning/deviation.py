"""σ of a diagonal Gaussian policy: its logarithm is learned, and put back within limits."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def first_log_std(
    std: float, members: int, actions: int, device: torch.device
) -> Float[Tensor, "s a"]:
    """log σ at first, one an action dimension, to be learned."""
    return torch.full((members, actions), std, device=device).log().requires_grad_()


def limit_log_std(log_std: Float[Tensor, "s a"], lowest: float, highest: float) -> None:
    """Put σ back within its limits after a step: between steps no gradient is cut off there."""
    with torch.no_grad():
        log_std.clamp_(math.log(lowest), math.log(highest))
