"""What a training shows of itself: metrics, evaluations and checkpoints as they come."""

from __future__ import annotations

import numpy as np

from cpl_bench.core.errors import UserError
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.core.progress import say
from cpl_bench.core.seeds import episode_seeds
from cpl_bench.learning.loop import Pause
from cpl_bench.runs.assess import assess
from cpl_bench.runs.evaluations import append_evaluations, scores_by_seed
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.metrics import append_metrics
from cpl_bench.runs.record import RunRecord
from cpl_bench.tasks.pool import RolloutPool


class Monitor:
    """Writes what a training shows of itself."""

    def __init__(
        self, folder: RunFolder, pool: RolloutPool | None, record: RunRecord, start_step: int
    ):
        """What a run that was cut off wrote after `start_step` is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.pool, self.record = folder, pool, record
        self.name = f"{record.method} on {record.dataset}"
        self.board = SummaryWriter(str(folder.path / "tensorboard"), purge_step=start_step + 1)

    def note(self, pause: Pause) -> None:
        """Write the metrics of a pause."""
        seeds = self.record.seeds
        append_metrics(self.folder.metrics, pause.step, pause.phase, seeds, pause.metrics)
        for name, values in pause.metrics.items():
            for seed, value in zip(seeds, values.tolist(), strict=True):
                self.board.add_scalar(f"{pause.phase}/{name}/seed {seed}", value, pause.step)

    def checkpoint(self, step: int, weights: PolicyWeights) -> None:
        """Roll the members out, where there is a simulator, and write episodes and weights.

        Raises:
            UserError: a member's weights are not numbers any more.
        """
        for place, seed in enumerate(self.record.seeds):
            if not all(np.isfinite(value[place]).all() for value in weights.arrays.values()):
                raise UserError(
                    f"{self.name}: seed {seed} has diverged, its weights at step {step} are not "
                    "finite. Lower the learning rate, or look at metrics.csv for what grew."
                )
        self._evaluate(step, weights)
        self.folder.write_checkpoint(step, weights)

    def _evaluate(self, step: int, weights: PolicyWeights) -> None:
        task, seeds, count = self.record.task, self.record.seeds, self.record.episodes
        if task is None or self.pool is None or not count:
            return
        episodes = [episode_seeds("monitoring", count, step, seed) for seed in seeds]
        caption = f"evaluating step {step}"
        rows = assess(self.pool, task, weights, seeds, episodes, step, caption)
        append_evaluations(self.folder.evaluations, rows)
        scoring = task.scoring
        scores = scores_by_seed(rows, scoring)
        for seed, score in scores.items():
            self.board.add_scalar(f"evaluation/{scoring.name}/seed {seed}", score, step)
        shown = " ".join(scoring.shown(score, 0) for score in scores.values())
        mean = scoring.shown(float(np.mean(list(scores.values()))), 0)
        say(f"  {self.name}, step {step}: {scoring.name} {mean}{scoring.unit} ({shown})")

    def close(self) -> None:
        """Flush TensorBoard's file."""
        self.board.close()
