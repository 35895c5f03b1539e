"""What workers are given to do, and how long they may take for it."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

LEAST_SECONDS = 60.0
"""No job is given up sooner."""
UNKNOWN_SECONDS = 1800.0
"""For jobs of a kind of which none has come back yet."""
TIMES = 20
"""So many times as long as the slowest of its kind, size for size, may a job take."""
WIDER = 5
"""A second try may take so many times as long as the first; a third, as long as an unknown one:
those that came back may have been short ones."""


@dataclass
class Job:
    """A call of one of the worker's functions."""

    number: int
    function: str
    arguments: dict[str, Any]
    size: int
    """What it counts for on the progress bar: episodes, states."""
    about: str
    """Task and seeds, for reports of a dead worker."""
    tries: int = 0
    begun: float = 0.0
    """When it was last given to a worker, in seconds of `time.monotonic`."""

    @property
    def kind(self) -> tuple[str, str]:
        """Jobs of one kind take about as long, size for size."""
        card = self.arguments.get("card")
        return self.function, card.name if card else ""


@dataclass
class Worker:
    """A process, and what it is doing."""

    process: subprocess.Popen[bytes]
    connection: Connection
    job: Job | None = field(default=None)
    given_up: str = ""
    """Why it was ended, if it was."""


class Deadlines:
    """How long jobs may take, learned from their like."""

    def __init__(self) -> None:
        self._slowest: dict[tuple[str, str], float] = {}

    def learn(self, job: Job) -> None:
        """Remember how long a job took that has just come back."""
        each = (time.monotonic() - job.begun) / max(job.size, 1)
        self._slowest[job.kind] = max(each, self._slowest.get(job.kind, 0.0))

    def seconds(self, job: Job) -> float:
        """How long a job may take."""
        if job.kind not in self._slowest or job.tries >= 2:
            return UNKNOWN_SECONDS
        known = max(LEAST_SECONDS, TIMES * self._slowest[job.kind] * job.size)
        return known * WIDER**job.tries

    def left(self, workers: list[Worker]) -> float:
        """Seconds until the first of the workers' jobs is overdue."""
        jobs = [each.job for each in workers if each.job is not None and not each.given_up]
        ends = [job.begun + self.seconds(job) for job in jobs]
        return max(min(ends, default=0.0) - time.monotonic(), 0.0)

    def enforce(self, workers: list[Worker]) -> None:
        """End the workers that are overdue; their jobs come back as a dead worker's do."""
        for worker in workers:
            if worker.job is None or worker.given_up:
                continue
            taken, allowed = time.monotonic() - worker.job.begun, self.seconds(worker.job)
            if taken >= allowed:
                worker.given_up = f"gave no answer for {taken:.0f} s and was ended"
                worker.process.kill()
