"""What a run says of itself."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


def machine() -> dict[str, Any]:
    """What a number may depend on besides its seed."""
    import torch

    about = {
        "processor": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch_threads": torch.get_num_threads(),
    }
    return about | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})
