"""Rollouts don't depend on how many workers there are, nor on whether one of them dies."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cpl_bench.core.cards import TaskCard, load_task
from cpl_bench.core.errors import UserError
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.learning.config import PolicyConfig
from cpl_bench.learning.networks import Policy
from cpl_bench.tasks import jobs
from cpl_bench.tasks.episodes import EXPERT, EpisodeRules, run_episodes
from cpl_bench.tasks.policies import mlp_action
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.tasks.registry import make_task

SIZES = {"pointmass": (6, 2), "drawer-open": (35, 4)}
SHORT = {  # episodes end a little after success, or of themselves
    "pointmass": EpisodeRules(0.3, stop_steps_after_success=3, minimum_steps=5, keep_states=True),
    "drawer-open": EpisodeRules(
        0.3, stop_steps_after_success=0, minimum_steps=20, keep_states=True
    ),
}
FIELDS = ("observations", "actions", "rewards", "successes", "states")


@pytest.fixture(scope="module")
def pointmass():
    return load_task("pointmass")


def short_task(name, horizon):
    """A card of its own, with a horizon that keeps the test short."""
    card = load_task(name)
    return TaskCard(card.name, card.suite, card.source_id, horizon, camera=card.camera)


def two_policies(name):
    config = PolicyConfig((16, 16), 0.0)
    return Policy(*SIZES[name], config, [0, 1], torch.device("cpu")).weights().members()


def idle(observations, actions):
    """A policy that always answers 0."""
    arrays = {"w0": np.zeros((observations, actions), np.float32)}
    arrays["b0"] = np.zeros(actions, np.float32)
    return PolicyWeights("deterministic", arrays)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.seed, one.policy) == (other.seed, other.policy)
        for field in FIELDS:
            a, b = getattr(one, field), getattr(other, field)
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert a.tobytes() == b.tobytes(), field


def wait_until(condition, seconds):
    """Whether it came true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


def is_alive(pid):
    """Whether a process runs (one that has ended but isn't collected yet does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


# --- Same results, however many work ---


@pytest.mark.parametrize(
    ("name", "horizon", "episodes"), [("pointmass", 50, 40), ("drawer-open", 60, 7)]
)
def test_the_number_of_workers_changes_no_bit(name, horizon, episodes):
    task, weights = short_task(name, horizon), two_policies(name)
    seeds = list(range(episodes))
    policies = [(0, 1, EXPERT)[i % 3] for i in range(episodes)]
    results = []
    for workers in (1, 2, 3):
        with RolloutPool(workers) as pool:
            results.append(pool.episodes(task, seeds, policies, weights, SHORT[name]))
            assert len(pool._running) <= workers
    for found in results[1:]:
        assert_same(found, results[0])
    for trajectory, seed, policy in zip(results[0], seeds, policies, strict=True):
        assert (trajectory.seed, trajectory.policy) == (seed, policy)


def test_states_are_forked_in_order(pointmass, pool):
    (trajectory,) = pool.episodes(
        pointmass, [5], [EXPERT], [], EpisodeRules(keep_states=True), caption="one"
    )
    calls = {
        f"state {i}": {"states": trajectory.states[[i, i + 1]], "cap_steps": 50} for i in range(9)
    }
    found = np.array(pool.forks(pointmass, "expert_steps_to_success", calls))
    remaining = trajectory.steps_to_success - np.arange(10)
    assert (remaining > 0).all()
    np.testing.assert_array_equal(found[:, 0], remaining[:9])
    np.testing.assert_array_equal(found[:, 1], remaining[1:])


def test_no_episodes_no_results(pointmass, pool):
    assert pool.episodes(pointmass, [], [], [], EpisodeRules()) == []
    with pytest.raises(ValueError, match="2 seeds but 1 policies"):
        pool.episodes(pointmass, [1, 2], [0], [], EpisodeRules())


def test_a_workers_memory_holds_no_torch(pointmass, pool):
    pool.episodes(pointmass, [0], [EXPERT], [], EpisodeRules())
    for worker in pool._running:
        mapped = Path(f"/proc/{worker.process.pid}/maps").read_text()
        assert "numpy" in mapped
        assert "torch" not in mapped


def test_running_episodes_imports_no_torch():
    script = (
        "import sys; from cpl_bench.tasks.episodes import EXPERT, EpisodeRules, run_episodes\n"
        "from cpl_bench.core.cards import load_task\n"
        "for name in ('pointmass', 'drawer-open', 'fetch-reach'):\n"
        "    rules = EpisodeRules(stop_steps_after_success=0)\n"
        "    run_episodes(load_task(name), [0], EXPERT, None, rules)\n"
        "heavy = {'torch', 'tensorboard', 'matplotlib', 'minari'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# --- Rules ---


def episode(card, rules, seed=3, weights=None):
    policy = EXPERT if weights is None else 0
    return run_episodes(card, [seed], policy, weights, rules)[0]


def test_without_a_stop_rule_an_episode_lasts_to_the_horizon(pointmass):
    trajectory = episode(pointmass, EpisodeRules())
    assert trajectory.succeeded
    assert len(trajectory.rewards) == pointmass.horizon_steps


@pytest.mark.parametrize("after", [0, 3])
def test_an_episode_ends_so_many_steps_after_its_first_success(pointmass, after):
    trajectory = episode(pointmass, EpisodeRules(stop_steps_after_success=after))
    assert len(trajectory.rewards) == trajectory.steps_to_success + after
    assert trajectory.successes[trajectory.steps_to_success - 1]
    assert not trajectory.successes[: trajectory.steps_to_success - 1].any()


def test_no_episode_ends_before_the_minimum(pointmass):
    free = episode(pointmass, EpisodeRules(stop_steps_after_success=0))
    rules = EpisodeRules(stop_steps_after_success=0, minimum_steps=40)
    assert free.steps_to_success < 40
    held = episode(pointmass, rules)
    assert len(held.rewards) == 40
    assert held.steps_to_success == free.steps_to_success
    beyond = EpisodeRules(stop_steps_after_success=100, minimum_steps=200)
    assert len(episode(pointmass, beyond).rewards) == pointmass.horizon_steps


def test_without_success_an_episode_lasts_to_the_horizon(pointmass):
    rules = EpisodeRules(stop_steps_after_success=0)
    trajectory = episode(pointmass, rules, weights=idle(6, 2))
    assert not trajectory.succeeded
    assert trajectory.steps_to_success == len(trajectory.rewards) == pointmass.horizon_steps


def test_what_is_kept(pointmass):
    horizon = pointmass.horizon_steps
    kept = episode(pointmass, EpisodeRules(keep_states=True))
    assert kept.observations.shape == (horizon + 1, 6)
    assert kept.actions.shape == (horizon, 2)
    assert kept.states.shape == (horizon + 1, 7)
    assert kept.observations.dtype == kept.actions.dtype == np.float32
    assert kept.rewards.shape == kept.successes.shape == (horizon,)
    bare = episode(pointmass, EpisodeRules(keep_steps=False))
    assert bare.observations.shape == (0, 6)
    assert bare.actions.shape == (0, 2)
    assert bare.states.shape == (0, 0)
    np.testing.assert_array_equal(bare.rewards, kept.rewards)


def test_noise_is_drawn_by_the_seed_and_actions_are_recorded_as_executed(pointmass):
    noisy = [episode(pointmass, EpisodeRules(0.5)) for _ in range(2)]
    assert_same(noisy[:1], noisy[1:])
    assert np.abs(noisy[0].actions).max() == 1  # clipped
    calm = episode(pointmass, EpisodeRules())
    assert np.abs(noisy[0].actions - calm.actions).std() > 0.1
    task = make_task(pointmass)
    observation, _ = task.reset(seed=3)
    for t, action in enumerate(noisy[0].actions):
        np.testing.assert_array_equal(observation, noisy[0].observations[t])
        observation, reward, *_ = task.step(action)
        assert reward == noisy[0].rewards[t]


def test_numpy_acts_as_torch_does():
    policy = Policy(35, 4, PolicyConfig((64, 32), 0.25), [0, 1, 2], torch.device("cpu"))
    observations = np.random.default_rng(0).normal(size=(3, 100, 35)).astype(np.float32)
    expected = policy.act(torch.tensor(observations)).numpy()
    for member, own in enumerate(policy.weights().members()):
        found = mlp_action(own.arrays, observations[member])
        np.testing.assert_allclose(found, expected[member], atol=1e-6)


# --- Actions drawn from the policy's Gaussian ---


def gaussian_policies(name, std):
    """Two policies with a standard deviation for each action."""
    deviation = {"std": np.array(std, np.float32)}
    return [PolicyWeights("gaussian", each.arrays | deviation) for each in two_policies(name)]


def test_sampled_actions_are_recorded_as_drawn_and_executed_clipped(pointmass):
    (weights, _) = gaussian_policies("pointmass", [0.8, 0.8])
    found = episode(pointmass, EpisodeRules(sampled=True, keep_states=True), weights=weights)
    beyond = np.abs(found.actions) > 1
    assert 0.05 < beyond.mean() < 0.95
    assert found.actions.dtype == np.float32
    task = make_task(pointmass)
    observation, _ = task.reset(seed=3)
    for t, action in enumerate(found.actions):
        np.testing.assert_array_equal(observation, found.observations[t])
        observation, reward, _, _, info = task.step(np.clip(action, -1, 1))
        assert reward == found.rewards[t]
        assert info["success"] == found.successes[t]
        np.testing.assert_array_equal(task.get_state(), found.states[t + 1])


class Listener:
    """A task that only notes what it is told to do."""

    def __init__(self, task):
        self.task, self.told = task, []

    def __getattr__(self, name):
        return getattr(self.task, name)

    def step(self, action):
        self.told.append(action)
        return self.task.step(action)


def test_the_simulator_itself_is_given_clipped_actions(pointmass, monkeypatch):
    listener = Listener(make_task(pointmass))
    monkeypatch.setattr("cpl_bench.tasks.episodes.kept_task", lambda card, place: listener)
    (weights, _) = gaussian_policies("pointmass", [0.8, 0.8])
    found = episode(pointmass, EpisodeRules(sampled=True), weights=weights)
    np.testing.assert_array_equal(listener.told, np.clip(found.actions, -1, 1))
    assert np.abs(listener.told).max() == 1
    assert np.abs(found.actions).max() > 1


def test_each_action_has_its_own_standard_deviation(pointmass):
    std = [0.05, 0.6]
    (weights, _) = gaussian_policies("pointmass", std)
    seeds = list(range(40))
    drawn = run_episodes(pointmass, seeds, 0, weights, EpisodeRules(sampled=True))
    noise = np.concatenate(
        [each.actions - mlp_action(weights.arrays, each.observations[:-1]) for each in drawn]
    )  # (n, a)
    assert len(noise) == 40 * pointmass.horizon_steps
    error = 4 / np.sqrt(2 * len(noise))  # four standard errors of a standard deviation, relative
    np.testing.assert_allclose(noise.std(0), std, rtol=error)
    np.testing.assert_allclose(noise.mean(0) / std, 0, atol=4 / np.sqrt(len(noise)))
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.1
    assert abs(np.corrcoef(noise[:-1, 1], noise[1:, 1])[0, 1]) < 0.1


def test_every_episode_draws_noise_of_its_own(pointmass):
    (weights, _) = gaussian_policies("pointmass", [0.5, 0.5])
    one, again, other = (
        episode(pointmass, EpisodeRules(sampled=True), seed, weights) for seed in (3, 3, 4)
    )
    assert_same([one], [again])
    noises = [
        each.actions - mlp_action(weights.arrays, each.observations[:-1]) for each in (one, other)
    ]
    assert abs(np.corrcoef(noises[0].ravel(), noises[1].ravel())[0, 1]) < 0.5


def test_without_sampling_the_standard_deviation_is_not_used(pointmass):
    (weights, _) = gaussian_policies("pointmass", [0.5, 0.5])
    bare = {name: value for name, value in weights.arrays.items() if name != "std"}
    plain = PolicyWeights("deterministic", bare)
    found = [episode(pointmass, EpisodeRules(), weights=each) for each in (weights, plain)]
    assert_same(found[:1], found[1:])
    calm = PolicyWeights("gaussian", bare | {"std": np.zeros(2, np.float32)})
    assert_same([episode(pointmass, EpisodeRules(sampled=True), weights=calm)], found[1:])


@pytest.mark.parametrize(
    ("name", "horizon", "episodes"), [("pointmass", 50, 24), ("drawer-open", 40, 7)]
)
def test_the_number_of_workers_changes_no_sampled_action(name, horizon, episodes):
    task = short_task(name, horizon)
    std = np.linspace(0.3, 0.9, SIZES[name][1])
    arguments = (list(range(episodes)), [i % 2 for i in range(episodes)])
    rules = EpisodeRules(sampled=True, keep_states=True)
    results = []
    for workers in (1, 3):
        with RolloutPool(workers) as pool:
            results.append(pool.episodes(task, *arguments, gaussian_policies(name, std), rules))
    assert_same(results[1], results[0])
    assert max(np.abs(each.actions).max() for each in results[0]) > 1


# --- Trouble ---


def kill_one_at_work(pool, killed, how=signal.SIGKILL):
    """Kill the first worker that is seen with a job."""

    def hunt():
        end = time.monotonic() + 20
        while time.monotonic() < end and not killed:
            for worker in list(pool._running):
                if worker.job is not None:
                    os.kill(worker.process.pid, how)
                    killed.append(worker.process.pid)
                    return
            time.sleep(0.001)

    thread = threading.Thread(target=hunt)
    thread.start()
    return thread


def test_a_killed_workers_job_is_run_again(capfd):
    task, weights = short_task("drawer-open", 60), two_policies("drawer-open")
    arguments = (task, list(range(6)), [0, 1] * 3, weights, SHORT["drawer-open"])
    with RolloutPool(2) as pool:
        expected = pool.episodes(*arguments)
        assert "died" not in capfd.readouterr().err
        killed = []
        hunter = kill_one_at_work(pool, killed)
        found = pool.episodes(*arguments)
        hunter.join()
        assert len(killed) == 1
        assert_same(found, expected)
    report = capfd.readouterr().err
    assert "worker died (exit code -9)" in report
    assert "in drawer-open, seeds [0, 2, 4]" in report or "seeds [1, 3, 5]" in report


def test_a_worker_that_hangs_is_ended_and_its_job_run_again(monkeypatch, capfd):
    monkeypatch.setattr(jobs, "LEAST_SECONDS", 3.0)
    monkeypatch.setattr(jobs, "TIMES", 1.5)  # the first jobs make their task, which is most of it
    task, weights = short_task("drawer-open", 60), two_policies("drawer-open")
    arguments = (task, list(range(6)), [0, 1] * 3, weights, SHORT["drawer-open"])
    with RolloutPool(2) as pool:
        expected = pool.episodes(*arguments)
        stopped = []
        hunter = kill_one_at_work(pool, stopped, signal.SIGSTOP)  # alive, and silent for good
        found = pool.episodes(*arguments)
        hunter.join()
        assert len(stopped) == 1
        assert_same(found, expected)
    report = capfd.readouterr().err
    assert re.search(r"worker gave no answer for [0-9]+ s and was ended in drawer-open", report)
    assert "running it again" in report


def test_a_job_that_hangs_every_worker_is_given_up(pointmass, monkeypatch, capfd):
    monkeypatch.setattr(jobs, "UNKNOWN_SECONDS", 0.0)
    with (
        RolloutPool(1) as pool,
        pytest.raises(UserError, match="gave no answer for 0 s and was ended 3 times"),
    ):
        pool.episodes(pointmass, [7], [EXPERT], [], EpisodeRules())


def test_deadlines_are_learned_by_kind_and_size():
    deadlines, card = jobs.Deadlines(), load_task("pointmass")

    def job(size, function="run_episodes", took=None):
        begun = time.monotonic() - (took or 0)
        return jobs.Job(0, function, {"card": card}, size, "", begun=begun)

    assert deadlines.seconds(job(5)) == jobs.UNKNOWN_SECONDS
    deadlines.learn(job(5, took=50))
    deadlines.learn(job(5, took=10))
    assert deadlines.seconds(job(1)) == pytest.approx(10 * jobs.TIMES, rel=0.01)
    assert deadlines.seconds(job(7)) == pytest.approx(70 * jobs.TIMES, rel=0.01)
    assert deadlines.seconds(job(7, "regret_scores")) == jobs.UNKNOWN_SECONDS
    second, third = job(1), job(1)
    second.tries, third.tries = 1, 2
    assert deadlines.seconds(second) == jobs.WIDER * deadlines.seconds(job(1))
    assert deadlines.seconds(third) == jobs.UNKNOWN_SECONDS
    deadlines.learn(job(2, "regret_scores", took=0.1))
    assert deadlines.seconds(job(3, "regret_scores")) == jobs.LEAST_SECONDS


def test_a_worker_killed_between_jobs_is_replaced(pointmass, capfd):
    arguments = (pointmass, [1, 2], [EXPERT] * 2, [], SHORT["pointmass"])
    with RolloutPool(1) as pool:
        expected = pool.episodes(*arguments)
        (before,) = pool._running
        os.kill(before.process.pid, signal.SIGKILL)
        before.process.wait()
        assert_same(pool.episodes(*arguments), expected)
    assert "pointmass, seeds [1, 2]" in capfd.readouterr().err


def test_a_job_that_kills_every_worker_is_given_up(pointmass, capfd):
    broken = {"PYTHONHOME": "/nowhere"}  # such a worker dies before it has begun
    with RolloutPool(1, broken) as pool:
        with pytest.raises(
            UserError, match=r"died \(exit code 1\) 3 times in pointmass, seeds \[7\]"
        ):
            pool.episodes(pointmass, [7], [EXPERT], [], EpisodeRules())
        assert pool._running == []
    assert "running it again" in capfd.readouterr().err


def test_an_exception_in_a_worker_names_task_and_seeds(pointmass, pool):
    with pytest.raises(RuntimeError) as caught:
        pool.episodes(pointmass, [11, 12], [0, 0], [idle(3, 2)], EpisodeRules())
    message = str(caught.value)
    assert "pointmass, seeds [11, 12]" in message
    assert "matmul" in message  # the worker's traceback
    assert pool._running == []
    assert len(pool.episodes(pointmass, [1], [EXPERT], [], EpisodeRules())) == 1  # goes on


ENDLESS = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from cpl_bench.core.cards import load_task
from cpl_bench.tasks.episodes import EXPERT, EpisodeRules
from cpl_bench.tasks.pool import RolloutPool
with RolloutPool(2) as pool:
    task = load_task("pointmass")
    pool.episodes(task, [0] * 20, [EXPERT] * 20, [], EpisodeRules())
    print(*(worker.process.pid for worker in pool._running), flush=True)
    while True:
        pool.episodes(task, [0] * 50, [EXPERT] * 50, [], EpisodeRules())
"""


@pytest.mark.parametrize(
    "how", ["SIGINT to the group", "SIGINT to the parent", "SIGTERM", "SIGKILL"]
)
def test_workers_leave_with_their_parent(how):
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        assert all(map(is_alive, workers))
        time.sleep(0.2)
        if how == "SIGINT to the group":  # what Ctrl-C does
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(getattr(signal, how.split()[0]))
        errors = process.communicate(timeout=20)[1]
        assert wait_until(lambda: not any(map(is_alive, workers)), 5)
        if how.startswith("SIGINT"):
            assert errors.count("Traceback") == 1  # the parent's own
            assert "KeyboardInterrupt" in errors
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_closing_the_pool_ends_its_workers(pointmass):
    with RolloutPool(2) as pool:
        pool.episodes(pointmass, list(range(10)), [EXPERT] * 10, [], EpisodeRules())
        workers = [worker.process.pid for worker in pool._running]
        assert len(workers) == 2
    assert not any(map(is_alive, workers))
    assert RolloutPool(1)._running == []  # workers start at the first call
