"""How a method is run, whichever it is: what `train` is told beside data, method and settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from cpl_bench.core.counts import EPISODES as MOST_EPISODES
from cpl_bench.core.counts import MEMBERS, PROCESSES, SEED, STEPS, check_count
from cpl_bench.core.errors import UserError, shown

EPISODES = 25
"""In each evaluation, a seed, unless asked otherwise."""


@dataclass(frozen=True)
class TrainOptions:
    """How a method is run, whichever it is."""

    seeds: tuple[int, ...] = (0, 1, 2, 3)
    """One member a seed."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto takes a GPU if there is one."""
    precision: str = "auto"
    """auto, fp32, tf32 or bf16: what matrix products are computed in; auto: fp32."""
    threads: int = 0
    """Torch's while it trains; 0: as torch has them."""
    evaluate_every: int = 500
    """Gradient steps between evaluations; a checkpoint is written at each."""
    episodes: int = EPISODES
    """Episodes a seed in each evaluation, all of them new; 0 makes none."""
    note: str = ""
    """Added to the run folder's name."""
    method: str = ""
    """The name in tables and figures; empty for the algorithm's own."""
    runs: Path = Path("runs")
    """Where run folders are made."""
    resume: bool = False
    """Continue a run that was cut off."""
    overwrite: bool = False
    """Delete a run of the same name first."""

    def __post_init__(self) -> None:
        check_count("The number of seeds", len(self.seeds), 1, MEMBERS)
        for seed in self.seeds:
            check_count("A seed", seed, 0, SEED)
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"Seeds must be different, not {shown(self.seeds)}.")
        check_count("--threads", self.threads, 0, PROCESSES)
        check_count("--evaluate-every", self.evaluate_every, 1, STEPS)
        check_count("--episodes", self.episodes, 0, MOST_EPISODES)
        if self.resume and self.overwrite:
            raise UserError("--resume continues a run and --overwrite deletes it: choose one.")


def choose_device(name: str) -> torch.device:
    """The torch device called `name`; "auto" is a GPU if there is one.

    Raises:
        UserError: a GPU that isn't there, or no device name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device must be auto, cpu, cuda or cuda:N, not '{name}'.") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device must be auto, cpu, cuda or cuda:N, not '{name}'.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs. "
            "Use --device cpu, or install a CUDA build of torch and check nvidia-smi."
        )
    return device
