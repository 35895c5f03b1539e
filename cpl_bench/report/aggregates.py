"""Over all tasks of a report: aggregates of the methods that ran on every one of them.

An aggregate's value is computed from the measured runs. Its interval is for what the statistic
would be over very many new seeds: the mean of the tasks' expected scores; the IQM of new seeds'
true scores, as many of each task; how often the true score of a new seed of X exceeds that of one
of Y on the same task. It spans what draws from the posterior of each method and task give
(`posterior.py`), without 2.5 % at either end, and the value. `scripts/coverage.py` simulates it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cpl_bench.report import stats
from cpl_bench.report.intervals import CONFIDENCE
from cpl_bench.report.posterior import draw_truths
from cpl_bench.report.read import EvaluatedRun
from cpl_bench.report.stats import Scores

DRAWS, NEW_SEEDS = 2000, 50
"""From each posterior; of new seeds in each draw."""
DRAW_SEED = 0
TAIL = (1 - CONFIDENCE) / 2
TWO_SEEDS = 0.86
"""Least coverage of two seeds a task, as simulated."""


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
    fewest: int
    """Seeds that a method has on a task, at least."""
    best: str
    """The method of the highest IQM; the first of equals."""
    rows: tuple[Aggregate, ...]


def over_tasks(runs: Sequence[EvaluatedRun]) -> Overall | None:
    """Aggregates of the last checkpoints of `runs`.

    None with fewer than two tasks whose scores are shares, and where no method ran on all of them.
    """
    shares = {run.dataset: run.scoring.is_share for run in runs}
    counts = {run.dataset: run.scoring.is_success for run in runs}
    tasks = tuple(dataset for dataset, is_share in shares.items() if is_share)
    ran = {(run.dataset, run.method): run.final for run in runs}
    methods = list(dict.fromkeys(run.method for run in runs if run.dataset in tasks))
    common = [method for method in methods if all((task, method) in ran for task in tasks)]
    if len(tasks) < 2 or not common:
        return None
    rng = np.random.default_rng(DRAW_SEED)
    sampled = {
        method: sample(
            [ran[task, method] for task in tasks],
            [counts[task] for task in tasks],
            DRAWS,
            NEW_SEEDS,
            rng,
        )
        for method in common
    }
    iqms = {method: iqm(sampled[method]) for method in common}
    best = max(common, key=lambda method: iqms[method].value)
    return Overall(
        tasks=tasks,
        unscaled=tuple(dataset for dataset, is_share in shares.items() if not is_share),
        elsewhere=tuple(method for method in methods if method not in common),
        fewest=min(len(ran[task, method]) for task in tasks for method in common),
        best=best,
        rows=tuple(
            Aggregate(
                method=method,
                iqm=iqms[method],
                mean=mean(sampled[method]),
                beaten=None if method == best else improvement(sampled[best], sampled[method]),
            )
            for method in common
        ),
    )


@dataclass(frozen=True)
class Sampled:
    """A method's runs on each task, and draws of what is true of it there."""

    measured: list[Scores]
    """(1, runs): their mean scores"""
    expected: list[Scores]
    """(draws, 1): the score expected of a new seed"""
    new: list[Scores]
    """(draws, new seeds): what each scores"""


def sample(
    tasks: Sequence[Scores],
    successes: Sequence[bool],
    draws: int,
    new_seeds: int,
    rng: np.random.Generator,
) -> Sampled:
    """Draw from the posteriors of a method.

    Args:
        tasks: (runs, episodes) each: what the episodes scored
        successes: whether a task's scores are 0 or 1
        draws: from each posterior
        new_seeds: in each draw
        rng: decides the draws
    """
    truths = [
        draw_truths(scores, binary, draws, new_seeds, rng)
        for scores, binary in zip(tasks, successes, strict=True)
    ]
    return Sampled(
        measured=[scores.mean(axis=1)[None] for scores in tasks],
        expected=[expected[:, None] for expected, _ in truths],
        new=[new for _, new in truths],
    )


def iqm(of: Sampled) -> Estimate:
    """Interquartile mean over runs × tasks."""
    return _estimate(_iqm(of.measured), _iqm(of.new))


def mean(of: Sampled) -> Estimate:
    """Mean over tasks of each task's mean over runs."""
    return _estimate(_mean(of.measured), _mean(of.expected))


def improvement(x: Sampled, y: Sampled) -> Estimate:
    """How probably a run of `x` beats one of `y` on the same task; a tie counts half.

    The share of draws left out beyond the value shrinks to none as that nears 0 or 1: where no
    seeds overlap, no data could tell 100 % from 99.
    """
    measured = _improvement(x.measured, y.measured)
    below, above = (2 * TAIL * min(0.5, share) for share in (measured[0], 1 - measured[0]))
    return _estimate(measured, _improvement(x.new, y.new), below, above)


def _estimate(
    measured: Scores, drawn: Scores, below: float = TAIL, above: float = TAIL
) -> Estimate:
    """The interval leaves out two shares of the draws, (draws,), and holds the value, (1,)."""
    value = float(measured[0])
    low, high = np.quantile(drawn, [below, 1 - above])
    return Estimate(value, min(float(low), value), max(float(high), value))


def _iqm(tasks: Sequence[Scores]) -> Scores:
    return stats.interquartile_means(np.concatenate(tasks, axis=-1))


def _mean(tasks: Sequence[Scores]) -> Scores:
    return np.mean([scores.mean(axis=-1) for scores in tasks], axis=0)


def _improvement(x: Sequence[Scores], y: Sequence[Scores]) -> Scores:
    wins = [stats.share_of_wins(ours, theirs) for ours, theirs in zip(x, y, strict=True)]
    return np.mean(wins, axis=0)
