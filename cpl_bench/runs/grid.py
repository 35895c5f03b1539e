"""A grid of settings as members: runs that differ in numbers alone train side by side, as seeds do.

Four λ times four seeds are one training of sixteen members. While it lasts it is a run like any
other, in a hidden folder beside those that it will become; at its end each point of the grid gets
a run folder of its own, as if it had been trained alone, but for TensorBoard's page:

runs/<dataset>/.grid-<hash>/            while it trains: members numbered through, point by point
runs/<dataset>/<algorithm>[-note]-lam-0.25/     at its end: run.json, tables, checkpoints, state

Members never meet, and those of one seed draw the same batches. To the last bit a point equals the
run of its own where kernels round alike for both numbers of members.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.errors import UserError
from cpl_bench.core.files import discard, drop_discarded, remove_folder, write_atomically
from cpl_bench.core.locks import held
from cpl_bench.core.progress import say
from cpl_bench.learning.config import MethodConfig
from cpl_bench.preferences.format import Preferences
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.options import TrainOptions
from cpl_bench.runs.points import Point, Varied, grid
from cpl_bench.runs.record import RunRecord, as_table, difference
from cpl_bench.runs.train import prepared, trained
from cpl_bench.tasks.pool import RolloutPool


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
    points, seeds = grid(dataset, algorithm, config, vary, options), options.seeds
    trainee, record = prepared(
        preferences,
        dataset,
        algorithm,
        points[0].config,
        replace(options, note=points[0].note, method=points[0].title),
        pool,
        task,
        command,
        [*seeds] * len(points),
        {name: [point.values[name] for point in points for _ in seeds] for name in vary},
    )
    records = [
        replace(record, config=as_table(point.config), method=point.title) for point in points
    ]
    name = repr((algorithm, options.note, seeds, [sorted(each.values.items()) for each in points]))
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    hidden = RunFolder(options.runs / dataset / f".grid-{digest}")
    together = replace(
        record,
        method=f"{len(points)} settings of {algorithm}",
        seeds=tuple(range(len(points) * len(seeds))),
    )
    with held(hidden.path):
        if options.overwrite:
            _discard(points)
        if not _all_there(points, records):
            if not (hidden.path / "run.json").is_file():
                remove_folder(hidden.path)  # nobody else makes such a folder
            trained(trainee, hidden, together, options, sharing=False)
            for place, (point, of_point) in enumerate(zip(points, records, strict=True)):
                with held(point.folder.path):
                    if not _is_there(point.folder, of_point):
                        _hand_out(hidden, point.folder, of_point, place)
        discard(hidden.path)
    return [point.folder.path for point in points]


def _discard(points: Sequence[Point]) -> None:
    """Take away the runs that are to be overwritten, once all of them are known to be runs."""
    paths = [point.folder.path for point in points]
    for path in paths:
        if path.exists() and not (path / "run.json").is_file():
            raise UserError(f"{path} exists and is no run; choose another --note.")
    for path in paths:
        with held(path):
            discard(path)


def _all_there(points: Sequence[Point], records: Sequence[RunRecord]) -> bool:
    """Whether nothing is left to train."""
    there = [
        point.folder.path
        for point, record in zip(points, records, strict=True)
        if _is_there(point.folder, record)
    ]
    for path in there:
        say(f"{path} is already trained.")
    if 0 < len(there) < len(points):
        say("Those are trained once more beside the others, and stay as they are.")
    return len(there) == len(points)


def _is_there(folder: RunFolder, record: RunRecord) -> bool:
    """Whether a point has been trained.

    Raises:
        UserError: there is another run, or an unfinished one.
    """
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
    return True


def _hand_out(hidden: RunFolder, folder: RunFolder, record: RunRecord, place: int) -> None:
    """Make a point's run folder of what all have trained, whose record tells how."""
    made = RunFolder(folder.path.with_name(f".{folder.path.name}.writing"))
    remove_folder(made.path)
    drop_discarded(folder.path)
    seeds, found = record.seeds, hidden.read()
    own = slice(place * len(seeds), (place + 1) * len(seeds))
    numbers = dict(zip(found.seeds[own], seeds, strict=True))
    diverged = tuple((numbers[who], when) for who, when in found.diverged if who in numbers)
    for seed, step in diverged:
        say(f"{record.method} on {record.dataset}: seed {seed} has diverged by step {step}.")
    last = record.steps  # alone, a run none of whose seeds is left goes from there to its end
    if len(diverged) == len(seeds):
        last = max(step for _, step in diverged)
    for path, column, ends in ((hidden.metrics, 2, []), (hidden.evaluations, 1, [record.steps])):
        if path.is_file():
            write_atomically(made.path / path.name, _rows(path, column, numbers, last, ends))
    for step in hidden.checkpoint_steps():
        if step <= last or step == record.steps:
            weights = hidden.read_weights(step)
            arrays = {name: array[own] for name, array in weights.arrays.items()}
            made.write_checkpoint(step, replace(weights, arrays=arrays))
    step, state = hidden.read_state()
    count = len(found.seeds)
    made.write_state(step, {name: _of_point(each, count, own) for name, each in state.items()})
    told = {"config": record.config, "method": record.method, "seeds": seeds}
    made.write(replace(found, **told, diverged=diverged))
    made.path.rename(folder.path)


def _rows(
    path: Path, column: int, numbers: Mapping[int, int], last: int, ends: Sequence[int]
) -> str:
    """The lines of some members under their seeds, up to a step and of those that end a run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header, *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8")))
    writer.writerow(header)
    for row in rows:
        seed, step = numbers.get(int(row[column])), int(row[0])
        if seed is not None and (step <= last or step in ends):
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
