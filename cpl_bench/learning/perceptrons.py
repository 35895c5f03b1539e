"""Perceptrons for s members side by side: batched matrix products on a leading axis.

Member i has the weights that it would have alone: the first ones come from its seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cpl_bench.core.errors import UserError

NETWORK_STRIDE = 0x9E3779B9
"""A method's networks take their first weights from seeds this far apart."""
MOST_WEIGHTS = 2**28
"""Of one network, all members together: a gibibyte, and thrice that for Adam."""


class MLP:
    """s perceptrons side by side, ReLU between layers and nothing after the last."""

    def __init__(
        self,
        sizes: Sequence[int],
        seeds: Sequence[int],
        device: torch.device,
        network: int,
        output_scale: float = 1.0,
    ):
        """`network` numbers the networks of a method: each begins with weights of its own.

        `output_scale` shrinks the last layer's first weights, so that nothing is preferred yet.
        """
        self.sizes = list(sizes)
        _check_size(self.sizes, len(seeds))
        seeds = [seed + network * NETWORK_STRIDE for seed in seeds]
        self.parameters = _orthogonal(self.sizes, seeds, device)
        with torch.no_grad():
            self.parameters[f"w{len(self.sizes) - 2}"].mul_(output_scale)

    def __call__(
        self,
        x: Float[Tensor, "s n i"],
        activate: Callable[[Tensor, int], Tensor] = lambda x, layer: x.relu(),
    ) -> Float[Tensor, "s n j"]:
        """Each member's rows through its own perceptron; `activate` is told the layer's number."""
        layers = len(self.sizes) - 1
        for i in range(layers):
            weights, biases = self.parameters[f"w{i}"], self.parameters[f"b{i}"].unsqueeze(1)
            if i == layers - 1 and torch.is_autocast_enabled(x.device.type):
                with torch.autocast(x.device.type, enabled=False):
                    return torch.baddbmm(biases, x.float(), weights)
            x = torch.baddbmm(biases, x, weights)
            if i < layers - 1:
                x = activate(x, i)
        return x

    def state(self) -> dict[str, Tensor]:
        """The weights, flat."""
        return {name: value.detach().clone() for name, value in self.parameters.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up where `state()` was taken."""
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(state[name])

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights for a worker."""
        return {name: value.cpu().numpy() for name, value in self.state().items()}

    def follow(self, leader: MLP, share: float) -> None:
        """Move by `share` of the way to the leader's weights (Polyak averaging); 1 copies."""
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.lerp_(leader.parameters[name], share)


def prefixed(networks: Mapping[str, MLP]) -> dict[str, Tensor]:
    """The parameters of several networks under one roof, for one optimiser."""
    return {
        f"{name}.{key}": value
        for name, network in networks.items()
        for key, value in network.parameters.items()
    }


def _check_size(sizes: Sequence[int], members: int) -> None:
    """Refuse networks that no memory holds, before it is tried.

    Raises:
        UserError: they have too many weights, members and ensembles counted.
    """
    numbers = members * sum(inputs * outputs for inputs, outputs in pairwise(sizes))
    if numbers > MOST_WEIGHTS:
        raise UserError(
            f"{members:,} networks of {' × '.join(map(str, sizes))} units have {numbers:,} weights "
            f"together, more than {MOST_WEIGHTS:,}. Take narrower layers, a smaller ensemble or "
            "fewer seeds at a time."
        )


def _orthogonal(
    sizes: Sequence[int], seeds: Sequence[int], device: torch.device
) -> dict[str, Tensor]:
    """Orthogonal weights and zero biases; a member's depend on its seed alone."""
    parameters: dict[str, Tensor] = {}
    generators = [torch.Generator().manual_seed(seed % 2**63) for seed in seeds]
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        members = [
            torch.nn.init.orthogonal_(torch.empty(outputs, inputs), generator=generator).T
            for generator in generators
        ]
        weight = torch.stack(members).contiguous().to(device)  # (s, inputs, outputs)
        parameters[f"w{i}"] = weight.requires_grad_()
        parameters[f"b{i}"] = torch.zeros(len(seeds), outputs, device=device).requires_grad_()
    return parameters
