"""In what precision matrix products are computed.

Weights, optimisers, networks' last layers, losses and what a run keeps are float32 whatever is
chosen. With bf16 the factors and results of all other products are rounded to bfloat16 (8 bits of
mantissa), and with them what passes between layers, forwards and backwards; with tf32 the factors
are rounded to 11 bits, on a GPU.
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
    """The precision called `name`; "auto" is fp32. Where a processor has no bf16, it is slow.

    Raises:
        UserError: no such precision, or tf32 on a CPU.
    """
    if name == "auto":
        return "fp32"
    if name not in ("fp32", "tf32", "bf16"):
        raise UserError(f"--precision must be auto, fp32, tf32 or bf16, not '{name}'.")
    if name == "tf32" and device.type != "cuda":
        raise UserError("--precision tf32 is a GPU's. A CPU has fp32, and newer ones bf16.")
    return name


@contextmanager
def torch_set(threads: int, precision: Precision, device: torch.device) -> Iterator[None]:
    """Within: so many of torch's threads (0: as they are), a GPU's float32 products as chosen."""
    before, products = torch.get_num_threads(), torch.backends.cuda.matmul
    allowed = products.allow_tf32 if device.type == "cuda" else False
    if threads:
        torch.set_num_threads(threads)
    if device.type == "cuda":
        products.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        if threads:
            torch.set_num_threads(before)
        if device.type == "cuda":
            products.allow_tf32 = allowed


def computed_in(precision: Precision, device: torch.device, stretch: Stretch) -> Stretch:
    """A stretch whose updates compute their products so."""
    if precision != "bf16":
        return stretch

    def take(step: Tensor) -> Metrics:
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):  # weights move
            return stretch.take(step)

    return stretch._replace(take=take)
