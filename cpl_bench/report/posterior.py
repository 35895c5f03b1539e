"""The posterior behind intervals: a score, the spread of seeds around it, and draws of both.

The model, its priors and its sources are told in `intervals.py`. It is kept on a grid: m cells for
a success rate, g for τ/σ.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]

SPREAD_SCALE = 1 / 3
"""Scale of the prior of τ/σ: a τ of 15.8 points where 50 % succeed, of 9.5 where 90 % do."""
SUCCESS_TAIL, RETURN_TAIL = 3, 1
"""Its degrees of freedom; seeds' returns, which nothing bounds, may differ by any multiple of σ."""

CELLS, SPREADS = 200, 32
EDGES = np.linspace(0, np.pi / 2, CELLS + 1)
"""(m + 1,) angles; a rate is sin² of its angle, a distance goes with its tangent."""
MIDDLES = (EDGES[1:] + EDGES[:-1]) / 2
"""(m,)"""
TANGENTS = np.tan(np.pi / 2 * (np.arange(SPREADS) + 0.5) / SPREADS)
"""(g,) in whatever unit τ/σ is searched in."""


def draw_truths(
    scores: Scores, successes: bool, draws: int, new_seeds: int, rng: np.random.Generator
) -> tuple[Scores, Scores]:
    """What may be true, by the posterior: of the score, and of new seeds.

    Args:
        scores: (s, n) of the episodes; a single seed tells nothing of how others differ
        successes: whether scores are 0 or 1
        draws: d
        new_seeds: k in each draw
        rng: decides the draws

    Returns:
        (d,) expected scores, and (d, k) true scores of seeds that scatter around them.
    """
    draw = _draw_successes if successes else _draw_returns
    return draw(scores, draws, new_seeds, rng)


# --- Returns ---


def squares(scores: Scores) -> tuple[Scores, Scores, Scores]:
    """The mean, and the sums of squares between and within seeds, (t,) each, of (t, s, n)."""
    means = scores.mean(axis=-1)  # (t, s)
    centre = means.mean(axis=-1)
    between = scores.shape[-1] * ((means - centre[:, None]) ** 2).sum(axis=-1)
    within = ((scores - means[..., None]) ** 2).sum(axis=(-2, -1))
    # episodes that agree would leave τ/σ no upper bound
    return centre, between, np.maximum(within, 1e-9 * between)


def spread_posterior(
    between: Scores, within: Scores, seeds: int, episodes: int
) -> tuple[Scores, Scores]:
    """Values of τ/σ and the logarithms of their weights, (t, g) each; 0 of a single seed."""
    if seeds == 1:
        return np.zeros((len(within), 1)), np.zeros((len(within), 1))
    count = seeds * episodes
    # a grid where the posterior is
    ratio = np.sqrt(SPREAD_SCALE**2 + seen(between, within, seeds, episodes))[:, None] * TANGENTS
    inflation = 1 + episodes * ratio**2  # of a seed mean's variance, by τ
    log_weight = _log_prior(ratio, RETURN_TAIL) + np.log1p(TANGENTS**2)
    log_weight -= (seeds - 1) / 2 * np.log(inflation)
    log_weight -= (count - 1) / 2 * np.log(between[:, None] / inflation + within[:, None])
    return ratio, log_weight


def seen(between: Scores, within: Scores, seeds: int, episodes: int) -> Scores:
    """(t,) τ²/σ² + 1/n, as it seems."""
    return between / max(seeds - 1, 1) / episodes / noise(within, seeds, episodes)


def noise(within: Scores, seeds: int, episodes: int) -> Scores:
    """(t,) σ², as it seems."""
    return within / max(seeds * episodes - seeds, 1)


def _draw_returns(
    scores: Scores, draws: int, new_seeds: int, rng: np.random.Generator
) -> tuple[Scores, Scores]:
    seeds, episodes = scores.shape
    centre, between, within = squares(scores[None])
    if not within > 0 or scores.size == 1:  # a point
        return np.repeat(centre, draws), np.full((draws, new_seeds), centre)
    ratio, log_weight = spread_posterior(between, within, seeds, episodes)
    ratio = ratio[0, _drawn_cells(log_weight, draws, rng)]
    inflation = 1 + episodes * ratio**2
    rest = between / inflation + within
    sigma = np.sqrt(rest / rng.chisquare(scores.size - 1, draws))
    truth = centre + sigma * np.sqrt(inflation / scores.size) * rng.standard_normal(draws)
    own = (ratio * sigma)[:, None] * rng.standard_normal((draws, new_seeds))
    return truth, truth[:, None] + own


# --- Successes ---


def success_posterior(successes: NDArray[np.int64], episodes: int) -> Scores:
    """Logarithm, (t, m, g), of the posterior of rate and τ/σ; g is 1 of a single seed."""
    differ = successes.shape[1] > 1
    ratio = SPREAD_SCALE * TANGENTS if differ else np.zeros(1)
    log_posterior = np.zeros((len(successes), CELLS, len(ratio)))
    if differ:
        log_posterior += _log_prior(ratio, SUCCESS_TAIL) + np.log1p(TANGENTS**2)
    found, which = np.unique(successes, return_inverse=True)
    table = np.stack([_log_likelihood(k, episodes - k, differ) for k in found.tolist()])
    for column in which.reshape(successes.shape).T:
        log_posterior += table[column]
    return log_posterior


def _draw_successes(
    scores: Scores, draws: int, new_seeds: int, rng: np.random.Generator
) -> tuple[Scores, Scores]:
    seeds, episodes = scores.shape
    log_posterior = success_posterior(scores.sum(axis=1).astype(np.int64)[None], episodes)
    cells = _drawn_cells(log_posterior, draws, rng)
    place, spread = np.divmod(cells, log_posterior.shape[-1])
    truth = np.sin(EDGES[place] + EDGES[1] * (1 - rng.random(draws))) ** 2
    if seeds == 1:
        return truth, np.repeat(truth[:, None], new_seeds, axis=1)
    size = (SPREAD_SCALE * TANGENTS[spread]) ** -2.0  # a + b of the beta distribution
    a, b = truth * size, np.maximum(1 - truth, 1e-12) * size
    return truth, rng.beta(a[:, None], b[:, None], (draws, new_seeds))


@lru_cache(maxsize=256)
def _log_likelihood(successes: int, failures: int, seeds_differ: bool) -> Scores:
    """(m, g): of a seed's episodes, where the expected rate is μ and τ/σ is x.

    Pólya's urn: Π_{i<k} (μ + i x²) · Π_{i<n-k} (1 - μ + i x²) / Π_{i<n} (1 + i x²), a beta-binomial
    with a = μ/x² and b = (1 - μ)/x². Where seeds are taken to be alike, x is 0.
    """
    rate = np.sin(MIDDLES)[:, None] ** 2  # (m, 1)
    fail = rate[::-1]  # the grid is symmetric
    if not seeds_differ:
        return successes * np.log(rate) + failures * np.log(fail)
    size = (SPREAD_SCALE * TANGENTS) ** -2.0  # (g,)
    likelihood = _log_rising(rate * size, successes) + _log_rising(fail * size, failures)
    return likelihood - _log_rising(size, successes + failures)


def _log_rising(base: Scores, count: int) -> Scores:
    """log Π_{i<count} (base + i), as a difference of Stirling's series."""
    return _log_gamma(base + count) - _log_gamma(base) if count else np.zeros_like(base)


def _log_gamma(z: Scores) -> Scores:
    """log Γ(z) but for a constant; z > 0. The series is taken at z + 8, where it errs by 1e-11."""
    up = z + 8
    small = np.log(np.prod([z + i for i in range(8)], axis=0))
    series = (1 / 12 - (1 / 360 - (1 / 1260 - 1 / 1680 / up**2) / up**2) / up**2) / up
    return (up - 0.5) * np.log(up) - up + series - small


# --- The posterior on a grid ---


def _log_prior(ratio: Scores, tail: int) -> Scores:
    """Of τ/σ, but for a constant."""
    return -(tail + 1) / 2 * np.log1p((ratio / SPREAD_SCALE) ** 2 / tail)


def _drawn_cells(log_posterior: Scores, draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(draws,) places in the flattened posterior."""
    reached = np.cumsum(np.exp(log_posterior - log_posterior.max()))
    return np.searchsorted(reached, rng.random(draws) * reached[-1])
