"""The verb `train`: preferences become policies, all seeds of a run side by side."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cpl_bench.algos import ALGOS
from cpl_bench.assessment import assess, by_seed
from cpl_bench.cards import load_task
from cpl_bench.errors import UserError, unknown_name
from cpl_bench.evaluations import append_evaluations
from cpl_bench.loop import Pause, fit
from cpl_bench.preferences import load_preferences, success_rate
from cpl_bench.progress import say
from cpl_bench.rollouts import RolloutPool
from cpl_bench.runs import RunFolder, commit, machine, versions
from cpl_bench.sampler import PreferenceSampler
from cpl_bench.seeds import episode_seeds, training_seeds

METRICS_PER_EVALUATION = 5
EVALUATE_EVERY = {"laptop": 500, "paper": 5000}


@dataclass(frozen=True)
class TrainOptions:
    """How a method is run, whichever it is."""

    seeds: tuple[int, ...] = (0, 1, 2, 3)
    """One member a seed."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto takes a GPU if there is one."""
    evaluate_every: int = 500
    """Gradient steps between evaluations; a checkpoint is written at each."""
    episodes: int = 25
    """Episodes a seed in each evaluation, all of them new."""
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
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UserError(f"Seeds must be different whole numbers from 0, not {self.seeds}.")
        if self.evaluate_every < 1 or self.episodes < 1:
            raise UserError(
                f"--evaluate-every and --episodes must be at least 1, not {self.evaluate_every} "
                f"and {self.episodes}."
            )


def train(
    preference_file: Path,
    dataset: str,
    algorithm: str,
    config: Any,
    options: TrainOptions,
    pool: RolloutPool,
    command: str = "",
) -> Path:
    """Train one method on one dataset; returns the run folder.

    Raises:
        UserError: an unknown algorithm, an unreadable preference file, a GPU that isn't there, or
            a run folder that holds something else.
    """
    if algorithm not in ALGOS:
        raise unknown_name("algorithm", algorithm, ALGOS)
    device = choose_device(options.device)
    if device.type == "cuda":  # sums over comparisons would come in any order
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    preferences = load_preferences(preference_file)
    seeds = training_seeds(options.seeds)
    sampler = PreferenceSampler(preferences, seeds, config.segments_per_batch, device)
    learner = ALGOS[algorithm].build(
        config,
        preferences.observations.shape[1],
        preferences.actions.shape[1],
        seeds,
        device,
    )
    phases = learner.phases(config.steps)
    task = load_task(preferences.info.task)
    name = f"{algorithm}-{options.note}" if options.note else algorithm
    folder = RunFolder(options.runs / dataset / name)
    record = {
        "dataset": dataset,
        "task": task.name,
        "algorithm": algorithm,
        "method": options.method or ALGOS[algorithm].title(config),
        "config": asdict(config),
        "seeds": list(options.seeds),
        "steps": config.steps,
        "phases": [[phase.name, phase.steps] for phase in phases],
        "evaluate_every": options.evaluate_every,
        "episodes": options.episodes,
        "behaviour_success": success_rate(preferences),
        "preferences": asdict(preferences.info),
        "device": device.type,
        "command": command,
        "versions": versions(task.simulators),
        "commit": commit(),
        "machine": machine(),
    }
    start = _open(folder, record, options)
    if start is None:
        say(f"{folder.path} is already trained.")
        return folder.path
    start_step = 0
    if start:
        start_step, state = folder.read_state()
        learner.load_state(state)
        say(f"Resuming {folder.path} at step {start_step}.")
    pauses = _pauses(options.evaluate_every, config.steps)
    label = f"training {record['method']} on {dataset}"
    with closing(_Monitor(folder, pool, record, options, start_step)) as monitor:
        for pause in fit(phases, sampler.draw, pauses, device, start_step, label):
            monitor.note(pause)
            if pause.step % options.evaluate_every == 0 or pause.step == config.steps:
                monitor.checkpoint(pause.step, learner.weights())
                folder.write_state(pause.step, learner.state())
    return folder.path


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


class _Monitor:
    """Writes what a training shows of itself."""

    def __init__(
        self,
        folder: RunFolder,
        pool: RolloutPool,
        record: dict[str, Any],
        options: TrainOptions,
        start_step: int,
    ):
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.pool, self.options = folder, pool, options
        self.task = load_task(record["task"])
        self.seeds = list(options.seeds)
        self.name = f"{record['method']} on {record['dataset']}"
        self.board = SummaryWriter(str(folder.path / "tensorboard"), purge_step=start_step + 1)

    def note(self, pause: Pause) -> None:
        self.folder.append_metrics(pause.step, pause.phase, self.seeds, pause.metrics)
        for name, values in pause.metrics.items():
            for seed, value in zip(self.seeds, values.tolist(), strict=True):
                self.board.add_scalar(f"{pause.phase}/{name}/seed {seed}", value, pause.step)

    def checkpoint(self, step: int, weights: dict[str, np.ndarray]) -> None:
        episodes = [
            episode_seeds("monitoring", self.options.episodes, step, seed) for seed in self.seeds
        ]
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
        self.board.close()


def _open(folder: RunFolder, record: dict[str, Any], options: TrainOptions) -> bool | None:
    """Make or check the run folder. False: start; True: resume; None: nothing is left to do."""
    if options.overwrite and folder.path.exists():
        folder.read()  # refuses to delete what is no run
        shutil.rmtree(folder.path)
    if not (folder.path / "run.json").exists():
        if folder.path.exists() and any(folder.path.iterdir()):
            raise UserError(f"{folder.path} exists and is no run; choose another --note.")
        folder.write(record)
        return False
    before = folder.read()
    wanted = json.loads(json.dumps(record))
    decisive = ("config", "seeds", "preferences", "evaluate_every", "episodes", "method", "device")
    for key in decisive:
        if _decisive(before, key) != _decisive(wanted, key):
            raise UserError(
                f"{folder.path} holds a run with another '{key}' ({before.get(key)!r}, now "
                f"{wanted[key]!r}). Use --note NAME for a run beside it, or --overwrite."
            )
    if record["steps"] in folder.checkpoint_steps() and folder.state.exists():
        return None
    if not options.resume:
        raise UserError(
            f"{folder.path} holds an unfinished run. Use --resume to continue it, --overwrite to "
            "start again, or --note NAME for another beside it."
        )
    if not folder.state.exists():
        folder.drop_after(0)
        return False
    return True


def _decisive(record: dict[str, Any], key: str) -> Any:
    """What must agree for a resume; how the preference file was asked for doesn't matter."""
    value = record.get(key)
    if key == "preferences" and isinstance(value, dict):
        return {name: entry for name, entry in value.items() if name != "command"}
    return value


def _pauses(evaluate_every: int, last: int) -> Sequence[int]:
    """Steps at which metrics are written, evaluations among them."""
    metrics_every = max(evaluate_every // METRICS_PER_EVALUATION, 1)
    evaluations = range(evaluate_every, last + 1, evaluate_every)
    return sorted({*range(metrics_every, last + 1, metrics_every), *evaluations})


def algorithm_of(config: Any) -> str:
    """The algorithm whose config this is."""
    return next(
        name for name, entry in ALGOS.items() if type(entry.presets["paper"]) is type(config)
    )


def configured(algorithm: str, preset: str, settings: dict[str, Any]) -> Any:
    """The config of a preset with some fields replaced.

    Raises:
        UserError: an unknown algorithm, preset or field, or a value that cannot be.
    """
    if algorithm not in ALGOS:
        raise unknown_name("algorithm", algorithm, ALGOS)
    presets = ALGOS[algorithm].presets
    if preset not in presets:
        raise unknown_name("preset", preset, presets)
    known = asdict(presets[preset])
    for key in settings:
        if key not in known:
            raise unknown_name(f"setting of {algorithm}", key, known)
    values = {key: _as_type(type(known[key]), value, key) for key, value in settings.items()}
    return replace(presets[preset], **values)


def _as_type(wanted: type, value: Any, key: str) -> Any:
    """A setting as its field wants it: TOML writes 1 for 1.0 and lists for tuples."""
    if (wanted, type(value)) in ((float, int), (tuple, list)):
        return wanted(value)
    if type(value) is not wanted:
        raise UserError(f"'{key}' must be of type {wanted.__name__}, not {value!r}.")
    return value
