"""The printed interval: its coverage in simulation, and its sums against scipy and brute force."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from cpl_bench.report import intervals, posterior
from cpl_bench.report.intervals import (
    CONFIDENCE,
    mean_intervals,
    return_intervals,
    success_intervals,
)
from cpl_bench.report.posterior import draw_truths

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "coverage.py"
EPISODES = 50


def of_successes(*counts: int, episodes: int = EPISODES) -> tuple[float, float]:
    low, high = success_intervals(np.array([counts]), episodes, CONFIDENCE)[0]
    return low, high


def of_returns(scores) -> tuple[float, float]:
    low, high = return_intervals(np.asarray(scores, float)[None], CONFIDENCE)[0]
    return low, high


# --- Coverage ---


def covered(ends: np.ndarray, truth: float) -> float:
    return float(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean())


def success_coverage(rate: float, spread: float, seeds: int, experiments: int = 2000) -> float:
    """The seeds' rates are drawn from a beta distribution of this mean and standard deviation."""
    rng = np.random.default_rng([seeds, round(100 * rate), round(100 * spread)])
    rates = np.full((experiments, seeds), rate)
    if spread:
        size = rate * (1 - rate) / spread**2 - 1  # a + b
        rates = rng.beta(rate * size, (1 - rate) * size, size=rates.shape)
    counts = rng.binomial(EPISODES, rates)
    # the order of seeds is nothing to the interval: each outcome need be judged once
    outcomes, which = np.unique(np.sort(counts, axis=1), axis=0, return_inverse=True)
    pieces = np.array_split(outcomes, -(-len(outcomes) // 250))
    ends = np.concatenate([success_intervals(piece, EPISODES, CONFIDENCE) for piece in pieces])
    return covered(ends[which.ravel()], rate)


def return_coverage(spread: float, seeds: int, experiments: int = 2000) -> float:
    """Seeds' true returns scatter by `spread` standard deviations of an episode's, normally."""
    rng = np.random.default_rng([seeds, round(100 * spread)])
    own = spread * rng.standard_normal((experiments, seeds, 1))
    scores = 1000 + 300 * (own + rng.standard_normal((experiments, seeds, EPISODES)))
    pieces = np.array_split(scores, 8)
    return covered(np.concatenate([return_intervals(p, CONFIDENCE) for p in pieces]), 1000)


@pytest.mark.parametrize("seeds", [4, 8])
@pytest.mark.parametrize("spread", [0.0, 0.05, 0.15])
@pytest.mark.parametrize("rate", [0.3, 0.5, 0.7, 0.9, 0.97])
def test_four_seeds_and_more_cover_a_success_rate(rate, spread, seeds):
    assert success_coverage(rate, spread, seeds) >= 0.9


@pytest.mark.parametrize("seeds", [4, 8])
@pytest.mark.parametrize("spread", [0.0, 0.1, 0.3, 1.0, 3.0])
def test_four_seeds_and_more_cover_a_return(spread, seeds):
    assert return_coverage(spread, seeds) >= 0.9


def test_what_two_seeds_cover_is_what_pages_say():
    asked = [success_coverage(r, sd, 2) for r in (0.3, 0.5, 0.9) for sd in (0.05, 0.15)]
    wide = [success_coverage(rate, 0.3, 2) for rate in (0.5, 0.7)]
    returns = [return_coverage(spread, 2) for spread in (0.3, 3.0)]
    assert min(asked) == pytest.approx(intervals.TWO_SEEDS, abs=0.015)
    assert min(wide) == pytest.approx(intervals.TWO_SEEDS_WIDE, abs=0.015)
    assert min(returns) == pytest.approx(intervals.TWO_SEEDS_RETURNS, abs=0.015)


def test_two_seeds_of_fifty_episodes_are_no_two_points():
    low, high = of_successes(38, 39)
    assert low < 0.69 and high > 0.85, "episodes alone give 69 to 85 %"


# --- The sums ---


@pytest.mark.parametrize("counts", [(3, 9), (10, 10), (0, 1, 0), (2, 9, 9, 10)])
def test_successes_against_scipys_beta_binomial(counts):
    """A finer grid, in other coordinates, of scipy's probabilities and prior densities."""
    scipy = pytest.importorskip("scipy.stats")
    rate = (np.arange(2000) + 0.5)[:, None] / 2000
    share = (np.arange(1200) + 0.5)[None] / 1200  # x = share / (1 - share)
    ratio = share / (1 - share)
    a, b = rate / ratio**2, (1 - rate) / ratio**2
    log_posterior = scipy.beta.logpdf(rate, 0.5, 0.5) - 2 * np.log(1 - share)
    log_posterior = log_posterior + scipy.t.logpdf(ratio * 3, df=3)
    for count in counts:
        log_posterior = log_posterior + scipy.betabinom.logpmf(count, 10, a, b)
    reached = np.exp(log_posterior - log_posterior.max()).sum(axis=1).cumsum()
    edges = np.arange(2001) / 2000
    expected = np.interp([0.025, 0.975], np.append(0, reached / reached[-1]), edges)
    if sum(counts) == 10 * len(counts):
        expected[1] = 1
    assert of_successes(*counts, episodes=10) == pytest.approx(expected, abs=0.004)


def test_returns_against_a_sum_over_all_unknowns():
    """Mean, σ and τ/σ on a plain grid; the likelihood is that of the seeds' means and scatter."""
    scipy = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    scores = rng.normal(0, 1, (3, 1)) + rng.normal(0, 2, (3, 6))
    own = scores.mean(axis=1)
    squares = ((scores - own[:, None]) ** 2).sum()
    mean = np.linspace(-12, 12, 601)[:, None, None] + own.mean()
    sigma = np.exp(np.linspace(-0.8, 2.6, 120))[None, :, None]
    share = (np.arange(200) + 0.5)[None, None] / 200
    ratio = share / (1 - share)
    log_posterior = scipy.chi2.logpdf(squares / sigma**2, 15) - 2 * np.log(sigma)
    log_posterior = log_posterior + scipy.cauchy.logpdf(3 * ratio) - 2 * np.log(1 - share)
    for one in own:
        log_posterior = log_posterior + scipy.norm.logpdf(
            one, mean, sigma * np.sqrt(ratio**2 + 1 / 6)
        )
    reached = np.exp(log_posterior - log_posterior.max()).sum(axis=(1, 2)).cumsum()
    expected = np.interp([0.025, 0.975], reached / reached[-1], mean[:, 0, 0] + 0.02)
    assert of_returns(scores) == pytest.approx(expected, rel=0.01, abs=0.03)


def test_a_single_seed_has_its_episodes_interval():
    scipy = pytest.importorskip("scipy.stats")
    jeffreys = scipy.beta(77.5, 23.5).ppf([0.025, 0.975])
    assert of_successes(77, episodes=100) == pytest.approx(jeffreys, abs=0.001)
    scores = np.random.default_rng(0).normal(5, 3, 12)
    student = scipy.t.interval(0.95, 11, scores.mean(), scores.std(ddof=1) / np.sqrt(12))
    assert of_returns(scores[None]) == pytest.approx(student, rel=1e-3)


def test_many_seeds_far_apart_have_students_interval():
    scipy = pytest.importorskip("scipy.stats")
    own = np.random.default_rng(0).normal(0, 5, 40)
    scores = own[:, None] + np.resize([0.1, -0.1], (40, 10))
    student = scipy.t.interval(0.95, 39, own.mean(), own.std(ddof=1) / np.sqrt(40))
    assert of_returns(scores) == pytest.approx(student, abs=0.05)


@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_less_confidence_is_narrower(confidence):
    ends = success_intervals(np.array([[30, 41, 36]]), EPISODES, confidence)[0]
    low, high = of_successes(30, 41, 36)
    assert low < ends[0] < 107 / 150 < ends[1] < high


# --- What moves it ---


def width(ends: tuple[float, float]) -> float:
    return ends[1] - ends[0]


def test_more_episodes_and_more_seeds_are_narrower():
    widths = [width(of_successes(*[7 * n // 10] * 4, episodes=n)) for n in (10, 20, 50, 100)]
    assert widths == sorted(widths, reverse=True) and widths[-1] < widths[0] / 2
    widths = [width(of_successes(*[35] * seeds)) for seeds in (2, 3, 4, 8, 16)]
    assert widths == sorted(widths, reverse=True) and widths[-1] < widths[0] / 3
    scores = np.resize([1.0, -1.0], (4, 100))
    widths = [width(of_returns(scores[:, :n])) for n in (4, 10, 50, 100)]
    assert widths == sorted(widths, reverse=True)


def test_more_spread_is_wider():
    spreads = (0, 3, 6, 9, 12, 20)
    widths = [width(of_successes(25 - d, 25 + d, 25 - d, 25 + d)) for d in spreads]
    assert widths == sorted(widths)
    scores = np.resize([1.0, -1.0], (4, 10))
    apart = np.array([[-1.0], [1.0], [-1.0], [1.0]])
    widths = [width(of_returns(scores + d * apart)) for d in (0, 0.5, 1, 3, 100)]
    assert widths == sorted(widths)


def test_success_and_failure_are_mirror_images():
    low, high = of_successes(3, 20, 11)
    assert of_successes(47, 30, 39) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_units_and_origins_of_returns_do_not_matter():
    scores = np.random.default_rng(2).normal([[0], [1], [0], [2]], 1, (4, 25))
    ends = np.array(of_returns(scores))
    assert of_returns(-300 + 1e6 * scores) == pytest.approx(-300 + 1e6 * ends, rel=1e-9)
    assert np.mean(ends) == pytest.approx(scores.mean())


# --- The ends ---


@pytest.mark.parametrize("seeds", [1, 2, 4])
@pytest.mark.parametrize("episodes", [1, 10, 50, 1000])
def test_unanimous_episodes_leave_doubt_on_the_inner_side(seeds, episodes):
    low, high = of_successes(*[episodes] * seeds, episodes=episodes)
    assert 0 < low < 1 == high
    assert of_successes(*[0] * seeds, episodes=episodes) == pytest.approx((0, 1 - low), abs=1e-9)


@pytest.mark.parametrize("seeds", [1, 2, 3, 4])
def test_the_interval_is_around_the_mean(seeds):
    counts = np.stack(np.meshgrid(*[range(0, 26, 5)] * seeds), axis=-1).reshape(-1, seeds)
    low, high = success_intervals(counts, 25, CONFIDENCE).T
    mean = counts.mean(axis=1) / 25
    assert (low >= 0).all() and (high <= 1).all()
    assert (low <= mean).all() and (mean <= high).all()


def test_returns_that_all_agree_are_a_point():
    assert of_returns(np.full((4, 10), 0.5)) == (0.5, 0.5)
    assert of_returns([[7.0]]) == (7, 7)


def test_deterministic_episodes_leave_the_seeds():
    scores = np.repeat([[10.0], [20.0], [60.0], [30.0]], 10, axis=1)
    low, high = of_returns(scores)
    assert low < 10 and 50 < high < 100
    nearly = scores + np.resize([1e-6, -1e-6], scores.shape)
    assert of_returns(nearly) == pytest.approx((low, high), rel=0.01)


def test_one_episode_a_seed_is_students_interval():
    scipy = pytest.importorskip("scipy.stats")
    student = scipy.t.interval(0.95, 3, 30, np.std([10, 20, 60, 30], ddof=1) / 2)
    assert of_returns([[10], [20], [60], [30]]) == pytest.approx(student, abs=0.2)


def test_each_checkpoint_is_its_own():
    rng = np.random.default_rng(0)
    for successes in (True, False):
        checkpoints = [rng.integers(0, 2, (3, n)).astype(float) for n in (10, 20, 10)]
        low, high = mean_intervals(checkpoints, successes)
        alone = [mean_intervals([scores], successes) for scores in checkpoints]
        np.testing.assert_allclose(low, [ends[0][0] for ends in alone])
        np.testing.assert_allclose(high, [ends[1][0] for ends in alone])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_confidence_is_a_fraction(confidence):
    with pytest.raises(ValueError, match="between 0 and 1"):
        mean_intervals([np.ones((2, 2))], True, confidence)


# --- The posterior ---


def test_ten_thousand_episodes_cost_little():
    """One row a count that occurs, 51 kB, and not one for each that could."""
    posterior._log_likelihood.cache_clear()
    tracemalloc.start()
    low, high = of_successes(9000, 9500, 9990, 10_000, episodes=10_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6
    assert 0.7 < low < 0.8 and 0.98 < high < 1


@pytest.mark.parametrize("counts", [(0, 10_000), (9000, 9500, 9990), (3,)])
def test_the_likelihood_of_many_episodes_is_scipys(counts):
    scipy = pytest.importorskip("scipy.stats")
    rate = np.sin(posterior.MIDDLES)[:, None] ** 2
    size = 1 / (posterior.SPREAD_SCALE * posterior.TANGENTS) ** 2
    for count in counts:
        ours = posterior._log_likelihood(count, 10_000 - count, True)
        theirs = scipy.betabinom.logpmf(count, 10_000, rate * size, (1 - rate) * size)
        np.testing.assert_allclose(ours - ours.max(), theirs - theirs.max(), atol=1e-4)


@pytest.mark.parametrize("seeds", [1, 2, 4])
@pytest.mark.parametrize("successes", [True, False])
def test_draws_agree_with_the_interval(seeds, successes):
    rng = np.random.default_rng(3)
    rates = np.resize([0.6, 0.8], (seeds, 1))
    scores = (rng.random((seeds, EPISODES)) < rates).astype(float)
    if not successes:
        scores = rng.normal(10 * rates, 1, (seeds, EPISODES))
    expected, new = draw_truths(scores, successes, 40_000, 10, rng)
    (low,), (high,) = mean_intervals([scores], successes)
    near = 0.06 * (high - low)
    assert np.quantile(expected, [0.025, 0.975]) == pytest.approx((low, high), abs=near)
    spread = (new - expected[:, None]).std(axis=1)
    assert expected.shape == (40_000,) and new.shape == (40_000, 10)
    assert (spread.max() < 1e-12) if seeds == 1 else (spread > 0).mean() > 0.95
    if successes:
        assert new.min() >= 0 and new.max() <= 1


@pytest.mark.parametrize("successes", [True, False])
@pytest.mark.parametrize("seeds", [1, 2, 4])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_draws_of_unanimous_episodes_are_numbers(successes, seeds, value):
    for episodes in (1, 50):
        scores = np.full((seeds, episodes), value)
        for drawn in draw_truths(scores, successes, 500, 20, np.random.default_rng(0)):
            assert np.isfinite(drawn).all() and drawn.min() >= 0 and drawn.max() <= 1


# --- The comparison ---


def test_the_comparison_runs():
    command = [sys.executable, SCRIPT, "--experiments", "1"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert sum(intervals.NAME in line for line in lines) == 3
    assert {line.count("|") for line in lines} == {0, 8}
