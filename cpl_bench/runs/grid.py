"""A grid of settings as members: runs that differ in numbers alone train side by side, as seeds do.

Four λ times four seeds are one training of sixteen members. While it lasts it is a run like any
other, in a hidden folder beside those that it will become; at its end each point of the grid gets
a run folder of its own, as if it had been trained alone:

runs/<dataset>/.grid-<hash>/            while it trains: members numbered through, point by point
runs/<dataset>/<algorithm>[-note]-lam-0.25/     at its end: run.json, tables, checkpoints, state

Members never meet, and those of one seed draw the same batches. To the last bit a point equals the
run of its own where kernels round alike for both numbers of members: two and four do on one thread.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from torch import Tensor

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.counts import MEMBERS, check_count
from cpl_bench.core.errors import UserError, unknown_name
from cpl_bench.core.files import remove_folder, write_atomically
from cpl_bench.core.locks import held
from cpl_bench.core.progress import say
from cpl_bench.core.toml import replaced
from cpl_bench.learning.config import MethodConfig
from cpl_bench.learning.methods import find_method
from cpl_bench.learning.precision import choose_precision
from cpl_bench.learning.state import take_up
from cpl_bench.preferences.format import Preferences
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.options import TrainOptions
from cpl_bench.runs.prepare import Trainee, prepare
from cpl_bench.runs.record import RunRecord, as_table, difference
from cpl_bench.runs.train import folder_name, readied, trained
from cpl_bench.tasks.pool import RolloutPool

Varied = Mapping[str, Sequence[float]]
"""The numbers that each of some settings takes, in turn."""


@dataclass(frozen=True)
class Point:
    """One choice of the varied settings."""

    values: dict[str, float]
    config: MethodConfig
    title: str
    folder: RunFolder


def train_grid(
    preferences: Preferences,
    dataset: str,
    algorithm: str,
    config: MethodConfig,
    vary: Varied,
    options: TrainOptions,
    pool: RolloutPool | None,
    task: TaskCard | None,
    command: str = "",
) -> list[Path]:
    """Train every choice of the varied settings, each with all seeds, side by side.

    Returns a run folder each, in the order of `itertools.product`. A run that is there already,
    whole and of the same settings, stays as it is.

    Raises:
        UserError: as `train`; and a setting that members cannot differ in.
    """
    points = grid(dataset, algorithm, config, vary, options)
    first = replace(options, note=_note(options.note, points[0].values), method=points[0].title)
    trainee, record = readied(
        preferences, dataset, algorithm, points[0].config, first, pool, task, command
    )
    records = [
        replace(record, config=as_table(point.config), method=point.title) for point in points
    ]
    whole = prepare(
        algorithm,
        points[0].config,
        preferences,
        [*options.seeds] * len(points),
        trainee.source.device,
        task,
        pool,
        record.method,
        choose_precision(record.precision, trainee.source.device),
        {name: [p.values[name] for p in points for _ in options.seeds] for name in vary},
    )
    name = repr((algorithm, options.note, options.seeds, [point.values for point in points]))
    hidden = options.runs / dataset / f".grid-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    with held(hidden):
        todo = [
            (place, point.folder, of_point)
            for place, (point, of_point) in enumerate(zip(points, records, strict=True))
            if not _is_there(point.folder, of_point, options.overwrite)
        ]
        if todo:
            together = replace(
                record,
                method=f"{len(points)} settings of {algorithm}",
                seeds=tuple(range(len(points) * len(options.seeds))),
            )
            trained(whole, RunFolder(hidden), together, options, sharing=False)
            for place, folder, of_point in todo:
                with held(folder.path):
                    _hand_out(RunFolder(hidden), folder, of_point, place, trainee)
            remove_folder(hidden)
    return [point.folder.path for point in points]


def grid(
    dataset: str, algorithm: str, config: MethodConfig, vary: Varied, options: TrainOptions
) -> list[Point]:
    """Every choice of the varied settings.

    Raises:
        UserError: a setting that members cannot differ in, no numbers for it, one of them twice
            or one that cannot be, or too many members.
    """
    entry = find_method(algorithm)
    for name, values in vary.items():
        if name not in entry.per_member:
            hint = f"Only those can differ between members of {algorithm}; run the others in turn."
            raise unknown_name("setting to vary", name, entry.per_member, hint)
        if not values or len({f"{value:g}" for value in values}) < len(values):
            raise UserError(f"{name} varies over different numbers, at least one; got {values}.")
    choices = [dict(zip(vary, each, strict=True)) for each in product(*vary.values())]
    check_count("Choices times seeds", len(choices) * len(options.seeds), 1, MEMBERS)
    configs = [replaced(config, values, f"settings of {algorithm}") for values in choices]
    titles = [options.method or entry.title(each) for each in configs]
    for name in vary:  # what the titles do not tell yet
        longer = [
            f"{title}, {name}={values[name]:g}"
            for title, values in zip(titles, choices, strict=True)
        ]
        titles = longer if len(set(longer)) > len(set(titles)) else titles
    return [
        Point(
            values,
            made,
            title,
            RunFolder(options.runs / dataset / folder_name(algorithm, _note(options.note, values))),
        )
        for values, made, title in zip(choices, configs, titles, strict=True)
    ]


def _note(note: str, values: Mapping[str, float]) -> str:
    return "-".join(filter(None, [note, *(f"{name}-{value:g}" for name, value in values.items())]))


def _is_there(folder: RunFolder, record: RunRecord, overwrite: bool) -> bool:
    """Whether a point has been trained; one that is to be overwritten goes first."""
    if overwrite and (folder.path / "run.json").is_file():
        gone = folder.path.with_name(f".{folder.path.name}.overwritten")
        remove_folder(gone)
        folder.path.rename(gone)
        remove_folder(gone)
    if not folder.path.exists():
        return False
    if other := difference(folder.read(), record):
        raise UserError(
            f"{folder.path} holds a run with {other}. Use --note NAME for a grid beside it, or "
            "--overwrite."
        )
    if folder.state_step() != record.steps:
        raise UserError(
            f"{folder.path} holds an unfinished run. Finish it alone, without --vary and with "
            "--resume, or use --overwrite."
        )
    say(f"{folder.path} is already trained.")
    return True


def _hand_out(
    hidden: RunFolder, folder: RunFolder, record: RunRecord, place: int, trainee: Trainee
) -> None:
    """Make a point's run folder of what all have trained; `trainee` is as big as one point."""
    made = RunFolder(folder.path.with_name(f".{folder.path.name}.writing"))
    remove_folder(made.path)
    seeds, found = record.seeds, hidden.read()
    own = slice(place * len(seeds), (place + 1) * len(seeds))
    numbers = {str(member): seeds[i] for i, member in enumerate(found.seeds[own])}
    for path, column in ((hidden.metrics, 2), (hidden.evaluations, 1)):
        if path.is_file():
            write_atomically(made.path / path.name, _rows(path, column, numbers))
    for step in hidden.checkpoint_steps():
        weights = hidden.read_weights(step)
        arrays = {name: array[own] for name, array in weights.arrays.items()}
        made.write_checkpoint(step, replace(weights, arrays=arrays))
    diverged = [(numbers[str(who)], when) for who, when in found.diverged if str(who) in numbers]
    step, state = hidden.read_state()
    state = {name: _of_point(each, len(found.seeds), own) for name, each in state.items()}
    take_up(trainee.learner, state, finite=not diverged)  # it fits one of that size
    made.write_state(step, state)
    made.write(replace(record, diverged=tuple(diverged), resumed=found.resumed))
    made.path.rename(folder.path)


def _rows(path: Path, column: int, numbers: Mapping[str, int]) -> str:
    """The lines of some members, under their seeds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header, *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8")))
    writer.writerow(header)
    for row in rows:
        if (seed := numbers.get(row[column])) is not None:
            writer.writerow([*row[:column], seed, *row[column + 1 :]])
    return text.getvalue()


def _of_point(whole: Tensor, members: int, own: slice) -> Tensor:
    """Some members' share of a tensor that has all on its leading axis; what they share as it is.

    Of an ensemble each member has several rows, one after the other.
    """
    if not whole.ndim or len(whole) % members:
        return whole
    rows = len(whole) // members
    return whole[own.start * rows : own.stop * rows]
