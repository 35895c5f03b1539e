"""The one training loop: phases over batches, with pauses for whoever wants to look.

Batches are a function of the step, so a run that starts at a later step sees what an uninterrupted
one would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cpl_bench.core.progress import progress_bar
from cpl_bench.learning.interface import Feed, Phase


@dataclass(frozen=True)
class Pause:
    """A moment between two updates."""

    step: int
    """Gradient steps taken so far, all phases together."""
    phase: str
    """The phase of the last step."""
    metrics: dict[str, Tensor]
    """Each metric's mean over the steps of this phase since the last pause, (s,)."""


def fit(
    phases: Sequence[Phase],
    feeds: Mapping[Feed, Callable[[Tensor], Any]],
    pauses: Sequence[int],
    device: torch.device,
    start_step: int = 0,
    label: str = "training",
) -> Iterator[Pause]:
    """Train, yielding at each step of `pauses` and at the end of every phase.

    A feed is given the step as an int64 scalar on `device` and returns that step's batch. The
    consumer may evaluate, write, or leave the loop; nothing is trained while it holds a pause.
    """
    wanted = set(pauses)
    step, phase_end = 0, 0
    with progress_bar(label, sum(phase.steps for phase in phases), start_step) as bar:
        for phase in phases:
            step, phase_end = phase_end, phase_end + phase.steps
            sums: dict[str, Tensor] = {}
            counted = 0
            for step in range(max(step, start_step), phase_end):  # noqa: B020
                batch = feeds[phase.feed](torch.tensor(step, device=device))
                metrics = phase.update(batch)
                for name, value in metrics.items():
                    sums[name] = sums[name] + value if name in sums else value
                counted += 1
                bar.update()
                if step + 1 in wanted or step + 1 == phase_end:
                    means = {name: value / counted for name, value in sums.items()}
                    yield Pause(step + 1, phase.name, means)
                    sums, counted = {}, 0
