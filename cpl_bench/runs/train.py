"""The verb `train`: preferences become policies, all seeds of a run side by side."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch

from cpl_bench.core.cards import load_task
from cpl_bench.core.errors import UserError, unknown_name
from cpl_bench.core.progress import say
from cpl_bench.core.seeds import training_seeds
from cpl_bench.core.versions import commit, versions
from cpl_bench.learning.interface import Phase, RewardLearner
from cpl_bench.learning.loop import fit
from cpl_bench.learning.methods import ALGOS
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.format import success_rate
from cpl_bench.preferences.holdout import split_by_episode
from cpl_bench.runs.feeds import Source, episodes_per_collection, make_feeds
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.held_out import held_out_batch
from cpl_bench.runs.monitor import Monitor
from cpl_bench.runs.record import machine
from cpl_bench.tasks.pool import RolloutPool

METRICS_PER_EVALUATION = 5
REWARDED = ("rewarded segments", "rewarded transitions", "best episodes")
"""The feeds that need the true rewards."""


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
    learner = ALGOS[algorithm].build(
        config,
        preferences.observations.shape[1],
        preferences.actions.shape[1],
        seeds,
        device,
    )
    phases = learner.phases(config.steps)
    task = load_task(preferences.info.task)
    if preferences.rewards is None and any(phase.feed in REWARDED for phase in phases):
        others = ", ".join(name for name, entry in ALGOS.items() if not entry.oracle)
        raise UserError(
            f"{preference_file} holds no rewards, and {ALGOS[algorithm].title(config)} "
            f"({algorithm}) learns from the true ones. Methods that learn without them: {others}."
        )
    source = Source(preferences, task, pool, options.seeds, seeds, device)
    feeds = make_feeds(source, phases, learner, config)
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
        "online_transitions": online_transitions(phases, learner, task.horizon_steps),
        "preferences": asdict(preferences.info),
        "device": device.type,
        "command": command,
        "versions": versions(task.simulators),
        "commit": commit(),
        "machine": machine(),
    }
    begin = _open(folder, record, options)
    if begin == "finished":
        say(f"{folder.path} is already trained.")
        return folder.path
    start_step = 0
    if begin == "resume":
        start_step, state = folder.read_state()
        learner.load_state(state)
        say(f"Resuming {folder.path} at step {start_step}.")
    folder.drop_after(start_step)
    fitted = {phase.name for phase in phases if phase.feed == "fitting" and phase.steps}
    held_out = None
    if fitted:
        held_out = held_out_batch(split_by_episode(preferences)[1], len(seeds), device)
    pauses = _pauses(options.evaluate_every, config.steps)
    label = f"training {record['method']} on {dataset}"
    with closing(Monitor(folder, pool, record, start_step)) as monitor:
        for pause in fit(phases, feeds, pauses, device, start_step, label):
            if held_out is not None and pause.phase in fitted:
                pause.metrics.update(cast(RewardLearner, learner).examine(held_out))
            monitor.note(pause)
            if pause.step % options.evaluate_every == 0 or pause.step == config.steps:
                monitor.checkpoint(pause.step, learner.weights())
                folder.write_state(pause.step, learner.state())
    return folder.path


def online_transitions(phases: Sequence[Phase], learner: Any, horizon_steps: int) -> int:
    """Simulator steps that a member takes to learn from; 0 for offline methods."""
    updates = sum(phase.steps for phase in phases if phase.feed == "rollouts")
    if not updates:
        return 0
    episodes = episodes_per_collection(learner, horizon_steps)
    return -(-updates // learner.updates_per_collection) * episodes * horizon_steps


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


def _open(
    folder: RunFolder, record: dict[str, Any], options: TrainOptions
) -> Literal["start", "resume", "finished"]:
    """Make the run folder, or check that the one there holds this very run."""
    if options.overwrite and folder.path.exists():
        folder.read()  # refuses to delete what is no run
        shutil.rmtree(folder.path)
    if not (folder.path / "run.json").exists():
        if folder.path.exists() and any(folder.path.iterdir()):
            raise UserError(f"{folder.path} exists and is no run; choose another --note.")
        folder.write(record)
        return "start"
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
        return "finished"
    if not options.resume:
        raise UserError(
            f"{folder.path} holds an unfinished run. Use --resume to continue it, --overwrite to "
            "start again, or --note NAME for another beside it."
        )
    return "resume" if folder.state.exists() else "start"


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
