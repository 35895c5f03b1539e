"""Over all tasks of a report: aggregates of the methods that ran on every one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cpl_bench.report import stats
from cpl_bench.report.intervals import CONFIDENCE
from cpl_bench.report.read import EvaluatedRun
from cpl_bench.report.stats import Scores

NAME = "stratified two-level bootstrap"
"""How its intervals are made, as pages call it."""
RESAMPLES = 2000
BOOTSTRAP_SEED = 0

Statistic = Callable[..., Scores]
"""Takes the scores of each task's runs, (resamples, runs); gives (resamples,)."""


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Aggregate:
    """One method over all tasks."""

    method: str
    iqm: Estimate
    """Interquartile mean over runs × tasks."""
    mean: Estimate
    """Mean over tasks of each task's mean over runs."""
    beaten: Estimate | None
    """How probably a run of the best method beats one of this; None of the best itself."""


@dataclass(frozen=True)
class Overall:
    """Methods that ran on all of some tasks."""

    tasks: tuple[str, ...]
    unscaled: tuple[str, ...]
    """Tasks that are left out: their returns have no scale in common with other scores."""
    elsewhere: tuple[str, ...]
    """Methods that are left out: they miss a task."""
    best: str
    """The method of the highest IQM; the first of equals."""
    rows: tuple[Aggregate, ...]


def over_tasks(runs: Sequence[EvaluatedRun]) -> Overall | None:
    """Aggregates of the last checkpoints of `runs`.

    None with fewer than two tasks whose scores are shares, and where no method ran on all of them.
    """
    shares = {run.dataset: run.scoring.is_share for run in runs}
    tasks = tuple(dataset for dataset, is_share in shares.items() if is_share)
    ran = {(run.dataset, run.method): run.final for run in runs}
    methods = list(dict.fromkeys(run.method for run in runs if run.dataset in tasks))
    common = [method for method in methods if all((task, method) in ran for task in tasks)]
    if len(tasks) < 2 or not common:
        return None
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    measured, drawn = {}, {}  # (1, runs) and (resamples, runs) for each task
    for method in common:
        episodes = [ran[task, method] for task in tasks]  # (runs, episodes) each
        measured[method] = [scores.mean(axis=1)[None] for scores in episodes]
        drawn[method] = stats.two_level_bootstrap(episodes, RESAMPLES, rng)

    def estimate(statistic: Statistic, *of: str) -> Estimate:
        value = float(statistic(*(measured[method] for method in of))[0])
        resampled = statistic(*(drawn[method] for method in of))
        return Estimate(value, *stats.percentile_interval(resampled, CONFIDENCE))

    iqms = {method: estimate(_iqm, method) for method in common}
    best = max(common, key=lambda method: iqms[method].value)
    return Overall(
        tasks=tasks,
        unscaled=tuple(dataset for dataset, is_share in shares.items() if not is_share),
        elsewhere=tuple(method for method in methods if method not in common),
        best=best,
        rows=tuple(
            Aggregate(
                method=method,
                iqm=iqms[method],
                mean=estimate(_mean, method),
                beaten=None if method == best else estimate(_improvement, best, method),
            )
            for method in common
        ),
    )


def _iqm(tasks: Sequence[Scores]) -> Scores:
    return stats.interquartile_means(np.concatenate(tasks, axis=-1))


def _mean(tasks: Sequence[Scores]) -> Scores:
    return np.mean([scores.mean(axis=-1) for scores in tasks], axis=0)


def _improvement(x: Sequence[Scores], y: Sequence[Scores]) -> Scores:
    wins = [stats.share_of_wins(ours, theirs) for ours, theirs in zip(x, y, strict=True)]
    return np.mean(wins, axis=0)
