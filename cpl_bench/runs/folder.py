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

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cpl_bench.core.errors import UserError
from cpl_bench.core.files import write_atomically
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.runs.evaluations import drop_after
from cpl_bench.runs.metrics import drop_metrics_after
from cpl_bench.runs.record import RunRecord, read_record, write_record

if TYPE_CHECKING:
    from torch import Tensor


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
        return sorted(
            int(path.stem) for path in (self.path / "checkpoints").glob("[0-9]*.safetensors")
        )

    def read_weights(self, step: int) -> PolicyWeights:
        """What acts at a checkpoint, members on the leading axis.

        Raises:
            UserError: no such checkpoint, or a damaged one.
        """
        from safetensors import SafetensorError, safe_open

        path = self.checkpoint(step)
        if not path.is_file():
            steps = ", ".join(map(str, self.checkpoint_steps())) or "none"
            raise UserError(f"{self.path} has no checkpoint of step {step}; there are: {steps}.")
        try:
            with safe_open(path, framework="numpy") as file:
                about = json.loads(file.metadata()["policy"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return PolicyWeights(about["kind"], arrays, about["chunk_length"])
        except (SafetensorError, KeyError, TypeError, ValueError) as problem:
            raise UserError(f"{path} is damaged ({problem}); train again.") from None

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
        from safetensors.numpy import save

        about = {"kind": weights.kind, "chunk_length": weights.chunk_length}
        policy = {"policy": json.dumps(about)}  # a single key: the order of several would be random
        write_atomically(self.checkpoint(step), save(weights.arrays, policy))

    def write_state(self, step: int, state: dict[str, Tensor]) -> None:
        """Written last at a checkpoint: a resume starts from here."""
        from safetensors.torch import save

        tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        write_atomically(self.state, save(tensors, {"step": str(step)}))

    def state_step(self) -> int | None:
        """The step that a resume would start from; None where nothing was kept."""
        return self._read_state(tensors=False)[0] if self.state.is_file() else None

    def read_state(self) -> tuple[int, dict[str, Tensor]]:
        """The step and state of the last checkpoint.

        Raises:
            UserError: there is none, or it is damaged.
        """
        if not self.state.is_file():
            raise UserError(f"{self.path} has nothing to resume from: no state.safetensors.")
        return self._read_state(tensors=True)

    def _read_state(self, tensors: bool) -> tuple[int, dict[str, Tensor]]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.state, framework="pt") as file:
                step = int(file.metadata()["step"])
                names = list(file.keys()) if tensors else []
                return step, {name: file.get_tensor(name) for name in names}
        except (SafetensorError, KeyError, TypeError, ValueError) as problem:
            raise UserError(f"{self.state} is damaged ({problem}); train again.") from None

    def drop_after(self, step: int) -> None:
        """Take out what was written beyond `step`, for resuming from there."""
        drop_after(self.evaluations, step)
        drop_metrics_after(self.metrics, step)
        for later in self.checkpoint_steps():
            if later > step:
                self.checkpoint(later).unlink()
