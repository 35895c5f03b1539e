"""The run folder: what a training leaves behind, and how it is taken up again.

runs/<dataset>/<algorithm>[-note]/
    run.json            configuration, card, versions, commit, machine
    metrics.csv         step,phase,seed,metric,value
    evaluations.csv     step,seed,episode,success,return,length        while training
    final.csv           the same, by `cpl-bench evaluate`              of the last checkpoint
    checkpoints/<step>.safetensors      what acts: weights, members on the leading axis
    state.safetensors   everything a resume needs, of the last checkpoint
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cpl_bench.core.errors import UserError
from cpl_bench.core.files import write_atomically
from cpl_bench.runs.evaluations import drop_after

if TYPE_CHECKING:
    from torch import Tensor


METRICS_HEADER = "step,phase,seed,metric,value"


@dataclass(frozen=True)
class RunFolder:
    """Paths and contents of one run."""

    path: Path

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations.csv"

    @property
    def final(self) -> Path:
        return self.path / "final.csv"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def state(self) -> Path:
        return self.path / "state.safetensors"

    def read(self) -> dict[str, Any]:
        """The content of run.json.

        Raises:
            UserError: this is no run folder.
        """
        try:
            record = json.loads((self.path / "run.json").read_text())
        except FileNotFoundError:
            raise UserError(
                f"{self.path} is no run folder: it has no run.json. "
                "`cpl-bench list runs` shows those there are."
            ) from None
        except (OSError, ValueError) as problem:
            raise UserError(f"{self.path / 'run.json'} cannot be read: {problem}.") from None
        needed = ("dataset", "task", "method", "seeds", "steps")
        missing = [key for key in needed if not isinstance(record, dict) or key not in record]
        if missing:
            raise UserError(f"{self.path / 'run.json'} lacks {', '.join(missing)}; train again.")
        return record

    def write(self, record: Mapping[str, Any]) -> None:
        write_atomically(self.path / "run.json", json.dumps(record, indent=2) + "\n")

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"{step}.safetensors"

    def checkpoint_steps(self) -> list[int]:
        """Steps of the checkpoints there are, ascending."""
        return sorted(
            int(path.stem) for path in (self.path / "checkpoints").glob("[0-9]*.safetensors")
        )

    def read_weights(self, step: int) -> dict[str, np.ndarray]:
        """What acts at a checkpoint.

        Raises:
            UserError: no such checkpoint, or a damaged one.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = self.checkpoint(step)
        if not path.is_file():
            steps = ", ".join(map(str, self.checkpoint_steps())) or "none"
            raise UserError(f"{self.path} has no checkpoint of step {step}; there are: {steps}.")
        try:
            return load_file(path)
        except SafetensorError as problem:
            raise UserError(f"{path} is damaged ({problem}); train again.") from None

    def at(self, step: int | None) -> tuple[int, dict[str, np.ndarray]]:
        """The checkpoint asked for, or the last: its step and what acts there.

        Raises:
            UserError: there is no such checkpoint, or none at all.
        """
        steps = self.checkpoint_steps()
        if not steps:
            raise UserError(f"{self.path} has no checkpoint yet; train it first.")
        step = steps[-1] if step is None else step
        return step, self.read_weights(step)

    def write_checkpoint(self, step: int, weights: dict[str, np.ndarray]) -> None:
        from safetensors.numpy import save

        write_atomically(self.checkpoint(step), save(weights))

    def write_state(self, step: int, state: dict[str, Tensor]) -> None:
        """Written last at a checkpoint: a resume starts from here."""
        from safetensors.torch import save

        tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        write_atomically(self.state, save(tensors, {"step": str(step)}))

    def read_state(self) -> tuple[int, dict[str, Tensor]]:
        """The step and state of the last checkpoint.

        Raises:
            UserError: there is none, or it is damaged.
        """
        from safetensors import SafetensorError, safe_open

        if not self.state.is_file():
            raise UserError(f"{self.path} has nothing to resume from: no state.safetensors.")
        try:
            with safe_open(self.state, framework="pt") as file:
                step = int(file.metadata()["step"])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError) as problem:
            raise UserError(f"{self.state} is damaged ({problem}); train again.") from None
        return step, state

    def drop_after(self, step: int) -> None:
        """Take out what was written beyond `step`, for resuming from there."""
        drop_after(self.evaluations, step)
        self._drop_metrics_after(step)
        for later in self.checkpoint_steps():
            if later > step:
                self.checkpoint(later).unlink()

    def append_metrics(
        self, step: int, phase: str, seeds: list[int], metrics: Mapping[str, Tensor]
    ) -> None:
        """One line a member and metric."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for name, values in metrics.items():
            for seed, value in zip(seeds, values.tolist(), strict=True):
                writer.writerow([step, phase, seed, name, repr(value)])
        if not self.metrics.exists():
            write_atomically(self.metrics, METRICS_HEADER + "\n")
        with self.metrics.open("a") as file:
            file.write(text.getvalue())

    def _drop_metrics_after(self, step: int) -> None:
        if self.metrics.exists():
            header, *lines = self.metrics.read_text().split("\n")[:-1]
            kept = [line for line in lines if int(line.split(",")[0]) <= step]
            write_atomically(self.metrics, "\n".join([header, *kept]) + "\n")
