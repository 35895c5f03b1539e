"""A report's page: Markdown around the numbers and figures, with what a reader must know."""

from cpl_bench.report.read import EvaluatedRun
from cpl_bench.report.table import CONFIDENCE, RESAMPLES, WINDOW, TableRow

ENOUGH_SEEDS = 4
"""With fewer, a bootstrap interval is little more than the range of the seeds."""
MARK = "<!-- Written by cpl-bench report: edits are lost. -->"


def write_page(
    runs: list[EvaluatedRun],
    rows: tuple[TableRow, ...],
    title: str,
    intro: str,
    shows_reward: bool,
) -> str:
    """The page of a report; it begins with MARK.

    Args:
        runs: grouped by dataset
        rows: one for each of the runs
        title: the heading
        intro: Markdown below it
        shows_reward: whether there is a `reward.png` to embed
    """
    parts = [MARK, f"# {title}"]
    if intro.strip():
        parts.append(intro.strip())
    online = any(run.record.online_transitions for run in runs)
    for dataset in dict.fromkeys(run.dataset for run in runs):
        parts += _dataset_section([run for run in runs if run.dataset == dataset], rows, online)
    parts += ["## Learning curves", "![Score against gradient steps](curves.png)", _CAPTION]
    if shows_reward:
        parts += ["## Learned reward against true return", _REWARD_FIGURE, _REWARD_CAPTION]
    parts += ["## How to read it", _definitions(runs, rows)]
    parts += ["## Commands", _commands(runs)]
    parts += ["## Versions", _versions(runs)]
    return "\n\n".join(parts) + "\n"


def _dataset_section(
    runs: list[EvaluatedRun], rows: tuple[TableRow, ...], online: bool
) -> list[str]:
    """Heading, behaviour, table (`online`: with online steps) and unfinished runs of a dataset."""
    dataset = runs[0].dataset
    scoring, steps = runs[0].scoring, {run.method: run.record.online_transitions for run in runs}
    last = f"last [{CONFIDENCE:.0%} interval]"
    header = ["method", "seeds", "episodes", "online steps", "peak", last, "IQM"]
    table = [header, ["---", *["--:"] * 6]]
    table += [
        [
            _cell(row.method),
            str(row.seeds),
            str(row.episodes),
            f"{steps[row.method]:,}" if steps[row.method] else "–",
            scoring.shown(row.peak),
            f"{scoring.shown(row.last)} [{scoring.shown(row.ci_low)}, "
            f"{scoring.shown(row.ci_high)}]",
            scoring.shown(row.iqm),
        ]
        for row in rows
        if row.dataset == dataset
    ]
    if not online:
        table = [cells[:3] + cells[4:] for cells in table]
    lines = [_line(cells) for cells in table]
    section = [f"## {dataset}"]
    section.append(_about(runs))
    section.append("\n".join(lines))
    section += [_unfinished(run) for run in runs if run.checkpoints[-1] < run.record.steps]
    return section


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
    return f"**Unfinished:** {run.method} stands at step {step:,} of {run.record.steps:,}{planned}."


_CAPTION = (
    "Mean over seeds of each checkpoint's score, as measured: nothing is smoothed. Band: "
    f"{CONFIDENCE:.0%} bootstrap interval of that mean over seeds. Dashed: the policy behind the "
    "data. Thin vertical line: the end of the first phase, where the runs of a panel agree on it. "
    "The numbers are in [curves.csv](curves.csv)."
)

_REWARD_FIGURE = "![Learned reward and true return against simulator steps](reward.png)"
_REWARD_CAPTION = (
    "For the methods that learn on the simulator: the reward model that they are paid by, which "
    "was learned from the preferences, and the environment's own, which they never see; both "
    "summed over an episode and averaged over the episodes that the policy collects. Each has an "
    "axis of its own: compare directions, not heights. Below: how far the policy has moved from "
    "the reference policy, as a KL divergence a step. Thick: mean over seeds; thin: one seed "
    "each. A point averages the training since the one before. Learned reward that rises while "
    "the true return falls is over-optimisation: the policy earns what the reward model wrongly "
    "promises."
)


def _definitions(runs: list[EvaluatedRun], rows: tuple[TableRow, ...]) -> str:
    text = (
        f"**peak**: running mean over {WINDOW} neighbouring checkpoints (all of them in a run "
        "that has fewer), then the mean over seeds, then the maximum over training, as in the "
        "paper's tables; it chooses its own moment and flatters unstable methods. **last**: mean "
        f"over seeds at the last checkpoint; in brackets its {CONFIDENCE:.0%} percentile interval "
        f"from a bootstrap over seeds ({RESAMPLES:,} resamples). **IQM**: interquartile mean over "
        "seeds, same checkpoint. **episodes**: per seed, behind last and IQM. Scores with four "
        "decimals are in [table.csv](table.csv)."
    )
    if any(run.record.online_transitions for run in runs):
        text += (
            " **online steps**: simulator steps that each seed took to learn from. Methods that "
            "have any interact with the simulator while they learn, the others (–) never do: "
            "between the two this is not a like-for-like comparison."
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
    lines = [
        f"{run.record.command or '(from Python)'}  # {run.method} on {run.dataset}" for run in runs
    ]
    return "\n".join(["```sh", *lines, "```"])


def _versions(runs: list[EvaluatedRun]) -> str:
    """One line; a package that differs between runs shows each version."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for package, version in run.record.versions.items():
            found.setdefault(package, set()).add(version)
    listed = [f"{name} {' / '.join(sorted(found[name]))}" for name in sorted(found)]
    return ", ".join(listed) + "." if listed else "None were recorded."


def _line(cells: list[str]) -> str:
    """A line of a Markdown table, its ruler written tight."""
    ruler = cells[0].startswith("---")
    return f"|{'|'.join(cells)}|" if ruler else f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
