"""A seed that diverges counts as 0 and is marked; the others go on as if it weren't there."""

import csv
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from impatient import DyingPool

from cpl_bench.core.cards import load_task
from cpl_bench.core.errors import UserError
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.core.seeds import training_seeds
from cpl_bench.experiments.card import Experiment, Method
from cpl_bench.experiments.sweep import report_on, run_experiment
from cpl_bench.learning.algos import bc, ppo
from cpl_bench.learning.interface import Entry
from cpl_bench.learning.methods import configured
from cpl_bench.preferences.file import load_preferences
from cpl_bench.report.report import report
from cpl_bench.runs.evaluate import evaluate
from cpl_bench.runs.evaluations import read_evaluations
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.options import TrainOptions
from cpl_bench.runs.record import read_record
from cpl_bench.runs.train import train

DOTS = str(Path(__file__).parent / "dots.toml")
POINTMASS = load_task("pointmass")
SFT = {"policy": {"hidden": [16, 16]}, "segments": 8, "steps": 50, "clone": {"steps": 24}}
PPO = SFT | {
    "reward": {"steps": 8, "hidden": [16, 16]},
    "value": {"hidden": [16, 16]},
    "collection": {"transitions": 100, "minibatch": 20, "value_only": 1, "epochs": 2},
}
HIGH = {"clone": {"steps": 20, "optimiser": {"rate": 1e30}}}
ENDS = {"random_return": -50.0, "expert_return": -5.0}
LOST_AT = 30
"""The step that one seed's weights do not survive."""
SEED = 3


def fragile(entry, lost):
    """A method whose members of the training seeds `lost` lose their weights on the way."""

    def build(config, observation_size, action_size, seeds, device):
        learner = entry.build(config, observation_size, action_size, seeds, device)
        rows = [place for place, seed in enumerate(seeds) if seed in lost]
        phases = learner.phases()

        def update(phase, batch):
            metrics = phase.update(batch)
            if batch.step >= LOST_AT:
                with torch.no_grad():
                    for value in learner.policy.parameters.values():
                        value[rows] = float("nan")
            return metrics

        broken = [each._replace(update=partial(update, each)) for each in phases]
        learner.phases = lambda: [
            each._replace(shared=None) if hasattr(each, "shared") else each for each in broken
        ]
        return learner

    return Entry(build, entry.presets, entry.title)


ONE = fragile(bc.ENTRY, training_seeds([SEED]))
ALL = fragile(bc.ENTRY, training_seeds(range(4)))
ONLINE = fragile(ppo.ENTRY, training_seeds([SEED]))


@pytest.fixture(scope="module")
def start(dots, pool):
    """start(runs, algorithm): train it on the point mass."""
    preferences = load_preferences(dots[2])

    def run(runs, algorithm, settings=SFT, pool=pool, task=POINTMASS, **options):
        name = f"{__name__}:{algorithm}" if algorithm.isupper() else algorithm
        config = configured(name, "laptop", settings)
        options = {"seeds": (0, SEED), "evaluate_every": 20, "episodes": 3, **options}
        options = TrainOptions(runs=runs, method="SFT", **options)
        return train(preferences, "dots", name, config, options, pool, task)

    return run


def of_seed(path, seed):
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["seed"] == str(seed)]


@pytest.mark.parametrize(
    ("fragile", "sound", "settings", "since"),
    [("ONE", "sft", SFT, 40), ("ONLINE", "ppo", PPO, 50)],  # whose clone acts until then
)
def test_the_others_go_on_as_if_it_were_not_there(
    start, pool, tmp_path, capsys, fragile, sound, settings, since
):
    run = start(tmp_path, fragile, settings)
    undisturbed = start(tmp_path, sound, settings, seeds=(0,))
    said = f"seed 3 has diverged, its weights at step {since} are not finite"
    assert said in capsys.readouterr().out
    assert read_record(run).diverged == ((SEED, since),)
    assert of_seed(run / "evaluations.csv", 0) == of_seed(undisturbed / "evaluations.csv", 0)
    noted, expected = (of_seed(each / "metrics.csv", 0) for each in (run, undisturbed))
    values = ([float(row.pop("value")) for row in rows] for rows in (noted, expected))
    np.testing.assert_allclose(*values, rtol=1e-4, err_msg="but for the order of sums")
    assert noted == expected
    lost = of_seed(run / "evaluations.csv", SEED)
    assert all(float(row["success"]) == 0 for row in lost if int(row["step"]) >= since)
    assert RunFolder(run).read_weights(50).broken() == []
    evaluate(run, pool, 4)
    evaluate(undisturbed, pool, 4)
    assert of_seed(run / "final.csv", 0) == of_seed(undisturbed / "final.csv", 0)
    assert {row["success"] for row in of_seed(run / "final.csv", SEED)} == {"0"}


def test_it_counts_as_nothing_whatever_it_achieves(start, pool, tmp_path):
    """On a task that standing still solves, and on one scored by returns."""
    solved = replace(POINTMASS, score="return", reference=ENDS)
    assert solved.scoring.name == "normalised return"
    run = start(tmp_path, "ONE", task=solved)
    columns = read_evaluations(run / "evaluations.csv")
    lost = (columns["seed"] == SEED) & (columns["step"] >= 40)
    assert (columns["return"][lost] == -50).all() and (columns["success"][lost] == 0).all()
    assert (solved.scoring.of(columns["success"], columns["return"])[lost] == 0).all()
    assert (columns["return"][~lost] != -50).all()
    before = evaluate(run, pool, 3, checkpoint=20)
    assert (before.rows["return"] != -50).all(), "there it had weights"


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(start, pool, tmp_path):
    whole = start(tmp_path / "whole", "ONE")
    for evaluations in (1, 2):  # before and after it is lost
        runs = tmp_path / str(evaluations)
        with pytest.raises(KeyboardInterrupt):
            start(runs, "ONE", pool=DyingPool(pool, evaluations))
        again = start(runs, "ONE", resume=True)
        names = (
            "metrics.csv",
            "evaluations.csv",
            "state.safetensors",
            "checkpoints/50.safetensors",
        )
        for name in names:
            assert (again / name).read_bytes() == (whole / name).read_bytes(), name
        assert read_record(again) == read_record(whole)


def test_with_no_seed_left_the_run_ends(start, tmp_path, capsys):
    run = start(tmp_path, "ALL", seeds=(0, 1))
    assert "No seed of SFT is left to train" in capsys.readouterr().out
    record = read_record(run)
    assert record.diverged == ((0, 40), (1, 40))
    assert RunFolder(run).state_step() == 50
    columns = read_evaluations(run / "evaluations.csv")
    assert not columns["success"][columns["step"] >= 40].any()
    assert start(tmp_path, "ALL", seeds=(0, 1)) == run, "and it is finished"


def test_a_rate_far_too_high_is_such_a_divergence(start, tmp_path):
    run = start(tmp_path, "sft", SFT | HIGH)
    assert read_record(run).diverged == ((0, 20), (SEED, 20))


def test_the_report_marks_it(start, tmp_path):
    run = start(tmp_path, "ONE")
    row = report([run], tmp_path / "report").rows[0]
    assert (row.seeds, row.failed) == (2, 1)
    page = (tmp_path / "report" / "README.md").read_text()
    assert "| SFT | 2, 1 failed |" in page
    assert "**Failed:** SFT diverged, seed 3 at step 40, and counts as 0 from there on." in page
    assert row.last <= 0.5


def test_what_has_diverged_is_not_shared(start, tmp_path):
    start(tmp_path, "sft", SFT | HIGH)
    assert not (tmp_path / "dots" / ".shared").exists()


def test_a_broken_member_stands_still():
    arrays = {"w0": np.ones((3, 2, 1), np.float32), "b0": np.ones((3, 1), np.float32)}
    arrays["w0"][1, 0] = np.inf
    weights = PolicyWeights("deterministic", arrays)
    assert weights.broken() == [1]
    stilled = weights.stilled()
    assert stilled.broken() == []
    assert not stilled.arrays["w0"][1].any() and not stilled.arrays["b0"][1].any()
    assert (stilled.arrays["w0"][[0, 2]] == 1).all()
    assert np.isinf(weights.arrays["w0"][1, 0]).all(), "the learner's own are left alone"


# --- Experiments of which something is missing ---


@pytest.fixture
def experiment(dots, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(dots[1]))
    small = {"policy": {"hidden": [16]}, "segments": 8, "steps": 30, "clone": {"steps": 10}}
    methods = (Method("SFT", "sft", small), Method("CPL", "cpl", small))
    return Experiment(
        "small", (DOTS,), methods, seeds=2, final_episodes=0, episodes=2, evaluate_every=10
    )


def test_a_run_that_stops_does_not_stop_the_others(experiment, pool, tmp_path):
    checkpoint = tmp_path / "dots" / "sft-sft" / "state.safetensors"
    run_experiment(replace(experiment, methods=experiment.methods[:1]), tmp_path, pool)
    checkpoint.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"1 of 2 runs stopped: dots/sft-sft: .* is damaged"):
        run_experiment(experiment, tmp_path, pool)
    assert (tmp_path / "dots" / "cpl-cpl" / "evaluations.csv").is_file()
    assert "Incomplete" not in (tmp_path / "README.md").read_text(), "both have a curve"


def test_a_page_says_which_runs_are_missing(experiment, pool, tmp_path):
    with pytest.raises(UserError, match="No run of small is in"):
        report_on(experiment, tmp_path)
    run_experiment(replace(experiment, methods=experiment.methods[1:]), tmp_path, pool)
    assert len(report_on(experiment, tmp_path).rows) == 1
    page = (tmp_path / "README.md").read_text()
    assert "> **Incomplete:** 1 of 2 runs are missing: dots/sft-sft." in page
