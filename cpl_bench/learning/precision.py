"""In what precision matrix products are computed; everything else is float32 whatever is chosen.

Weights, gradients as the optimiser sees them, losses, and what a run keeps are float32. With bf16
each product's factors are rounded to bfloat16 (8 bits of mantissa), with tf32 to 11 bits, on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from cpl_bench.core.errors import UserError
from cpl_bench.learning.interface import Metrics
from cpl_bench.learning.loop import Stretch

Precision = Literal["fp32", "tf32", "bf16"]


def choose_precision(name: str, device: torch.device) -> Precision:
    """The precision called `name` on a device; "auto" is tf32 on a GPU and fp32 elsewhere.

    Raises:
        UserError: no such precision, or one that the device doesn't have.
    """
    if name == "auto":
        return "tf32" if device.type == "cuda" else "fp32"
    if name not in ("fp32", "tf32", "bf16"):
        raise UserError(f"--precision must be auto, fp32, tf32 or bf16, not '{name}'.")
    if name == "tf32" and device.type != "cuda":
        raise UserError("--precision tf32 is a GPU's. A CPU has fp32, and newer ones bf16.")
    return name


@contextmanager
def torch_set(threads: int, precision: Precision) -> Iterator[None]:
    """So many of torch's threads within (0: as they are), and its float32 products as chosen."""
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(threads or before[0])
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])


def computed_in(precision: Precision, device: torch.device, stretch: Stretch) -> Stretch:
    """A stretch whose updates compute their products so."""
    if precision != "bf16":
        return stretch

    def take(step: Tensor) -> Metrics:
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):  # weights move
            return stretch.take(step)

    return stretch._replace(take=take)
