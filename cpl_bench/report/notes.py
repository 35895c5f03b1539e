"""What a report's page says beside its numbers: definitions, captions, what went wrong."""

from math import isnan

from cpl_bench.core.score import SATURATED
from cpl_bench.report import intervals
from cpl_bench.report.intervals import CONFIDENCE
from cpl_bench.report.markdown import cell
from cpl_bench.report.read import EvaluatedRun
from cpl_bench.report.table import WINDOW, TableRow


def unfinished(run: EvaluatedRun) -> str:
    """Of a run that stands before its end."""
    planned = ""
    if run.record.online_transitions:
        planned = "; its online steps are planned: those of the whole run"
    step = run.checkpoints[-1]
    where = f"stands at step {step:,} of {run.record.steps:,}{planned}"
    return f"**Unfinished:** {cell(run.method)} {where}."


def failed(run: EvaluatedRun) -> str:
    """Of a run with seeds that diverged."""
    since = ", ".join(f"seed {seed} at step {step:,}" for seed, step in run.record.diverged)
    return f"**Failed:** {cell(run.method)} diverged, {since}, and counts as 0 from there on."


SATURATION = (
    f"**Saturated:** a method reaches {SATURATED:.0%} or more. These data tell a method that "
    "learns from one that does not, and no good one from a better."
)
CAPTION = (
    "Mean over seeds of each checkpoint's score, as measured: nothing is smoothed. Band: "
    f"{CONFIDENCE:.0%} {intervals.NAME} of that checkpoint, for seeds and episodes, as in the "
    "tables. Dashed: the policy behind the data. Thin vertical line: the end of the first phase, "
    "where the runs of a panel agree on it. Where a dataset has more than four methods, each has a "
    "panel, and the others are grey behind it. The numbers are in [curves.csv](curves.csv), the "
    "figure for print is [curves.pdf](curves.pdf)."
)

LIKELIHOOD_FIGURE = "![Log-likelihood of the data against gradient steps](likelihood.png)"
LIKELIHOOD_CAPTION = (
    "log π of the data's actions under the policy that acts, −‖μ(s) − a‖², the mean over the steps "
    "of 100 segments: the same for every method, whatever its own loss sees. 0: the policy does "
    "what the data do. A line that falls is a policy that leaves them: some way is what learning "
    "takes, all the way is running off. Mean over seeds, between the lowest and the highest. The "
    "numbers are in [likelihood.csv](likelihood.csv), for print: "
    "[likelihood.pdf](likelihood.pdf). Runs that did not note it are left out."
)

SETTINGS_FIGURE = "![Last score against a setting](settings.png)"
SETTINGS_CAPTION = (
    "Runs that differ in one number of their settings and in nothing else: *last* of the tables "
    f"and its {CONFIDENCE:.0%} interval against that number, a line a dataset. The numbers stand "
    "at equal distances. For print: [settings.pdf](settings.pdf)."
)

REWARD_FIGURE = "![Learned reward and true return against simulator steps](reward.png)"
REWARD_CAPTION = (
    "For the methods that learn on the simulator: the reward model that they are paid by, which "
    "was learned from the preferences, and the environment's own, which they never see, both "
    "summed over an episode and averaged over the episodes that the policy collects; how many of "
    "those succeed, where that is what counts; and how far the policy has moved from the reference "
    "policy, as a KL divergence a step. Each panel has a scale of its own: compare directions, not "
    "heights. Thick: mean over seeds; thin: one seed each. A point averages the training since the "
    "one before. Learned reward that rises while the true return falls is over-optimisation: the "
    "policy earns what the reward model wrongly promises. For print: [reward.pdf](reward.pdf)."
)


def definitions(runs: list[EvaluatedRun], rows: tuple[TableRow, ...]) -> str:
    """How to read the numbers on this page."""
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
