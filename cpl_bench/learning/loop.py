"""The one training loop: stretches of steps, with pauses for whoever wants to look.

What a step does is a function of its number, so a run that starts at a later step does what an
uninterrupted one would have done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cpl_bench.core.progress import progress_bar
from cpl_bench.learning.graphs import Plain, Replayed
from cpl_bench.learning.interface import Metrics, OnlinePhase, Phase


class Stretch(NamedTuple):
    """A phase with its batches: what one step takes is all in `take`."""

    name: str
    steps: int
    take: Callable[[Tensor], Metrics]
    """Draws the step's batch and updates; given the step, an int64 scalar on the device."""
    recordable: bool = True
    """Whether the updates can be replayed without Python: they ask it nothing."""


def stretch(phase: Phase | OnlinePhase, draw: Callable[[Tensor], Any]) -> Stretch:
    """A phase whose batches `draw` gives; online ones ask for episodes, and are not recordable."""
    recordable = isinstance(phase, Phase) and phase.recordable
    return Stretch(phase.name, phase.steps, lambda step: phase.update(draw(step)), recordable)


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
    stretches: Sequence[Stretch],
    pauses: Sequence[int],
    device: torch.device,
    start_step: int = 0,
    caption: str = "training",
) -> Iterator[Pause]:
    """Train, yielding at each step of `pauses` and at the end of every stretch.

    The consumer may evaluate, write, or leave the loop; nothing is trained while it holds a pause.
    """
    phase_end = 0
    with progress_bar(caption, sum(each.steps for each in stretches), start_step) as bar:
        for phase in stretches:
            step, phase_end = max(phase_end, start_step), phase_end + phase.steps
            updates = updates_of(phase, device)
            ends = {end for end in pauses if step < end < phase_end} | {phase_end}
            for end in sorted(ends) if step < phase_end else ():
                while step < end:
                    count = min(updates.stride, end - step)
                    updates.advance(step, count)
                    bar.update(count)
                    step += count
                yield Pause(end, phase.name, updates.means())


def updates_of(phase: Stretch, device: torch.device) -> Plain | Replayed:
    """How a stretch's updates are best asked for: on a GPU as CUDA graphs, where they can be."""
    replayed = device.type == "cuda" and phase.recordable
    return Replayed(phase.take, device) if replayed else Plain(phase.take, device)
