"""Updates replayed as CUDA graphs: many steps a launch, and nothing waits for the host.

An update is some hundred small kernels; a GPU is done with them sooner than Python is with asking.
So a stretch's first updates run as they are, the next is recorded (draw, forward, backward,
optimiser, averages of metrics), and from then on the record is replayed. It counts its own steps on
the device. What a record needs, every update keeps: it changes in place whatever it changes, copies
nothing from the host, asks for no number of the device, and counts nothing in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from cpl_bench.learning.interface import Metrics

Take = Callable[[Tensor], Metrics]

FIRST_UPDATES = 3
"""Run as they are, so that optimisers have their moments and libraries their workspaces."""
STEPS = 10
"""Updates that the longer of two records holds; the shorter holds one, for what is left over."""


class Record(Protocol):
    """Work of the device that can be asked for again."""

    def replay(self) -> None:
        """Do it again, on the same memory."""
        ...


def record_on_gpu(work: Callable[[], None]) -> Record:
    """Record `work` without doing it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):  # of the current device
        work()
    return graph


class Plain:
    """Updates one by one, each asked for by Python."""

    stride = 1
    """Steps at a time."""

    def __init__(self, take: Take, device: torch.device):
        self._take, self._device = take, device
        self._sums: Metrics = {}
        self._counted = 0

    def advance(self, step: int, count: int) -> None:
        """Take `count` steps from `step` on."""
        for each in range(step, step + count):
            _add(self._take(torch.tensor(each, device=self._device)), self._sums)
        self._counted += count

    def means(self) -> Metrics:
        """Each metric's mean over the steps since the last call."""
        means = {name: value / self._counted for name, value in self._sums.items()}
        self._sums, self._counted = {}, 0
        return means


class Replayed:
    """The same updates by replaying a record of them."""

    stride = 5 * STEPS

    def __init__(
        self,
        take: Take,
        device: torch.device,
        record: Callable[[Callable[[], None]], Record] = record_on_gpu,
    ):
        self._take, self._record = take, record
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self._sums: Metrics = {}
        self._records: dict[int, Record] = {}
        self._counted = self._taken = 0

    def advance(self, step: int, count: int) -> None:
        """Take `count` steps from `step` on."""
        self._step.fill_(step)
        first = min(count, max(FIRST_UPDATES - self._taken, 0))
        for _ in range(first):
            self._update()
        many, single = divmod(count - first, STEPS)
        self._replay(STEPS, many)
        self._replay(1, single)
        self._taken += count
        self._counted += count

    def means(self) -> Metrics:
        """Each metric's mean over the steps since the last call."""
        means = {name: value / self._counted for name, value in self._sums.items()}
        for value in self._sums.values():
            value.zero_()
        self._counted = 0
        return means

    def _update(self) -> None:
        _add(self._take(self._step), self._sums)
        self._step.add_(1)

    def _replay(self, steps: int, times: int) -> None:
        if times and steps not in self._records:
            self._records[steps] = self._record(lambda: self._updates(steps))
        for _ in range(times):
            self._records[steps].replay()

    def _updates(self, count: int) -> None:
        for _ in range(count):
            self._update()


def _add(metrics: Metrics, sums: Metrics) -> None:
    """In place, so that a record finds its sums again."""
    for name, value in metrics.items():
        if name in sums:
            sums[name].add_(value)
        else:
            sums[name] = value.clone()
