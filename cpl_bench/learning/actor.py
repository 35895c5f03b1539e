"""A policy that draws its actions, and the reference that it must not leave too far.

π(a|s) = N(μ(s), σ²), one σ an action dimension, learned within limits; π_ref is what μ and σ were
when the improvement began. A divergence from π_ref costs reward (the estimator k1) or loss (k2 and
k3: paid as rewards their gradients vanish at the reference).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cpl_bench.core.policy import PolicyWeights
from cpl_bench.learning.config import NOT_NEGATIVE, POSITIVE, Optimiser, one_of, refuse
from cpl_bench.learning.deviation import first_log_std, limit_log_std
from cpl_bench.learning.interface import PreferenceBatch
from cpl_bench.learning.losses import (
    KL_ESTIMATORS,
    adapted_coefficient,
    clipped_surrogate,
    gaussian_kl,
    gaussian_log_prob,
)
from cpl_bench.learning.networks import Policy
from cpl_bench.learning.optimisers import WarmAdam
from cpl_bench.learning.perceptrons import MLP
from cpl_bench.learning.state import Named, Part, pack, unpack


@dataclass(frozen=True)
class StdConfig:
    """σ of the actions, one an action dimension, learned within limits."""

    initial: float = 0.5
    """At first, and the reference's."""
    lowest: float = 0.5
    """Never below this…"""
    highest: float = 1.5
    """…nor above this."""

    def __post_init__(self) -> None:
        refuse(self, {"lowest": POSITIVE, "highest": POSITIVE})
        limits = f"in [lowest, highest] = [{self.lowest}, {self.highest}]"
        refuse(self, {"initial": (limits, lambda value: self.lowest <= value <= self.highest)})


@dataclass(frozen=True)
class KLConfig:
    """What leaving the reference costs."""

    weight: float = 2.0
    """β: what a nat of divergence from the reference costs, in rewards of one step."""
    estimator: Literal["k1", "k2", "k3"] = "k1"
    """Estimates the divergence from the action drawn: k1 in the reward, the others in the loss."""

    def __post_init__(self) -> None:
        known = (" or ".join(KL_ESTIMATORS), lambda value: value in KL_ESTIMATORS)
        refuse(self, {"weight": NOT_NEGATIVE, "estimator": known})


SURROGATES = {"clip": "PPO", "penalty": "PPO(penalty)", "reinforce": "REINFORCE"}
"""What methods are called by their objective."""


@dataclass(frozen=True)
class SurrogateConfig:
    """How far one improvement may go (arXiv 1707.06347), or that nothing holds it."""

    objective: Literal["clip", "penalty", "reinforce"] = "clip"
    """clip: the clipped surrogate; penalty: an adaptive KL penalty between updates; reinforce: the
    plain policy gradient, log π(a|s) times the advantage."""
    clip: float = 0.2
    """ε of the clipped surrogate; of the others only `clip_fraction` is counted by it."""
    target_kl: float = 0.01
    """d: the KL between updates that the penalty's coefficient aims at."""

    def __post_init__(self) -> None:
        known = one_of(*SURROGATES)
        share = ("in (0, 1)", lambda value: 0 < value < 1)
        refuse(self, {"objective": known, "clip": share, "target_kl": POSITIVE})
        if self.objective != "penalty":
            unused = "0.01 where no penalty aims at it"
            refuse(self, {"target_kl": (unused, lambda value: value == 0.01)})
        if self.objective != "clip":
            refuse(self, {"clip": ("0.2 where nothing is clipped", lambda value: value == 0.2)})

    def title(self, learned: bool) -> str:
        """What a method is called that improves so, P- where its reward is learned."""
        name = SURROGATES[self.objective]
        return f"P-{name}" if learned else f"{name} (true reward)"


class Surrogate:
    """What an improvement gains, and the penalty's coefficient, which adapts."""

    def __init__(self, config: SurrogateConfig, members: int, device: torch.device):
        self.config = config
        self._tensors = Named(device, {"penalty": torch.ones(members, device=device)})
        self.state, self.load_state = self._tensors.state, self._tensors.load_state

    @property
    def penalty(self) -> Float[Tensor, " s"]:
        """What a nat between updates costs."""
        return self._tensors["penalty"]

    def gain(
        self,
        log_ratio: Float[Tensor, "s b"],
        advantages: Float[Tensor, "s b"],
        kl: Float[Tensor, "s b"],
    ) -> Float[Tensor, "s b"]:
        """Of each transition, to be maximised."""
        if self.config.objective == "clip":
            return clipped_surrogate(log_ratio, advantages, self.config.clip)
        if self.config.objective == "reinforce":
            return log_ratio * advantages  # log π_old is a constant: the gradient is log π's
        return log_ratio.exp() * advantages - self.penalty.unsqueeze(1) * kl

    def clipped(self, log_ratio: Float[Tensor, "s b"]) -> Float[Tensor, " s"]:
        """Share of the transitions whose ratio has left the clip."""
        far = (log_ratio.detach().exp() - 1).abs() > self.config.clip
        return far.float().mean(1)

    def adapt(self, moved: Float[Tensor, " s"]) -> None:
        """Follow how far, in nats, the last improvement went."""
        if self.config.objective == "penalty":
            adapted = adapted_coefficient(self.penalty, moved, self.config.target_kl)
            self._tensors["penalty"] = adapted


class Actor:
    """Draws around a policy's mean, and moves it together with σ."""

    def __init__(
        self,
        policy: Policy,
        std: StdConfig,
        kl: KLConfig,
        optimiser: Optimiser,
        steps: int,
        seeds: Sequence[int],
    ):
        """`optimiser` moves mean and σ in so many `steps`."""
        self.policy, self.std, self.kl = policy, std, kl
        device, sizes = policy.keys.device, policy.network.sizes
        self.log_std = first_log_std(std.initial, len(seeds), sizes[-1], device)
        self._reference = MLP(sizes, seeds, device, network=0)
        self._reference_std = torch.full_like(self.log_std, std.initial, requires_grad=False)
        parameters = {**policy.parameters, "log_std": self.log_std}
        self._adam = WarmAdam(parameters, optimiser, steps)
        self._parts: dict[str, Part] = {"reference": self._reference, "adam": self._adam}

    def look(self, observations: Float[Tensor, "s n o"]) -> tuple[Tensor, Tensor]:
        """μ and σ at each observation, (s, n, a) each, with gradient."""
        mean = self.policy.mean(observations)
        return mean, self.log_std.exp().unsqueeze(1).expand_as(mean)

    def reference(self, observations: Float[Tensor, "s n o"]) -> tuple[Tensor, Tensor]:
        """The reference's μ and σ at each observation, (s, n, a) each."""
        mean = self._reference(observations).tanh()
        return mean, self._reference_std.unsqueeze(1).expand_as(mean)

    def begin(self) -> None:
        """What the policy is now, is the reference."""
        self._reference.follow(self.policy.network, 1.0)

    def shaped(self, paid: Tensor, log_prob: Tensor, reference_log_prob: Tensor) -> Tensor:
        """Rewards less what the divergence costs there."""
        if self.kl.estimator != "k1":
            return paid
        return paid - self.kl.weight * KL_ESTIMATORS["k1"](reference_log_prob - log_prob)

    def kl_loss(
        self, log_prob: Tensor, reference_log_prob: Tensor, spread: Tensor
    ) -> Float[Tensor, " s"] | None:
        """What the divergence costs as a loss, in units of advantages of that `spread`."""
        if self.kl.estimator == "k1":
            return None
        cost = KL_ESTIMATORS[self.kl.estimator](reference_log_prob - log_prob) / spread
        return self.kl.weight * cost.mean(1)

    def moved(self, old: Mapping[str, Tensor]) -> Float[Tensor, " s"]:
        """KL(π_old ‖ π) over the observations, means and deviation of an old policy."""
        mean, std = self.look(old["observations"])
        return gaussian_kl(old["mean"], old["std"].expand_as(mean), mean, std).mean(1)

    def cloning_loss(self, data: PreferenceBatch) -> Float[Tensor, " s"]:
        """The data's negative log-likelihood."""
        observations, actions = data.observations.flatten(1, 2), data.actions.flatten(1, 2)
        return -gaussian_log_prob(*self.look(observations), actions).mean(1)

    def improve(self, loss: Float[Tensor, " s"]) -> None:
        """One gradient step on the members' losses."""
        self._adam.step(loss.sum())
        self.policy.moved()

    def limit(self) -> None:
        """Keep σ within its limits."""
        limit_log_std(self.log_std, self.std.lowest, self.std.highest)

    def behaviour(self) -> PolicyWeights:
        """The policy, and "std" (s, a) to draw actions with."""
        std = {"std": self.log_std.detach().exp().cpu().numpy()}
        return PolicyWeights("gaussian", self.policy.network.arrays() | std)

    def state(self) -> dict[str, Tensor]:
        """σ, reference and optimiser; the policy has a state of its own."""
        return pack(self._parts) | {"log_std": self.log_std.detach().clone()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up where `state()` was taken."""
        unpack(self._parts, state)
        with torch.no_grad():
            self.log_std.copy_(state["log_std"])
