"""How often intervals cover the truth, and how wide they are: the tables of docs/methods.md.

    python scripts/coverage.py

Experiments are simulated with a known expected score: a few seeds, whose true scores differ by a
known spread, with 50 episodes each. The interval that reports print is
`cpl_bench/report/intervals.py`; the candidates that were not chosen stand here. Takes minutes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats
from tyro import cli

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
    rates = np.full((experiments, seeds), rate)
    if spread:
        size = rate * (1 - rate) / spread**2 - 1
        rates = rng.beta(rate * size, (1 - rate) * size, size=rates.shape)
    drawn = rng.random((experiments, seeds, EPISODES)) < rates[..., None]
    return Condition(rate, drawn.astype(float))


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
    head = [f"{seeds} seeds: {what}" for seeds in conditions for what in ("covers", "width")]
    lines = [f"| interval | {' | '.join(head)} |", "|---|" + "--:|" * len(head)]
    for name, candidate in candidates.items():
        cells = [name]
        for some in conditions.values():
            coverage, width = zip(*(judge(candidate, one, shares) for one in some), strict=True)
            shown = f"{100 * np.mean(width):.1f}" if shares else f"{np.mean(width):.2f}"
            cells += [f"{100 * min(coverage):.1f} %", shown]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


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


if __name__ == "__main__":
    cli(main, description=__doc__)
