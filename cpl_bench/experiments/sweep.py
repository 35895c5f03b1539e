"""From cards to evidence: an experiment's cells are run, and reported on.

experiment ──► checked whole ──► cells: collect, label, train, evaluate ──► film ──► report
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cpl_bench.core.errors import UserError
from cpl_bench.core.files import check_writable
from cpl_bench.experiments.card import Experiment
from cpl_bench.experiments.cells import Launcher, cells, check_cells, one_by_one
from cpl_bench.report.films import film_of
from cpl_bench.report.read import read_run
from cpl_bench.report.report import ReportResult, report
from cpl_bench.runs.film import film
from cpl_bench.runs.webp import FILM
from cpl_bench.tasks.pool import RolloutPool


def run_experiment(
    experiment: Experiment, out: Path, pool: RolloutPool, launch: Launcher = one_by_one
) -> ReportResult:
    """Run what is missing of an experiment under `out` and report there.

    Raises:
        UserError: something in it cannot be run; found before anything is collected.
        OSError: a place where nothing can be written; found then, too.
    """
    check_experiment(experiment, out)
    check_writable(out)
    todo = cells(experiment)
    launch(todo, out, pool)
    if experiment.video:
        _film_best([out / cell.folder for cell in todo], out)
    else:
        (out / FILM).unlink(missing_ok=True)
    return report_on(experiment, out)


def report_on(experiment: Experiment, out: Path) -> ReportResult:
    """Report on an experiment's runs that lie under `out`, published ones too.

    Raises:
        UserError: one of them is missing or damaged.
    """
    runs = [out / cell.folder for cell in cells(experiment)]
    intro = "\n\n".join([experiment.description, _next_steps(experiment)])
    return report(runs, out, experiment.title or experiment.name, intro)


def _film_best(runs: list[Path], out: Path) -> None:
    """Film the run that scores best at the end, unless the film under `out` shows it already.

    An older film goes first: where rendering does not work, there is none.
    """
    best = max(map(read_run, runs), key=lambda run: run.last.mean())
    if film_of([best], out) is None:
        (out / FILM).unlink(missing_ok=True)
        film(best.folder, path=out / FILM)


def check_experiment(experiment: Experiment, out: Path | None = None) -> None:
    """Refuse an experiment that cannot be run as a whole, with its runs under `out`.

    Raises:
        UserError: the first thing that is wrong.
    """
    name = experiment.name
    try:
        check_cells(cells(experiment), out)
    except UserError as problem:
        raise UserError(f"{name}: {problem}") from None


def _next_steps(experiment: Experiment) -> str:
    cell = cells(replace(experiment, seeds=4))[len(experiment.methods) - 1]
    commands = [
        f"cpl-bench inspect {cell.dataset}",
        cell.command,
        f"cpl-bench evaluate runs/{cell.folder} --episodes 100 --video",
        f"cpl-bench report runs/{cell.folder.parent}/*",
    ]
    return "Go on from here:\n\n```bash\n" + "\n".join(commands) + "\n```"
