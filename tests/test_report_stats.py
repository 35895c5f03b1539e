"""The statistics, against sums written out, scipy, rliable and the paper's own curves."""

import csv
import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from cpl_bench.report import stats

PAPER_CURVES = Path(__file__).resolve().parents[2] / "shared" / "data" / "paper_curves.csv"
PAPER_TABLE_1 = {
    ("SFT", "State 2.5k Dense"): (66.9, 21.6, 63.3, 62.6, 41.6, 51.9),
    ("P-IQL", "State 2.5k Dense"): (70.6, 16.2, 69.0, 71.1, 49.6, 60.6),
    ("CPL", "State 2.5k Dense"): (80.0, 24.5, 80.0, 83.6, 61.1, 70.4),
    ("SFT", "State 20k Sparse"): (67.0, 21.4, 63.6, 63.5, 41.9, 50.9),
    ("P-IQL", "State 20k Sparse"): (75.0, 19.5, 79.0, 76.2, 55.5, 73.4),
    ("CPL", "State 20k Sparse"): (83.2, 29.8, 77.9, 79.1, 56.4, 81.2),
}
PAPER_TASKS = (
    "Bin Picking",
    "Button Press",
    "Door Open",
    "Drawer Open",
    "Plate Slide",
    "Sweep Into",
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- Aggregates ---


@pytest.mark.parametrize("runs", range(1, 10))
@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_iqm_is_scipys_trimmed_mean(runs, tasks):
    trim_mean = pytest.importorskip("scipy.stats").trim_mean
    scores = rng(runs).random((runs, tasks))
    assert stats.iqm(scores) == pytest.approx(trim_mean(scores, 0.25, axis=None), abs=1e-12)


def test_iqm_drops_a_quarter_at_either_end():
    assert stats.iqm([[100.0], [1.0], [3.0], [-50.0]]) == 2.0
    assert stats.iqm([[0.0], [1.0], [5.0]]) == 2.0, "three scores have no whole quarter to drop"
    assert stats.iqm([[0, 9], [1, 2], [3, 4], [7, 8]]) == (2 + 3 + 4 + 7) / 4


def test_mean_and_median_go_over_the_tasks_means():
    scores = [[0.0, 1.0, 0.5], [0.2, 0.0, 0.7]]  # task means 0.1, 0.5, 0.6
    assert stats.mean(scores) == pytest.approx(0.4)
    assert stats.median(scores) == pytest.approx(0.5)


def test_optimality_gap_gives_no_credit_beyond_the_target():
    assert stats.optimality_gap([[0.5, 2.0], [1.0, 0.9]]) == pytest.approx((0.5 + 0 + 0 + 0.1) / 4)
    assert stats.optimality_gap([[0.5], [2.0]], target=0.8) == pytest.approx((0.3 + 0) / 2)


def test_probability_of_improvement_counts_pairs():
    x = rng(1).integers(0, 4, size=(5, 3))
    y = rng(2).integers(0, 4, size=(4, 3))
    wins = 0.0
    for task in range(3):
        pairs = list(itertools.product(x[:, task], y[:, task]))
        wins += sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs) / 3
    assert stats.probability_of_improvement(x, y) == pytest.approx(wins)
    assert stats.probability_of_improvement(y, x) == pytest.approx(1 - wins)


def test_probability_of_improvement_at_the_extremes():
    low, high = np.zeros((3, 2)), np.ones((4, 2))
    assert stats.probability_of_improvement(high, low) == 1.0
    assert stats.probability_of_improvement(low, high) == 0.0
    assert stats.probability_of_improvement(low, low) == 0.5
    with pytest.raises(ValueError, match="2 tasks, y covers 1"):
        stats.probability_of_improvement(low, np.zeros((3, 1)))


def test_agrees_with_rliable():
    theirs = pytest.importorskip("rliable.metrics")
    for seed, (runs, tasks) in enumerate([(1, 1), (3, 6), (4, 6), (5, 1), (10, 7)]):
        x = rng(seed).random((runs, tasks)).round(1)  # rounded, so that there are ties
        y = rng(seed + 100).random((runs, tasks)).round(1)
        assert stats.iqm(x) == pytest.approx(theirs.aggregate_iqm(x), abs=1e-6)
        assert stats.mean(x) == pytest.approx(theirs.aggregate_mean(x), abs=1e-6)
        assert stats.median(x) == pytest.approx(theirs.aggregate_median(x), abs=1e-6)
        gap = theirs.aggregate_optimality_gap(x, 0.7)
        assert stats.optimality_gap(x, 0.7) == pytest.approx(gap, abs=1e-6)
        better = theirs.probability_of_improvement(x, y)
        assert stats.probability_of_improvement(x, y) == pytest.approx(better, abs=1e-6)


def test_interquartile_means_go_along_the_last_axis():
    scores = rng(4).random((3, 2, 9))
    expected = [[stats.iqm(row[None]) for row in matrix] for matrix in scores]
    np.testing.assert_allclose(stats.interquartile_means(scores), expected, atol=1e-15)


def test_share_of_wins_is_the_probability_of_improvement_of_each_task():
    x, y = rng(1).integers(0, 4, size=(7, 5)), rng(2).integers(0, 4, size=(7, 3))
    expected = [
        stats.probability_of_improvement(a[:, None], b[:, None]) for a, b in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(stats.share_of_wins(x, y), expected, atol=1e-15)


@pytest.mark.parametrize("scores", [[], [0.5, 0.6], np.zeros((2, 2, 2))])
def test_only_matrices_have_runs_and_tasks(scores):
    with pytest.raises(ValueError, match=r"no scores|a matrix"):
        stats.mean(scores)


# --- The paper's peak ---


@pytest.mark.parametrize("window", [1, 3, 8, 20])
def test_running_mean_is_a_loop_over_full_windows(window):
    values = rng(8).random((2, 12))
    width = min(window, 12)
    expected = [[sum(row[i : i + width]) / width for i in range(12 - width + 1)] for row in values]
    np.testing.assert_allclose(stats.running_mean(values, window), expected, atol=1e-14)


def test_peak_smooths_then_averages_then_maximises():
    success = np.zeros((2, 20))
    success[0, :8] = 1.0  # one seed is good early,
    success[1, 12:] = 1.0  # the other late: each alone peaks at 1, their mean curve at 0.5
    assert stats.peak(success) == 0.5
    spike = np.zeros((2, 20))
    spike[:, 5] = 1.0  # one lucky checkpoint counts an eighth
    assert stats.peak(spike) == 1 / 8
    assert stats.peak(spike, window=1) == 1.0


def test_peak_of_a_short_run_is_its_mean():
    assert stats.peak([[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]) == pytest.approx(0.25)


def test_peak_gives_table_1_from_the_papers_curves():
    """Undo the running mean of each digitised curve, then apply the rule to the checkpoints."""
    if not PAPER_CURVES.is_file():
        pytest.skip(f"the digitised curves of the paper are not at {PAPER_CURVES}")
    curves = defaultdict(list)
    with PAPER_CURVES.open() as file:
        for row in csv.DictReader(file):
            if row["figure"] in ("Fig3", "Fig4"):
                key = (row["series"], row["setting"], row["task"])
                curves[key].append((float(row["x"]), float(row["y"])))
    for (method, setting), cells in PAPER_TABLE_1.items():
        for task, expected in zip(PAPER_TASKS, cells, strict=True):
            points = np.array(curves[method, setting, task])
            assert points[0, 0] == pytest.approx(35_000, abs=200), "the eighth checkpoint from 0"
            checkpoints = _checkpoints_behind(points[:, 1], window=8)
            assert len(checkpoints) == 101, "every 5k steps from 0 to 500k"
            assert 100 * stats.peak(checkpoints[None]) == pytest.approx(expected, abs=0.07), (
                method,
                task,
            )


def _checkpoints_behind(smoothed: np.ndarray, window: int) -> np.ndarray:
    """One of the series whose running mean is `smoothed`: its first window is constant."""
    series = [smoothed[0]] * window
    for before, after in itertools.pairwise(smoothed):
        series.append(series[-window] + window * (after - before))
    return np.array(series)
