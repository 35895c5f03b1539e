"""What a training shows of itself: metrics, evaluations and checkpoints as they come."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpl_bench.core.cards import load_task
from cpl_bench.core.errors import UserError
from cpl_bench.core.progress import say
from cpl_bench.core.seeds import episode_seeds
from cpl_bench.learning.loop import Pause
from cpl_bench.runs.assess import assess, by_seed
from cpl_bench.runs.evaluations import append_evaluations
from cpl_bench.runs.folder import RunFolder
from cpl_bench.tasks.pool import RolloutPool


class Monitor:
    """Writes what a training shows of itself."""

    def __init__(
        self,
        folder: RunFolder,
        pool: RolloutPool,
        record: dict[str, Any],
        start_step: int,
    ):
        """`record` is the run's; what a run that was cut off wrote after `start_step` is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.pool = folder, pool
        self.task = load_task(record["task"])
        self.seeds: list[int] = record["seeds"]
        self.episodes: int = record["episodes"]
        self.name = f"{record['method']} on {record['dataset']}"
        self.board = SummaryWriter(str(folder.path / "tensorboard"), purge_step=start_step + 1)

    def note(self, pause: Pause) -> None:
        """Write the metrics of a pause."""
        self.folder.append_metrics(pause.step, pause.phase, self.seeds, pause.metrics)
        for name, values in pause.metrics.items():
            for seed, value in zip(self.seeds, values.tolist(), strict=True):
                self.board.add_scalar(f"{pause.phase}/{name}/seed {seed}", value, pause.step)

    def checkpoint(self, step: int, weights: dict[str, np.ndarray]) -> None:
        """Roll the members out, and write their episodes and weights.

        Raises:
            UserError: a member's weights are not numbers any more.
        """
        for place, seed in enumerate(self.seeds):
            if not all(np.isfinite(value[place]).all() for value in weights.values()):
                raise UserError(
                    f"{self.name}: seed {seed} has diverged, its weights at step {step} are not "
                    "finite. Lower the learning rate, or look at metrics.csv for what grew."
                )
        episodes = [episode_seeds("monitoring", self.episodes, step, seed) for seed in self.seeds]
        label = f"evaluating step {step}"
        rows = assess(self.pool, self.task, weights, self.seeds, episodes, step, label)
        append_evaluations(self.folder.evaluations, rows)
        self.folder.write_checkpoint(step, weights)
        rates = by_seed(rows)
        for seed, rate in rates.items():
            self.board.add_scalar(f"evaluation/success/seed {seed}", rate, step)
        shown = " ".join(f"{rate:.0%}" for rate in rates.values())
        say(f"  {self.name}, step {step}: success {np.mean(list(rates.values())):.0%} ({shown})")

    def close(self) -> None:
        """Flush TensorBoard's file."""
        self.board.close()
