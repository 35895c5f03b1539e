"""What a training shows of itself: metrics, evaluations and checkpoints as they come.

Where the learner leaves a core free, it goes on while its last checkpoint is rolled out. What is
written is the same, in the same order: episodes, weights, and at last the state that a resume
starts from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from cpl_bench.core.policy import PolicyWeights
from cpl_bench.core.progress import say
from cpl_bench.core.seeds import episode_seeds
from cpl_bench.learning.loop import Pause
from cpl_bench.runs.assess import assess
from cpl_bench.runs.evaluations import Evaluations, append_evaluations, scores_by_seed
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.metrics import append_metrics
from cpl_bench.runs.record import RunRecord
from cpl_bench.tasks.pool import RolloutPool


class Checkpoint(NamedTuple):
    """One that is being evaluated, and not yet written."""

    step: int
    weights: PolicyWeights
    state: dict[str, Tensor]
    rows: Callable[[], Evaluations | None]
    """Its episodes, once they are over; None: there is no simulator."""


class Monitor:
    """Writes what a training shows of itself."""

    def __init__(
        self,
        folder: RunFolder,
        pool: RolloutPool | None,
        record: RunRecord,
        members: Sequence[int],
        start_step: int,
        overlapping: bool = False,
    ):
        """What a run that was cut off wrote after `start_step` is hidden.

        `members`: the seeds that decide the episodes, one for each that the record names.
        `overlapping`: training goes on while a checkpoint is evaluated.
        """
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.pool, self.record = folder, pool, record
        self.members = members
        self._thread = ThreadPoolExecutor(1) if overlapping else None
        self._open: Checkpoint | None = None
        self.name = f"{record.method} on {record.dataset}"
        self.board = SummaryWriter(str(folder.path / "tensorboard"), purge_step=start_step + 1)

    def note(self, pause: Pause) -> None:
        """Write the metrics of a pause."""
        seeds = self.record.seeds
        append_metrics(self.folder.metrics, pause.step, pause.phase, seeds, pause.metrics)
        for name, values in pause.metrics.items():
            for seed, value in zip(seeds, values.tolist(), strict=True):
                self.board.add_scalar(f"{pause.phase}/{name}/seed {seed}", value, pause.step)

    def checkpoint(self, step: int, weights: PolicyWeights, state: dict[str, Tensor]) -> None:
        """Roll the members out, where there is a simulator; write episodes, weights and state.

        Where evaluations overlap with training, they are written by the next call of this or of
        `finish`.

        A member whose weights are no longer finite stands still from here on, and counts as 0.
        """
        self.finish()
        self._note_diverged(step, weights)
        weights = weights.stilled()
        if self._thread is None:
            made = Checkpoint(step, weights, state, lambda: self._rows(step, weights))
            self._write(made, made.rows())
            return
        kept = {name: value.detach().to("cpu", copy=True) for name, value in state.items()}
        rows = self._thread.submit(self._rows, step, weights).result
        self._open = Checkpoint(step, weights, kept, rows)

    def _note_diverged(self, step: int, weights: PolicyWeights) -> None:
        """Write down who has diverged since the last checkpoint."""
        known = {seed for seed, _ in self.record.diverged}
        seeds = [self.record.seeds[place] for place in weights.broken()]
        if not (new := [seed for seed in seeds if seed not in known]):
            return
        found = (*self.record.diverged, *((seed, step) for seed in new))
        self.record = replace(self.record, diverged=found)
        self.folder.write(self.record)
        for seed in new:
            say(
                f"{self.name}: seed {seed} has diverged, its weights at step {step} are not "
                "finite. It counts as 0 from here on. Lower the learning rate, or look at "
                "metrics.csv for what grew."
            )

    def finish(self) -> None:
        """Wait for the evaluation under way, if there is one, and write what it is of."""
        if self._open is None:
            return
        found = self._open.rows()  # stopped here, it is still to be written
        opened, self._open = self._open, None
        self._write(opened, found)

    def _write(self, opened: Checkpoint, rows: Evaluations | None) -> None:
        if rows is not None:
            append_evaluations(self.folder.evaluations, rows)
        self.folder.write_checkpoint(opened.step, opened.weights)
        self.folder.write_state(opened.step, opened.state)
        if rows is not None:
            self._show(opened.step, rows)

    def _rows(self, step: int, weights: PolicyWeights) -> Evaluations | None:
        task, seeds, count = self.record.task, self.record.seeds, self.record.episodes
        if task is None or self.pool is None or not count:
            return None
        episodes = [episode_seeds("monitoring", count, step, seed) for seed in self.members]
        caption, diverged = f"evaluating step {step}", self.record.diverged_by(step)
        return assess(self.pool, task, weights, seeds, episodes, step, caption, diverged)

    def _show(self, step: int, rows: Evaluations) -> None:
        scoring = self.record.scoring
        scores = scores_by_seed(rows, scoring)
        for seed, score in scores.items():
            self.board.add_scalar(f"evaluation/{scoring.name}/seed {seed}", score, step)
        shown = " ".join(scoring.shown(score, 0) for score in scores.values())
        mean = scoring.shown(float(np.mean(list(scores.values()))), 0)
        say(f"  {self.name}, step {step}: {scoring.name} {mean}{scoring.unit} ({shown})")

    def close(self) -> None:
        """Flush TensorBoard's file; of a training that was stopped, save the last checkpoint."""
        try:
            self.finish()
        finally:
            self.board.close()
            if self._thread is not None:
                self._thread.shutdown(wait=False)  # nothing is under way, or nobody will wait
