"""The figure that shows reward hacking: the reward a policy learned to earn, and what it earns.

A reward model is right about behaviour like that in its data. A policy that optimises it on the
simulator can leave that behaviour for where the model errs: its learned reward goes on rising, and
its true return falls. The numbers are the run's own, from `metrics.csv`.
"""

from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpl_bench.core.errors import UserError
from cpl_bench.report.figure import COLOURS, picture, plain
from cpl_bench.report.read import EvaluatedRun
from cpl_bench.runs.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PHASE = "ppo"
METRICS = ("transitions", "learned_reward", "true_return", "kl_to_reference")
TITLE_WIDTH = 36
"""Letters in a line of a panel's title: what the narrowest panel holds."""
LEARNED, TRUE, KL = COLOURS[1], COLOURS[0], COLOURS[2]
_REMEDY = "Resume its training with --resume, or train it again."


@dataclass(frozen=True)
class RewardHistory:
    """What s seeds of a run noted at t moments of their training on the simulator."""

    dataset: str
    method: str
    transitions: NDArray[np.float64]
    """(t,) simulator steps that a seed had taken."""
    learned: NDArray[np.float64]
    """(s, t) sum of the learned reward over an episode, averaged over the episodes collected."""
    true: NDArray[np.float64]
    """(s, t) the same of the environment's reward."""
    kl: NDArray[np.float64]
    """(s, t) the policy's divergence from the reference policy in nats, a step's on average."""


def read_reward_history(run: EvaluatedRun) -> RewardHistory | None:
    """What a run noted of its rewards; None if it kept no notes, or was not paid a learned reward.

    Numbers that are not finite, as a run that diverged has them, become NaN.

    Raises:
        UserError: `metrics.csv` is damaged; the line is named.
    """
    path = run.folder / "metrics.csv"
    was_paid_it = run.record.online_transitions and dict(run.record.phases).get("reward")
    if not was_paid_it or not path.exists():
        return None
    found = read_metrics(path, PHASE, METRICS)
    if not all(found.values()):
        return None
    moments = sorted({place for values in found.values() for place in values})
    steps, seeds = (sorted({place[i] for place in moments}) for i in (0, 1))
    if len(seeds) != len(run.last):
        raise UserError(f"{path} holds {len(seeds)} seeds of the run's {len(run.last)}. {_REMEDY}")
    tables = {}
    for metric, values in found.items():
        missing = [(step, seed) for step in steps for seed in seeds if (step, seed) not in values]
        if missing:
            raise UserError(
                f"{path}: '{metric}' of seed {missing[0][1]} at step {missing[0][0]} is missing. "
                f"{_REMEDY}"
            )
        table = np.array([[values[step, seed] for step in steps] for seed in seeds])  # (s, t)
        tables[metric] = np.where(np.isfinite(table), table, np.nan)
    transitions, learned, true, kl = (tables[metric] for metric in METRICS)
    return RewardHistory(run.dataset, run.method, transitions.mean(axis=0), learned, true, kl)


def draw_reward_histories(histories: list[RewardHistory]) -> bytes:
    """Draw a panel a run, with the divergence from the reference policy below it.

    Returns a PNG, the same bytes for the same input.
    """
    columns = 2 if len(histories) == 4 else min(len(histories), 3)
    rows = -(-len(histories) // columns)
    width = {1: 6.4, 2: 5.0}.get(columns, 4.2)

    def draw(figure: "Figure") -> None:
        grid = figure.subplots(
            2 * rows, columns, squeeze=False, gridspec_kw={"height_ratios": [2.2, 1] * rows}
        )
        for place in range(rows * columns):
            row, column = divmod(place, columns)
            upper, lower = grid[2 * row, column], grid[2 * row + 1, column]
            if place < len(histories):
                _draw_panel(upper, lower, histories[place])
            else:
                upper.set_visible(False)
                lower.set_visible(False)
        figure.align_ylabels(grid)

    dpi = 150 if rows == 1 else 110  # its many thin lines make a large file
    return picture(columns * width, rows * 4.4, draw, dpi)


def _draw_panel(upper: "Axes", lower: "Axes", history: RewardHistory) -> None:
    right = upper.twinx()
    for axes, table, colour, dash, label in (
        (upper, history.learned, LEARNED, "--", "learned reward (dashed)"),
        (right, history.true, TRUE, "-", "true return (solid)"),
        (lower, history.kl, KL, "-", "KL (nats)"),
    ):
        if len(table) > 1:
            axes.plot(history.transitions, table.T, color=colour, linewidth=0.6, alpha=0.45)
        axes.plot(
            history.transitions,
            table.mean(axis=0),
            color=colour,
            linestyle=dash,
            linewidth=1.8,
            marker="o" if len(history.transitions) == 1 else "",
        )
        axes.set_ylabel(label, color=colour)
        axes.tick_params(axis="y", labelcolor=colour)
        axes.spines["top"].set_visible(False)
        axes.margins(x=0.03)
        axes.locator_params(axis="x", nbins=6)
        axes.xaxis.set_major_formatter(_thousands)
    for axes in (upper, lower):
        axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
        axes.set_axisbelow(True)
    lower.spines["right"].set_visible(False)
    lower.sharex(upper)
    upper.tick_params(axis="x", labelbottom=False)
    lower.set_xlabel("simulator steps a seed")
    title = fill(f"{history.method}, {history.dataset}", TITLE_WIDTH, break_on_hyphens=False)
    upper.set_title(plain(title), loc="left", fontweight="bold")


def _thousands(steps: float, _: object) -> str:
    return f"{steps / 1000:g}k" if steps else "0"
