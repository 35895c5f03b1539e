"""How fast a GPU trains: members, precisions, updates as CUDA graphs and one by one.

    python scripts/bench_gpu.py                              # a table and JSON, some minutes
    python scripts/bench_gpu.py --seconds 0.1 --members 1    # does it run?
    python scripts/bench_gpu.py --device cpu                 # without graphs, to see the script

Run by hand, on random data of the paper's sizes. `graph`: whether updates are replayed as CUDA
graphs, as training on a GPU does; `of peak`: the step's matrix products at the rate that one large
product of the same precision was measured to run at, as a share of the step; `kernels`: of a step,
as the profiler counts them. Plain is the loop of `plain_loops.py` on the same card. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import count, pairwise, product

import plain_loops as plain
import torch
from torch.profiler import ProfilerActivity, profile

from cpl_bench.learning.graphs import Plain, Replayed
from cpl_bench.learning.loop import updates_of
from cpl_bench.learning.precision import Precision, torch_set
from cpl_bench.preferences.format import Preferences
from cpl_bench.runs.prepare import prepare

MEMBERS = (1, 2, 4, 8, 16)
LAST = ("member steps/s", "× plain", "of peak", "kernels")
LARGE = 8192  # rows of the product that the peak is measured with
METHODS = {"cpl": plain.CPL, "piql": plain.PIQL}
PLAIN = {"cpl": plain.plain_cpl, "piql": plain.plain_piql}


def waited(device: torch.device) -> float:
    """Seconds, once the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def rate(
    advance: Callable[[int], object], stride: int, device: torch.device, least: float
) -> float:
    """Steps a second of something that takes `stride` steps a call, after two calls to warm up."""
    for _ in range(2):
        advance(stride)
    begun, taken = waited(device), 0
    while True:
        advance(stride)
        taken += stride
        if (now := waited(device) - begun) >= least:
            return taken / now


def peak(precision: Precision, device: torch.device, least: float) -> float:
    """Floating-point operations a second in one large matrix product."""
    rows = LARGE if device.type == "cuda" else LARGE // 8
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    first, second = (torch.randn(rows, rows, device=device, dtype=kind) for _ in range(2))
    result = torch.empty_like(first)

    def advance(steps: int) -> None:
        for _ in range(steps):
            torch.mm(first, second, out=result)

    return 2 * rows**3 * rate(advance, 4, device, least)


def operations() -> int:
    """Floating-point operations of the matrix products of a CPL step, a member."""
    sizes = [plain.OBSERVATION, plain.HIDDEN, plain.HIDDEN, plain.ACTION]
    products = [2 * plain.SEGMENTS * plain.LENGTH * i * j for i, j in pairwise(sizes)]
    return 3 * sum(products) - products[0]  # nobody asks for the gradient of observations


def kernels(updates: Plain, device: torch.device, steps: int = 5) -> float:
    """What a step launches."""
    if device.type != "cuda":
        return float("nan")
    updates.advance(0, 1)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        updates.advance(1, steps)
        waited(device)
    return sum(event.device_type.name == "CUDA" for event in seen.events()) / steps


def plain_rate(method: str, data: Preferences, device: torch.device, least: float) -> float:
    """Steps a second of the plain loop."""
    take, taken = PLAIN[method](data, device), count()

    def advance(steps: int) -> None:
        for _ in range(steps):
            take(next(taken))

    return rate(advance, 5, device, least)


def measured(
    updates: Plain | Replayed, precision: Precision, device: torch.device, least: float
) -> float:
    """Steps a second."""
    taken = 0

    def advance(steps: int) -> None:
        nonlocal taken
        updates.advance(taken, steps)
        taken += steps

    stride = updates.stride if isinstance(updates, Replayed) else 5
    with torch_set(0, precision, device):
        return rate(advance, stride, device, least)


def line(*cells: object) -> None:
    """Print a row of the table."""
    widths = (-8, -11, 8, 6, 10, 16, 9, 9, 9)
    shown = [f"{each:.2f}" if isinstance(each, float) else str(each) for each in cells]
    padded = [
        each.ljust(-width) if width < 0 else each.rjust(width)
        for each, width in zip(shown, widths, strict=True)
    ]
    print("".join(padded), flush=True)


def main() -> None:
    """Measure, print, and print JSON."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="a measurement's, at least")
    parser.add_argument("--members", type=int, nargs="+", default=MEMBERS)
    parser.add_argument("--device", default="cuda")
    asked = parser.parse_args()
    device, least = torch.device(asked.device), asked.seconds
    on_gpu = device.type == "cuda"
    data = plain.preferences()
    precisions: tuple[Precision, ...] = ("fp32", "tf32", "bf16") if on_gpu else ("fp32", "bf16")
    found: dict[str, object] = {"device": torch.cuda.get_device_name(device) if on_gpu else "cpu"}
    peaks = {}
    for precision in precisions:
        with torch_set(0, precision, device):
            peaks[precision] = peak(precision, device, least)
        print(f"one large product, {precision}: {peaks[precision] / 1e12:.2f} TFLOP/s", flush=True)
    line("method", "precision", "members", "graph", "steps/s", *LAST)
    for method, config in METHODS.items():
        base = found[f"{method} plain"] = plain_rate(method, data, device, least)
        line(method, "plain", 1, "", base, base, 1.0, "", "")
        for precision, members in product(precisions, asked.members):
            prepared = prepare(
                method, config, data, range(members), device, None, None, "", precision
            )
            stretch = prepared.training[-1]
            launched = kernels(Plain(stretch.take, device), device)
            for graph in (True, False) if on_gpu else (False,):
                updates = updates_of(stretch, device) if graph else Plain(stretch.take, device)
                steps = measured(updates, precision, device, least)
                share = steps * members * operations() / peaks[precision]
                of_peak, how = share if method == "cpl" else "", "yes" if graph else "no"
                rates = (steps, steps * members, steps * members / base)
                line(method, precision, members, how, *rates, of_peak, launched)
                name = f"{method} {precision} {members} {'graph' if graph else 'eager'}"
                found[name] = round(steps, 2)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
