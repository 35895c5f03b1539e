"""Policies for s members side by side: batched matrix products on a leading axis.

Member i has the weights, the dropout and the updates that it would have alone: initial weights come
from its seed, dropout from a counter of (seed, step), and the loss is a sum over members.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cpl_bench.core.policy import PolicyWeights
from cpl_bench.learning.config import BYTE, Optimiser, PolicyConfig, Stage
from cpl_bench.learning.interface import (
    Metrics,
    Phase,
    PreferenceBatch,
    Segments,
    Shared,
    Transitions,
)
from cpl_bench.learning.losses import fixed_variance_log_prob
from cpl_bench.learning.optimisers import WarmAdam
from cpl_bench.learning.perceptrons import MLP
from cpl_bench.learning.random_bits import member_keys, random_bytes

DROPOUT_STREAM = 1  # + the layer's number


class Policy:
    """A deterministic policy μ(s) = tanh(MLP(s)) a member, and the optimisers that improve it."""

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: PolicyConfig,
        seeds: Sequence[int],
        device: torch.device,
    ):
        sizes = [observation_size, *config.hidden, action_size]
        self.network = MLP(sizes, seeds, device, network=0)
        self.parameters = self.network.parameters
        self.dropped_of_256 = round(BYTE * config.dropout)
        self.keys = member_keys(seeds, device)
        self.average = MLP(sizes, seeds, device, network=0) if config.average else None
        self.followed = 1 - config.average
        self.optimisers: dict[str, WarmAdam] = {}
        self.config = config

    @property
    def acting(self) -> MLP:
        """The averaged weights if there are any, else those that learn."""
        return self.network if self.average is None else self.average

    def add_optimiser(self, phase: str, config: Optimiser, steps: int = 0) -> None:
        """Give `phase` an Adam of its own, with fresh moments, for so many steps."""
        self.optimisers[phase] = WarmAdam(self.parameters, config, steps)

    def improve(self, phase: str, loss: Float[Tensor, " s"]) -> None:
        """One gradient step of `phase`'s optimiser on the members' losses."""
        self.optimisers[phase].step(loss.sum())
        self.moved()

    def moved(self) -> None:
        """The weights took a step: their average follows."""
        if self.average is not None:
            self.average.follow(self.network, self.followed)

    def clone_phase(self, stage: Stage, segments: Segments) -> Phase:
        """The phase "clone": of single steps if the stage says how many, else of `segments`."""
        single = Transitions(stage.transitions, following=False)
        adam, shared = self.optimisers.get("clone"), None
        if adam and type(self) is Policy:  # somebody's own may clone in another way
            shared = Shared(Cloned(self), (self.config, stage, adam.config, adam.cosine_steps))
        feed = single if stage.transitions else segments
        return Phase("clone", stage.steps, self.clone, feed, shared)

    def clone(self, batch: PreferenceBatch) -> Metrics:
        """The update of cloning: −log π(a|s), the mean over all steps of all segments."""
        loss = -self.log_probs(batch).mean((1, 2))  # (s,)
        self.improve("clone", loss)
        return {"clone_loss": loss.detach()}

    def log_probs(self, batch: PreferenceBatch) -> Float[Tensor, "s m k"]:
        """log π(a|s) of every step of the batch, with this step's dropout."""
        s, m, k, _ = batch.observations.shape
        mean = self._forward(batch.observations.reshape(s, m * k, -1), batch.step)
        return fixed_variance_log_prob(mean.view(s, m, k, -1), batch.actions)

    def mean(self, observations: Float[Tensor, "s n o"]) -> Float[Tensor, "s n a"]:
        """μ(s) without dropout, with gradient."""
        return self._forward(observations, None)

    def act(self, observations: Float[Tensor, "s b o"]) -> Float[Tensor, "s b a"]:
        """The deterministic action, without dropout; by the averaged weights if there are any."""
        with torch.no_grad():
            return self.acting(observations).tanh()

    def weights(self) -> PolicyWeights:
        """w0 (s, o, h), b0 (s, h), …, float32; the averaged ones if there are any."""
        return PolicyWeights("deterministic", self.acting.arrays())

    def state(self) -> dict[str, Tensor]:
        """Weights, their average and optimisers, flat."""
        return self.state_of(self.optimisers)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up where `state()` was taken."""
        self.load_state_of(self.optimisers, state)

    def state_of(self, phases: Iterable[str]) -> dict[str, Tensor]:
        """Weights, their average and the optimisers of `phases`, flat."""
        state = self.network.state()
        if self.average is not None:
            state |= {f"average.{name}": value for name, value in self.average.state().items()}
        for phase in phases:
            own = self.optimisers[phase].state()
            state |= {f"{phase}.{name}": value for name, value in own.items()}
        return state

    def load_state_of(self, phases: Iterable[str], state: dict[str, Tensor]) -> None:
        """Take up where `state_of(phases)` was taken; other optimisers are left alone."""
        self.network.load_state(state)
        if self.average is not None:
            self.average.load_state(_below("average.", state))
        for phase in phases:
            self.optimisers[phase].load_state(_below(f"{phase}.", state))

    def _forward(
        self, x: Float[Tensor, "s n o"], step: Int[Tensor, ""] | None
    ) -> Float[Tensor, "s n a"]:
        if step is None or not self.dropped_of_256:
            return self.network(x).tanh()

        def drop(x: Tensor, layer: int) -> Tensor:
            return _DroppedReLU.apply(x, *self._dropped(x, step, layer))

        return self.network(x, drop).tanh()

    def _dropped(
        self, x: Float[Tensor, "s n h"], step: Int[Tensor, ""], layer: int
    ) -> tuple[Bool[Tensor, "s n h"], float]:
        """True with probability `dropped_of_256`/256, and the factor that keeps the mean."""
        count = x.shape[1] * x.shape[2]
        drawn = random_bytes(self.keys, step, DROPOUT_STREAM + layer, count)
        dropped = (drawn < self.dropped_of_256).view(x.shape)
        return dropped, float(BYTE) / (BYTE - self.dropped_of_256)


class Cloned:
    """What of a policy its cloning moves: weights, their average, the cloning's optimiser."""

    def __init__(self, policy: Policy):
        self.policy = policy

    def state(self) -> dict[str, Tensor]:
        """Flat."""
        return self.policy.state_of(["clone"])

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up where `state()` was taken, by whichever method."""
        self.policy.load_state_of(["clone"], state)


class _DroppedReLU(torch.autograd.Function):
    """ReLU and dropout in one, in place: the result is all that the gradient needs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: Tensor, scale: float) -> Tensor:  # type: ignore[override]
        ctx.mark_dirty(x)
        ctx.scale = scale
        x.clamp_min_(0).mul_(scale).masked_fill_(dropped, 0)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        passed = torch.ops.aten.threshold_backward(gradient, y, 0)
        return passed.mul_(ctx.scale), None, None


def _below(start: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(start) :]: v for name, v in state.items() if name.startswith(start)}
