"""A report's page: Markdown around the numbers and figures, with what a reader must know."""

from math import isnan

from cpl_bench.core.errors import in_a_line
from cpl_bench.core.score import SATURATED, SUCCESS, Score
from cpl_bench.report import aggregates, intervals
from cpl_bench.report.aggregates import Estimate, Overall, over_tasks
from cpl_bench.report.data import about_data, is_stale
from cpl_bench.report.intervals import CONFIDENCE
from cpl_bench.report.markdown import cell, table
from cpl_bench.report.read import EvaluatedRun
from cpl_bench.report.table import WINDOW, TableRow

INTERVAL = f"[{CONFIDENCE:.0%} interval]"
MARK = "<!-- Written by cpl-bench report: edits are lost. -->"


def write_page(
    runs: list[EvaluatedRun],
    rows: tuple[TableRow, ...],
    title: str,
    intro: str,
    shows_reward: bool,
    film: str = "",
) -> str:
    """The page of a report; it begins with MARK.

    Args:
        runs: grouped by dataset
        rows: one for each of the runs
        title: the heading
        intro: Markdown below it
        shows_reward: whether there is a `reward.png` to embed
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
    parts += ["## Learning curves", "![Score against gradient steps](curves.png)", _CAPTION]
    if shows_reward:
        parts += ["## Learned reward against true return", _REWARD_FIGURE, _REWARD_CAPTION]
    if film:
        parts.append(film)
    parts += ["## How to read it", _definitions(runs, rows)]
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
        "seeds": lambda row: str(row.seeds),
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
    unfinished = [_unfinished(run) for run in runs if run.checkpoints[-1] < run.record.steps]
    notes = [about_data(runs), *unfinished]
    if scoring.is_share and any(row.last >= SATURATED for row in ours):
        notes.append(_SATURATED)
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


def _unfinished(run: EvaluatedRun) -> str:
    planned = ""
    if run.record.online_transitions:
        planned = "; its online steps are planned: those of the whole run"
    step = run.checkpoints[-1]
    where = f"stands at step {step:,} of {run.record.steps:,}{planned}"
    return f"**Unfinished:** {cell(run.method)} {where}."


_SATURATED = (
    f"**Saturated:** a method reaches {SATURATED:.0%} or more. These data tell a method that "
    "learns from one that does not, and no good one from a better."
)
_CAPTION = (
    "Mean over seeds of each checkpoint's score, as measured: nothing is smoothed. Band: "
    f"{CONFIDENCE:.0%} {intervals.NAME} of that checkpoint, for seeds and episodes, as in the "
    "tables. Dashed: the policy behind the data. Thin vertical line: the end of the first phase, "
    "where the runs of a panel agree on it. Where a dataset has more than four methods, each has a "
    "panel, and the others are grey behind it. The numbers are in [curves.csv](curves.csv), the "
    "figure for print is [curves.pdf](curves.pdf)."
)

_REWARD_FIGURE = "![Learned reward and true return against simulator steps](reward.png)"
_REWARD_CAPTION = (
    "For the methods that learn on the simulator: the reward model that they are paid by, which "
    "was learned from the preferences, and the environment's own, which they never see, both "
    "summed over an episode and averaged over the episodes that the policy collects; how many of "
    "those succeed, where that is what counts; and how far the policy has moved from the reference "
    "policy, as a KL divergence a step. Each panel has a scale of its own: compare directions, not "
    "heights. Thick: mean over seeds; thin: one seed each. A point averages the training since the "
    "one before. Learned reward that rises while the true return falls is over-optimisation: the "
    "policy earns what the reward model wrongly promises. For print: [reward.pdf](reward.pdf)."
)


def _definitions(runs: list[EvaluatedRun], rows: tuple[TableRow, ...]) -> str:
    models = list(dict.fromkeys(intervals.model_of(run.scoring.is_success) for run in runs))
    text = (
        "**last**: mean over seeds at the last checkpoint; in brackets its "
        f"{CONFIDENCE:.0%} {intervals.NAME} ({', '.join(models)}), which accounts for seeds and "
        "episodes: it says what to expect of new ones. **IQM**: interquartile mean over seeds, "
        "same checkpoint. **episodes**: per seed, behind last and IQM. Scores with four decimals "
        "are in [table.csv](table.csv)."
    )
    short = [isnan(row.peak) for row in rows]
    if not all(short):
        text += (
            f" **peak**: running mean over {WINDOW} neighbouring checkpoints, then the mean over "
            "seeds, then the maximum over training, as in the paper's tables; it chooses its own "
            "moment and flatters unstable methods."
        )
        if any(short):
            text += f" A run of fewer than {2 * WINDOW} checkpoints has none."
    if any(run.record.online_transitions for run in runs):
        text += (
            " **online steps**: simulator steps that each seed took to learn from. Methods that "
            "have any interact with the simulator while they learn, the others (–) never do: "
            "between the two this is not a like-for-like comparison."
        )
    if any(row.seeds == 1 for row in rows):
        text += (
            " The interval of a single seed accounts for its episodes only and says nothing about "
            "other seeds."
        )
    if any(len(run.last) == 2 and run.scoring.is_success for run in runs):
        text += (
            " With two seeds the interval rests on an assumption of how far seeds differ: in "
            f"simulations it covers the truth at least {intervals.TWO_SEEDS:.0%} of the time while "
            "their true rates spread by 15 points or less, and "
            f"{intervals.TWO_SEEDS_WIDE:.0%} where they spread by 30."
        )
    if any(len(run.last) == 2 and not run.scoring.is_success for run in runs):
        text += (
            " With two seeds the interval of a return covers the truth at least "
            f"{intervals.TWO_SEEDS_RETURNS:.0%} of the time in simulations."
        )
    if any(run.scoring.name == "normalised return" for run in runs):
        text += (
            " Returns are taken to be normal: where most episodes are near a ceiling and a few "
            "fail, the interval is too narrow."
        )
    if any(row.peak < row.last for row in rows):
        text += " A peak below last is no mistake: its window reaches back to weaker checkpoints."
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
