"""Aggregates over tasks, on runs whose episodes are made up."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from cpl_bench.core.score import SUCCESS, Score
from cpl_bench.report import stats
from cpl_bench.report.aggregates import Aggregate, improvement, iqm, mean, over_tasks, sample

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


def test_intervals_hold_their_values_and_narrow_with_seeds():
    few = rows(*TWO)
    most = rows(*(MadeUp(r.dataset, r.method, np.repeat(r.final, 10, axis=0)) for r in TWO))
    for method, row in few.items():
        for name in ("iqm", "mean", "beaten"):
            if (estimate := getattr(row, name)) is None:
                continue
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
            narrow = getattr(most[method], name)
            assert narrow.high - narrow.low < estimate.high - estimate.low


def test_intervals_narrow_with_episodes_where_seeds_agree():
    alike = [run(task, "CPL", 0.7, 0.7, 0.7) for task in "ab"]
    few = rows(*alike)["CPL"]
    more = rows(*(MadeUp(r.dataset, r.method, np.repeat(r.final, 10, axis=1)) for r in alike))
    for name in ("iqm", "mean"):
        estimate, narrow = getattr(few, name), getattr(more["CPL"], name)
        assert narrow.high - narrow.low < 0.8 * (estimate.high - estimate.low)


# --- Intervals ---


def covered(rates, behind, spread: float, seeds: int, experiments: int = 100) -> np.ndarray:
    """How often IQM, mean and P are covered, on two tasks; seeds' rates are beta distributed."""
    rng = np.random.default_rng([seeds, round(100 * spread)])

    def true(rate: float, shape) -> np.ndarray:
        size = rate * (1 - rate) / spread**2 - 1
        return rng.beta(rate * size, (1 - rate) * size, size=shape)

    many = [[true(rate, 100_000) for rate in some] for some in (rates, behind)]
    ahead = np.mean([ours > theirs for ours, theirs in zip(*many, strict=True)])
    truth = np.array([stats.iqm(np.array(many[0])), np.mean(rates), ahead])
    hits = np.zeros(3)
    for _ in range(experiments):
        x, y = (
            sample(
                [(rng.random((seeds, 50)) < true(rate, (seeds, 1))).astype(float) for rate in some],
                [True, True],
                draws=500,
                new_seeds=50,
                rng=rng,
            )
            for some in (rates, behind)
        )
        found = (iqm(x), mean(x), improvement(x, y))
        ends = np.array([(one.low, one.high) for one in found])
        hits += (ends[:, 0] - 0.0005 <= truth) & (truth <= ends[:, 1] + 0.0005)
    return hits / experiments


@pytest.mark.parametrize("seeds", [4, 8])
@pytest.mark.parametrize(
    ("rates", "behind", "spread"),
    [
        ((0.9, 0.97), (0.9, 0.97), 0.15),
        ((0.5, 0.7), (0.3, 0.5), 0.05),
        ((0.5, 0.7), (0.5, 0.7), 0.15),
    ],
)
def test_four_seeds_and_more_cover_the_truth(rates, behind, spread, seeds):
    assert (covered(rates, behind, spread, seeds) >= 0.9).all()


def test_a_clean_sweep_of_a_few_seeds_is_no_certainty():
    sweep = [run(t, m, *[r] * 4) for t in "ab" for m, r in (("CPL", 0.8), ("BC", 0.7))]
    beaten = rows(*sweep)["BC"].beaten
    assert beaten.value == beaten.high == 1 and beaten.low < 0.8


def test_two_normalised_returns():
    rng = np.random.default_rng(0)
    runs = [
        MadeUp(t, m, rng.normal(score, 0.1, (4, 50)) + rng.normal(0, 0.05, (4, 1)), NORMALISED)
        for t in "ab"
        for m, score in (("CPL", 0.8), ("BC", 0.7))
    ]
    found = rows(*runs)
    assert 0.72 < found["CPL"].mean.low < 0.8 < found["CPL"].mean.high < 0.88
    assert 0.4 < found["BC"].beaten.low < found["BC"].beaten.high


def test_episodes_that_all_agree_give_numbers():
    for scoring in (SUCCESS, NORMALISED):
        runs = [run(t, m, r, r, scoring=scoring) for t in "ab" for m, r in (("X", 1), ("Y", 0))]
        found = rows(*runs)
        assert found["X"].iqm.high == found["X"].mean.high == found["Y"].beaten.value == 1
        assert found["Y"].iqm.low == 0 <= found["Y"].beaten.low


def test_fewest_seeds_are_counted():
    assert over_tasks(TWO).fewest == 2
    assert over_tasks([TWO[0], run("sweep", "CPL", 0.5)]).fewest == 1


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
