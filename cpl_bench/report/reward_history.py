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
from cpl_bench.report.figure import HEADING, WIDTH, Picture, Style, frame, head, picture, styles_of
from cpl_bench.report.read import EvaluatedRun
from cpl_bench.runs.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PHASE = "ppo"
METRICS = ("transitions", "learned_reward", "true_return", "kl_to_reference")
SUCCESSES = "rollout_success"
"""Not every file has it."""
HEADING_WIDTH = 90
"""Letters in a line of a row's heading."""
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
    success: NDArray[np.float64] | None
    """(s, t) share of the collected episodes that succeeded, where it was noted and counts."""


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
    found = read_metrics(path, PHASE, (*METRICS, SUCCESSES))
    if not found[SUCCESSES] or not run.scoring.is_success:
        del found[SUCCESSES]
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
    success = tables.get(SUCCESSES)
    return RewardHistory(
        run.dataset, run.method, transitions.mean(axis=0), learned, true, kl, success
    )


def draw_reward_histories(histories: list[RewardHistory], methods: list[str]) -> Picture:
    """Draw a row a run: learned reward, true return, success and divergence side by side.

    Success is left out if a run lacks it. The same bytes for the same input.

    Args:
        histories: in the order of reading
        methods: every method of the report, which decides the colours
    """
    styles, rows = styles_of(methods), len(histories)
    with_success = all(history.success is not None for history in histories)

    def draw(figure: "Figure") -> None:
        columns = 4 if with_success else 3
        grid = figure.add_gridspec(2 * rows, columns, height_ratios=(HEADING, 1) * rows)
        for row, history in enumerate(histories):
            name = f"{history.method}, {history.dataset}"
            head(figure, grid[2 * row, :], fill(name, HEADING_WIDTH, break_on_hyphens=False))
            first = figure.add_subplot(grid[2 * row + 1, 0])
            others = [
                figure.add_subplot(grid[2 * row + 1, column], sharex=first)
                for column in range(1, columns)
            ]
            _draw_row([first, *others], history, styles[history.method], with_success)
        figure.supxlabel("simulator steps a seed", fontsize=10)

    return picture(WIDTH, 2.2 * rows + 0.3, draw)


def _draw_row(beside: list["Axes"], history: RewardHistory, style: Style, success: bool) -> None:
    tables = {"learned reward": history.learned, "true return": history.true}
    if success and history.success is not None:
        tables["success (%)"] = 100 * history.success
    tables["KL (nats)"] = history.kl
    for axes, (label, table) in zip(beside, tables.items(), strict=True):
        if len(table) > 1:
            axes.plot(history.transitions, table.T, color=style.colour, linewidth=0.6, alpha=0.45)
        axes.plot(
            history.transitions,
            table.mean(axis=0),
            color=style.colour,
            linewidth=1.8,
            marker=style.marker if len(history.transitions) == 1 else "",
        )
        axes.set_title(label, loc="left", fontsize=10)
        axes.locator_params(axis="y", nbins=4)
        if label == "success (%)":
            axes.set_ylim(-3, 103)
            axes.set_yticks(range(0, 101, 25))
        frame(axes, numbers=3)
