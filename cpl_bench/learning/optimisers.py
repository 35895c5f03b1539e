"""Adam for members side by side, with schedules and a state that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from cpl_bench.learning.config import Optimiser

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What Adam keeps of each parameter, beside its steps."""


class WarmAdam:
    """torch's Adam over named parameters, with a linear warm-up and a flat state.

    Every parameter has members on its leading axis.
    """

    def __init__(self, parameters: dict[str, Tensor], config: Optimiser, steps: int = 0):
        """`steps`: how many will be taken, for a rate that falls by a cosine."""
        self.config, self.cosine_steps = config, steps if config.cosine else 0
        device = next(iter(parameters.values())).device
        self.parameters = parameters
        self.warmup_steps = max(config.warmup_steps, 1)
        self._rate = torch.tensor(config.rate, device=device)
        self._taken = torch.zeros((), device=device)
        self._adam = torch.optim.Adam(
            list(parameters.values()),
            lr=self._rate,
            fused=True,
            capturable=device.type == "cuda",  # its steps are counted where graphs see them
        )

    def step(self, loss: Float[Tensor, ""]) -> None:
        """One update; the rate grows to its full value over the warm-up."""
        self._taken += 1
        share = (self._taken / self.warmup_steps).clamp_max(1)
        if self.cosine_steps:
            way = torch.pi * (self._taken - 1) / self.cosine_steps
            share = share * (0.5 + 0.5 * way.clamp_max(torch.pi).cos())
        self._rate.copy_(self.config.rate * share)
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.largest_gradient:
            self._shorten_gradients()
        self._adam.step()

    def _shorten_gradients(self) -> None:
        gradients = [each.grad for each in self.parameters.values() if each.grad is not None]
        squares = torch.stack([each.square().flatten(1).sum(1) for each in gradients])  # (p, s)
        norm = squares.sum(0).sqrt()  # (s,)
        share = (self.config.largest_gradient / (norm + 1e-6)).clamp_max(1)
        for each in gradients:
            each.mul_(share.view(-1, *[1] * (each.ndim - 1)))

    def state(self) -> dict[str, Tensor]:
        """Steps taken and both moments of every parameter (absent before the first step)."""
        state = {"taken": self._taken.clone()}
        for name, parameter in self.parameters.items():
            for key, value in self._adam.state[parameter].items():
                state[f"{name}.{key}"] = value.clone()
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up where `state()` was taken."""
        self._taken.copy_(state["taken"])
        self._check(state)
        for name, parameter in self.parameters.items():
            start = f"{name}."
            self._adam.state[parameter] = {
                key[len(start) :]: value.clone().to(parameter.device)
                for key, value in state.items()
                if key.startswith(start)
            }

    def _check(self, state: Mapping[str, Tensor]) -> None:
        """Refuse moments that are not those of the parameters, or of only some."""
        begun = any(name != "taken" for name in state)
        for name, parameter in self.parameters.items() if begun else ():
            for moment, shape in {**dict.fromkeys(MOMENTS, parameter.shape), "step": ()}.items():
                value = state[f"{name}.{moment}"]
                if value.shape != shape or value.dtype != parameter.dtype:
                    raise ValueError(f"{name}.{moment} has another shape or type than {name}")
