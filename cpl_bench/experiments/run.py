"""A trained run as a notebook holds it: its scores, its policies, its row of a table, its curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cpl_bench.core.errors import UserError
from cpl_bench.core.files import write_atomically
from cpl_bench.report.curves import draw_curves
from cpl_bench.report.read import read_run
from cpl_bench.report.table import TableRow, panels_of, summarise
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.record import RunRecord
from cpl_bench.tasks.alike import executed
from cpl_bench.tasks.policies import mlp_action

Policy = Callable[[np.ndarray], np.ndarray]
"""Observations (b, o) → actions (b, a), float32, as workers execute them."""


@dataclass(frozen=True)
class Run:
    """A trained run: `path` has all of it, the methods the most wanted parts."""

    path: Path

    @property
    def record(self) -> RunRecord:
        """What the run says of itself."""
        return RunFolder(self.path).read()

    @property
    def checkpoints(self) -> list[int]:
        """Gradient steps at which there is a checkpoint."""
        return RunFolder(self.path).checkpoint_steps()

    def scores(self) -> np.ndarray:
        """Mean score of each seed at each evaluation while training, (seeds, evaluations)."""
        return read_run(self.path).scores

    def policy(self, seed: int | None = None, checkpoint: int | None = None) -> Policy:
        """The deterministic policy of a seed (the first by default): observations → actions.

        A policy that plans chunks gives (b, h, a): the h steps up to its next look.

        Raises:
            UserError: no such seed or checkpoint.
        """
        seeds = self.record.seeds
        if seed is not None and seed not in seeds:
            raise UserError(f"{self.path} has the seeds {', '.join(map(str, seeds))}, not {seed}.")
        _, weights, _ = RunFolder(self.path).acting(checkpoint)
        own = weights.members()[0 if seed is None else seeds.index(seed)]

        def act(observations: np.ndarray) -> np.ndarray:
            looks = np.asarray(observations, np.float32)
            actions = executed(mlp_action(own.arrays, looks))
            if own.chunk_length == 1:
                return actions
            chunks = actions.reshape(*actions.shape[:-1], own.chunk_length, -1)
            return chunks[..., : own.executed_steps, :]

        return act

    def table(self) -> TableRow:
        """The run's row of a report's table."""
        return summarise(read_run(self.path))

    def plot(self, path: str | Path | None = None) -> Path:
        """Draw the learning curve; returns the figure's path, by default in the run's folder.

        Raises:
            UserError: `path` ends neither in .png nor in .pdf.
        """
        target = Path(path) if path else self.path / "curve.png"
        if target.suffix not in (".png", ".pdf"):
            raise UserError(f"A figure is a .png or a .pdf: {target} is called like neither.")
        run = read_run(self.path)
        picture = draw_curves(panels_of([run]), [run.method])
        write_atomically(target, picture.pdf if target.suffix == ".pdf" else picture.png)
        return target
