"""RolloutPool: worker processes run whole episodes; weights go in, trajectories come out.

An episode's outcome depends on its seed, its policy and the few episodes that share its job, and
jobs are cut the same way for one worker as for twenty: results don't depend on their number.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from tqdm import tqdm

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.counts import PROCESSES, check_count
from cpl_bench.core.errors import UserError
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.core.progress import progress_bar
from cpl_bench.tasks.alike import PLAIN_MATHEMATICS
from cpl_bench.tasks.episodes import EXPERT, EpisodeRules, Trajectory
from cpl_bench.tasks.jobs import Deadlines, Job, Worker
from cpl_bench.tasks.journal import Journal

EPISODES_PER_JOB = 5
TRIES = 3
SERVE = """\
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
from cpl_bench.tasks.worker import main
main()"""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class RolloutPool:
    """Worker processes that know simulators and numpy, not torch.

    Use it as a context manager; workers start at the first call and leave with the parent,
    however it ends. A worker that dies, or takes far longer than others did, is reported and its
    job is run again. Of several threads that ask for episodes, one is served after the other.
    """

    def __init__(
        self,
        workers: int | None = None,
        environment: Mapping[str, str] | None = None,
        quiet: bool = False,
    ):
        """`workers`: how many, one a processor by default; `quiet`: say nothing of dead ones."""
        if workers is not None:
            check_count("--workers", workers, 1, PROCESSES)
        self.workers = workers or processors()
        self._quiet = quiet
        self._environment = {**os.environ, **ONE_THREAD, **(environment or {})}
        tunables = [self._environment.get("GLIBC_TUNABLES"), PLAIN_MATHEMATICS]  # the last counts
        self._environment["GLIBC_TUNABLES"] = ":".join(filter(None, tunables))
        self._running: list[Worker] = []
        self._turn = Lock()
        self._deadlines = Deadlines()
        self._over = False
        self._journal: Journal | None = None

    def __enter__(self) -> RolloutPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True  # also for a thread that still waits for episodes
        self.close()

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        for worker in self._running:
            worker.connection.close()
            worker.process.kill()
        for worker in self._running:
            worker.process.wait()
        self._running = []

    def episodes(
        self,
        card: TaskCard,
        seeds: Sequence[int],
        policies: Sequence[int],
        weights: Sequence[PolicyWeights],
        rules: EpisodeRules,
        caption: str = "episodes",
    ) -> list[Trajectory]:
        """One episode for each (seed, policy); `policies` index `weights`, or are EXPERT."""
        if len(seeds) != len(policies):
            raise ValueError(f"{len(seeds)} seeds but {len(policies)} policies")
        jobs, places = [], []
        for policy in sorted(set(policies)):
            mine = [i for i, chosen in enumerate(policies) if chosen == policy]
            for start in range(0, len(mine), EPISODES_PER_JOB):
                chunk = mine[start : start + EPISODES_PER_JOB]
                places.append(chunk)
                arguments = {
                    "card": card,
                    "seeds": [int(seeds[i]) for i in chunk],
                    "policy": policy,
                    "weights": None if policy == EXPERT else weights[policy],
                    "rules": rules,
                }
                about = f"{card.name}, seeds {arguments['seeds']}"
                jobs.append(Job(len(jobs), "run_episodes", arguments, len(chunk), about))
        done: list[Trajectory | None] = [None] * len(seeds)
        for chunk, trajectories in zip(places, self._run(jobs, caption), strict=True):
            for i, trajectory in zip(chunk, trajectories, strict=True):
                done[i] = trajectory
        return [trajectory for trajectory in done if trajectory is not None]

    def forks(
        self,
        card: TaskCard,
        function: str,
        arguments: Mapping[str, dict[str, Any]],
        caption: str = "forks",
    ) -> list[np.ndarray]:
        """Call a state-wise function of `cpl_bench.worker` once for each of the named `arguments`.

        Put states of one episode into one call: a change of episode costs a simulator reset.
        """
        jobs = [
            Job(i, function, {"card": card, **each}, len(each["states"]), f"{card.name}, {name}")
            for i, (name, each) in enumerate(arguments.items())
        ]
        return self._run(jobs, caption, self._journal)

    @contextmanager
    def remembering(self, path: Path) -> Iterator[None]:
        """Meanwhile, what forks answer is kept in a file, and what is there is not asked again."""
        self._journal = Journal(path)
        try:
            yield
        finally:
            self._journal.close()
            self._journal = None

    def render(
        self, card: TaskCard, seed: int, weights: PolicyWeights | None, every: int
    ) -> tuple[list[np.ndarray], bool]:
        """Images of one episode and whether it succeeded."""
        arguments = {"card": card, "seed": seed, "weights": weights, "every": every}
        return self._run([Job(0, "render_episode", arguments, 1, card.name)], "video")[0]

    def mathematics(self) -> str:
        """Which mathematics the workers compute with, see `cpl_bench.tasks.alike.mathematics`."""
        return self._run([Job(0, "mathematics", {}, 1, "mathematics")], "mathematics")[0]

    def _run(self, jobs: list[Job], caption: str, journal: Journal | None = None) -> list[Any]:
        """Run jobs on whichever worker is free; results in the order of `jobs`."""
        results: list[Any] = [journal.get(job) if journal else None for job in jobs]
        jobs = [job for job, known in zip(jobs, results, strict=True) if known is None]
        waiting = deque(jobs)
        open_jobs = len(jobs)
        with self._turn, progress_bar(caption, sum(job.size for job in jobs)) as bar:
            try:
                while open_jobs:
                    self._assign(waiting)
                    busy = {w.connection: w for w in self._running if w.job is not None}
                    answers = wait(list(busy), self._deadlines.left(self._running))
                    if not answers:
                        self._deadlines.enforce(self._running)
                    for ready in answers:
                        worker = busy[ready]  # type: ignore[index]
                        job = worker.job
                        assert job is not None
                        try:
                            _, results[job.number], problem = worker.connection.recv()
                        except (EOFError, ConnectionResetError):
                            waiting.appendleft(self._bury(worker, job))
                            continue
                        if isinstance(problem, UserError):
                            raise problem
                        if problem:
                            raise RuntimeError(f"A rollout failed ({job.about}):\n{problem}")
                        if journal is not None:
                            journal.keep(job, results[job.number])
                        self._deadlines.learn(job)
                        worker.job = None
                        open_jobs -= 1
                        bar.update(job.size)
            except BaseException:  # Ctrl-C included: leave nobody behind with an old job
                self.close()
                raise
        return results

    def _assign(self, waiting: deque[Job]) -> None:
        if self._over:
            raise RuntimeError("The pool of workers was left; make a new one.")
        while len(self._running) < min(self.workers, len(waiting) + self._busy()):
            self._running.append(self._start())
        for worker in list(self._running):
            if worker.job is None and waiting:
                job = waiting.popleft()
                try:
                    worker.connection.send((job.number, job.function, job.arguments))
                    worker.job, job.begun = job, time.monotonic()
                except (BrokenPipeError, ConnectionResetError):
                    waiting.appendleft(self._bury(worker, job))

    def _busy(self) -> int:
        return sum(worker.job is not None for worker in self._running)

    def _start(self) -> Worker:
        ours, theirs = Pipe()
        command = [sys.executable, "-c", SERVE, str(theirs.fileno())]
        process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            env=self._environment,
            stderr=subprocess.DEVNULL if self._quiet else None,
        )
        theirs.close()
        return Worker(process, ours)

    def _bury(self, worker: Worker, job: Job) -> Job:
        """Report a dead worker and hand its job back for another try."""
        self._running.remove(worker)
        worker.connection.close()
        how = worker.given_up or f"died (exit code {worker.process.wait()})"
        worker.process.wait()
        job.tries += 1
        if job.tries >= TRIES:
            killed = worker.process.returncode == -9 and not worker.given_up
            advice = " It was killed, as where memory runs out: take fewer --workers." * killed
            raise UserError(f"A rollout worker {how} {TRIES} times in {job.about}.{advice}")
        if not self._quiet:
            tqdm.write(
                f"A rollout worker {how} in {job.about}; running it again.",
                file=sys.stderr,
            )
        return job


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
