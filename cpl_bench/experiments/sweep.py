"""From cards to evidence: an experiment's cells are run, and reported on.

experiment ──► checked whole ──► cells: collect, label, train, evaluate ──► film ──► report
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from cpl_bench.core.errors import UserError
from cpl_bench.core.files import check_writable, write_atomically
from cpl_bench.core.progress import say
from cpl_bench.experiments.card import Experiment
from cpl_bench.experiments.cells import Launcher, cells, check_cells, one_by_one
from cpl_bench.experiments.standing import standing_runs
from cpl_bench.report.films import film_of
from cpl_bench.report.markdown import cell
from cpl_bench.report.read import read_run
from cpl_bench.report.report import ReportResult, report
from cpl_bench.runs.film import film
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.webp import FILM
from cpl_bench.tasks.pool import RolloutPool


def run_experiment(
    experiment: Experiment,
    out: Path,
    pool: RolloutPool,
    launch: Launcher = one_by_one,
    published: Path | None = None,
) -> ReportResult:
    """Run what is missing of an experiment under `out` and report there.

    Runs whose tables lie under `published` are reported on as they are, and not trained again.

    Raises:
        UserError: something in it cannot be run, found before anything is collected; or a cell was
            stopped: the others have been run and reported on.
        OSError: a place where nothing can be written; found then, too.
    """
    check_experiment(experiment, out)
    check_writable(out)
    standing = standing_runs(experiment, published, out) if published else {}
    todo = [cell for cell in cells(experiment) if cell.folder not in standing]
    if problems := launch(todo, out, pool):
        if standing or any(_has_curve(out / cell.folder) for cell in todo):
            say(f"What there is: {report_on(experiment, out, standing).page}")
        listed = "; ".join(f"{folder}: {problem}" for folder, problem in problems.items())
        raise UserError(
            f"{len(problems)} of {len(todo)} runs stopped: {listed} The others are finished; the "
            "same command goes on with what is missing."
        )
    if experiment.video:
        runs = [*standing.values(), *(out / cell.folder for cell in todo)]
        _film_best(runs, out, published)
    else:
        (out / FILM).unlink(missing_ok=True)
    return report_on(experiment, out, standing)


def report_on(
    experiment: Experiment, out: Path, standing: Mapping[Path, Path] = MappingProxyType({})
) -> ReportResult:
    """Report on an experiment's runs that lie under `out`, published ones too.

    A page on which runs are missing says so. `standing`: folders of runs that lie elsewhere, and
    where.

    Raises:
        UserError: there are none, or one is damaged.
    """
    folders = [cell.folder for cell in cells(experiment)]
    places = {folder: standing.get(folder, out / folder) for folder in folders}
    there = {folder: place for folder, place in places.items() if _has_curve(place)}
    if not there:
        raise UserError(f"No run of {experiment.name} is in {out}: run `cpl-bench sweep` first.")
    intro = [experiment.description, _next_steps(experiment)]
    if missing := [cell(str(folder)) for folder in folders if folder not in there]:
        intro.insert(
            0,
            f"> **Incomplete:** {len(missing)} of {len(folders)} runs are missing: "
            f"{', '.join(missing)}.",
        )
    return report([*there.values()], out, experiment.title or experiment.name, "\n\n".join(intro))


def _has_curve(run: Path) -> bool:
    """Whether a run has come to its first evaluation."""
    return (run / "evaluations.csv").is_file()


def _film_best(runs: list[Path], out: Path, published: Path | None) -> None:
    """Film the run that scores best at the end, unless the film under `out` shows it already.

    An older film goes first: where rendering does not work, there is none. A published run has no
    policy to film any more, only the film that was published with it.
    """
    best = max(map(read_run, runs), key=lambda run: run.last.mean())
    if film_of([best], out) is not None:
        return
    (out / FILM).unlink(missing_ok=True)
    if published and film_of([best], published) is not None:
        write_atomically(out / FILM, (published / FILM).read_bytes())
    elif RunFolder(best.folder).checkpoint_steps():
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
