"""Published runs that stand: what an experiment that grows need not train again."""

from __future__ import annotations

from pathlib import Path

from cpl_bench.core.progress import say
from cpl_bench.experiments.card import Experiment
from cpl_bench.experiments.cells import Cell, cells
from cpl_bench.report.data import is_stale
from cpl_bench.report.read import read_run
from cpl_bench.runs.record import as_table


def standing_runs(experiment: Experiment, published: Path, out: Path) -> dict[Path, Path]:
    """Folders of cells whose tables lie under `published`, and the paths of those.

    They are a cell's if they are of its method, settings, seeds and episodes, and of the data that
    its card publishes. A run under `out` comes before them.

    Raises:
        UserError: tables are damaged.
    """
    found = {}
    for cell in cells(experiment):
        path = published / cell.folder
        if (out / cell.folder / "run.json").is_file() or not (path / "run.json").is_file():
            continue
        if differs := _difference(cell, path):
            say(f"{path} is of other {differs}: the run is trained again.")
        else:
            found[cell.folder] = path
    return found


def _difference(cell: Cell, path: Path) -> str:
    """What a published run has otherwise than the cell; nothing if it is the cell's."""
    run, method = read_run(path), cell.method
    record, config, every = run.record, cell.config, cell.steps_between
    final = run.last_episodes if (path / "final.csv").is_file() else 0
    same = {
        "method": (record.algorithm, record.method) == (method.algorithm, method.name),
        "settings": record.config == as_table(config),
        "seeds": record.seeds == cell.members,
        "evaluations": (record.evaluate_every, record.episodes) == (every, cell.episodes),
        "length": int(run.checkpoints[-1]) == config.steps,
        "test episodes": final == cell.final_episodes,
        "data": not is_stale(run),
    }
    return " and ".join(name for name, holds in same.items() if not holds)
