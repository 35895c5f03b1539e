"""The verb `report`: run folders in; a table, learning curves and a page out."""

import csv
import io
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from cpl_bench.curves import Panel, draw_curves
from cpl_bench.errors import UserError
from cpl_bench.evaluated import EvaluatedRun, read_run
from cpl_bench.files import write_atomically
from cpl_bench.summary import CONFIDENCE, RESAMPLES, WINDOW, TableRow, panels_of, summarise

ENOUGH_SEEDS = 4
"""With fewer, a bootstrap interval is little more than the range of the seeds."""
MARK = "<!-- Written by cpl-bench report: edits are lost. -->"


@dataclass(frozen=True)
class ReportResult:
    """The files that were written, and the table."""

    table: Path
    curves: Path
    figure: Path
    page: Path
    rows: tuple[TableRow, ...]


def report(run_folders: list[Path], out: Path, title: str = "", intro: str = "") -> ReportResult:
    """Compare runs: `table.csv`, `curves.csv`, `curves.png` and `README.md` in the folder `out`.

    Datasets and methods keep the order in which the folders first name them. The same folders give
    the same bytes. Everything is computed before the first file is written.

    Args:
        run_folders: `runs/<dataset>/<algorithm>[-note]/`, each a method on a dataset
        out: made if need be; the files of an earlier report are replaced, no other README is
        title: the page's heading
        intro: Markdown below it

    Raises:
        UserError: a folder is no run folder or is damaged, two folders contradict each other,
            or `out` is no place for a report.
    """
    if not run_folders:
        raise UserError(
            "There are no runs to report on. Name run folders, such as runs/drawer-open/*."
        )
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
    figure = draw_curves(panels, list(dict.fromkeys(run.method for run in runs)))
    page = _page(runs, rows, title or "Results", intro)

    # --- Write ---
    written = ReportResult(
        out / "table.csv", out / "curves.csv", out / "curves.png", page_path, rows
    )
    write_atomically(written.table, _table_csv(rows))
    write_atomically(written.curves, _curves_csv(panels))
    write_atomically(written.figure, figure)
    write_atomically(written.page, page)
    return written


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
        if run.behaviour_success is None:
            continue
        other = known.setdefault(run.dataset, run)
        if other.behaviour_success != run.behaviour_success:
            raise UserError(
                f"{other.folder} and {run.folder} do not mean the same data by {run.dataset}: its "
                f"behaviour success is {other.behaviour_success} in one and "
                f"{run.behaviour_success} in the other. Train both on one dataset, or report them "
                "apart."
            )


# --- Format ---


def _table_csv(rows: tuple[TableRow, ...]) -> str:
    header = tuple(column.name for column in fields(TableRow))
    return _csv([header, *(_decimals(astuple(row)) for row in rows)])


def _curves_csv(panels: list[Panel]) -> str:
    lines = [("dataset", "method", "step", "mean", "ci_low", "ci_high")]
    for panel in panels:
        for curve in panel.curves:
            points = zip(curve.steps, curve.mean, curve.low, curve.high, strict=True)
            lines += [_decimals((panel.dataset, curve.method, *point)) for point in points]
    return _csv(lines)


def _decimals(cells: tuple) -> tuple[str, ...]:
    return tuple(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in cells)


def _csv(lines: list[tuple[str, ...]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue()


def _page(runs: list[EvaluatedRun], rows: tuple[TableRow, ...], title: str, intro: str) -> str:
    parts = [MARK, f"# {title}"]
    if intro.strip():
        parts.append(intro.strip())
    for dataset in dict.fromkeys(run.dataset for run in runs):
        parts += _dataset_section([run for run in runs if run.dataset == dataset], rows)
    parts += ["## Learning curves", "![Success rate against gradient steps](curves.png)", _CAPTION]
    parts += ["## How to read it", _definitions(runs, rows)]
    parts += ["## Commands", _commands(runs)]
    parts += ["## Versions", _versions(runs)]
    return "\n\n".join(parts) + "\n"


def _dataset_section(runs: list[EvaluatedRun], rows: tuple[TableRow, ...]) -> list[str]:
    """Heading, behaviour, table and unfinished runs of one dataset."""
    dataset = runs[0].dataset
    lines = [
        f"| method | seeds | episodes | peak | last [{CONFIDENCE:.0%} interval] | IQM |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {_cell(row.method)} | {row.seeds} | {row.episodes} | {_percent(row.peak)} | "
        f"{_percent(row.last)} [{_percent(row.ci_low)}, {_percent(row.ci_high)}] | "
        f"{_percent(row.iqm)} |"
        for row in rows
        if row.dataset == dataset
    ]
    section = [f"## {dataset}"]
    behaviour = [run.behaviour_success for run in runs if run.behaviour_success is not None]
    if behaviour:
        section.append(
            "Success in percent. The policy behind the data succeeds in "
            f"{_percent(behaviour[0])} % of its episodes."
        )
    else:
        section.append("Success in percent.")
    section.append("\n".join(lines))
    section += [
        f"**Unfinished:** {run.method} stands at step {run.checkpoints[-1]:,} of {run.steps:,}."
        for run in runs
        if run.checkpoints[-1] < run.steps
    ]
    return section


_CAPTION = (
    "Mean over seeds of each checkpoint's success rate, as measured: nothing is smoothed. Band: "
    f"{CONFIDENCE:.0%} bootstrap interval of that mean over seeds. Dashed: the policy behind the "
    "data. Thin vertical line: the end of the first phase, where the runs of a panel agree on it. "
    "The numbers are in [curves.csv](curves.csv)."
)


def _definitions(runs: list[EvaluatedRun], rows: tuple[TableRow, ...]) -> str:
    text = (
        f"**peak**: running mean over {WINDOW} neighbouring checkpoints (all of them in a run "
        "that has fewer), then the mean over seeds, then the maximum over training, as in the "
        "paper's tables; it chooses its own moment and flatters unstable methods. **last**: mean "
        f"over seeds at the last checkpoint; in brackets its {CONFIDENCE:.0%} percentile interval "
        f"from a bootstrap over seeds ({RESAMPLES:,} resamples). **IQM**: interquartile mean over "
        "seeds, same checkpoint. **episodes**: per seed, behind last and IQM. Rates with four "
        "decimals are in [table.csv](table.csv)."
    )
    if any(row.seeds == 1 for row in rows):
        text += " The interval of a single seed is a point and says nothing about other seeds."
    if any(1 < row.seeds < ENOUGH_SEEDS for row in rows):
        text += (
            f" With fewer than {ENOUGH_SEEDS} seeds the interval is nearly the range of the seeds: "
            "read it as that, not as a confidence statement."
        )
    if any(row.peak < row.last for row in rows):
        text += (
            " A peak below last is no mistake: its window reaches back to weaker checkpoints, in a "
            "short run to all of them."
        )
    return text


def _commands(runs: list[EvaluatedRun]) -> str:
    lines = [f"{run.command or '(from Python)'}  # {run.method} on {run.dataset}" for run in runs]
    return "\n".join(["```sh", *lines, "```"])


def _versions(runs: list[EvaluatedRun]) -> str:
    """One line; a package that differs between runs shows each version."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for package, version in run.versions.items():
            found.setdefault(package, set()).add(version)
    listed = [f"{name} {' / '.join(sorted(found[name]))}" for name in sorted(found)]
    return ", ".join(listed) + "." if listed else "None were recorded."


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
