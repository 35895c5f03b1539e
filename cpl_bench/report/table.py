"""The numbers of a report: a table row and a learning curve for every run."""

from dataclasses import dataclass

import numpy as np

from cpl_bench.core.published import SHOWN
from cpl_bench.report import stats
from cpl_bench.report.intervals import mean_intervals
from cpl_bench.report.panels import Curve, Panel
from cpl_bench.report.read import EvaluatedRun

WINDOW = 8
"""Neighbouring checkpoints that the peak rule averages."""


@dataclass(frozen=True)
class TableRow:
    """One method on one dataset; its fields are the columns of `table.csv`; shares of 0 to 1."""

    dataset: str
    method: str
    seeds: int
    """How many."""
    episodes: int
    """Episodes per seed behind `last`, `iqm` and the interval."""
    peak: float
    """The paper's rule, `stats.peak`, on the evaluations during training; NaN where there are fewer
    than two windows to choose from."""
    last: float
    """Mean over seeds at the last checkpoint."""
    iqm: float
    """Interquartile mean over seeds at the last checkpoint."""
    ci_low: float
    """Lower end of the 95 % interval of `last`, `intervals.mean_intervals`."""
    ci_high: float
    failed: int
    """How many of the seeds diverged; they count as 0."""
    data: str
    """The beginning of the hash of the preferences, if it is known: rows compare where it is the
    same."""


def summarise(run: EvaluatedRun) -> TableRow:
    """The row of one run, by the definitions in `TableRow`."""
    last, info = run.last[:, None], run.record.preferences  # (seeds, 1 task)
    low, high = mean_intervals([run.final], run.scoring.is_success)
    return TableRow(
        dataset=run.dataset,
        method=run.method,
        seeds=len(run.last),
        episodes=run.last_episodes,
        peak=stats.peak(run.scores, WINDOW) if len(run.checkpoints) >= 2 * WINDOW else np.nan,
        last=stats.mean(last),
        iqm=stats.iqm(last),
        ci_low=float(low[0]),
        ci_high=float(high[0]),
        failed=len(run.record.diverged_by(int(run.checkpoints[-1]))),
        data=info.preferences_hash[:SHOWN],
    )


def panels_of(runs: list[EvaluatedRun]) -> list[Panel]:
    """A panel a dataset, by first appearance; its runs keep their order."""
    panels = []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        ours = [run for run in runs if run.dataset == dataset]
        behaviour = [score for run in ours if (score := run.record.behaviour_score) is not None]
        boundaries = {run.record.phases[0][1] for run in ours if len(run.record.phases) > 1}
        panels.append(
            Panel(
                dataset=dataset,
                scoring=ours[0].scoring,
                curves=tuple(_curve(run) for run in ours),
                behaviour=behaviour[0] if behaviour else None,
                boundary=boundaries.pop() if len(boundaries) == 1 else None,
            )
        )
    return panels


def _curve(run: EvaluatedRun) -> Curve:
    low, high = mean_intervals(run.episodes, run.scoring.is_success)
    return Curve(run.method, run.checkpoints, run.scores.mean(axis=0), low, high)
