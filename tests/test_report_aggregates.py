"""Aggregates over tasks, on runs whose episodes are made up."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from cpl_bench.core.score import SUCCESS, Score
from cpl_bench.report import stats
from cpl_bench.report.aggregates import Aggregate, over_tasks

NORMALISED, RAW = Score("normalised return", 0, 10), Score("return")


@dataclass(frozen=True)
class MadeUp:
    """What an `EvaluatedRun` says of itself, as far as aggregates ask."""

    dataset: str
    method: str
    final: np.ndarray = field(compare=False)
    scoring: Score = SUCCESS


def run(dataset: str, method: str, *rates: float, episodes: int = 20, scoring=SUCCESS) -> MadeUp:
    """Each seed succeeds in the first share of its episodes."""
    final = np.array([np.arange(episodes) < rate * episodes for rate in rates], float)
    return MadeUp(dataset, method, final, scoring)


def rows(*runs: MadeUp) -> dict[str, Aggregate]:
    overall = over_tasks(runs)
    assert overall is not None
    return {row.method: row for row in overall.rows}


TWO = (
    run("drawer", "CPL", 0.9, 0.8, 0.5),
    run("drawer", "BC", 0.5, 0.6),
    run("sweep", "CPL", 0.7, 0.6),
    run("sweep", "BC", 0.7, 0.4),
)


def test_values_by_hand():
    overall = over_tasks(TWO)
    cpl, bc = overall.rows
    assert overall.tasks == ("drawer", "sweep") and overall.best == "CPL"
    assert (cpl.method, bc.method) == ("CPL", "BC")
    assert cpl.iqm.value == pytest.approx((0.6 + 0.7 + 0.8) / 3), "0.5 and 0.9 are dropped"
    assert bc.iqm.value == pytest.approx((0.5 + 0.6) / 2)
    assert cpl.mean.value == pytest.approx((2.2 / 3 + 0.65) / 2), "a task counts once"
    assert cpl.beaten is None
    drawer = (2 + 2 + 0.5) / 6  # 0.9 and 0.8 beat both, 0.5 ties with one
    sweep = (1.5 + 1) / 4
    assert bc.beaten.value == pytest.approx((drawer + sweep) / 2)


def test_values_are_those_of_the_statistics():
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 4, 3)).round(1)  # (seeds, tasks)
    named = (("X", x), ("Y", y))
    runs = [run(f"t{i}", name, *scores[:, i]) for i in range(3) for name, scores in named]
    measured = {
        name: np.stack([r.final.mean(1) for r in runs if r.method == name], 1) for name in "XY"
    }
    best = over_tasks(runs).best
    (other,) = set("XY") - {best}
    found = rows(*runs)
    for name in "XY":
        assert found[name].iqm.value == pytest.approx(stats.iqm(measured[name]))
        assert found[name].mean.value == pytest.approx(stats.mean(measured[name]))
    expected = stats.probability_of_improvement(measured[best], measured[other])
    assert found[other].beaten.value == pytest.approx(expected)


def test_intervals_hold_their_values_and_narrow_with_episodes_and_seeds():
    few = rows(*TWO)
    more = rows(*(MadeUp(r.dataset, r.method, np.repeat(r.final, 10, axis=1)) for r in TWO))
    most = rows(*(MadeUp(r.dataset, r.method, np.repeat(r.final, 10, axis=0)) for r in TWO))
    for method, row in few.items():
        for name in ("iqm", "mean", "beaten"):
            if (estimate := getattr(row, name)) is None:
                continue
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
            for larger in (more, most) if name != "beaten" else (most,):
                narrow = getattr(larger[method], name)
                assert narrow.high - narrow.low < estimate.high - estimate.low


def test_the_interval_of_the_mean_covers_it():
    """Rates that differ between seeds by 5 points; the mean over two tasks."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(150):
        runs = []
        for task, rate in (("a", 0.4), ("b", 0.8)):
            seeds = rng.normal(rate, 0.05, (4, 1))
            runs.append(MadeUp(task, "CPL", (rng.random((4, 50)) < seeds).astype(float)))
        mean = rows(*runs)["CPL"].mean
        covered += mean.low <= 0.6 <= mean.high
    assert covered / 150 >= 0.9


def test_the_same_runs_give_the_same_numbers():
    assert over_tasks(TWO) == over_tasks(TWO)


def test_one_method_has_nobody_to_beat():
    found = rows(*(r for r in TWO if r.method == "BC"))
    assert list(found) == ["BC"] and found["BC"].beaten is None


def test_methods_that_miss_a_task_are_left_out_and_named():
    overall = over_tasks([*TWO, run("drawer", "SFT", 1, 1)])
    assert overall.elsewhere == ("SFT",) and overall.best == "CPL"
    assert [row.method for row in overall.rows] == ["CPL", "BC"]


def test_plain_returns_are_left_out_and_named():
    overall = over_tasks([*TWO, run("walker", "CPL", 1, scoring=RAW)])
    assert overall.unscaled == ("walker",) and overall.tasks == ("drawer", "sweep")
    only = run("walker", "ES", 1, scoring=RAW)
    assert over_tasks([*TWO, only]).elsewhere == (), "a method that ran on no such task"
    mixed = over_tasks([*TWO[:2], run("hopper", "CPL", 0.5, 0.7, scoring=NORMALISED)])
    assert mixed.tasks == ("drawer", "hopper")


@pytest.mark.parametrize(
    "runs",
    [
        TWO[:2],
        (TWO[0], run("walker", "CPL", 1, scoring=RAW)),
        (TWO[0], TWO[3]),
    ],
    ids=["one task", "one share", "no method on both"],
)
def test_there_is_nothing_to_aggregate(runs):
    assert over_tasks(runs) is None
