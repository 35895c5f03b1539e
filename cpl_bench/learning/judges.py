"""What implicit Q-learning judges by: a value, two critics, and targets that follow the critics.

Kostrikov et al., arXiv 2110.06169. Outputs begin near zero, so that no action is preferred before
anything is known.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cpl_bench.learning.config import ValueConfig
from cpl_bench.learning.optimisers import WarmAdam
from cpl_bench.learning.perceptrons import MLP, prefixed


class Judges:
    """V(s), Q₀(s, a), Q₁(s, a) and Q̄₀, Q̄₁: their networks' outputs times `scale`."""

    def __init__(
        self,
        config: ValueConfig,
        scale: float,
        observation_size: int,
        action_size: int,
        seeds: Sequence[int],
        device: torch.device,
        steps: int,
    ):
        """To be improved in so many `steps`."""
        self.scale = scale

        def judge(network: int, inputs: int) -> MLP:
            sizes = [inputs, *config.hidden, 1]
            return MLP(sizes, seeds, device, network, output_scale=0.01 / scale)

        of_pair = observation_size + action_size
        self.value = judge(1, observation_size)
        self.critics = {f"critic{i}": judge(2 + i, of_pair) for i in range(2)}
        self.targets = {f"target{i}": judge(2 + i, of_pair) for i in range(2)}
        self._of_value = WarmAdam(self.value.parameters, config.optimiser, steps)
        self._of_critics = WarmAdam(prefixed(self.critics), config.optimiser, steps)

    def networks(self) -> dict[str, MLP]:
        """By the names that a method's state has them under."""
        return {"value": self.value, **self.critics, **self.targets}

    def optimisers(self) -> dict[str, WarmAdam]:
        """Of the value and of the critics."""
        return {"value optimiser": self._of_value, "critic optimiser": self._of_critics}

    def worth(self, observations: Float[Tensor, "s n o"]) -> Float[Tensor, "s n"]:
        """V."""
        return self._judged(self.value, observations)

    def found(self, pairs: Float[Tensor, "s n i"]) -> list[Float[Tensor, "s n"]]:
        """Each critic's Q of observation and action."""
        return [self._judged(each, pairs) for each in self.critics.values()]

    @torch.no_grad()
    def expected(self, pairs: Float[Tensor, "s n i"]) -> Float[Tensor, "s n"]:
        """min Q̄, without gradient."""
        return torch.minimum(*(self._judged(each, pairs) for each in self.targets.values()))

    def improve_value(self, loss: Float[Tensor, " s"]) -> None:
        """One gradient step."""
        self._of_value.step(loss.sum())

    def improve_critics(self, loss: Float[Tensor, " s"], polyak: float) -> None:
        """One gradient step, and the targets follow by this share."""
        self._of_critics.step(loss.sum())
        for target, critic in zip(self.targets.values(), self.critics.values(), strict=True):
            target.follow(critic, polyak)

    def _judged(self, network: MLP, inputs: Float[Tensor, "s n i"]) -> Float[Tensor, "s n"]:
        return network(inputs).squeeze(-1) * self.scale
