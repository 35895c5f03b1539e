"""The states of a method's parts as one flat state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def pack(parts: Mapping[str, Any]) -> dict[str, Tensor]:
    """The states of a method's parts as one flat state."""
    return {
        f"{name}/{k}": value for name, part in parts.items() for k, value in part.state().items()
    }


def unpack(parts: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Give each part its share of a state that `pack` made."""
    for name, part in parts.items():
        start = f"{name}/"
        part.load_state({k[len(start) :]: v for k, v in state.items() if k.startswith(start)})
