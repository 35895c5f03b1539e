"""The verb `train`: preferences become policies, all seeds of a run side by side."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

import torch

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.errors import UserError
from cpl_bench.core.files import discard, drop_discarded, drop_temporaries, is_temporary
from cpl_bench.core.locks import held
from cpl_bench.core.names import check_folder, slug
from cpl_bench.core.progress import say
from cpl_bench.core.versions import commit, versions
from cpl_bench.learning.config import MethodConfig
from cpl_bench.learning.loop import fit
from cpl_bench.learning.methods import find_method
from cpl_bench.learning.precision import choose_precision, torch_set
from cpl_bench.learning.state import take_up
from cpl_bench.preferences.format import Preferences, behaviour_score
from cpl_bench.runs.checks import check_evaluations
from cpl_bench.runs.folder import AGAIN, RunFolder
from cpl_bench.runs.memory import keep_freed_memory
from cpl_bench.runs.monitor import Monitor
from cpl_bench.runs.options import TrainOptions, choose_device
from cpl_bench.runs.prepare import Trainee, prepare
from cpl_bench.runs.record import RunRecord, as_table, difference, gone_on, machine
from cpl_bench.runs.rollouts import online_transitions
from cpl_bench.runs.shared import SharedStart
from cpl_bench.runs.watched import Watched
from cpl_bench.tasks.pool import RolloutPool, processors

METRICS_PER_EVALUATION = 5


def train(
    preferences: Preferences,
    dataset: str,
    algorithm: str,
    config: MethodConfig,
    options: TrainOptions,
    pool: RolloutPool | None,
    task: TaskCard | None,
    command: str = "",
) -> Path:
    """Train one method on one dataset; returns the run folder.

    Without a `task` or a `pool` nothing is rolled out: the run has checkpoints and no evaluations.

    Raises:
        UserError: an unknown algorithm, data that do not hold what the method needs, a GPU that
            isn't there, or a run folder that holds something else.
    """
    arguments = (preferences, dataset, algorithm, config, options, pool, task, command)
    trainee, record = prepared(*arguments)
    folder = RunFolder(options.runs / dataset / folder_name(algorithm, options.note))
    with held(folder.path):
        trained(trainee, folder, record, options)
    return folder.path


def prepared(
    preferences: Preferences,
    dataset: str,
    algorithm: str,
    config: MethodConfig,
    options: TrainOptions,
    pool: RolloutPool | None,
    task: TaskCard | None,
    command: str = "",
    members: Sequence[int] = (),
    varied: Mapping[str, Sequence[float]] | None = None,
) -> tuple[Trainee, RunRecord]:
    """What `train` trains, and what it will say of itself; nothing is written yet.

    `members`: the seeds of all that train side by side, if others than the options'; `varied` are
    settings of which each has its own number.

    Raises:
        UserError: as `train`, but for the folder.
    """
    check_folder("A dataset's name", dataset)
    check_folder("A run's name", folder_name(algorithm, options.note))
    entry = find_method(algorithm)
    check_evaluations(config, options.evaluate_every)
    title = options.method or entry.title(config)
    device = choose_device(options.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # the one that graphs are recorded on, and run.json names
        # sums over comparisons would come in any order
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        unread = torch.utils.deterministic  # memory that is written before it is read: no filling
        unread.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    precision = choose_precision(options.precision, device)
    members = members or options.seeds
    arguments = (preferences, members, device, task, pool, title, precision, varied)
    trainee = prepare(algorithm, config, *arguments)
    return trainee, RunRecord(
        dataset=dataset,
        task=task,
        algorithm=algorithm,
        method=title,
        config=as_table(config),
        seeds=options.seeds,
        steps=config.steps,
        phases=tuple((each.name, each.steps) for each in trainee.training),
        evaluate_every=options.evaluate_every,
        episodes=options.episodes if task and pool else 0,
        preferences=preferences.info,
        behaviour_score=behaviour_score(preferences, task.scoring) if task else None,
        online_transitions=online_transitions(trainee.phases, task.horizon_steps) if task else 0,
        device=device.type,
        precision=precision,
        command=command,
        versions=versions(task.simulators if task else {}),
        commit=commit(),
        machine=machine(options.threads),
    )


def trained(
    trainee: Trainee,
    folder: RunFolder,
    record: RunRecord,
    options: TrainOptions,
    sharing: bool = True,
) -> None:
    """Train in the run folder, which the caller holds, from where it stands.

    `sharing`: a first phase is taken over from other runs, and left to them.
    """
    learner, steps = trainee.learner, record.steps
    source, device = trainee.source, trainee.source.device
    begin = _open(folder, record, options)
    if begin == "finished":
        say(f"{folder.path} is already trained.")
        return
    start_step = 0
    if begin == "start":
        folder.write(record)  # also over that of a run that never came to a state
    if begin == "resume":
        start_step, state = folder.read_state()
        before = folder.read()
        try:
            take_up(learner, state, finite=not before.diverged_by(start_step))
        except UserError as problem:
            raise UserError(f"{folder.state} is not of this method: {problem} {AGAIN}") from None
        say(f"Resuming {folder.path} at step {start_step}.")
        if (after := gone_on(before, record, start_step)).resumed != before.resumed:
            other = ", ".join(name for name in after.resumed[-1] if name != "step")
            say(f"It goes on with other {other} than it began with: run.json says which.")
        if after != before:
            folder.write(after)
        record = after
    drop_temporaries(folder.path)
    drop_temporaries(folder.path / "checkpoints")
    folder.drop_after(start_step)
    common = SharedStart(trainee.phases, record, folder) if sharing and begin == "start" else None
    if common and (start_step := common.take()):
        say(
            f"{record.method} begins as another run did: its first {start_step:,} steps are taken "
            "over."
        )
    watched = Watched(trainee)
    pauses = _pauses(options.evaluate_every, steps)
    caption = f"training {record.method} on {record.dataset}"
    if device.type == "cpu":
        keep_freed_memory()
    speed = torch_set(options.threads, choose_precision(record.precision, device), device)
    overlapping = _cores_are_free(device)
    monitor = Monitor(folder, source.pool, record, source.members, start_step, overlapping)
    with speed, closing(monitor):
        for pause in fit(trainee.training, pauses, device, start_step, caption):
            at_checkpoint = pause.step % options.evaluate_every == 0 or pause.step == steps
            watched.look(pause, at_checkpoint)
            monitor.note(pause)
            if at_checkpoint:
                monitor.checkpoint(pause.step, trainee.weights(), learner.state())
            if common and pause.step == common.steps:  # what was resumed may be mixed
                monitor.finish()
                if not monitor.record.diverged:
                    common.leave()
            if len(monitor.record.diverged) == len(record.seeds) and pause.step < steps:
                say(f"No seed of {record.method} is left to train; the run ends here.")
                monitor.checkpoint(steps, trainee.weights(), learner.state())
                break


def folder_name(algorithm: str, note: str = "") -> str:
    """What a run's folder is called."""
    name = algorithm if re.fullmatch(r"[\w.-]+", algorithm) else slug(algorithm)
    return f"{name}-{note}" if note else name


def _cores_are_free(device: torch.device) -> bool:
    """Whether episodes can be run while the learner learns, and neither waits for the other."""
    return device.type == "cuda" or processors() > torch.get_num_threads()


def _open(
    folder: RunFolder, record: RunRecord, options: TrainOptions
) -> Literal["start", "resume", "finished"]:
    """Make the run folder, or check that the one there holds this very run."""
    drop_discarded(folder.path)
    if options.overwrite and (folder.path / "run.json").is_file():  # damaged or old ones, too
        discard(folder.path)
    if not (folder.path / "run.json").exists():
        if folder.path.exists() and not all(map(is_temporary, folder.path.iterdir())):
            raise UserError(f"{folder.path} exists and is no run; choose another --note.")
        return "start"
    if other := difference(folder.read(), record):
        raise UserError(
            f"{folder.path} holds a run with {other}. Use --note NAME for a run beside it, or "
            "--overwrite."
        )
    reached = folder.state_step()  # written last: a checkpoint without its state isn't finished
    if reached == record.steps and record.steps in folder.checkpoint_steps():
        return "finished"
    if not options.resume:
        raise UserError(
            f"{folder.path} holds an unfinished run. Use --resume to continue it, --overwrite to "
            "start again, or --note NAME for another beside it."
        )
    return "start" if reached is None else "resume"


def _pauses(evaluate_every: int, last: int) -> Sequence[int]:
    """Steps at which metrics are written, evaluations among them."""
    metrics_every = max(evaluate_every // METRICS_PER_EVALUATION, 1)
    evaluations = range(evaluate_every, last + 1, evaluate_every)
    return sorted({*range(metrics_every, last + 1, metrics_every), *evaluations})
