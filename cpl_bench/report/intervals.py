"""The interval of a method's score, from a few seeds with some episodes each.

The score meant is the one expected of a new seed on new episodes. Each seed's policy has a true
score of its own, which scatters around it by the seeds' spread τ; a seed's episodes scatter around
that by σ. A Bayesian random-effects model integrates both out, so that the interval is wide where
seeds differ and never narrower than the episodes allow:

    successes   beta-binomial: seeds' rates are beta distributed, their successes binomial
                (Griffiths, 1973, Biometrics 29)
    returns     normal: the balanced one-way model (Box and Tiao, 1973, "Bayesian Inference in
                Statistical Analysis", chapter 5)

The prior of τ/σ is half a Student's t (Gelman, 2006, Bayesian Analysis 1:3). A success rate has
Jeffreys' prior and, where all episodes agree, the end they agree on (Brown, Cai and DasGupta, 2001,
Statistical Science 16:2); a return has the reference prior, flat in the mean and in log σ, so that
its unit does not matter. `scripts/coverage.py` compares coverage and width with those of others.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]

NAME = "Bayesian random-effects interval"
"""What pages call it."""
CONFIDENCE = 0.95
SPREAD_SCALE = 1 / 3
"""Scale of the prior of τ/σ: a τ of 17 points where 50 % succeed, of 10 where 90 % do."""
SUCCESS_TAIL, RETURN_TAIL = 3, 1
"""Its degrees of freedom; seeds' returns, which nothing bounds, may differ by any multiple of σ."""
TWO_SEEDS, TWO_SEEDS_WIDE, TWO_SEEDS_RETURNS = 0.94, 0.79, 0.81
"""Least coverage of two seeds, as simulated: of success rates that spread by up to 15 points, and
by 30; of returns."""

# --- The grids: m cells for the score, g for τ/σ ---

CELLS, SPREADS = 200, 32
EDGES = np.linspace(0, np.pi / 2, CELLS + 1)
"""(m + 1,) angles; a rate is sin² of its angle, a distance goes with its tangent."""
MIDDLES = (EDGES[1:] + EDGES[:-1]) / 2
"""(m,)"""
TANGENTS = np.tan(np.pi / 2 * (np.arange(SPREADS) + 0.5) / SPREADS)
"""(g,) in whatever unit τ/σ is searched in."""


def model_of(successes: bool) -> str:
    """The distribution of scores, as pages call it."""
    return "beta-binomial" if successes else "normal"


def mean_intervals(
    checkpoints: Sequence[Scores], successes: bool, confidence: float = CONFIDENCE
) -> tuple[Scores, Scores]:
    """The interval of the score at each of t checkpoints.

    Args:
        checkpoints: (seeds, episodes) each: the episodes' scores
        successes: whether scores are 0 or 1
        confidence: the coverage at each checkpoint, in (0, 1)

    Returns:
        The lower and the upper ends, each (t,). Those of a single seed account for its episodes
        alone: how seeds differ cannot be seen.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    ends = np.empty((len(checkpoints), 2))
    episodes = np.array([scores.shape[1] for scores in checkpoints])
    for count in sorted(set(episodes.tolist())):
        alike = np.flatnonzero(episodes == count)
        scores = np.stack([checkpoints[place] for place in alike.tolist()])  # (t, s, n)
        if successes:
            counts = scores.sum(axis=-1).astype(np.int64)
            ends[alike] = success_intervals(counts, count, confidence)
        else:
            ends[alike] = return_intervals(scores, confidence)
    return ends[:, 0], ends[:, 1]


def success_intervals(successes: NDArray[np.int64], episodes: int, confidence: float) -> Scores:
    """The interval of a success rate, (t, 2).

    Args:
        successes: (t, s) how many of each seed's episodes succeeded
        episodes: of each seed
        confidence: its coverage
    """
    seeds = successes.shape[1]
    table = _log_likelihoods(episodes, seeds > 1)
    log_posterior = _log_prior(SPREAD_SCALE * TANGENTS, SUCCESS_TAIL) + np.log1p(TANGENTS**2)
    for column in successes.T:
        log_posterior = log_posterior + table[column]  # (t, m, g)
    rates = np.sin(_quantiles(log_posterior, (1 - confidence) / 2, (1 + confidence) / 2)) ** 2
    total = successes.sum(axis=1)
    rates[total == 0, 0] = 0
    rates[total == seeds * episodes, 1] = 1
    return rates


def return_intervals(scores: Scores, confidence: float) -> Scores:
    """The interval of a mean return, (t, 2), symmetric around the mean; a point where all agree.

    Args:
        scores: (t, s, n) of the episodes
        confidence: its coverage
    """
    _, seeds, episodes = scores.shape
    count = seeds * episodes
    means = scores.mean(axis=-1)  # (t, s)
    centre = means.mean(axis=-1)
    between = episodes * ((means - centre[:, None]) ** 2).sum(axis=-1)  # (t,) sums of squares
    within = ((scores - means[..., None]) ** 2).sum(axis=(-2, -1))
    within = np.maximum(within, 1e-9 * between)  # episodes that agree leave τ/σ no upper bound
    ends = np.stack([centre, centre], axis=-1)
    unsure = (within > 0) & (count > 1)
    if unsure.any():
        half = _half_widths(between[unsure], within[unsure], seeds, episodes, confidence)
        ends[unsure] += half[:, None] * [-1, 1]
    return ends


def _half_widths(
    between: Scores, within: Scores, seeds: int, episodes: int, confidence: float
) -> Scores:
    """(t,) of the mean's posterior, a mixture of Student's t over the grid of τ/σ.

    Args:
        between: (t,) sum of squares between seeds
        within: (t,) and within them
        seeds: s
        episodes: n of each seed
        confidence: the posterior's share within the interval
    """
    count = seeds * episodes
    noise = within / max(count - seeds, 1)  # σ²
    seen = between / max(seeds - 1, 1) / episodes / noise  # τ²/σ² + 1/n, as it seems
    reach = np.sqrt(SPREAD_SCALE**2 + seen)[:, None]  # so the grid is where the posterior is
    if seeds > 1:
        ratio = reach * TANGENTS  # (t, g)
        log_weight = _log_prior(ratio, RETURN_TAIL) + np.log1p(TANGENTS**2)
    else:
        ratio = log_weight = np.zeros_like(reach)
    inflation = 1 + episodes * ratio**2  # of a seed mean's variance, by τ
    squares = between[:, None] / inflation + within[:, None]
    variance = inflation * squares / (count - 1) / count  # (t, g) of the mean
    log_weight = log_weight - (seeds - 1) / 2 * np.log(inflation)
    log_weight -= (count - 1) / 2 * np.log(squares) + np.log(variance) / 2

    # --- Mix the densities over the grid ---
    unit = np.sqrt(noise * (SPREAD_SCALE**2 + seen + 1 / episodes) / seeds)
    tangent = np.tan(MIDDLES)
    distance = (unit[:, None] * tangent)[..., None]  # (t, m, 1)
    log_density = -count / 2 * np.log1p(distance**2 / (count - 1) / variance[:, None])
    log_density += np.log1p(tangent**2)[:, None]
    end = _quantiles(log_density + log_weight[:, None], confidence)[:, 0]
    return unit * np.tan(end)


def _log_prior(ratio: Scores, tail: int) -> Scores:
    """Of τ/σ, but for a constant."""
    return -(tail + 1) / 2 * np.log1p((ratio / SPREAD_SCALE) ** 2 / tail)


@lru_cache(maxsize=4)
def _log_likelihoods(episodes: int, seeds_differ: bool) -> Scores:
    """(n + 1, m, g): of k of n successes, where the expected rate is μ and τ/σ is x.

    Pólya's urn: Π_{i<k} (μ + i x²) · Π_{i<n-k} (1 - μ + i x²) / Π_{i<n} (1 + i x²), a beta-binomial
    with a = μ/x² and b = (1 - μ)/x². Where seeds are taken to be alike, x is 0.
    """
    squared = (SPREAD_SCALE * TANGENTS) ** 2 if seeds_differ else np.zeros(1)  # (g,)
    drawn = np.arange(episodes)[:, None, None]
    steps = np.log(np.sin(MIDDLES)[:, None] ** 2 + drawn * squared)  # (n, m, g)
    successes = np.concatenate([np.zeros_like(steps[:1]), np.cumsum(steps, axis=0)])
    failures = successes[::-1, ::-1]  # the grid is symmetric
    return successes + failures - np.log1p(drawn[:, 0] * squared).sum(axis=0)


def _quantiles(log_posterior: Scores, *levels: float) -> Scores:
    """(t, levels): the angles where the posterior (t, m, g), summed over g, reaches each level."""
    posterior = np.exp(log_posterior - log_posterior.max(axis=(1, 2), keepdims=True))
    reached = np.cumsum(posterior.sum(axis=-1), axis=-1)  # (t, m)
    reached = np.pad(reached, ((0, 0), (1, 0))) / reached[:, -1:]
    return np.array([np.interp(levels, row, EDGES) for row in reached])
