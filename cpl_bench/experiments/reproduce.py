"""The verb `reproduce`: a run is made again from its `run.json` alone, and compared with itself."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from cpl_bench.core.errors import UserError
from cpl_bench.core.files import check_writable
from cpl_bench.core.progress import say
from cpl_bench.core.published import short
from cpl_bench.core.toml import build
from cpl_bench.core.versions import versions
from cpl_bench.experiments.make import find_preferences
from cpl_bench.learning.methods import find_method
from cpl_bench.preferences.format import PreferenceInfo, Preferences
from cpl_bench.runs.evaluate import evaluate
from cpl_bench.runs.evaluations import read_evaluations, scores_by_seed
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.options import TrainOptions
from cpl_bench.runs.record import RunRecord, machine, read_record
from cpl_bench.runs.train import folder_name, train
from cpl_bench.tasks.pool import RolloutPool

TABLES = ("metrics.csv", "evaluations.csv", "final.csv")


class Comparison(NamedTuple):
    """A file of the run and the one that was made again."""

    name: str
    same: bool
    """To the byte."""
    about: str


def reproduce(
    run: Path, pool: RolloutPool, out: Path, data: str | Path | None = None
) -> tuple[Path, list[Comparison]]:
    """Train and evaluate a run again, below `out`; its folder there, and each file compared.

    Args:
        run: a run folder; of a published one, without checkpoints, the tables are compared.
        pool: of workers.
        out: where the new run goes, <dataset>/<its name>-again; an earlier one there is replaced.
        data: a dataset card or preference file, if not the card that the run names.

    Raises:
        UserError: no run, an unfinished one, or other data than it was trained on.
    """
    record = read_record(run)
    _check_whole(run, record)
    preferences = _data_of(record, data, pool)
    _say_what_is_other(record)
    presets = find_method(record.algorithm).presets
    config = build(type(next(iter(presets.values()))), record.config, run / "run.json", "config.")
    note = f"{run.resolve().name.removeprefix(record.algorithm).strip('-')}-again".strip("-")
    there = RunFolder(out / record.dataset / folder_name(record.algorithm, note))
    done = there.state.is_file() and there.state_step() == record.steps
    options = TrainOptions(
        seeds=record.seeds,
        device=record.device,
        precision=record.precision,
        threads=int(record.machine.get("torch_threads", 0)),
        evaluate_every=record.evaluate_every,
        episodes=record.episodes,
        note=note,
        method=record.method,
        runs=out,
        resume=not done,
        overwrite=done,  # by other code, perhaps: it is made again every time
    )
    check_writable(out)
    arguments = (record.dataset, record.algorithm, config, options)
    again = train(preferences, *arguments, pool, record.task, record.command)
    if (run / "final.csv").is_file():
        rows = read_evaluations(run / "final.csv")
        evaluate(again, pool, len(rows["seed"]) // len(record.seeds))
    tables = [_compared(run / name, again / name, record) for name in TABLES]
    checkpoints = sorted((run / "checkpoints").glob("[0-9]*.safetensors"))
    others = [_compared(path, again / "checkpoints" / path.name, record) for path in checkpoints]
    return again, [each for each in (*tables, *others) if each is not None]


def _check_whole(run: Path, record: RunRecord) -> None:
    """Refuse a run of which there is nothing, or not all, to compare with."""
    if not any((run / name).is_file() for name in TABLES):
        raise UserError(f"{run} has no tables to compare with: train it first.")
    path = run / "evaluations.csv"
    reached = int(read_evaluations(path)["step"].max()) if path.is_file() else record.steps
    if record.steps - reached >= record.evaluate_every:
        raise UserError(
            f"{run} stands at step {reached:,} of {record.steps:,}: train it to its end first, "
            "with --resume."
        )


def _data_of(record: RunRecord, data: str | Path | None, pool: RolloutPool) -> Preferences:
    """The very preferences that a run saw, made if need be."""
    info = record.preferences
    if data is None and not info.card:
        raise UserError(
            f"{record.method} was trained on data that no card makes. Name the preference file: "
            "--data FILE."
        )
    _, preferences = find_preferences(data or info.card, pool)
    found = preferences.info.preferences_hash
    if found != info.preferences_hash:
        raise UserError(
            f"{record.method} was trained on the preferences {short(info.preferences_hash)}, and "
            f"these are {short(found)}. {_remedy(info)}"
        )
    return preferences


def _remedy(info: PreferenceInfo) -> str:
    if not info.command:
        return "Name the file: --data FILE."
    return f"They were made by `{info.command}`: name the file that it writes, --data FILE."


def _say_what_is_other(record: RunRecord) -> None:
    """Whatever the same bytes can't be expected under."""
    threads = int(record.machine.get("torch_threads", 0))
    now = {**versions(record.task.simulators if record.task else {}), **machine(threads)}
    before = {**record.versions, **record.machine}
    for name, value in before.items():
        if now.get(name) != value:
            say(f"{name}: {value} made the run, {now.get(name)} makes it now.")


def _compared(old: Path, new: Path, record: RunRecord) -> Comparison | None:
    """None if the run has no such file."""
    if not old.is_file():
        return None
    if old.read_bytes() == new.read_bytes():
        return Comparison(old.name, True, "the same bytes")
    if old.name not in ("evaluations.csv", "final.csv"):
        return Comparison(old.name, False, "other bytes")
    before, after = (_last(path, record) for path in (old, new))
    shown = record.scoring.shown
    return Comparison(
        old.name,
        False,
        f"other bytes: {record.scoring.name} {shown(after)}{record.scoring.unit} in place of "
        f"{shown(before)}{record.scoring.unit} at the last step",
    )


def _last(path: Path, record: RunRecord) -> float:
    """The mean over seeds at the last step of a file."""
    rows = read_evaluations(path)
    last = rows["step"] == rows["step"].max()
    scores = scores_by_seed({name: each[last] for name, each in rows.items()}, record.scoring)
    return float(np.mean(list(scores.values())))
