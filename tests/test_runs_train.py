"""A run folder holds what training leaves behind, to the byte, also after a killed run."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from impatient import DyingPool

from cpl_bench.core.cards import load_task
from cpl_bench.core.errors import UserError
from cpl_bench.core.seeds import episode_seeds, training_seeds
from cpl_bench.core.toml import replaced
from cpl_bench.learning.interface import Rollouts
from cpl_bench.learning.methods import ALGOS, configured, find_method
from cpl_bench.learning.precision import choose_precision
from cpl_bench.preferences.arrays import preferences_from_arrays
from cpl_bench.preferences.file import load_preferences
from cpl_bench.runs.batches import PreferenceSampler
from cpl_bench.runs.evaluate import evaluate
from cpl_bench.runs.evaluations import read_evaluations
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.metrics import LOG_PROB, read_metrics
from cpl_bench.runs.monitor import Monitor
from cpl_bench.runs.options import TrainOptions, choose_device
from cpl_bench.runs.prepare import prepare
from cpl_bench.runs.record import read_record, write_record
from cpl_bench.runs.rollouts import RolloutFeed
from cpl_bench.runs.train import train
from cpl_bench.tasks.episodes import EpisodeRules, run_episodes
from cpl_bench.tasks.policies import mlp_action
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.tasks.registry import find_task

NETWORK = {"policy": {"hidden": (16, 16)}}
ADAM = {"rate": 1e-3}
CLONE = NETWORK | {"clone": {"steps": 24, "optimiser": ADAM}, "steps": 50, "segments": 8}
REWARD = {"steps": 12, "optimiser": ADAM, "hidden": (16, 16)}
JUDGE = {"hidden": (16, 16), "optimiser": ADAM}
CPL = CLONE | {"contrast": ADAM, "lam": 0.75}
SETTINGS = {
    "sft": CLONE,
    "cpl": CPL,
    "dpo": CLONE | {"contrast": ADAM},
    "ipo": CLONE | {"contrast": ADAM},
    "rso": CLONE | {"contrast": ADAM, "reward": REWARD},
    "ipl": NETWORK | {"actor": ADAM, "value": JUDGE, "steps": 50, "segments": 8},
    "percent-bc": NETWORK | {"optimiser": ADAM, "steps": 50, "transitions": 64},
    "piql": NETWORK
    | {"reward": REWARD, "actor": ADAM, "value": JUDGE}
    | {"steps": 50, "segments": 8, "transitions": 64},
    "ppo": CLONE
    | {"reward": REWARD, "actor": ADAM, "value": JUDGE}
    | {"collection": {"transitions": 100, "minibatch": 20, "value_only": 1, "epochs": 2}},
}
SHORT = {"clone": {"steps": 4}, "steps": 10}
EVALUATED = [20, 40, 50]
POINTMASS = load_task("pointmass")
METRICS_AT = [4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 50]


@pytest.fixture(scope="module")
def start(dots, pool):
    """start(runs, **options): train CPL, or `algorithm`, on the point mass."""

    preferences = load_preferences(dots[2])

    def run(runs, algorithm="cpl", settings=None, pool=pool, task=POINTMASS, **options):
        options = {"seeds": (0, 3), "evaluate_every": 20, "episodes": 3, **options}
        config = configured(algorithm, "laptop", SETTINGS[algorithm])
        config = replaced(config, settings or {}, "settings")
        options = TrainOptions(runs=runs, **options)
        return train(preferences, "dots", algorithm, config, options, pool, task)

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
    assert record["task"]["name"] == "pointmass"
    assert record["seeds"] == [0, 3]
    assert record["phases"] == [["clone", 24], ["contrast", 26]]
    assert record["config"]["policy"]["hidden"] == [16, 16]
    assert record["preferences"]["card"] == "dots"
    assert 0 < record["behaviour_score"] < 1
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
    likelihoods = {"log_prob", "log_prob_preferred", "log_prob_rejected"}
    assert last == {"contrast_loss", "accuracy", LOG_PROB} | likelihoods
    assert {int(row["step"]) for row in rows if row["metric"] == LOG_PROB} == {*EVALUATED}


@pytest.mark.parametrize("algorithm", ["cpl", "piql", "ppo", "percent-bc"])
def test_the_datas_likelihood_is_that_of_what_acts(start, dots, tmp_path, algorithm):
    """By hand, from a checkpoint's weights and the simulator's own observations."""
    run = start(tmp_path, algorithm, episodes=0)
    data = load_preferences(dots[2])
    starts, k = data.segment_starts, data.info.segment_length
    found = read_metrics(run / "metrics.csv", None, [LOG_PROB])[LOG_PROB]
    assert {step for step, _ in found} == {*EVALUATED}
    for step in EVALUATED:
        weights = RunFolder(run).read_weights(step)
        for seed, member in zip((0, 3), weights.members(), strict=True):
            costs = []
            for which in np.linspace(0, len(starts) - 1, 100).astype(int):
                rows = slice(starts[which], starts[which] + k)
                acts = mlp_action(member.arrays, data.observations[rows])
                recorded = np.clip(data.actions[rows], -1 + 1e-5, 1 - 1e-5)
                costs.append(((acts - recorded) ** 2).sum(1).mean())
            assert found[step, seed] == pytest.approx(-np.mean(costs), rel=2e-4)


def test_metrics_are_means_since_the_pause_before(whole, dots):
    preferences = load_preferences(dots[2])
    config = configured("cpl", "laptop", CPL)
    trainee = prepare("cpl", config, preferences, (0, 3), torch.device("cpu"), None, None)
    clone = trainee.training[0]
    losses = [clone.take(torch.tensor(step))["clone_loss"][1].item() for step in range(8)]
    with (whole / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["seed"] == "3"]
    assert float(rows[0]["value"]) == pytest.approx(np.mean(losses[:4]), rel=1e-6)
    assert float(rows[1]["value"]) == pytest.approx(np.mean(losses[4:]), rel=1e-6)


def test_evaluations_and_checkpoints_belong_together(whole, dots):
    folder = RunFolder(whole)
    assert folder.checkpoint_steps() == EVALUATED
    rows = read_evaluations(folder.evaluations)
    assert sorted(set(rows["step"])) == EVALUATED
    assert sorted(set(rows["seed"])) == [0, 3]
    assert len(rows["step"]) == 3 * 2 * 3
    weights = folder.read_weights(50)
    assert (weights.kind, weights.chunk_length) == ("deterministic", 1)
    assert weights.arrays["w0"].shape == (2, 6, 16)
    step, state = RunFolder(whole).read_state()
    assert step == 50
    config, data = configured("cpl", "laptop", CPL), load_preferences(dots[2])
    trainee = prepare("cpl", config, data, (0, 3), torch.device("cpu"), None, None)
    trainee.learner.load_state(state)
    for name, value in trainee.weights().arrays.items():
        np.testing.assert_array_equal(value, weights.arrays[name])


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
    "damage",
    [
        lambda text: text.replace("step,phase", "stop,phase"),
        lambda text: text.replace("4,clone,0", "four,clone,0"),
        lambda text: text.replace("4,clone,0", "4,clo\0ne,0"),
        lambda text: "",
        lambda text: text + "9" * 5000 + ",clone,0,clone_loss,1.0\n",
    ],
)
def test_damaged_metrics_do_not_block_a_good_checkpoint(
    start, whole, pool, tmp_path, capsys, damage
):
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, pool=DyingPool(pool, 1))
    folder = tmp_path / "dots" / "cpl"
    path = folder / "metrics.csv"
    path.write_text(damage(path.read_text()))
    (folder / ".state.0a1b2c3d.safetensors").write_bytes(b"what a kill left")
    start(tmp_path, resume=True)
    found, expected = contents(folder), contents(whole)
    assert set(found.pop("metrics.csv").splitlines()) <= set(
        expected.pop("metrics.csv").splitlines()
    )
    assert found == expected
    assert not list(folder.glob(".state*"))
    assert f"{path} was damaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.replace(b"20,0,1,", b"20,0,\xff,"),
        lambda content: content.replace(b"20,0,1,", b"20,0,0,"),
        lambda content: content.replace(b"20,3,", b"20,x,"),
        lambda content: content.replace(b"step,seed", b"step,sees"),
    ],
)
def test_damaged_evaluations_are_not_gone_on_from(start, pool, tmp_path, damage):
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, pool=DyingPool(pool, 1))
    path = tmp_path / "dots" / "cpl" / "evaluations.csv"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"evaluations\.csv.*--overwrite"):
        start(tmp_path, resume=True)


def test_a_resume_under_other_versions_says_so_and_records_it(
    start, whole, pool, tmp_path, monkeypatch, capsys
):
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, pool=DyingPool(pool, 1))
    folder = tmp_path / "dots" / "cpl"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("cpl_bench.runs.train.versions", lambda simulators: {"torch": "9.9"})
        start(tmp_path, pool=DyingPool(pool, 1), resume=True)
    assert "goes on with other versions than it began with" in capsys.readouterr().out
    start(tmp_path, resume=True)
    record, original = read_record(folder), read_record(whole)
    assert [(each["step"], each["versions"]) for each in record.resumed] == [
        (20, {"torch": "9.9"}),
        (40, original.versions),
    ]
    assert record.versions == original.versions
    assert original.resumed == ()
    assert contents(folder) == contents(whole)


def test_a_last_checkpoint_without_its_state_is_not_finished(start, whole, pool, tmp_path):
    """A kill between the two leaves all of the run's files but the state behind."""
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, pool=DyingPool(pool, 2))
    folder = tmp_path / "dots" / "cpl"
    for name in ("checkpoints/50.safetensors", "evaluations.csv", "metrics.csv"):
        shutil.copy(whole / name, folder / name)
    assert RunFolder(folder).state_step() == 40
    with pytest.raises(UserError, match="an unfinished run"):
        start(tmp_path)
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


@pytest.fixture(scope="module")
def bare(dots):
    """The preferences without rewards."""
    return replace(load_preferences(dots[2]), rewards=None)


@pytest.mark.parametrize(
    ("algorithm", "settings"), [("percent-bc", {}), ("piql", {"reward": {"source": "true"}})]
)
def test_methods_that_see_rewards_refuse_data_without(bare, pool, tmp_path, algorithm, settings):
    config = configured(algorithm, "laptop", settings)
    title, options = find_method(algorithm).title(config), TrainOptions(runs=tmp_path / "runs")
    message = rf"dots holds no rewards, and {re.escape(title)} learns .* such as cpl\."
    with pytest.raises(UserError, match=message):
        train(bare, "bare", algorithm, config, options, pool, POINTMASS)
    assert not (tmp_path / "runs").exists()


def test_other_methods_learn_without_rewards(bare, pool, tmp_path):
    config = configured("piql", "laptop", SETTINGS["piql"] | {"steps": 14})
    options = TrainOptions((0,), episodes=1, runs=tmp_path / "runs")
    assert train(bare, "bare", "piql", config, options, pool, POINTMASS).exists()


def sparse_of(preferences):
    """The segments in pairs, answered from their scores."""
    scores, info = preferences.scores, replace(preferences.info, pairs="sparse")
    answers = 0.5 + 0.5 * np.sign(scores[1::2] - scores[::2])
    return replace(
        preferences,
        first=np.arange(0, len(scores), 2),
        second=np.arange(1, len(scores), 2),
        prefers_second=answers.astype(np.float32),
        info=info,
    )


def test_a_ranking_loss_refuses_single_comparisons_before_it_trains(dots, pool, tmp_path):
    sparse = sparse_of(load_preferences(dots[2]))
    config = configured("ppo", "laptop", {"reward": {"loss": "ranking"}})
    options = TrainOptions(runs=tmp_path / "runs")
    with pytest.raises(UserError, match="--pairs ranked or dense"):
        train(sparse, "sparse", "ppo", config, options, pool, POINTMASS)
    assert not (tmp_path / "runs").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from cpl_bench.core.cards import load_task
from cpl_bench.learning.methods import configured
from cpl_bench.preferences.file import load_preferences
from cpl_bench.runs.options import TrainOptions
from cpl_bench.runs.train import train
from cpl_bench.tasks.pool import RolloutPool

class Deadly(RolloutPool):
    count = 0
    def episodes(self, *arguments, **options):
        self.count += 1
        if self.count == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().episodes(*arguments, **options)

preferences, config = load_preferences(sys.argv[1]), configured("cpl", "laptop", eval(sys.argv[3]))
options = TrainOptions((0, 3), evaluate_every=20, episodes=3, runs=Path(sys.argv[2]))
with Deadly(1) as pool:
    train(preferences, "dots", "cpl", config, options, pool, load_task("pointmass"))
"""


def test_a_run_killed_dead_resumes_to_the_same_bytes(start, whole, dots, tmp_path):
    command = [sys.executable, "-c", KILLED, str(dots[2]), str(tmp_path), repr(CPL)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    folder = tmp_path / "dots" / "cpl"
    assert RunFolder(folder).checkpoint_steps() == [20]
    start(tmp_path, resume=True)
    assert contents(folder) == contents(whole)


# --- Without a simulator, and with one of one's own ---


class Watching:
    """A pool that waits, for as long as is bearable, until training has gone on."""

    def __init__(self, pool, seconds):
        self.pool, self.seconds, self.noted, self.went_on = pool, seconds, [], []

    def episodes(self, *arguments, **options):
        evaluated, last = len(self.noted), len(self.went_on) == len(EVALUATED) - 1
        until = time.monotonic() + (0 if last else self.seconds)  # after the last nothing comes
        while len(self.noted) == evaluated and time.monotonic() < until:
            time.sleep(0.01)
        self.went_on.append(len(self.noted) > evaluated)
        return self.pool.episodes(*arguments, **options)


@pytest.mark.parametrize("free", [True, False])
def test_training_goes_on_meanwhile_where_a_core_is_free(
    start, whole, pool, tmp_path, monkeypatch, free
):
    watching, note = Watching(pool, 20 if free else 0.2), Monitor.note

    def noted(self, pause):
        watching.noted.append(pause.step)
        note(self, pause)

    monkeypatch.setattr(Monitor, "note", noted)
    monkeypatch.setattr("cpl_bench.runs.train._cores_are_free", lambda device: free)
    folder = start(tmp_path, pool=watching)
    assert watching.went_on[:-1] == [free] * (len(EVALUATED) - 1)
    assert contents(folder) == contents(whole)


def test_a_training_that_is_stopped_saves_what_was_being_evaluated(
    start, whole, pool, tmp_path, monkeypatch
):
    monkeypatch.setattr("cpl_bench.runs.train._cores_are_free", lambda device: True)
    note = Monitor.note

    def stops(self, pause):
        if pause.step == 32:
            raise KeyboardInterrupt
        note(self, pause)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Monitor, "note", stops)
        start(tmp_path)
    folder = RunFolder(tmp_path / "dots" / "cpl")
    assert folder.state_step() == 20
    assert set(read_evaluations(folder.evaluations)["step"]) == {20}
    assert contents(start(tmp_path, resume=True)) == contents(whole)


def test_ctrl_c_while_an_evaluation_is_waited_for_saves_it(
    start, whole, pool, tmp_path, monkeypatch
):
    monkeypatch.setattr("cpl_bench.runs.train._cores_are_free", lambda device: True)
    rows_of, asked = Monitor.finish, []

    def impatient(self):
        if self._open is not None and not asked:
            asked.append(self._open.step)
            ready = self._open.rows

            def stopped():
                self._open = self._open._replace(rows=ready)
                raise KeyboardInterrupt

            self._open = self._open._replace(rows=stopped)
        rows_of(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Monitor, "finish", impatient)
        start(tmp_path)
    folder = RunFolder(tmp_path / "dots" / "cpl")
    assert folder.state_step() == asked[0] == 20
    assert contents(start(tmp_path, resume=True)) == contents(whole)


def test_a_kill_while_the_record_is_written_blocks_nothing(start, whole, tmp_path):
    folder = tmp_path / "dots" / "cpl"
    folder.mkdir(parents=True)
    (folder / ".run.0a1b2c3d.json").write_text("{")
    assert contents(start(tmp_path, resume=True)) == contents(whole)
    assert not (folder / ".run.0a1b2c3d.json").exists()


def test_a_run_that_begins_anew_has_a_record_of_today(start, pool, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("cpl_bench.runs.train.versions", lambda simulators: {"torch": "9.9"})
        start(tmp_path, pool=DyingPool(pool, 0))
    record = read_record(start(tmp_path, resume=True))
    assert "9.9" not in record.versions.values()
    assert record.resumed == ()


def test_without_a_simulator_there_are_checkpoints_alone(start, whole, pool, tmp_path):
    for name, options in {
        "no pool": {"pool": None},
        "no task": {"task": None},
        "no episodes": {"episodes": 0, "pool": DyingPool(pool, 0)},
    }.items():
        folder = RunFolder(start(tmp_path / name, **options))
        record = folder.read()
        assert folder.checkpoint_steps() == EVALUATED
        assert not folder.evaluations.exists()
        assert record.episodes == 0
        assert (record.task, record.behaviour_score is None) in [(None, True), (POINTMASS, False)]
        for path in sorted((whole / "checkpoints").iterdir()):
            assert folder.checkpoint(int(path.stem)).read_bytes() == path.read_bytes()
    with pytest.raises(UserError, match=r"'ppo' learns from its own episodes.*name a task"):
        start(tmp_path / "ppo", "ppo", pool=None)
    assert not (tmp_path / "ppo").exists()


TWINS = """
from cpl_bench.learning.algos.bc import LAPTOP, SFT
from cpl_bench.learning.interface import Entry

FIRST = Entry(SFT, {"laptop": LAPTOP}, title=lambda config: "First")
SECOND = Entry(SFT, {"laptop": LAPTOP}, title=lambda config: "Second")
"""


def test_methods_that_share_a_config_keep_their_names(bare, pool, tmp_path, monkeypatch):
    (tmp_path / "twins_of_train.py").write_text(TWINS)
    monkeypatch.syspath_prepend(tmp_path)
    options = TrainOptions((0,), evaluate_every=50, episodes=0, runs=tmp_path / "runs")
    found = {}
    for name in ("sft", "twins_of_train:FIRST", "twins_of_train:SECOND"):
        config = configured(name, "laptop", SETTINGS["sft"])
        folder = RunFolder(train(bare, "dots", name, config, options, None, None))
        record = folder.read()
        assert record.algorithm == name
        found[record.method] = folder.path.name
    assert found == {
        "SFT": "sft",
        "First": "twins-of-train-first",
        "Second": "twins-of-train-second",
    }


CLIFF = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box


class Cliff(gymnasium.Env):
    \"\"\"Stay near 0; beyond 1 it ends.\"\"\"

    horizon_steps = 20

    def __init__(self):
        self.observation_space = Box(-9, 9, (2,))
        self.action_space = Box(-2, 2, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.speed = self.np_random.uniform(-0.5, 0.5, 2)
        return np.array([self.place, self.speed], np.float32), {}

    def step(self, action):
        self.speed = 0.5 * self.speed + 0.2 * float(action[0])
        self.place += self.speed
        ended = bool(abs(self.place) > 1)
        return np.array([self.place, self.speed], np.float32), 1.0, ended, False, {}
"""


@pytest.fixture(scope="module")
def cliff(tmp_path_factory):
    """(card, workers that find it, preferences without terminations)."""
    folder = tmp_path_factory.mktemp("cliff")
    (folder / "cliff_of_train.py").write_text(CLIFF)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.chdir(folder)
        card = find_task("cliff_of_train:Cliff")
        rng = np.random.default_rng(0)
        looks, acts = rng.normal(size=(40, 4, 2)), rng.uniform(-1, 1, (40, 4, 1))
        preferences = preferences_from_arrays(looks, acts, scores=rng.normal(size=40), name="cliff")
        with RolloutPool(2) as workers:
            yield card, workers, preferences


def test_collections_are_padded_where_tasks_terminate(cliff):
    card, workers, _ = cliff
    config = configured("ppo", "laptop", SETTINGS["ppo"])
    device, members = torch.device("cpu"), training_seeds((0, 3))
    learner = find_method("ppo").build(config, 2, 1, members, device)
    wanted = Rollouts(transitions=100, updates=10)
    feed = RolloutFeed(wanted, learner, card, workers, (0, 3), device, 0, None)
    fresh = feed.draw(torch.tensor(0)).fresh
    assert feed.draw(torch.tensor(1)).fresh is None
    lengths = fresh.lengths  # (s, E)
    longest = int(lengths.max())
    assert fresh.rewards.shape == (*lengths.shape, longest)
    assert fresh.observations.shape == (*lengths.shape, longest + 1, 2)
    assert (lengths.sum(1) >= 100).all() and lengths.shape[1] > 5, "five of the horizon's would do"
    assert len(set(lengths.flatten().tolist())) > 3
    ends = fresh.terminated.sum(2)  # (s, E)
    np.testing.assert_array_equal(ends, lengths < 20)
    for member, seed in enumerate((0, 3)):
        weights = learner.behaviour().members()[member]
        seeds = episode_seeds("rollouts", lengths.shape[1], 0, seed)
        rules = EpisodeRules(sampled=True)
        alone = [run_episodes(card, [each], 0, weights, rules)[0] for each in seeds]
        for e, episode in enumerate(alone):
            n = len(episode.rewards)
            assert lengths[member, e] == n
            assert bool(fresh.terminated[member, e, n - 1]) == episode.terminated
            for name in ("observations", "actions", "rewards"):
                of_batch, own = getattr(fresh, name)[member, e], getattr(episode, name)
                np.testing.assert_allclose(of_batch[: len(own)], own, atol=1e-5)
                assert not of_batch[len(own) :].any()


def test_ppo_learns_on_a_task_that_terminates(cliff, tmp_path):
    card, workers, preferences = cliff
    assert card.score == "return"
    config = configured("ppo", "laptop", SETTINGS["ppo"] | {"reward": REWARD | {"source": "true"}})

    def run(runs, pool=workers, **options):
        options = TrainOptions((0, 3), evaluate_every=20, episodes=3, runs=runs, **options)
        return train(preferences, "cliff", "ppo", config, options, pool, card)

    whole = run(tmp_path / "whole")
    with (whole / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == "ppo"]
    assert {row["seed"] for row in rows} == {"0", "3"}
    assert all(np.isfinite(float(row["value"])) for row in rows)
    taken = [float(row["value"]) for row in rows if row["metric"] == "transitions"]
    assert max(taken) >= 300, "three collections"
    evaluations = read_evaluations(whole / "evaluations.csv")
    assert not evaluations["success"].any()
    np.testing.assert_array_equal(evaluations["return"], evaluations["length"])
    with pytest.raises(KeyboardInterrupt):  # collections and evaluations count alike
        run(tmp_path / "cut", DyingPool(workers, 5))
    assert RunFolder(tmp_path / "cut" / "cliff" / "ppo").checkpoint_steps() == [20]
    assert contents(run(tmp_path / "cut", resume=True)) == contents(whole)


# --- The record ---


def test_a_record_is_read_as_it_was_written(start, whole, tmp_path):
    record = RunFolder(whole).read()
    assert record.task == POINTMASS
    assert (record.seeds, record.phases) == ((0, 3), (("clone", 24), ("contrast", 26)))
    write_record(tmp_path / "run.json", record)
    assert (tmp_path / "run.json").read_bytes() == (whole / "run.json").read_bytes()
    assert read_record(tmp_path) == record
    without = RunFolder(start(tmp_path / "runs", task=None)).read()
    assert without.task is None and without.scoring.is_success


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"record_version": 1}, "expected record_version 2, got 1. Train the run again"),
        ({"record_version": None}, "expected record_version 2, got None"),
        ({"seed": [0]}, "Did you mean 'seeds'"),
        ({"steps": "50"}, "'steps' must be int, not '50'"),
        ({"steps": 51}, "the phases must add up to steps"),
        ({"seeds": [0, 0]}, "seeds must be different whole numbers"),
        ({"task": "pointmass"}, "'task' must be TaskCard, not 'pointmass'"),
        ({"phases": [["clone", 24, 1]]}, "phases"),
    ],
)
def test_a_record_that_is_wrong_is_explained(whole, tmp_path, change, said):
    table = json.loads((whole / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(table | change))
    with pytest.raises(UserError, match=said) as caught:
        read_record(tmp_path)
    assert str(tmp_path / "run.json") in str(caught.value)


def test_a_record_that_lacks_something_is_explained(whole, tmp_path):
    table = json.loads((whole / "run.json").read_text())
    for text, said in {
        json.dumps({k: v for k, v in table.items() if k != "config"}): "'config' is missing",
        json.dumps(table)[:-20]: "not readable as JSON",
        "[]": "must hold a table of keys",
    }.items():
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(UserError, match=said):
            read_record(tmp_path)
    with pytest.raises(UserError, match=r"no run folder: it has no run\.json"):
        read_record(whole / "checkpoints")
    with pytest.raises(UserError, match="there is no such folder"):
        read_record(whole / "gone")


# --- Refusals ---


def test_a_finished_run_is_not_redone(start, tmp_path, capsys):
    folder = start(tmp_path, settings=SHORT)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for resume in (False, True):
        assert start(tmp_path, settings=SHORT, resume=resume) == folder
    assert "already trained" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"settings": SHORT | {"lam": 0.5}}, "config.lam"),
        ({"settings": SHORT | {"steps": 12}}, "config.steps"),
        ({"seeds": (0, 1)}, "seeds"),
        ({"episodes": 4}, "episodes"),
        ({"evaluate_every": 5}, "evaluate_every"),
        ({"method": "mine"}, "method"),
        ({"task": replace(POINTMASS, horizon_steps=40)}, "task.horizon_steps"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(start, tmp_path, change, key):
    same = {"settings": SHORT}
    folder = start(tmp_path, **same)
    before = (folder / "run.json").read_bytes()
    for resume in (False, True):
        with pytest.raises(UserError, match=f"another '{key}' .*now.*--note.*--overwrite"):
            start(tmp_path, **{**same, **change}, resume=resume)
    assert (folder / "run.json").read_bytes() == before
    beside = start(tmp_path, **{**same, **change}, note="b")
    assert beside.name == "cpl-b"
    start(tmp_path, **{**same, **change}, overwrite=True)
    assert (folder / "run.json").read_bytes() != before


def test_a_damaged_run_can_be_overwritten(start, whole, tmp_path):
    folder = start(tmp_path, settings=SHORT)
    (folder / "run.json").write_text('{"record_version": 1}')
    with pytest.raises(UserError, match="Train the run again"):
        start(tmp_path)
    start(tmp_path, overwrite=True)
    assert contents(folder) == contents(whole)


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
    [{"seeds": (0, 0)}, {"seeds": ()}, {"seeds": (-1,)}, {"evaluate_every": 0}, {"episodes": -1}],
)
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(UserError):
        TrainOptions(**wrong)


def test_a_run_is_resumed_or_overwritten_not_both():
    with pytest.raises(UserError, match="--resume continues a run and --overwrite deletes it"):
        TrainOptions(resume=True, overwrite=True)


def test_an_unknown_algorithm_is_refused(bare, pool, tmp_path):
    with pytest.raises(UserError, match="Did you mean 'cpl'"):
        train(bare, "dots", "cpll", None, TrainOptions(runs=tmp_path), pool, POINTMASS)
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
    return shutil.copytree(whole, tmp_path / "dots" / "cpl")


def test_evaluate_writes_once(trained, pool):
    found = evaluate(trained, pool, episodes=4)
    path, rows = found.path, found.rows
    assert path == trained / "final.csv"
    assert rows.keys() == read_evaluations(path).keys()
    assert set(rows["step"]) == {50}
    assert sorted(set(rows["seed"])) == [0, 3]
    assert len(rows["step"]) == 8
    before = path.stat().st_mtime_ns, path.read_bytes()
    assert evaluate(trained, DyingPool(pool, 0), episodes=4).path == path  # asks for no episode
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    path.unlink()
    evaluate(trained, pool, episodes=4)
    assert path.read_bytes() == before[1]
    evaluate(trained, pool, episodes=6)
    more = read_evaluations(path)
    first = more["episode"] < 4
    np.testing.assert_array_equal(more["return"][first], rows["return"])  # the same episodes


def test_a_larger_evaluation_answers_a_smaller_one_and_stays(trained, pool, capsys):
    many = evaluate(trained, pool, episodes=7)
    before = many.path.read_bytes()
    few = evaluate(trained, DyingPool(pool, 0), episodes=2)
    assert many.path.read_bytes() == before
    assert len(few.rows["seed"]) == 4
    assert "2 episodes × 2 seeds" in (said := capsys.readouterr().out.splitlines()[-1])
    assert said.endswith("(the first of 7 there)")
    many.path.unlink()
    alone = evaluate(trained, pool, episodes=2)
    for name, column in few.rows.items():
        np.testing.assert_array_equal(alone.rows[name], column)


def test_an_evaluation_averages_seeds(trained, pool):
    found = evaluate(trained, pool, episodes=4)
    success = found.rows["success"]
    np.testing.assert_array_equal(found.scores, success)
    assert found.by_seed == {0: success[:4].mean(), 3: success[4:].mean()}
    assert found.score == pytest.approx(success.mean())
    assert "CPL(λ=0.75) on dots, step 50, 4 episodes × 2 seeds: success" in str(found)


def test_evaluate_mends_a_damaged_file(trained, pool):
    path = evaluate(trained, pool, episodes=2).path
    before = path.read_bytes()
    path.write_bytes(before[:-5])
    evaluate(trained, pool, episodes=2)
    assert path.read_bytes() == before


def test_evaluate_another_checkpoint(trained, pool):
    path = evaluate(trained, pool, episodes=2, checkpoint=20).path
    assert path == trained / "evaluation-20.csv"
    assert set(read_evaluations(path)["step"]) == {20}
    assert not (trained / "final.csv").exists()
    with pytest.raises(UserError, match="there are: 20, 40, 50"):
        evaluate(trained, pool, checkpoint=30)


def test_an_evaluation_elsewhere_has_a_file_of_its_own(trained, pool):
    here = evaluate(trained, pool, episodes=2)
    short = replace(POINTMASS, name="short", horizon_steps=10)
    there = evaluate(trained, pool, episodes=2, task=short)
    assert there.path == trained / f"evaluation-50-short-{short.fingerprint}.csv"
    changed = evaluate(trained, pool, episodes=2, task=replace(short, horizon_steps=7))
    assert changed.rows["length"].max() <= 7, "a card that was edited is not answered from before"
    assert there.rows["length"].max() <= 10 < here.rows["length"].max()
    assert evaluate(trained, DyingPool(pool, 0), episodes=2, task=POINTMASS).path == here.path
    with pytest.raises(UserError, match="Pendulum-v1 has observations of 3 and actions of 1"):
        evaluate(trained, pool, task=find_task("Pendulum-v1"))


def test_a_run_without_a_task_is_evaluated_where_it_is_told(start, pool, tmp_path):
    run = start(tmp_path, task=None)
    with pytest.raises(UserError, match=r"trained on data that name no task.*--task"):
        evaluate(run, pool)
    found = evaluate(run, pool, episodes=2, task=POINTMASS)
    assert found.path == run / f"evaluation-50-pointmass-{POINTMASS.fingerprint}.csv"
    assert len(found.scores) == 4


def test_evaluate_refuses_what_cannot_be(trained, pool, tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        evaluate(tmp_path / "nowhere", pool)
    with pytest.raises(UserError, match="from 1 to"):
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
    rows = evaluate(trained, pool, episodes=3).rows
    weights = RunFolder(trained).read_weights(50).members()[1]
    seeds = episode_seeds("test", 3, 3)
    episodes = run_episodes(POINTMASS, seeds, 0, weights, EpisodeRules())
    expected = [each.rewards.sum() for each in episodes]
    np.testing.assert_allclose(rows["return"][rows["seed"] == 3], expected, rtol=1e-12)


# --- Memory ---


def test_freed_memory_is_kept():
    code = """
import resource, numpy as np
from cpl_bench.runs.memory import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(8 * 2**20)  # 64 MB, 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
often, kept = faults(), keep_freed_memory()
faults()
print(kept, often, faults())
"""
    small_pages = os.environ | {"NUMPY_MADVISE_HUGEPAGE": "0"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=small_pages
    )
    kept, often, seldom = run.stdout.split()
    if kept == "False":
        pytest.skip("no glibc here")
    assert int(seldom) < int(often) / 10


# --- Precision and threads ---


@pytest.mark.parametrize(
    ("asked", "device", "chosen"),
    [
        ("auto", "cpu", "fp32"),
        ("auto", "cuda", "fp32"),
        ("bf16", "cpu", "bf16"),
        ("tf32", "cuda", "tf32"),
    ],
)
def test_a_precision_is_chosen_by_device(asked, device, chosen):
    assert choose_precision(asked, torch.device(device)) == chosen


@pytest.mark.parametrize(("wrong", "said"), [("fp16", "auto, fp32"), ("tf32", "is a GPU's")])
def test_what_a_cpu_cannot_compute_in_is_refused(start, tmp_path, wrong, said):
    with pytest.raises(UserError, match=said):
        start(tmp_path, precision=wrong)


@pytest.mark.parametrize("algorithm", list(SETTINGS))
def test_bf16_learns_what_fp32_learns(start, tmp_path, algorithm):
    """Not to the bit: then products would not be computed in it."""
    longer = {"steps": 200, "policy": {"dropout": 0.25}}
    if algorithm in ("cpl", "sft"):
        longer |= {"clone": {"steps": 100}}
    losses = {}
    for precision in ("fp32", "bf16"):
        run = start(
            tmp_path / precision,
            algorithm,
            longer if algorithm != "ppo" else {},
            precision=precision,
            evaluate_every=200,
            episodes=0,
        )
        assert read_record(run).precision == precision
        rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
        kept = [row for row in rows if row["metric"].endswith("loss")]
        losses[precision] = {
            name: np.mean([float(row["value"]) for row in kept if row["metric"] == name])
            for name in {row["metric"] for row in kept}
        }
    exact, rounded = losses["fp32"], losses["bf16"]
    assert exact.keys() == rounded.keys() and exact != rounded
    for name in exact:
        assert rounded[name] == pytest.approx(exact[name], rel=0.01, abs=1e-3), name
    state = safetensors.torch.load_file(tmp_path / "bf16" / "dots" / run.name / "state.safetensors")
    assert not any(value.dtype == torch.bfloat16 for value in state.values())


def test_another_precision_is_another_run(start, tmp_path):
    start(tmp_path, settings=SHORT, precision="fp32")
    with pytest.raises(UserError, match=r"another 'precision' .*'fp32', now 'bf16'"):
        start(tmp_path, settings=SHORT, precision="bf16", resume=True)


def test_threads_are_torchs_while_it_trains(start, tmp_path, monkeypatch):
    before, seen = torch.get_num_threads(), []
    draw = PreferenceSampler.draw
    monkeypatch.setattr(
        PreferenceSampler,
        "draw",
        lambda *arguments: (seen.append(torch.get_num_threads()), draw(*arguments))[1],
    )
    settings = SHORT | {"clone": {"steps": 4, "transitions": 0}}
    run = start(tmp_path, settings=settings, threads=before + 1, episodes=0)
    assert set(seen) == {before + 1} and torch.get_num_threads() == before
    assert read_record(run).machine["torch_threads"] == before + 1
    with pytest.raises(UserError, match="--threads must be a whole number from 0 to 1,024"):
        start(tmp_path, threads=-1)
