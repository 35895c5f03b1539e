"""The verb `report`: run folders in; a table, learning curves and a page out."""

import csv
import io
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from cpl_bench.core.errors import UserError
from cpl_bench.core.files import write_atomically
from cpl_bench.core.names import check_line
from cpl_bench.core.score import Score
from cpl_bench.report.curves import draw_curves
from cpl_bench.report.figure import Picture
from cpl_bench.report.films import film_of, film_section
from cpl_bench.report.likelihood import likelihood_panels
from cpl_bench.report.page import MARK, write_page
from cpl_bench.report.panels import Panel
from cpl_bench.report.read import EvaluatedRun, read_run
from cpl_bench.report.reward_history import draw_reward_histories, read_reward_history
from cpl_bench.report.settings import draw_series, series_of
from cpl_bench.report.table import TableRow, panels_of, summarise


@dataclass(frozen=True)
class ReportResult:
    """The files that were written, and the table."""

    table: Path
    curves: Path
    figure: Path
    """A PNG; its PDF, `curves.pdf`, lies beside it."""
    reward: Path | None
    """Learned reward and true return, if a run noted both while it learned on the simulator; a PNG,
    its PDF beside it."""
    likelihood: Path | None
    """How likely the data are under the policies, if runs noted it; a PNG, its PDF beside it."""
    settings: Path | None
    """The last score against what runs differ in alone; a PNG, its PDF beside it."""
    page: Path
    rows: tuple[TableRow, ...]
    scorings: dict[str, Score]
    """What the scores of each dataset are."""
    online_transitions: dict[str, int]
    """Simulator steps that a seed takes to learn, of the methods that take any."""


def report(run_folders: list[Path], out: Path, title: str = "", intro: str = "") -> ReportResult:
    """Compare runs: `table.csv`, `curves.csv`, `curves.png` and `README.md` in the folder `out`.

    On-policy runs with a learned reward add `reward.png`, runs that noted how likely the data are
    `likelihood.png` and `likelihood.csv`, runs that differ in one setting alone `settings.png`.
    Each figure has a PDF beside it, for print. A film of one of the runs that lies there,
    `rollout.webp`, is shown on the page.
    Datasets and methods keep the order in which the folders first name them. The same folders give
    the same bytes. Everything is computed before the first file is written.

    Args:
        run_folders: `runs/<dataset>/<algorithm>[-note]/`, each a method on a dataset
        out: made if need be; the files of an earlier report are replaced, no other README is
        title: the page's heading
        intro: Markdown below it

    Raises:
        UserError: a folder is no run folder or is damaged, two folders contradict each other,
            `out` is no place for a report, or the title is no line.
    """
    if not run_folders:
        raise UserError(
            "There are no runs to report on. Name run folders, such as runs/drawer-open/*."
        )
    check_line("the title", title)
    if out.exists() and not out.is_dir():
        raise UserError(f"The report needs a folder, and {out} is a file. Choose another folder.")
    page_path = out / "README.md"
    if page_path.exists() and not page_path.read_bytes().startswith(MARK.encode()):
        raise UserError(
            f"{page_path} was not written by a report and would be lost. Choose another folder, or "
            "move it."
        )
    runs = _in_order([read_run(folder) for folder in run_folders])
    _check_agreement(runs)
    rows = tuple(summarise(run) for run in runs)
    panels = panels_of(runs)
    methods = list(dict.fromkeys(run.method for run in runs))
    figure = draw_curves(panels, methods)
    histories = [history for run in runs if (history := read_reward_history(run))]
    reward_figure = draw_reward_histories(histories, methods) if histories else None
    likely = likelihood_panels(runs)
    likelihood_figure = draw_curves(likely, methods) if likely else None
    film = film_section(shown) if (shown := film_of(runs, out)) else ""
    varied = series_of(runs, rows)
    settings_figure = draw_series(varied) if varied else None
    drawn = {"reward": reward_figure, "likelihood": likelihood_figure, "settings": settings_figure}
    figures = [name for name, picture in drawn.items() if picture]
    page = write_page(runs, rows, title or "Results", intro, figures, film)

    # --- Write ---
    written = ReportResult(
        table=out / "table.csv",
        curves=out / "curves.csv",
        figure=out / "curves.png",
        reward=out / "reward.png" if reward_figure else None,
        likelihood=out / "likelihood.png" if likelihood_figure else None,
        settings=out / "settings.png" if settings_figure else None,
        page=page_path,
        rows=rows,
        online_transitions={
            run.method: run.record.online_transitions
            for run in runs
            if run.record.online_transitions
        },
        scorings={run.dataset: run.scoring for run in runs},
    )
    for name, picture in drawn.items():
        if picture:
            _write_picture(out / f"{name}.png", picture)
        elif page_path.exists():  # an earlier report's
            for kind in ("png", "pdf", "csv"):
                (out / f"{name}.{kind}").unlink(missing_ok=True)
    write_atomically(written.table, _table_csv(rows))
    if likely:
        ends = ("lowest", "highest")
        write_atomically(out / "likelihood.csv", _curves_csv(likely, ends))
    write_atomically(written.curves, _curves_csv(panels))
    _write_picture(written.figure, figure)
    write_atomically(written.page, page)
    return written


def _write_picture(path: Path, picture: Picture) -> None:
    """Write a PNG at `path` and the PDF beside it."""
    write_atomically(path, picture.png)
    write_atomically(path.with_suffix(".pdf"), picture.pdf)


def _in_order(runs: list[EvaluatedRun]) -> list[EvaluatedRun]:
    """Group by dataset, methods alike within each, both by first appearance."""
    datasets = list(dict.fromkeys(run.dataset for run in runs))
    methods = list(dict.fromkeys(run.method for run in runs))
    return sorted(runs, key=lambda run: (datasets.index(run.dataset), methods.index(run.method)))


def _check_agreement(runs: list[EvaluatedRun]) -> None:
    seen: dict[tuple[str, str], EvaluatedRun] = {}
    known: dict[str, EvaluatedRun] = {}
    for run in runs:
        twin = seen.setdefault((run.dataset, run.method), run)
        if twin is not run:
            raise UserError(
                f"{twin.folder} and {run.folder} are both '{run.method}' on {run.dataset}: a table "
                "has one line for each. Leave one out, or give them different method names."
            )
        other = known.setdefault(run.dataset, run)
        if other.scoring != run.scoring:
            raise UserError(
                f"{other.folder} and {run.folder} do not mean the same by {run.dataset}: one is "
                f"scored by {_said(other.scoring)}, the other by {_said(run.scoring)}. Report them "
                "apart."
            )
        ours, theirs = run.record.behaviour_score, other.record.behaviour_score
        if None not in (ours, theirs) and ours != theirs:
            raise UserError(
                f"{other.folder} and {run.folder} do not mean the same data by {run.dataset}: its "
                f"behaviour scores {theirs} in one and {ours} in the other. Train both on one "
                "dataset, or report them apart."
            )


def _said(scoring: Score) -> str:
    """What scores are, so that two that differ are told differently."""
    ends = "" if scoring.name != "normalised return" else f" ({scoring.low:g} to {scoring.high:g})"
    return f"{scoring.name}{ends}"


# --- Format ---


def _table_csv(rows: tuple[TableRow, ...]) -> str:
    header = tuple(column.name for column in fields(TableRow))
    return _csv([header, *(_decimals(astuple(row)) for row in rows)])


def _curves_csv(panels: list[Panel], ends: tuple[str, str] = ("ci_low", "ci_high")) -> str:
    lines = [("dataset", "method", "step", "mean", *ends)]
    for panel in panels:
        for curve in panel.curves:
            points = zip(curve.steps, curve.mean, curve.low, curve.high, strict=True)
            lines += [_decimals((panel.dataset, curve.method, *point)) for point in points]
    return _csv(lines)


def _decimals(cells: tuple) -> tuple[str, ...]:
    """Numbers to four places; what there is not, NaN, is an empty cell."""
    return tuple(
        f"{cell:.4f}".replace("nan", "") if isinstance(cell, float) else str(cell) for cell in cells
    )


def _csv(lines: list[tuple[str, ...]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue()
