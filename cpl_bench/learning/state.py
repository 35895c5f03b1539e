"""The states of a method's parts as one flat state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class Part(Protocol):
    """A network, an optimiser, or whatever else a method is made of."""

    def state(self) -> dict[str, Tensor]:
        """Everything a resume needs, flat."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up where `state()` was taken."""
        ...


def pack(parts: Mapping[str, Part]) -> dict[str, Tensor]:
    """The states of a method's parts as one flat state."""
    return {
        f"{name}/{k}": value for name, part in parts.items() for k, value in part.state().items()
    }


def unpack(parts: Mapping[str, Part], state: Mapping[str, Tensor]) -> None:
    """Give each part its share of a state that `pack` made."""
    for name, part in parts.items():
        start = f"{name}/"
        part.load_state({k[len(start) :]: v for k, v in state.items() if k.startswith(start)})


class Named(dict[str, Tensor]):
    """Tensors by name as a part: statistics, or whatever a method keeps between updates."""

    def __init__(self, device: torch.device, tensors: Mapping[str, Tensor] | None = None):
        super().__init__(tensors or {})
        self.device = device

    def state(self) -> dict[str, Tensor]:
        """Copies of the tensors."""
        return {name: value.detach().clone() for name, value in self.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Hold what `state` holds, and nothing else."""
        self.clear()
        self.update({name: value.clone().to(self.device) for name, value in state.items()})
