"""σ of a diagonal Gaussian policy: its logarithm is learned, and put back within limits.

As in Hejna et al., arXiv 2310.13639v3, on D4RL: tanh mean, one σ an action dimension. The released
code for those data has such a policy, with log σ from 0 and clipped into [−5, 2], though its script
trains the deterministic one. Deviation: there log σ is clipped where it is used, and beyond a limit
gets no gradient back; here it is put on the limit after each step. The paper states no limits.
"""

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
