"""Aggregates and intervals over a few runs, and the paper's peak rule.

`scores` is a (runs, tasks) matrix: one number for each run (seed) of a method on each task. The
aggregates are those of Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical
Precipice" (NeurIPS 2021, arXiv 2108.13264), and agree with its library rliable. Random numbers come
from a Generator that the caller passes, so that the same seed gives the same interval.
"""

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

Scores = NDArray[np.float64]


def iqm(scores: ArrayLike) -> float:
    """Interquartile mean: the mean without the lowest and the highest quarter of all scores.

    Runs and tasks are pooled. Of n scores ⌊n/4⌋ are dropped at either end, whole scores only, so
    that three runs or fewer are simply averaged (Agarwal et al. 2021, section 4.3).
    """
    ordered = np.sort(_scores(scores), axis=None)  # (runs * tasks,)
    dropped = ordered.size // 4
    return float(ordered[dropped : ordered.size - dropped].mean())


def mean(scores: ArrayLike) -> float:
    """The mean over tasks of each task's mean over runs."""
    return float(_matrix(scores).mean(axis=0).mean())


def median(scores: ArrayLike) -> float:
    """The median over tasks of each task's mean over runs."""
    return float(np.median(_matrix(scores).mean(axis=0)))


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> float:
    """How far scores fall short of `target` on average; what exceeds the target earns nothing."""
    return float(target - np.minimum(_scores(scores), target).mean())


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """P(X > Y): how probably a run of x beats a run of y on the same task, averaged over tasks.

    The Mann–Whitney statistic U / (runs of x · runs of y), in which a tie counts half.

    Args:
        x: (runs of x, tasks)
        y: (runs of y, tasks)
    """
    ours, theirs = _matrix(x), _matrix(y)
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"x covers {ours.shape[1]} tasks, y covers {theirs.shape[1]}")
    difference = np.sign(ours[:, None] - theirs[None])  # (runs of x, runs of y, tasks)
    return float((0.5 + 0.5 * difference).mean())


def stratified_bootstrap(
    scores: ArrayLike,
    statistic: Callable[[Scores], float],
    resamples: int,
    confidence: float,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Percentile interval of `statistic`, runs drawn with replacement within each task.

    Every task is resampled on its own and keeps its number of runs (Agarwal et al. 2021, section
    4.1; the percentile method is that of Efron, 1979).

    Args:
        scores: (runs, tasks)
        statistic: takes a (runs, tasks) matrix
        resamples: how many matrices are drawn
        confidence: the interval's coverage, in (0, 1)
        rng: decides the draws

    Returns:
        The lower and the upper end.
    """
    matrix = _matrix(scores)
    runs, tasks = matrix.shape
    drawn = rng.integers(runs, size=(resamples, runs, tasks))
    values = np.array([statistic(np.take_along_axis(matrix, rows, axis=0)) for rows in drawn])
    low, high = np.quantile(values, _ends(confidence))
    return float(low), float(high)


def bootstrap_band(
    values: ArrayLike, resamples: int, confidence: float, rng: np.random.Generator
) -> tuple[Scores, Scores]:
    """Pointwise percentile interval of the mean curve, whole runs drawn with replacement.

    Args:
        values: (runs, steps), one curve a run
        resamples: how many sets of runs are drawn
        confidence: the coverage at each step, in (0, 1)
        rng: decides the draws

    Returns:
        The lower and the upper edge, each (steps,).
    """
    curves = _matrix(values)
    runs = len(curves)
    drawn = rng.integers(runs, size=(resamples, runs))
    counts = (drawn[:, :, None] == np.arange(runs)).sum(axis=1)  # (resamples, runs)
    low, high = np.quantile(counts @ curves / runs, _ends(confidence), axis=0)
    return low, high


def running_mean(values: ArrayLike, window: int) -> Scores:
    """Means over `window` neighbouring checkpoints, full windows only.

    Args:
        values: (..., checkpoints)
        window: checkpoints in a window; all of them where there are fewer

    Returns:
        (..., checkpoints - window + 1)
    """
    if window < 1:
        raise ValueError(f"a window holds at least one checkpoint, not {window}")
    curve = _scores(values)
    return sliding_window_view(curve, min(window, curve.shape[-1]), axis=-1).mean(axis=-1)


def peak(success: ArrayLike, window: int = 8) -> float:
    """The number in the CPL paper's tables: the best of the smoothed, seed-averaged curve.

    A running mean over 8 neighbouring checkpoints, then the mean over seeds, then the maximum over
    training (Hejna et al., arXiv 2310.13639v3). Averaging before the maximum keeps each seed from
    choosing its own best moment. With no more checkpoints than `window` there is one window: the
    mean of the whole run.

    Args:
        success: (seeds, checkpoints)
        window: checkpoints in a window
    """
    return float(running_mean(_matrix(success), window).mean(axis=0).max())


def _scores(values: ArrayLike) -> Scores:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("there are no scores to aggregate")
    return array


def _matrix(values: ArrayLike) -> Scores:
    array = _scores(values)
    if array.ndim != 2:
        raise ValueError(f"expected a matrix with one row a run, got shape {array.shape}")
    return array


def _ends(confidence: float) -> tuple[float, float]:
    """The quantiles that leave out equal tails."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return (1 - confidence) / 2, (1 + confidence) / 2
