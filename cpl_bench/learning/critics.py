"""Implicit Q-learning's critics: what a step is worth, and how much better than usual it was.

Kostrikov et al., arXiv 2110.06169, without its policy:

    V  ◄── expectile regression on min Q̄(s, a)
    Q  ◄── r + γ V(s')                    two critics; Q̄ follows them by Polyak averaging
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cpl_bench.learning import config as settings
from cpl_bench.learning.config import ValueConfig
from cpl_bench.learning.interface import Metrics
from cpl_bench.learning.losses import averaged, expectile_loss
from cpl_bench.learning.optimisers import WarmAdam
from cpl_bench.learning.perceptrons import MLP, prefixed


@dataclass(frozen=True)
class CriticConfig:
    """How critics learn; fields as in the config of P-IQL."""

    value: ValueConfig = ValueConfig()
    value_scale: float = 1.0
    expectile: float = 0.7
    gamma: float = 0.99
    polyak: float = 0.005
    steps: int = 500_000

    def __post_init__(self) -> None:
        settings.refuse(
            self,
            {
                "expectile": ("in (0, 1)", lambda value: 0 < value < 1),
                "gamma": ("in [0, 1)", lambda value: 0 <= value < 1),
                "polyak": ("in (0, 1]", lambda value: 0 < value <= 1),
                "value_scale": settings.POSITIVE,
                "steps": settings.COUNT,
            },
        )


def judging(config: object) -> CriticConfig:
    """What of a method's config concerns value and critics: the fields of the same names."""
    return CriticConfig(**{each.name: getattr(config, each.name) for each in fields(CriticConfig)})


class Critics:
    """A value, two critics and their targets for s members.

    They begin near zero, so that no action is preferred before anything is known.
    """

    def __init__(
        self,
        config: CriticConfig,
        observation_size: int,
        action_size: int,
        seeds: Sequence[int],
        device: torch.device,
    ):
        self.config = config

        def judge(network: int, inputs: int) -> MLP:  # of outputs near zero at first
            sizes = [inputs, *config.value.hidden, 1]
            return MLP(sizes, seeds, device, network, output_scale=0.01 / config.value_scale)

        of_pair = observation_size + action_size
        self.value = judge(1, observation_size)
        self.critics = {f"critic{i}": judge(2 + i, of_pair) for i in range(2)}
        self.targets = {f"target{i}": judge(2 + i, of_pair) for i in range(2)}
        adam, steps = config.value.optimiser, config.steps
        self._adam_of_value = WarmAdam(self.value.parameters, adam, steps)
        self._adam_of_critics = WarmAdam(prefixed(self.critics), adam, steps)

    @property
    def networks(self) -> dict[str, MLP]:
        """The parts that judge, by name."""
        return {"value": self.value, **self.critics, **self.targets}

    @property
    def optimisers(self) -> dict[str, WarmAdam]:
        """The parts that learn, by name."""
        return {"value optimiser": self._adam_of_value, "critic optimiser": self._adam_of_critics}

    def improve(
        self,
        observations: Float[Tensor, "s n o"],
        actions: Float[Tensor, "s n a"],
        next_observations: Float[Tensor, "s n o"],
        rewards: Float[Tensor, "s n"],
        terminated: Bool[Tensor, "s n"] | None,
        counts: Float[Tensor, "s n"] | None = None,
    ) -> tuple[Float[Tensor, "s n"], Float[Tensor, "s n"], Metrics]:
        """One gradient step; returns min Q̄ and V as they were before it, and the losses."""
        pairs = torch.cat([observations, actions], -1)  # (s, n, o + a)
        next_value = self.following(next_observations, terminated)
        judged, value, value_loss = self.raise_value(observations, pairs, counts)
        goal = rewards + self.config.gamma * next_value
        errors = [averaged((each - goal).square(), counts) for each in self.found(pairs)]
        critic_loss = torch.stack(errors).sum(0)
        self.improve_critics(critic_loss)
        return judged, value, {"value_loss": value_loss, "critic_loss": critic_loss.detach()}

    def raise_value(
        self,
        observations: Float[Tensor, "s n o"],
        pairs: Float[Tensor, "s n i"],
        counts: Float[Tensor, "s n"] | None,
    ) -> tuple[Float[Tensor, "s n"], Float[Tensor, "s n"], Float[Tensor, " s"]]:
        """The value's gradient step towards min Q̄; returns min Q̄, V before it, and the loss."""
        value, judged = self._judged(self.value, observations), self._least(pairs)
        loss = averaged(expectile_loss(judged - value, self.config.expectile), counts)
        self._adam_of_value.step(loss.sum())
        return judged, value.detach(), loss.detach()

    def found(self, pairs: Float[Tensor, "s n i"]) -> list[Float[Tensor, "s n"]]:
        """Each critic's Q of observation and action, with gradient."""
        return [self._judged(each, pairs) for each in self.critics.values()]

    def improve_critics(self, loss: Float[Tensor, " s"]) -> None:
        """The critics' gradient step; their targets follow."""
        self._adam_of_critics.step(loss.sum())
        for target, critic in zip(self.targets.values(), self.critics.values(), strict=True):
            target.follow(critic, self.config.polyak)

    @torch.no_grad()
    def following(
        self, next_observations: Float[Tensor, "s n o"], terminated: Bool[Tensor, "s n"] | None
    ) -> Float[Tensor, "s n"]:
        """V(s'), 0 after the end of a task."""
        value = self._judged(self.value, next_observations)
        return value if terminated is None else value * ~terminated

    @torch.no_grad()
    def advantages(
        self, observations: Float[Tensor, "s n o"], actions: Float[Tensor, "s n a"]
    ) -> Float[Tensor, "s n"]:
        """min Q̄(s, a) − V(s)."""
        pairs = torch.cat([observations, actions], -1)
        return self._least(pairs) - self._judged(self.value, observations)

    @torch.no_grad()
    def _least(self, pairs: Float[Tensor, "s n i"]) -> Float[Tensor, "s n"]:
        return torch.minimum(*(self._judged(each, pairs) for each in self.targets.values()))

    def _judged(self, network: MLP, inputs: Float[Tensor, "s n i"]) -> Float[Tensor, "s n"]:
        return network(inputs).squeeze(-1) * self.config.value_scale
