"""A report's page: Markdown around the numbers and figures, with what a reader must know."""

from collections.abc import Collection
from math import isnan

from cpl_bench.core.errors import in_a_line
from cpl_bench.core.score import SATURATED, SUCCESS, Score
from cpl_bench.report import aggregates, intervals
from cpl_bench.report.aggregates import Estimate, Overall, over_tasks
from cpl_bench.report.data import about_data, is_stale
from cpl_bench.report.intervals import CONFIDENCE
from cpl_bench.report.markdown import cell, table
from cpl_bench.report.notes import (
    CAPTION,
    LIKELIHOOD_CAPTION,
    LIKELIHOOD_FIGURE,
    REWARD_CAPTION,
    REWARD_FIGURE,
    SATURATION,
    SETTINGS_CAPTION,
    SETTINGS_FIGURE,
    definitions,
    failed,
    unfinished,
)
from cpl_bench.report.read import EvaluatedRun
from cpl_bench.report.table import TableRow

INTERVAL = f"[{CONFIDENCE:.0%} interval]"
MARK = "<!-- Written by cpl-bench report: edits are lost. -->"


def write_page(
    runs: list[EvaluatedRun],
    rows: tuple[TableRow, ...],
    title: str,
    intro: str,
    figures: Collection[str] = (),
    film: str = "",
) -> str:
    """The page of a report; it begins with MARK.

    Args:
        runs: grouped by dataset
        rows: one for each of the runs
        title: the heading
        intro: Markdown below it
        figures: which there are besides the curves: `likelihood`, `settings`, `reward`
        film: Markdown of a section of its own
    """
    parts = [MARK, f"# {title}"]
    if stale := [run for run in runs if is_stale(run)]:
        parts.append(
            f"> **Stale:** {len(stale)} of the {len(runs)} runs on this page saw other data than "
            "their cards publish now. Their numbers stand as they were measured."
        )
    if intro.strip():
        parts.append(intro.strip())
    for dataset in dict.fromkeys(run.dataset for run in runs):
        parts += _dataset_section([run for run in runs if run.dataset == dataset], runs, rows)
    if overall := over_tasks(runs):
        parts += _overall_section(overall)
    parts += ["## Learning curves", "![Score against gradient steps](curves.png)", CAPTION]
    if "settings" in figures:
        parts += ["## Score against a setting", SETTINGS_FIGURE, SETTINGS_CAPTION]
    if "likelihood" in figures:
        parts += ["## How likely the data are", LIKELIHOOD_FIGURE, LIKELIHOOD_CAPTION]
    if "reward" in figures:
        parts += ["## Learned reward against true return", REWARD_FIGURE, REWARD_CAPTION]
    if film:
        parts.append(film)
    parts += ["## How to read it", definitions(runs, rows)]
    parts += ["## Commands", _commands(runs)]
    parts += ["## Versions", _versions(runs)]
    return "\n\n".join(parts) + "\n"


def _dataset_section(
    runs: list[EvaluatedRun], page: list[EvaluatedRun], rows: tuple[TableRow, ...]
) -> list[str]:
    """Heading, behaviour, table and unfinished runs of a dataset; `page` decides the columns."""
    scoring, steps = runs[0].scoring, {run.method: run.record.online_transitions for run in runs}
    columns = {
        "method": lambda row: cell(row.method),
        "seeds": lambda row: f"{row.seeds}, {row.failed} failed" if row.failed else f"{row.seeds}",
        "episodes": lambda row: str(row.episodes),
        "online steps": lambda row: f"{steps[row.method]:,}" if steps[row.method] else "–",
        "peak": lambda row: "–" if isnan(row.peak) else scoring.shown(row.peak),
        f"last {INTERVAL}": lambda row: _shown(
            Estimate(row.last, row.ci_low, row.ci_high), scoring
        ),
        "IQM": lambda row: scoring.shown(row.iqm),
    }
    if not any(run.record.online_transitions for run in page):
        del columns["online steps"]
    if all(isnan(row.peak) for row in rows):
        del columns["peak"]
    ours = [row for row in rows if row.dataset == runs[0].dataset]
    shown = table(list(columns), [[show(row) for show in columns.values()] for row in ours])
    notes = [about_data(runs)]
    notes += [unfinished(run) for run in runs if run.checkpoints[-1] < run.record.steps]
    notes += [failed(run) for run in runs if run.record.diverged]
    if scoring.is_share and any(row.last >= SATURATED for row in ours):
        notes.append(SATURATION)
    return [f"## {runs[0].dataset}", _about(runs), shown, *notes]


def _overall_section(overall: Overall) -> list[str]:
    """Heading, table and definitions of what is aggregated over tasks."""
    rows = [[cell(row.method), _shown(row.iqm), _shown(row.mean)] for row in overall.rows]
    header = ["method", f"IQM {INTERVAL}", f"mean {INTERVAL}"]
    text = (
        f"In percent, over the runs × tasks of {', '.join(overall.tasks)}, at the last checkpoint. "
        "**IQM**: interquartile mean of all runs. **mean**: over tasks of each task's mean. "
    )
    if len(overall.rows) > 1:
        header.append(f"P({cell(overall.best)} is better) {INTERVAL}")
        for cells, row in zip(rows, overall.rows, strict=True):
            cells.append(_shown(row.beaten) if row.beaten else "–")
        text += (
            "**P**: how probably a run of the method with the highest IQM beats a run of this one "
            "on the same task; a tie counts half. "
        )
    text += (
        f"Intervals: the {intervals.NAME} of what each would be over very many new seeds, by "
        f"their true scores and with as many on each task ({aggregates.DRAWS:,} draws from the "
        "posteriors behind the tables above)."
    )
    if overall.fewest == 2:
        text += (
            " With two seeds on a task they cover the truth at least "
            f"{aggregates.TWO_SEEDS:.0%} of the time in simulations."
        )
    elif overall.fewest == 1:
        text += " A single seed's part accounts for its episodes only."
    if overall.unscaled:
        text += f" Left out, for plain returns have no common scale: {', '.join(overall.unscaled)}."
    if overall.elsewhere:
        text += f" Left out, for they miss a task: {', '.join(overall.elsewhere)}."
    return ["## Over all tasks", table(header, rows), text]


def _about(runs: list[EvaluatedRun]) -> str:
    """What the numbers are, and what to compare them with."""
    scoring, task = runs[0].scoring, runs[0].record.task
    text = f"{scoring.name.capitalize()} in percent." if scoring.is_share else "Mean return."
    if scoring.name == "normalised return":
        text += f" 0 % is a return of {scoring.low:g}, 100 % one of {scoring.high:g}."
    known = [score for run in runs if (score := run.record.behaviour_score) is not None]
    if known and scoring.is_success:
        share = scoring.shown(known[0])
        text += f" The policy behind the data succeeds in {share} % of its episodes."
    elif known:
        text += f" The policy behind the data achieves {scoring.shown(known[0])}{scoring.unit}."
    if task and task.references:
        text += f" For orientation, from {task.name}'s card: {task.references}."
    return text


def _commands(runs: list[EvaluatedRun]) -> str:
    lines = [
        f"{in_a_line(run.record.command) or '(from Python)'}  # {run.method} on {run.dataset}"
        for run in runs
    ]
    return "\n".join(["```sh", *lines, "```"])


def _versions(runs: list[EvaluatedRun]) -> str:
    """One line; what differs between runs is shown for each."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for package, version in run.record.versions.items():
            found.setdefault(package, set()).add(version)
    listed = [f"{name} {' / '.join(sorted(found[name]))}" for name in sorted(found)]
    text = ", ".join(listed) + "." if listed else "None were recorded."
    chips = sorted({str(run.record.machine.get("processor", "unknown")) for run in runs})
    return f"{text} Processor: {' / '.join(chips)}."


def _shown(estimate: Estimate, scoring: Score = SUCCESS) -> str:
    low, high = scoring.shown(estimate.low), scoring.shown(estimate.high)
    return f"{scoring.shown(estimate.value)} [{low}, {high}]"
