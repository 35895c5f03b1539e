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

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpl_bench.core.errors import UserError
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.core.tensors import read_about, read_tensors, write_tensors
from cpl_bench.runs.evaluations import drop_after
from cpl_bench.runs.metrics import drop_metrics_after
from cpl_bench.runs.record import RunRecord, read_record, write_record

if TYPE_CHECKING:
    from torch import Tensor

AGAIN = "Train again with --overwrite."
STEP = re.compile(r"0|[1-9][0-9]{0,17}")
"""What a checkpoint's file is called."""


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

    def read(self) -> RunRecord:
        """The content of run.json.

        Raises:
            UserError: this is no run folder, or a damaged one.
        """
        return read_record(self.path)

    def write(self, record: RunRecord) -> None:
        write_record(self.path / "run.json", record)

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"{step}.safetensors"

    def checkpoint_steps(self) -> list[int]:
        """Steps of the checkpoints there are, ascending."""
        found = (self.path / "checkpoints").glob("[0-9]*.safetensors")
        return sorted(int(path.stem) for path in found if STEP.fullmatch(path.stem))

    def read_weights(self, step: int) -> PolicyWeights:
        """What acts at a checkpoint, members on the leading axis.

        Raises:
            UserError: no such checkpoint, or a damaged one.
        """
        path = self.checkpoint(step)
        if not path.is_file():
            steps = ", ".join(map(str, self.checkpoint_steps())) or "none"
            raise UserError(f"{self.path} has no checkpoint of step {step}; there are: {steps}.")
        about, arrays = read_tensors(path, "Train again, or take another checkpoint.")
        try:
            plan = about["chunk_length"], about.get("replan", 0)
            weights = PolicyWeights(about["kind"], arrays, *plan)
            weights.check_members()
        except (KeyError, TypeError, UserError) as problem:
            raise UserError(f"{path} holds no policy: {problem} Train again.") from None
        return weights

    def acting(self, step: int | None) -> tuple[int, PolicyWeights, RunRecord]:
        """The checkpoint asked for, or the last: its step, what acts there, and whose it is.

        Raises:
            UserError: there is none, or not one policy for each of the run's seeds.
        """
        record = self.read()
        step, weights = self.at(step)
        if len(weights.arrays["w0"]) != len(record.seeds):
            raise UserError(
                f"{self.checkpoint(step)} holds {len(weights.arrays['w0'])} policies, and run.json "
                f"names {len(record.seeds)} seeds: they are not of one run. Train again."
            )
        return step, weights, record

    def at(self, step: int | None) -> tuple[int, PolicyWeights]:
        """The checkpoint asked for, or the last: its step and what acts there.

        Raises:
            UserError: there is no such checkpoint, or none at all.
        """
        steps = self.checkpoint_steps()
        if not steps:
            raise UserError(f"{self.path} has no checkpoint yet; train it first.")
        step = steps[-1] if step is None else step
        return step, self.read_weights(step)

    def write_checkpoint(self, step: int, weights: PolicyWeights) -> None:
        about = {"kind": weights.kind, "chunk_length": weights.chunk_length}
        if weights.replan:  # most don't
            about["replan"] = weights.replan
        write_tensors(self.checkpoint(step), weights.arrays, about)

    def write_state(self, step: int, state: dict[str, Tensor]) -> None:
        """Written last at a checkpoint: a resume starts from here."""
        arrays = {name: value.detach().cpu().numpy() for name, value in state.items()}
        write_tensors(self.state, arrays, {"step": step})

    def state_step(self) -> int | None:
        """The step that a resume would start from; None where nothing was kept.

        Raises:
            UserError: what was kept is damaged.
        """
        return self._step_in(read_about(self.state, AGAIN)) if self.state.is_file() else None

    def read_state(self) -> tuple[int, dict[str, Tensor]]:
        """The step and state of the last checkpoint.

        Raises:
            UserError: there is none, or it is damaged or altered.
        """
        import torch

        if not self.state.is_file():
            raise UserError(f"{self.path} has nothing to resume from: no state.safetensors.")
        about, arrays = read_tensors(self.state, AGAIN)
        return self._step_in(about), {k: torch.from_numpy(each) for k, each in arrays.items()}

    def _step_in(self, about: dict[str, Any]) -> int:
        step = about.get("step")
        if type(step) is not int or step < 1:
            raise UserError(f"{self.state} names no step ({step!r:.50}). {AGAIN}")
        return step

    def drop_after(self, step: int) -> None:
        """Take out what was written beyond `step`, for resuming from there."""
        drop_after(self.evaluations, step)
        drop_metrics_after(self.metrics, step)
        for later in self.checkpoint_steps():
            if later > step:
                self.checkpoint(later).unlink()
