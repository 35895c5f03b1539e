"""How often intervals cover the truth, and how wide they are: the tables of docs/methods.md.

    python scripts/coverage.py

Experiments are simulated with a known expected score: a few seeds, whose true scores differ by a
known spread, with 50 episodes each. The intervals that reports print are those of
`cpl_bench/report/intervals.py` and `aggregates.py`; the candidates that were not chosen stand here.
Takes minutes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats
from tyro import cli

from cpl_bench.report import aggregates
from cpl_bench.report.aggregates import Sampled
from cpl_bench.report.intervals import CONFIDENCE, NAME, return_intervals, success_intervals

EPISODES = 50
SEEDS = (2, 4, 8)
RATES = (0.3, 0.5, 0.7, 0.9, 0.97)
SPREADS = (0.0, 0.05, 0.15)
"""Standard deviations of the seeds' true success rates."""
WIDE_RATES, WIDE_SPREAD = (0.5, 0.7), 0.3
"""Beyond what was asked for: seeds that differ by twice as much."""
RETURN_SPREADS = (0.0, 0.1, 0.3, 1.0, 3.0)
"""Standard deviations of the seeds' true returns, in those of the episodes of a seed."""
CEILING = ((0.5, 0.15), (0.7, 0.15), (0.9, 0.05), (0.9, 0.15), (0.97, 0.05), (0.97, 0.15))
"""Means of normalised returns whose episodes score 0 or 1, and how far seeds spread."""
PAIRS = ((0.3, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 0.97))
"""Rates on two tasks."""
BEHIND = 0.2
"""How far behind, on both, the rate of another method is."""
RESAMPLES = 1000
TAILS = np.array([1 - CONFIDENCE, 1 + CONFIDENCE]) / 2
PIECE = 200
"""Experiments at once, for memory's sake."""

Scores = NDArray[np.float64]  # (experiments, seeds, episodes), or their means (experiments, seeds)
Candidate = Callable[[Scores, np.random.Generator], Scores]
"""Episodes' scores (e, s, n) → lower and upper ends (e, 2)."""


# --- Resampling ---


def bootstrap_of_seeds(scores: Scores, rng: np.random.Generator) -> Scores:
    """Percentiles of the mean of resampled seeds."""
    means = scores.mean(axis=-1)
    return np.quantile(_drawn(means, rng).mean(axis=-1), TAILS, axis=1).T


def two_level_bootstrap(scores: Scores, rng: np.random.Generator) -> Scores:
    """Percentiles of the mean of resampled episodes of resampled seeds."""
    drawn = rng.binomial(EPISODES, _drawn(scores.mean(axis=-1), rng)) / EPISODES
    return np.quantile(drawn.mean(axis=-1), TAILS, axis=1).T


def studentised_bootstrap(scores: Scores, rng: np.random.Generator) -> Scores:
    """As `two_level_bootstrap`, in units of each resample's standard error (with the floor)."""
    means = scores.mean(axis=-1)
    drawn = rng.binomial(EPISODES, _drawn(means, rng)) / EPISODES
    middle, error = means.mean(axis=-1), _floored_error(means)
    away = (drawn.mean(axis=-1) - middle[:, None]) / _floored_error(drawn)
    return middle[:, None] - error[:, None] * np.quantile(away, TAILS[::-1], axis=1).T


def _drawn(means: Scores, rng: np.random.Generator) -> Scores:
    """(e, resamples, s) seeds drawn with replacement."""
    which = rng.integers(means.shape[1], size=(len(means), RESAMPLES, means.shape[1]))
    return np.take_along_axis(means[:, None], which, axis=-1)


# --- Student's t ---


def student(scores: Scores, rng: np.random.Generator) -> Scores:
    """Student's t of the seeds' means."""
    means = scores.mean(axis=-1)
    return _symmetric(means, means.std(axis=-1, ddof=1) / np.sqrt(means.shape[-1]))


def student_with_floor(scores: Scores, rng: np.random.Generator) -> Scores:
    """Student's t with a variance of at least that of a seed's episodes."""
    means = scores.mean(axis=-1)
    return _symmetric(means, _floored_error(means))


def _floored_error(means: Scores) -> Scores:
    """The standard error, no less than from the episodes; a success and a failure are added."""
    smooth = (means * EPISODES + 1) / (EPISODES + 2)
    within = (smooth * (1 - smooth)).mean(axis=-1) / EPISODES
    return np.sqrt(np.maximum(means.var(axis=-1, ddof=1), within) / means.shape[-1])


def _symmetric(means: Scores, error: Scores) -> Scores:
    half = stats.t.ppf(TAILS[1], means.shape[-1] - 1) * error
    return means.mean(axis=-1)[:, None] + half[:, None] * [-1, 1]


# --- Models ---


def normal_random_effects(scores: Scores, rng: np.random.Generator) -> Scores:
    """Normal seeds and episodes; the prior of the seeds' spread is half-normal, of 10 points."""
    means = scores.mean(axis=-1)
    seeds = means.shape[1]
    smooth = (means * EPISODES + 1) / (EPISODES + 2)
    within = (smooth * (1 - smooth)).mean(axis=-1, keepdims=True) / EPISODES  # (e, 1)
    spread = 0.1 * special.ndtri(0.5 + (np.arange(100) + 0.5) / 200)  # (g,) as probable each
    variance = spread**2 + within
    squares = seeds * means.var(axis=-1)[:, None]
    weight = np.exp(-(seeds - 1) / 2 * np.log(variance) - squares / variance / 2)
    weight /= weight.sum(axis=-1, keepdims=True)
    low, high = np.zeros(len(means)), np.full(len(means), 10.0)
    for _ in range(40):  # bisection of the half width
        half = (low + high) / 2
        inside = (weight * (2 * special.ndtr(half[:, None] / np.sqrt(variance / seeds)) - 1)).sum(1)
        low, high = (
            np.where(inside < CONFIDENCE, half, low),
            np.where(inside < CONFIDENCE, high, half),
        )
    return means.mean(axis=-1)[:, None] + high[:, None] * [-1, 1]


def flat_beta_binomial(scores: Scores, rng: np.random.Generator) -> Scores:
    """Flat priors of the rate and of the share of the variance that lies between seeds."""
    rate = (np.arange(200)[:, None] + 0.5) / 200
    size = 1 / ((np.arange(50) + 0.5) / 50) - 1  # a + b of the beta distribution
    count = np.arange(EPISODES + 1)[:, None, None]
    a, b = rate * size, (1 - rate) * size
    table = special.betaln(count + a, EPISODES - count + b) - special.betaln(a, b)
    found = np.rint(scores.sum(axis=-1)).astype(int)
    posterior = np.sum([table[column] for column in found.T], axis=0)
    posterior = np.exp(posterior - posterior.max(axis=(1, 2), keepdims=True)).sum(axis=-1)
    reached = np.pad(posterior.cumsum(axis=-1), ((0, 0), (1, 0)))
    edges = np.arange(201) / 200
    return np.array([np.interp(TAILS, row / row[-1], edges) for row in reached])


def chosen_for_successes(scores: Scores, rng: np.random.Generator) -> Scores:
    """What reports print, beta-binomial."""
    found = np.rint(scores.sum(axis=-1)).astype(int)
    return success_intervals(found, EPISODES, CONFIDENCE)


def chosen_for_returns(scores: Scores, rng: np.random.Generator) -> Scores:
    """What reports print, normal."""
    return return_intervals(scores, CONFIDENCE)


SUCCESSES: dict[str, Candidate] = {
    "bootstrap of seed means": bootstrap_of_seeds,
    "two-level bootstrap": two_level_bootstrap,
    "two-level bootstrap, studentised": studentised_bootstrap,
    "Student's t of seed means": student,
    "Student's t, floor from episodes": student_with_floor,
    "normal random effects, half-normal prior": normal_random_effects,
    "beta-binomial, flat priors": flat_beta_binomial,
    f"**{NAME}**, beta-binomial": chosen_for_successes,
}
RETURNS: dict[str, Candidate] = {
    "bootstrap of seed means": bootstrap_of_seeds,
    "Student's t of seed means": student,
    f"**{NAME}**, normal": chosen_for_returns,
}


# --- Experiments ---


@dataclass(frozen=True)
class Condition:
    """One kind of experiment, simulated many times."""

    truth: float
    scores: Scores
    """(experiments, seeds, episodes)"""


def successes(
    rate: float, spread: float, seeds: int, experiments: int, rng: np.random.Generator
) -> Condition:
    """Seeds' rates are beta distributed."""
    rates = true_rates(rate, spread, (experiments, seeds), rng)
    drawn = rng.random((experiments, seeds, EPISODES)) < rates[..., None]
    return Condition(rate, drawn.astype(float))


def true_rates(
    rate: float, spread: float, shape: tuple[int, ...], rng: np.random.Generator
) -> Scores:
    """Seeds' rates, beta distributed."""
    if not spread:
        return np.full(shape, rate)
    size = rate * (1 - rate) / spread**2 - 1
    return rng.beta(rate * size, (1 - rate) * size, size=shape)


def returns(spread: float, seeds: int, experiments: int, rng: np.random.Generator) -> Condition:
    """Seeds and episodes are normal."""
    own = spread * rng.standard_normal((experiments, seeds, 1))
    return Condition(0.0, own + rng.standard_normal((experiments, seeds, EPISODES)))


def judge(candidate: Candidate, condition: Condition, shares: bool) -> tuple[float, float]:
    """How often the interval covers the truth, and its mean width."""
    rng = np.random.default_rng(1)
    pieces = range(0, len(condition.scores), PIECE)
    ends = np.concatenate([candidate(condition.scores[i : i + PIECE], rng) for i in pieces])
    if shares:
        ends = ends.clip(0, 1)
    low, high = ends.T
    covered = (low <= condition.truth) & (condition.truth <= high)
    return float(covered.mean()), float((high - low).mean())


def compare(
    candidates: dict[str, Candidate], conditions: dict[int, list[Condition]], shares: bool
) -> str:
    """A Markdown table: for each number of seeds the least coverage and the mean width."""
    found = {
        name: [[judge(candidate, one, shares) for one in some] for some in conditions.values()]
        for name, candidate in candidates.items()
    }
    return table("interval", found, shares)


def table(kind: str, found: dict[str, list[list[tuple[float, float]]]], shares: bool) -> str:
    """Markdown: a row for each name, of the coverages and widths for each number of seeds."""
    head = [f"{seeds} seeds: {what}" for seeds in SEEDS for what in ("covers", "width")]
    lines = [f"| {kind} | {' | '.join(head)} |", "|---|" + "--:|" * len(head)]
    for name, by_seeds in found.items():
        cells = [name]
        for judged in by_seeds:
            coverage, width = zip(*judged, strict=True)
            shown = f"{100 * np.mean(width):.1f}" if shares else f"{np.mean(width):.2f}"
            cells += [f"{100 * min(coverage):.1f} %", shown]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# --- Aggregates over two tasks ---

AGGREGATES = ("IQM", "mean", "P, of equals", "P, 20 points ahead")


def judge_aggregates(
    rates: tuple[float, float],
    spread: float,
    seeds: int,
    experiments: int,
    rng: np.random.Generator,
) -> list[tuple[float, float]]:
    """How often each of AGGREGATES covers the truth, to a tenth of a point, and its mean width."""
    behind = (rates[0] - BEHIND, rates[1] - BEHIND)
    truth = true_aggregates(rates, behind, spread, rng)
    methods = [
        [successes(rate, spread, seeds, experiments, rng).scores for rate in some]
        for some in (rates, rates, behind)
    ]
    ends = np.empty((experiments, len(AGGREGATES), 2))
    for i in range(experiments):
        x, equal, worse = (_sample([task[i] for task in tasks], rng) for tasks in methods)
        estimates = (
            aggregates.iqm(x),
            aggregates.mean(x),
            aggregates.improvement(x, equal),
            aggregates.improvement(x, worse),
        )
        ends[i] = [(estimate.low, estimate.high) for estimate in estimates]
    low, high = ends[..., 0], ends[..., 1]
    covered = (low - 0.0005 <= truth) & (truth <= high + 0.0005)
    return list(zip(covered.mean(axis=0), (high - low).mean(axis=0), strict=True))


def _sample(tasks: list[Scores], rng: np.random.Generator) -> Sampled:
    """With fewer draws than a report has, for time's sake."""
    return aggregates.sample(tasks, [True] * len(tasks), 500, aggregates.NEW_SEEDS, rng)


def true_aggregates(
    rates: tuple[float, float], behind: tuple[float, float], spread: float, rng: np.random.Generator
) -> Scores:
    """What each of AGGREGATES is over very many seeds."""
    many = 200_000
    ours = np.array([true_rates(rate, spread, (many,), rng) for rate in rates])
    theirs = np.array([true_rates(rate, spread, (many,), rng) for rate in behind])
    ahead = ((ours > theirs) + (ours == theirs) / 2).mean()
    middle = np.sort(ours, axis=None)[many // 2 : -many // 2].mean()
    return np.array([middle, np.mean(rates), 0.5, ahead])


def main(experiments: int = 2000) -> None:
    """Print the tables.

    Args:
        experiments: of each condition.
    """
    rng = np.random.default_rng(0)
    asked = {
        seeds: [successes(r, sd, seeds, experiments, rng) for r in RATES for sd in SPREADS]
        for seeds in SEEDS
    }
    print("Success rates that spread by 0, 5 and 15 points; width in points:\n")
    print(compare(SUCCESSES, asked, shares=True))
    wide = {
        seeds: [successes(rate, WIDE_SPREAD, seeds, experiments, rng) for rate in WIDE_RATES]
        for seeds in SEEDS
    }
    print("\nSuccess rates that spread by 30 points:\n")
    print(compare(SUCCESSES, wide, shares=True))
    real = {
        seeds: [returns(sd, seeds, experiments, rng) for sd in RETURN_SPREADS] for seeds in SEEDS
    }
    print("\nReturns that spread by 0 to 3 of the episodes' standard deviations, the unit:\n")
    print(compare(RETURNS, real, shares=False))
    rng = np.random.default_rng(1)
    found = {
        f"{100 * rate:.0f} %, spread by {100 * spread:.0f} points": [
            [judge(chosen_for_returns, successes(rate, spread, seeds, experiments, rng), True)]
            for seeds in SEEDS
        ]
        for rate, spread in CEILING
    }
    print("\nReturns of 0 or 1 an episode, by the normal model:\n")
    print(table("mean return", found, shares=True))
    rng = np.random.default_rng(2)
    judged = {
        seeds: [
            judge_aggregates(rates, sd, seeds, -(-experiments // 5), rng)
            for rates in PAIRS
            for sd in SPREADS
        ]
        for seeds in SEEDS
    }
    print("\nAggregates over two tasks of success rates that spread by 0, 5 and 15 points:\n")
    found = {
        name: [[one[i] for one in some] for some in judged.values()]
        for i, name in enumerate(AGGREGATES)
    }
    print(table("aggregate", found, shares=True))


if __name__ == "__main__":
    cli(main, description=__doc__)
