"""Policies for s members side by side: batched matrix products on a leading axis.

Member i has the weights, the dropout and the updates that it would have alone: initial weights come
from its seed, dropout from a counter of (seed, step), and the loss is a sum over members.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cpl_bench.core.policy import PolicyWeights
from cpl_bench.learning.config import BYTE, Optimiser, PolicyConfig, Stage
from cpl_bench.learning.deviation import first_log_std, limit_log_std
from cpl_bench.learning.interface import (
    Metrics,
    Phase,
    PreferenceBatch,
    Segments,
    Shared,
    Transitions,
)
from cpl_bench.learning.losses import fixed_variance_log_prob, gaussian_log_prob
from cpl_bench.learning.optimisers import WarmAdam
from cpl_bench.learning.perceptrons import MLP
from cpl_bench.learning.random_bits import member_keys, random_bytes

DROPOUT_STREAM = 1  # + the layer's number


class Policy:
    """A policy of mean μ(s) = tanh(MLP(s)) a member, and the optimisers that improve it.

    With a fixed variance log π is −‖μ(s) − a‖². A learned one makes it N(μ(s), σ²), one σ an action
    dimension: "log_std" (s, h a) is learned beside the weights, by the same optimisers. Where one
    look decides chunks of h actions, μ(s) are all of them, (h a), each with a σ of its own.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: PolicyConfig,
        seeds: Sequence[int],
        device: torch.device,
    ):
        sizes = [observation_size, *config.hidden, config.chunk * action_size]
        self.network = self._made(sizes, seeds, device, config)
        self.parameters = self.network.parameters
        self.dropped_of_256 = round(BYTE * config.dropout)
        self.keys = member_keys(seeds, device)
        self.average = self._made(sizes, seeds, device, config) if config.average else None
        self.followed = 1 - config.average
        self.optimisers: dict[str, WarmAdam] = {}
        self.config, self.action_size = config, action_size

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
        """The weights took a step: σ keeps within its limits, and their average follows."""
        if (log_std := self.parameters.get("log_std")) is not None:
            limit_log_std(log_std, *self.config.std_limits)
        if self.average is not None:
            self.average.follow(self.network, self.followed)

    def clone_phase(self, stage: Stage, segments: Segments) -> Phase:
        """The phase "clone": of single steps if the stage says how many, else of `segments`."""
        single = Transitions(stage.transitions, following=False, window=self.config.chunk)
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
        """log π(a|s) of every step of the batch, with this step's dropout.

        Chunks of h actions lie end to end: s_0 is asked about a_0 … a_{h−1}, s_h about the next
        ones. What the last says beyond the segment is left out. So each action counts once, given
        what the policy would have looked at, had it executed the segment in open loop, and α, λ and
        every loss mean what they mean without chunks.
        """
        s, m, k, _ = batch.observations.shape
        looks = batch.observations[:, :, :: self.config.chunk]  # (s, m, ⌈k/h⌉, o)
        rows = self._forward(looks.flatten(1, 2), batch.step)  # (s, m ⌈k/h⌉, h a)

        def of_steps(rows: Tensor) -> Tensor:
            return rows.reshape(s, m, -1, batch.actions.shape[-1])[:, :, :k]

        if self.config.variance == "fixed":
            return fixed_variance_log_prob(of_steps(rows), batch.actions)
        std = self.parameters["log_std"].exp().unsqueeze(1).expand_as(rows)
        return gaussian_log_prob(of_steps(rows), of_steps(std), batch.actions)

    def mean(self, observations: Float[Tensor, "s n o"]) -> Float[Tensor, "s n ha"]:
        """μ(s) without dropout, with gradient."""
        return self._forward(observations, None)

    def act(self, observations: Float[Tensor, "s b o"]) -> Float[Tensor, "s b a"]:
        """The deterministic action, without dropout; by the averaged weights if there are any.

        Of a chunk it is the first.
        """
        with torch.no_grad():
            return self.acting(observations).tanh()[..., : self.action_size]

    def weights(self) -> PolicyWeights:
        """w0 (s, o, h), b0 (s, h), …, float32, and a learned σ; averaged if there is an average."""
        arrays, plan = self.acting.arrays(), (self.config.chunk, self.config.replan)
        if self.config.variance == "fixed":
            return PolicyWeights("deterministic", arrays, *plan)
        std = np.exp(arrays.pop("log_std"))
        return PolicyWeights("gaussian", arrays | {"std": std}, *plan)

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

    @staticmethod
    def _made(
        sizes: Sequence[int], seeds: Sequence[int], device: torch.device, config: PolicyConfig
    ) -> MLP:
        network = MLP(sizes, seeds, device, network=0)
        if config.variance == "learned":
            lowest, highest = config.std_limits
            std = min(max(1.0, lowest), highest)
            network.parameters["log_std"] = first_log_std(std, len(seeds), sizes[-1], device)
        return network

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
