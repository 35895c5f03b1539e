"""A run folder holds what training leaves behind, to the byte, also after a killed run."""

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from cpl_bench.core.errors import UserError
from cpl_bench.core.seeds import episode_seeds, training_seeds
from cpl_bench.learning.methods import ALGOS
from cpl_bench.learning.presets import configured
from cpl_bench.preferences.file import load_preferences, write_preferences
from cpl_bench.runs.batches import PreferenceSampler
from cpl_bench.runs.evaluate import evaluate
from cpl_bench.runs.evaluations import read_evaluations
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.train import TrainOptions, choose_device, train

BASICS = ("hidden", "learning_rate", "steps", "clone_steps", "segments_per_batch")
SETTINGS = {  # each method takes those it has
    "hidden": (16, 16),
    "learning_rate": 1e-3,
    "steps": 50,
    "clone_steps": 24,
    "segments_per_batch": 8,
    "reward_steps": 12,
    "transitions_per_batch": 64,
    "transitions_per_collection": 100,
    "minibatch": 20,
    "value_collections": 1,
    "epochs": 2,
    "lam": 0.75,
}
CPL_SETTINGS = {key: SETTINGS[key] for key in (*BASICS, "lam")}
EVALUATED = [20, 40, 50]
METRICS_AT = [4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 50]


class DyingPool:
    """A pool whose user loses patience: Ctrl-C at the n-th evaluation."""

    def __init__(self, pool, evaluations):
        self.pool, self.left = pool, evaluations

    def episodes(self, *arguments, **options):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.pool.episodes(*arguments, **options)


@pytest.fixture(scope="module")
def start(dots, pool):
    """start(runs, **options): train CPL, or `algorithm`, on the point mass."""

    def run(runs, algorithm="cpl", settings=None, pool=pool, **options):
        options = {"seeds": (0, 3), "evaluate_every": 20, "episodes": 3, **options}
        known = asdict(ALGOS[algorithm].presets["laptop"])
        base = {key: value for key, value in SETTINGS.items() if key in known}
        config = configured(algorithm, "laptop", {**base, **(settings or {})})
        return train(dots[2], "dots", algorithm, config, TrainOptions(runs=runs, **options), pool)

    return run


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """An uninterrupted run, which no test may change."""
    return start(tmp_path_factory.mktemp("whole"))


def contents(folder):
    """The bytes that must be the same in two runs."""
    paths = [folder / name for name in ("metrics.csv", "evaluations.csv", "state.safetensors")]
    paths += sorted((folder / "checkpoints").iterdir())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_run_that_diverges_says_so(start, tmp_path):
    with pytest.raises(
        UserError, match="dots: seed 0 has diverged, its weights at step 20 are not"
    ):
        start(tmp_path, "sft", {"learning_rate": 1e30})


# --- The folder ---


def test_the_run_folder_is_complete(whole, dots):
    assert whole.parts[-2:] == ("dots", "cpl")
    names = {path.name for path in whole.iterdir()}
    assert names == {
        "run.json",
        "metrics.csv",
        "evaluations.csv",
        "state.safetensors",
        "checkpoints",
        "tensorboard",
    }
    record = json.loads((whole / "run.json").read_text())
    assert record["algorithm"] == "cpl"
    assert record["method"] == "CPL(λ=0.75)"
    assert record["task"] == "pointmass"
    assert record["seeds"] == [0, 3]
    assert record["phases"] == [["clone", 24], ["contrast", 26]]
    assert record["config"]["hidden"] == [16, 16]
    assert record["preferences"]["card"] == "dots"
    assert 0 < record["behaviour_success"] < 1
    assert record["versions"]["torch"] == torch.__version__
    assert any((whole / "tensorboard").iterdir())


def test_metrics_are_written_between_and_at_evaluations(whole):
    with (whole / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted({int(row["step"]) for row in rows}) == METRICS_AT
    for row in rows:
        assert row["phase"] == ("clone" if int(row["step"]) <= 24 else "contrast")
        assert row["seed"] in ("0", "3")
        assert np.isfinite(float(row["value"]))
    last = {row["metric"] for row in rows if row["step"] == "50"}
    assert last == {"contrast_loss", "accuracy", "log_prob"}


def test_metrics_are_means_since_the_pause_before(whole, dots):
    preferences = load_preferences(dots[2])
    members = training_seeds((0, 3))
    sampler = PreferenceSampler(preferences, members, 8)
    config = configured("cpl", "laptop", CPL_SETTINGS)
    learner = ALGOS["cpl"].build(config, 6, 2, members, torch.device("cpu"))
    clone = learner.phases(50)[0]
    losses = [clone.update(sampler.draw(step))["clone_loss"][1].item() for step in range(8)]
    with (whole / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["seed"] == "3"]
    assert float(rows[0]["value"]) == pytest.approx(np.mean(losses[:4]), rel=1e-6)
    assert float(rows[1]["value"]) == pytest.approx(np.mean(losses[4:]), rel=1e-6)


def test_evaluations_and_checkpoints_belong_together(whole):
    folder = RunFolder(whole)
    assert folder.checkpoint_steps() == EVALUATED
    rows = read_evaluations(folder.evaluations)
    assert sorted(set(rows["step"])) == EVALUATED
    assert sorted(set(rows["seed"])) == [0, 3]
    assert len(rows["step"]) == 3 * 2 * 3
    weights = folder.read_weights(50)
    assert weights["w0"].shape == (2, 6, 16)
    step, state = RunFolder(whole).read_state()
    assert step == 50
    np.testing.assert_array_equal(state["w0"], weights["w0"])


@pytest.mark.parametrize("every", [13, 7, 3])
def test_any_interval_is_kept(start, tmp_path, every):
    run = start(tmp_path, evaluate_every=every, episodes=1, settings={"steps": 30})
    assert RunFolder(run).checkpoint_steps() == sorted({*range(every, 31, every), 30})


# --- The same bytes ---


@pytest.mark.parametrize("algorithm", ALGOS)
def test_same_command_same_bytes(start, tmp_path, algorithm):
    one = contents(start(tmp_path / "one", algorithm))
    other = contents(start(tmp_path / "other", algorithm))
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


@pytest.mark.parametrize("evaluations", [0, 1, 2])  # done before Ctrl-C
def test_an_interrupted_run_resumes_to_the_same_bytes(start, whole, pool, tmp_path, evaluations):
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, pool=DyingPool(pool, evaluations))
    folder = tmp_path / "dots" / "cpl"
    assert contents_if_any(folder) != contents(whole)
    with pytest.raises(UserError, match="--resume"):
        start(tmp_path)
    assert start(tmp_path, resume=True) == folder
    assert contents(folder) == contents(whole)


def contents_if_any(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.csv")}


def test_what_was_half_written_is_dropped_on_resume(start, whole, pool, tmp_path):
    """Evaluations and a checkpoint are written before the state that a resume starts from."""
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, pool=DyingPool(pool, 1))
    folder = tmp_path / "dots" / "cpl"
    with (folder / "evaluations.csv").open("a") as file:
        file.write("40,0,0,1,-3.5,20\n40,0,1,0,-3")  # cut off
    with (folder / "metrics.csv").open("a") as file:
        file.write("44,contrast,0,accuracy,0.5\n48,contr")
    (folder / "checkpoints" / "40.safetensors").write_bytes(b"later")
    start(tmp_path, resume=True)
    assert contents(folder) == contents(whole)


@pytest.mark.parametrize(
    ("algorithm", "calls"), [("sft", 1), ("percent-bc", 1), ("piql", 1), ("ppo", 3)]
)
def test_every_method_resumes_to_the_same_bytes(start, pool, tmp_path, algorithm, calls):
    whole = start(tmp_path / "whole", algorithm)
    with pytest.raises(KeyboardInterrupt):  # PPO: with the last checkpoint inside a collection
        start(tmp_path / "cut", algorithm, pool=DyingPool(pool, calls))
    assert 0 < len(RunFolder(tmp_path / "cut" / "dots" / algorithm).checkpoint_steps()) < 3
    resumed = start(tmp_path / "cut", algorithm, resume=True)
    assert contents(resumed) == contents(whole)


def without_rewards(dots, tmp_path):
    preferences = replace(load_preferences(dots[2]), rewards=None)
    write_preferences(tmp_path / "bare.safetensors", preferences)
    return tmp_path / "bare.safetensors"


@pytest.mark.parametrize(
    ("algorithm", "settings"), [("percent-bc", {}), ("piql", {"reward": "true"})]
)
def test_methods_that_see_rewards_refuse_data_without(dots, pool, tmp_path, algorithm, settings):
    config = configured(algorithm, "laptop", settings)
    path, options = without_rewards(dots, tmp_path), TrainOptions(runs=tmp_path / "runs")
    message = rf"holds no rewards.*\({algorithm}\).*without them: sft, cpl, piql, ppo\."
    with pytest.raises(UserError, match=message):
        train(path, "bare", algorithm, config, options, pool)
    assert not (tmp_path / "runs").exists()


def test_other_methods_learn_without_rewards(dots, pool, tmp_path):
    config = configured("piql", "laptop", {"hidden": (8, 8), "steps": 4, "reward_steps": 2})
    options = TrainOptions((0,), episodes=1, runs=tmp_path / "runs")
    assert train(without_rewards(dots, tmp_path), "bare", "piql", config, options, pool).exists()


def test_a_ranking_loss_refuses_single_comparisons_before_it_trains(dots, pool, tmp_path):
    sparse = replace(
        load_preferences(dots[2]), first=np.arange(0, 600, 2), second=np.arange(1, 600, 2)
    )
    scores = sparse.scores
    answers = 0.5 + 0.5 * np.sign(scores[1::2] - scores[::2])
    info = replace(sparse.info, pairs="sparse")
    path = tmp_path / "sparse.safetensors"
    write_preferences(path, replace(sparse, prefers_second=answers.astype(np.float32), info=info))
    config = configured("ppo", "laptop", {"reward_loss": "ranking"})
    with pytest.raises(UserError, match="--pairs ranked or dense"):
        train(path, "sparse", "ppo", config, TrainOptions(runs=tmp_path / "runs"), pool)
    assert not (tmp_path / "runs").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.learning.presets import configured
from cpl_bench.runs.train import TrainOptions, train

class Deadly(RolloutPool):
    count = 0
    def episodes(self, *arguments, **options):
        self.count += 1
        if self.count == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().episodes(*arguments, **options)

settings = eval(sys.argv[3])
options = TrainOptions((0, 3), evaluate_every=20, episodes=3, runs=Path(sys.argv[2]))
with Deadly(1) as pool:
    train(Path(sys.argv[1]), "dots", "cpl", configured("cpl", "laptop", settings), options, pool)
"""


def test_a_run_killed_dead_resumes_to_the_same_bytes(start, whole, dots, tmp_path):
    command = [sys.executable, "-c", KILLED, str(dots[2]), str(tmp_path), repr(CPL_SETTINGS)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    folder = tmp_path / "dots" / "cpl"
    assert RunFolder(folder).checkpoint_steps() == [20]
    start(tmp_path, resume=True)
    assert contents(folder) == contents(whole)


# --- Refusals ---


def test_a_finished_run_is_not_redone(start, tmp_path, capsys):
    folder = start(tmp_path, settings={"steps": 10})
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for resume in (False, True):
        assert start(tmp_path, settings={"steps": 10}, resume=resume) == folder
    assert "already trained" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"settings": {"steps": 10, "lam": 0.5}}, "config"),
        ({"settings": {"steps": 12}}, "config"),
        ({"seeds": (0, 1)}, "seeds"),
        ({"episodes": 4}, "episodes"),
        ({"evaluate_every": 5}, "evaluate_every"),
        ({"method": "mine"}, "method"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(start, tmp_path, change, key):
    same = {"settings": {"steps": 10}}
    folder = start(tmp_path, **same)
    before = (folder / "run.json").read_bytes()
    for resume in (False, True):
        with pytest.raises(UserError, match=f"another '{key}'.*--note.*--overwrite"):
            start(tmp_path, **{**same, **change}, resume=resume)
    assert (folder / "run.json").read_bytes() == before
    beside = start(tmp_path, **{**same, **change}, note="b")
    assert beside.name == "cpl-b"
    start(tmp_path, **{**same, **change}, overwrite=True)
    assert (folder / "run.json").read_bytes() != before


def test_a_folder_that_is_no_run_is_left_alone(start, tmp_path):
    mine = tmp_path / "dots" / "cpl" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="no run"):
            start(tmp_path, overwrite=overwrite)
    assert mine.read_text() == "years of work"


@pytest.mark.parametrize(
    "wrong",
    [{"seeds": (0, 0)}, {"seeds": ()}, {"seeds": (-1,)}, {"evaluate_every": 0}, {"episodes": 0}],
)
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(UserError):
        TrainOptions(**wrong)


def test_an_unknown_algorithm_is_refused(dots, pool, tmp_path):
    with pytest.raises(UserError, match="Did you mean 'cpl'"):
        train(dots[2], "dots", "cpll", None, TrainOptions(runs=tmp_path), pool)


def test_a_missing_preference_file_is_refused(pool, tmp_path):
    config = configured("cpl", "laptop", {})
    with pytest.raises(UserError, match="no such preference file"):
        train(tmp_path / "no.safetensors", "x", "cpl", config, TrainOptions(runs=tmp_path), pool)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tpu", "", "gpu"])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(UserError, match="--device must be auto, cpu, cuda or cuda:N"):
        choose_device(name)


def test_a_gpu_that_is_not_there_is_refused(start, tmp_path):
    missing = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(UserError, match=f"--device {missing}"):
        start(tmp_path, device=missing)
    assert list(tmp_path.iterdir()) == []
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cpu"):
            choose_device("cuda")
        assert choose_device("auto") == torch.device("cpu")


# --- Evaluate ---


@pytest.fixture
def trained(whole, tmp_path):
    """A copy of the run that a test may change."""
    import shutil

    return shutil.copytree(whole, tmp_path / "dots" / "cpl")


def test_evaluate_writes_once(trained, pool):
    path = evaluate(trained, pool, episodes=4)
    assert path == trained / "final.csv"
    rows = read_evaluations(path)
    assert set(rows["step"]) == {50}
    assert sorted(set(rows["seed"])) == [0, 3]
    assert len(rows["step"]) == 8
    before = path.stat().st_mtime_ns, path.read_bytes()
    assert evaluate(trained, DyingPool(pool, 0), episodes=4) == path  # asks for no episode
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    path.unlink()
    evaluate(trained, pool, episodes=4)
    assert path.read_bytes() == before[1]
    evaluate(trained, pool, episodes=6)
    more = read_evaluations(path)
    first = more["episode"] < 4
    np.testing.assert_array_equal(more["return"][first], rows["return"])  # the same episodes


def test_evaluate_mends_a_damaged_file(trained, pool):
    path = evaluate(trained, pool, episodes=2)
    before = path.read_bytes()
    path.write_bytes(before[:-5])
    evaluate(trained, pool, episodes=2)
    assert path.read_bytes() == before


def test_evaluate_another_checkpoint(trained, pool):
    path = evaluate(trained, pool, episodes=2, checkpoint=20)
    assert path == trained / "evaluation-20.csv"
    assert set(read_evaluations(path)["step"]) == {20}
    assert not (trained / "final.csv").exists()
    with pytest.raises(UserError, match="there are: 20, 40, 50"):
        evaluate(trained, pool, checkpoint=30)


def test_evaluate_refuses_what_cannot_be(trained, pool, tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        evaluate(tmp_path / "nowhere", pool)
    with pytest.raises(UserError, match="at least 1"):
        evaluate(trained, pool, episodes=0)
    for path in (trained / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no checkpoint"):
        evaluate(trained, pool)


def test_test_episodes_are_no_monitoring_episodes():
    def every(stream, *key):
        return {s for seed in range(8) for s in episode_seeds(stream, 100, *key, seed)}

    test = every("test")
    assert len(test) == 800
    for step in range(500, 10_001, 500):
        assert not test & every("monitoring", step)
    assert not test & every("data")
    assert episode_seeds("test", 3, 1) == episode_seeds("test", 10, 1)[:3]


def test_evaluate_runs_the_test_episodes(trained, pool):
    """Its returns are those of rollouts from the test seeds, and not the monitoring ones."""
    from cpl_bench.core.cards import load_task
    from cpl_bench.tasks.episodes import EpisodeRules, run_episodes

    rows = read_evaluations(evaluate(trained, pool, episodes=3))
    weights = {key: value[1] for key, value in RunFolder(trained).read_weights(50).items()}
    seeds = episode_seeds("test", 3, 3)
    episodes = run_episodes(load_task("pointmass"), seeds, 0, weights, EpisodeRules())
    expected = [each.rewards.sum() for each in episodes]
    np.testing.assert_allclose(rows["return"][rows["seed"] == 3], expected, rtol=1e-12)
