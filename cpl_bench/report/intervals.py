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

import numpy as np
from numpy.typing import NDArray

from cpl_bench.report.posterior import (
    EDGES,
    MIDDLES,
    SPREAD_SCALE,
    Scores,
    noise,
    seen,
    spread_posterior,
    squares,
    success_posterior,
)

NAME = "Bayesian random-effects interval"
"""What pages call it."""
CONFIDENCE = 0.95
TWO_SEEDS, TWO_SEEDS_WIDE, TWO_SEEDS_RETURNS = 0.94, 0.79, 0.81
"""Least coverage of two seeds, as simulated: of success rates that spread by up to 15 points, and
by 30; of returns."""


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
    log_posterior = success_posterior(successes, episodes)
    rates = np.sin(_quantiles(log_posterior, (1 - confidence) / 2, (1 + confidence) / 2)) ** 2
    rates[(successes == 0).all(axis=1), 0] = 0
    rates[(successes == episodes).all(axis=1), 1] = 1
    return rates


def return_intervals(scores: Scores, confidence: float) -> Scores:
    """The interval of a mean return, (t, 2), symmetric around the mean; a point where all agree.

    Args:
        scores: (t, s, n) of the episodes
        confidence: its coverage
    """
    _, seeds, episodes = scores.shape
    centre, between, within = squares(scores)
    ends = np.stack([centre, centre], axis=-1)
    unsure = (within > 0) & (seeds * episodes > 1)
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
    ratio, log_weight = spread_posterior(between, within, seeds, episodes)  # (t, g)
    inflation = 1 + episodes * ratio**2
    rest = between[:, None] / inflation + within[:, None]
    variance = inflation * rest / (count - 1) / count  # of the mean
    log_weight = log_weight - np.log(variance) / 2

    # --- Mix the densities over the grid ---
    about = SPREAD_SCALE**2 + seen(between, within, seeds, episodes) + 1 / episodes
    unit = np.sqrt(noise(within, seeds, episodes) * about / seeds)
    tangent = np.tan(MIDDLES)
    distance = (unit[:, None] * tangent)[..., None]  # (t, m, 1)
    log_density = -count / 2 * np.log1p(distance**2 / (count - 1) / variance[:, None])
    log_density += np.log1p(tangent**2)[:, None]
    end = _quantiles(log_density + log_weight[:, None], confidence)[:, 0]
    return unit * np.tan(end)


def _quantiles(log_posterior: Scores, *levels: float) -> Scores:
    """(t, levels): the angles where the posterior (t, m, g), summed over g, reaches each level."""
    posterior = np.exp(log_posterior - log_posterior.max(axis=(1, 2), keepdims=True))
    reached = np.cumsum(posterior.sum(axis=-1), axis=-1)  # (t, m)
    reached = np.pad(reached, ((0, 0), (1, 0))) / reached[:, -1:]
    return np.array([np.interp(levels, row, EDGES) for row in reached])
