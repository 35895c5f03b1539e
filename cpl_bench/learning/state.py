"""The states of a method's parts as one flat state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from cpl_bench.core.errors import UserError


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


def take_up(part: Part, state: dict[str, Tensor], finite: bool = True) -> None:
    """Let a method go on from a state that was kept, if it is one of such a method's.

    `finite`: no member of it has diverged.

    Raises:
        UserError: it lacks something, holds something else, of another shape or type, or numbers
            that are not finite. The method is then as it was before.
    """
    wrong = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if wrong and finite:
        raise UserError(f"the numbers of '{wrong[0]}' are not finite.")
    before = part.state()
    try:
        part.load_state(state)
        _compare(before, state, part.state())
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, UserError) as problem:
        part.load_state(before)
        if isinstance(problem, UserError):
            raise
        raise UserError(f"it lacks what this one has ({problem!r:.200}).") from None


def _compare(
    before: Mapping[str, Tensor], kept: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> None:
    """Refuse a state that does not come out as it went in, or lacks what was there before."""
    for name in dict.fromkeys((*kept, *after, *before)):
        if name not in kept or name not in after:
            raise UserError(f"'{name}' is {'missing' if name not in kept else 'unknown'}.")
        for other in (after[name], before.get(name, after[name])):
            if (kept[name].shape, kept[name].dtype) != (other.shape, other.dtype):
                raise UserError(
                    f"'{name}' is {kept[name].dtype} of shape {tuple(kept[name].shape)}, not "
                    f"{other.dtype} of shape {tuple(other.shape)}."
                )


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
