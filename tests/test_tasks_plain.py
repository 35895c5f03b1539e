"""Anybody's Gymnasium environment is a task, and a policy that plans ahead executes its plan."""

import json
import subprocess
import sys
from dataclasses import replace

import gymnasium
import numpy as np
import pytest

from cpl_bench.core.cards import TaskCard, load_task, task_cards
from cpl_bench.core.errors import UserError
from cpl_bench.core.folders import card_folder
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.runs.evaluate import evaluate_policy
from cpl_bench.tasks.alike import executed
from cpl_bench.tasks.episodes import EXPERT, EpisodeRules, run_episodes
from cpl_bench.tasks.policies import mlp_action
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.tasks.protocol import can_fork, has_expert
from cpl_bench.tasks.registry import find_task, make_env, make_task

MODULE = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict


class Bare(gymnasium.Env):
    \"\"\"Walk half of the first action; the second is paid. Beyond 3 it ends.\"\"\"

    def __init__(self):
        self.observation_space = Dict({"place": Box(-9, 9, (1,)), "dice": Box(0, 1, (2,))})
        self.action_space = Box(np.array([-2, 0], np.float32), np.array([2, 1], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.dice = self.np_random.uniform(-1, 1), self.np_random.random(2)
        return self.look(), {}

    def look(self):
        return {"place": np.array([self.place]), "dice": self.dice}

    def step(self, action):
        assert action in self.action_space, action
        self.place += float(action[0]) / 2
        return self.look(), float(action[1]), abs(self.place) > 3, False, self.facts()

    def facts(self):
        return {}


class Line(Bare):
    horizon_steps = 30

    def facts(self):
        return {"success": self.place > 3}

    def get_state(self):
        return np.array([self.place, *self.dice])

    def set_state(self, state):
        self.place, self.dice = float(state[0]), state[1:]
        return self.look()

    def expert_action(self):
        return np.array([2.0, 0.5])


class Drawn(Line):
    def __init__(self, render_mode):
        super().__init__()
        assert render_mode == "rgb_array"

    def render(self):
        return np.full((2, 2, 3), 20 * (self.place + 4) // 1, np.uint8)
"""
LINE = TaskCard("line", "gymnasium", "plain_line:Line", horizon_steps=12)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Workers that begin in a folder with the module in it."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "plain_line.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.chdir(folder)
        with RolloutPool(2) as workers:
            yield workers


def constant(size, *actions, chunk_length=1):
    """Answers with these actions, whatever it sees."""
    arrays = {"w0": np.zeros((size, len(actions)), np.float32)}
    arrays["b0"] = np.arctanh(np.array(actions, np.float32))
    return PolicyWeights("deterministic", arrays, chunk_length)


def planning(size, actions, chunk_length, seed=0):
    """A policy whose plan depends on what it sees."""
    rng = np.random.default_rng(seed)
    shape = (size, chunk_length * actions)
    arrays = {"w0": rng.normal(size=shape), "b0": rng.normal(size=shape[1])}
    return PolicyWeights("deterministic", arrays, chunk_length)


def by_hand(env, seed, act):
    """Places before and after each step, rewards, whether it ended: the environment alone."""
    looks, rewards, ended = [env.reset(seed=seed)[0]], [], False
    for step in range(LINE.horizon_steps):
        look, reward, ended, _, _ = env.step(act(step))
        looks.append(look)
        rewards.append(reward)
        if ended:
            break
    return np.array([look["place"][0] for look in looks]), rewards, ended


# --- Roll out ---


def test_episodes_are_those_of_the_environment_itself(pool):
    from plain_line import Line

    seeds = list(range(8))
    found = pool.episodes(LINE, seeds, [0] * 8, [constant(3, 0.5, -0.5)], EpisodeRules())
    lengths = set()
    for seed, episode in zip(seeds, found, strict=True):
        own = np.array([1.0, 0.25], np.float32)  # 0.5 of [-2, 2], -0.5 of [0, 1]
        places, rewards, ended = by_hand(Line(), seed, lambda _, own=own: own)
        np.testing.assert_allclose(episode.observations[:, 2], places, atol=1e-6)
        np.testing.assert_allclose(episode.rewards, rewards, atol=1e-6)
        assert episode.terminated == ended
        assert episode.terminated and episode.succeeded
        assert episode.steps_to_success == len(rewards) == len(episode.actions)
        np.testing.assert_allclose(episode.actions, [[0.5, -0.5]] * len(rewards), rtol=1e-6)
        lengths.add(len(rewards))
    assert len(lengths) > 2, "they end where they like"


def test_time_ends_an_episode_without_terminating_it(pool):
    (episode,) = pool.episodes(LINE, [0], [0], [constant(3, 0.0, 0.0)], EpisodeRules())
    assert len(episode.rewards) == LINE.horizon_steps
    assert not episode.terminated and not episode.succeeded
    assert np.ptp(episode.observations, axis=0).max() == 0
    np.testing.assert_allclose(episode.rewards, 0.5)


def test_a_step_limit_of_the_environments_own_is_no_termination(pool):
    task = make_task(TaskCard("short", "gymnasium", "Pendulum-v1", horizon_steps=7))
    task.reset(seed=0)
    flags = [task.step(np.zeros(1, np.float32))[2:4] for _ in range(7)]
    assert flags == [(False, False)] * 6 + [(False, True)]


def test_observations_are_flat_and_actions_reach_the_bounds(pool):
    task = make_task(LINE)
    assert (task.observation_space.shape, task.action_space.shape) == ((3,), (2,))
    observation, info = task.reset(seed=4)
    assert observation.dtype == np.float32 and observation in task.observation_space
    assert info == {"success": False}
    before = observation[2]
    for action, walked, paid in ((-1, -1.0, 0.0), (1, 1.0, 1.0), (3, 1.0, 1.0)):
        after, reward, *_ = task.step(np.full(2, action, np.float32))
        assert after[2] - before == pytest.approx(walked, abs=1e-6)
        assert reward == paid
        before = after[2]


def test_rendering_is_asked_for_only_where_it_is_wanted(pool):
    """Line's constructor takes nothing."""
    card = TaskCard("drawn", "gymnasium", "plain_line:Drawn", 12)
    frames, success = pool.render(card, 2, constant(3, 0.5, 0.0), every=3)
    (episode,) = pool.episodes(LINE, [2], [0], [constant(3, 0.5, 0.0)], EpisodeRules())
    assert success and episode.terminated
    steps = len(episode.rewards)
    shown = [0, *range(3, steps, 3), steps]  # the last step, too
    expected = episode.observations[shown, 2]
    np.testing.assert_allclose([frame[0, 0, 0] for frame in frames], 20 * (expected + 4) // 1)


def test_a_function_is_evaluated_on_it(pool):
    found = evaluate_policy(lambda looks: np.ones((len(looks), 2)), LINE, episodes=6)
    assert found.score == 1.0
    assert found.rows["length"].max() <= 4
    np.testing.assert_array_equal(found.rows["return"], found.rows["length"])


# --- What the environment offers ---


def test_states_and_expert_are_offered_where_they_are(pool):
    task, bare = make_task(LINE), make_task(TaskCard("bare", "gymnasium", "plain_line:Bare", 12))
    assert can_fork(task) and has_expert(task)
    assert not can_fork(bare) and not has_expert(bare)
    np.testing.assert_array_equal(task.expert_action(), [1, 0])
    task.reset(seed=1)
    for _ in range(2):
        task.step(np.array([0.2, 0.0]))
    state = task.get_state()
    assert state.dtype == np.float64 and state[-1] == 2
    later = task.step(np.array([0.3, 0.0]))[0]
    other = make_task(LINE)
    looked = other.set_state(state)
    np.testing.assert_array_equal(other.get_state(), state)
    assert looked.dtype == np.float32 and looked[2] == np.float32(state[0])
    np.testing.assert_array_equal(other.step(np.array([0.3, 0.0]))[0], later)


def test_an_expert_is_rolled_out_and_forked(pool):
    (episode,) = pool.episodes(LINE, [2], [EXPERT], [], EpisodeRules(keep_states=True))
    assert episode.succeeded and episode.states.shape == (len(episode.rewards) + 1, 4)
    states = np.array([[0.5, 0, 0, 0], [2.5, 0, 0, 3], [-9.0, 0, 0, 0]])
    forks = {"one": {"states": states, "cap_steps": 8}}
    (steps,) = pool.forks(LINE, "expert_steps_to_success", forks)
    np.testing.assert_array_equal(steps, [3, 1, 8])


def test_a_registered_environment_is_forked_before_its_first_episode(pool):
    """Gymnasium's wrappers refuse a step before a reset."""
    gymnasium.register("plain/Line-v0", "plain_line:Line", max_episode_steps=12)
    try:
        task = make_task(TaskCard("line", "gymnasium", "plain/Line-v0", 12))
        task.set_state(np.zeros(4))
        assert task.step(np.ones(2))[0][2] == 1
    finally:
        del gymnasium.registry["plain/Line-v0"]


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("expert_steps_to_success", {"cap_steps": 3}, "cannot be forked.*partial_return"),
        ("expert_returns", {"horizons": np.ones(1)}, "cannot be forked.*partial_return"),
    ],
)
def test_regret_says_what_a_task_lacks(pool, function, arguments, message):
    card = TaskCard("bare", "gymnasium", "plain_line:Bare", 12)
    with pytest.raises(UserError, match=message):
        pool.forks(card, function, {"one": {"states": np.zeros((1, 1)), **arguments}})


def test_nobody_demonstrates_without_an_expert(pool):
    card = TaskCard("bare", "gymnasium", "plain_line:Bare", 12)
    with pytest.raises(UserError, match="has no scripted expert"):
        pool.episodes(card, [0], [EXPERT], [], EpisodeRules())


# --- Find it by name ---


@pytest.mark.parametrize(
    ("name", "horizon", "ends"), [("Pendulum-v1", 200, False), ("InvertedPendulum-v5", 1000, True)]
)
def test_a_registered_id_is_a_task(pool, name, horizon, ends):
    card = find_task(name)
    assert (card.suite, card.source_id, card.horizon_steps) == ("gymnasium", name, horizon)
    assert (card.score, card.name) == ("return", name)
    env = gymnasium.make(name)
    size, bound = env.observation_space.shape[0], env.action_space.high[0]
    found = pool.episodes(card, [5, 6], [0, 0], [constant(size, 0.5)], EpisodeRules())
    for episode in found:
        looks, rewards, over = [env.reset(seed=episode.seed)[0]], [], False
        while not over:
            own = np.array([bound / 2], env.action_space.dtype)
            look, reward, ended, cut, _ = env.step(own)
            looks.append(look)
            rewards.append(float(reward))
            over = ended or cut
        np.testing.assert_allclose(episode.observations, looks, atol=1e-5)
        np.testing.assert_allclose(episode.rewards, rewards, rtol=1e-5)
        assert episode.terminated == ended == ends


def test_a_class_says_how_it_is_scored_and_how_long_it_lasts(pool):
    card = find_task("plain_line:Line")
    assert (card.horizon_steps, card.score) == (30, "success")
    assert card.scoring.is_success
    env = make_env("plain_line:Line")
    assert env.reset(seed=0)[0].shape == (3,)


def test_our_own_ids_mean_their_cards(pool):
    card = load_task("pointmass")
    for name in ("pointmass", card.env_id, f"cpl_bench.tasks.registry:{card.env_id}"):
        assert find_task(name) == card


@pytest.mark.parametrize("name", ["plain_line:Bare", "plain/Endless-v0"])
def test_an_environment_without_a_step_limit_is_refused(pool, name):
    gymnasium.register("plain/Endless-v0", "plain_line:Line")
    try:
        with pytest.raises(UserError, match=rf"{name} has no step limit.*horizon_steps"):
            find_task(name)
    finally:
        del gymnasium.registry["plain/Endless-v0"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Pendulm-v1", "Did you mean 'Pendulum-v1'"),
        ("drawer-opn", "Did you mean 'drawer-open'"),
        ("plain_line:Lin", "has no 'Lin'"),
        ("nowhere_line:Line", "cannot be imported: ModuleNotFoundError"),
        ("nowhere_line:Line-v0", "cannot be imported: ModuleNotFoundError"),
        ("CartPole-v1", "expected .* a bounded one-dimensional Box of actions, got .*Discrete"),
        ("", "A task is a card in envs/"),
    ],
)
def test_what_is_no_task_is_explained(pool, name, said):
    with pytest.raises(UserError, match=said):
        find_task(name)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def reset(self): return np.zeros(1), {}", "reset with a seed: TypeError"),
        ("def __init__(self, size): pass", "cannot be made and reset.* 'size'"),
        ("def reset(self, seed=None, options=None): return np.zeros(1)", "give 2 values"),
        (
            "def step(self, action): return np.zeros(1), 0.0, False, {}",
            "step must keep .* 5 values",
        ),
        ("def step(self, action): return [np.nan], 0.0, False, False, {}", "finite observations"),
        ("def step(self, action): return [1, 2], 0.0, False, False, {}", "finite observations of"),
    ],
)
def test_what_breaks_the_api_is_told_so(tmp_path, monkeypatch, body, said):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"broken_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(
        "import gymnasium, numpy as np\n"
        "class Odd(gymnasium.Env):\n"
        "    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,))\n"
        "    def reset(self, seed=None, options=None): return np.zeros(1), {}\n"
        "    def step(self, action): return np.zeros(1), 0.0, False, False, {}\n"
        f"    {body}\n"
    )
    with pytest.raises(UserError, match=said) as caught:
        task = make_task(TaskCard("odd", "gymnasium", f"{name}:Odd", 5))
        task.reset(seed=0)
        task.step(np.zeros(1))
    assert "\n" not in str(caught.value)


def test_workers_explain_too(pool):
    for suite, source_id, said in (
        ("gymnasium", "Pendulm-v1", r"Pendulm-v1 cannot be made.*Did you mean: `Pendulum`"),
        ("gymnasum", "Line", r"No task suite is called 'gymnasum'\. Did you mean 'gymnasium'"),
    ):
        card = TaskCard("x", suite, source_id, 9)
        with pytest.raises(UserError, match=said):
            pool.episodes(card, [0], [EXPERT], [], EpisodeRules())


def test_a_suite_may_be_a_class(pool):
    card = TaskCard("mine", "cpl_bench.tasks.pointmass:PointMassTask", "PointMass-v0", 9)
    (episode,) = pool.episodes(card, [3], [EXPERT], [], EpisodeRules())
    (ours,) = run_episodes(load_task("pointmass"), [3], EXPERT, None, EpisodeRules())
    np.testing.assert_array_equal(episode.observations, ours.observations[:10])


# --- Cards ---


def test_a_card_is_found_by_its_path(pool, tmp_path):
    path = tmp_path / "walk.toml"
    path.write_text('suite = "gymnasium"\nsource_id = "plain_line:Line"\nhorizon_steps = 9\n')
    card = load_task(str(path))
    assert find_task(str(path)) == card
    assert (card.name, card.horizon_steps, card.score) == ("walk", 9, "success")
    with pytest.raises(UserError, match=r"gone\.toml: there is no such task card"):
        load_task(str(tmp_path / "gone.toml"))


def test_a_return_is_normalised_between_two_references(tmp_path):
    path = tmp_path / "walk.toml"
    text = 'suite = "gymnasium"\nsource_id = "m:C"\nhorizon_steps = 9\nscore = "return"\n'
    path.write_text(text)
    plain = load_task(str(path)).scoring
    assert plain.of([0, 1], [3.0, -2.0]).tolist() == [3.0, -2.0]
    assert (plain.name, plain.is_share, plain.shown(1234.5)) == ("return", False, "1,234.5")
    path.write_text(f"{text}[reference]\nrandom_return = -4.0\nexpert_return = 4.0\n")
    shares = load_task(str(path)).scoring
    assert shares.of([0, 1, 0], [-4.0, 0.0, 6.0]).tolist() == [0.0, 0.5, 1.25]
    assert (shares.name, shares.is_share, shares.shown(0.5)) == ("normalised return", True, "50.0")
    for wrong in ("random_return = 1.0", "expert_return = 1.0"):
        path.write_text(f"{text}[reference]\n{wrong}\n")
        with pytest.raises(UserError, match=r"walk\.toml: .* between two references"):
            load_task(str(path))
    path.write_text(f"{text}[reference]\nrandom_return = 4.0\nexpert_return = 4.0\n")
    with pytest.raises(UserError, match="random_return below expert_return"):
        load_task(str(path))


def test_importing_the_registry_reads_each_card_once():
    code = (
        "import json, pathlib\n"
        "read, counts = pathlib.Path.read_bytes, {}\n"
        "def counted(self, *arguments, **named):\n"
        "    counts[str(self)] = counts.get(str(self), 0) + 1\n"
        "    return read(self, *arguments, **named)\n"
        "pathlib.Path.read_bytes = counted\n"
        "import cpl_bench.tasks.registry\n"
        "print(json.dumps({p: n for p, n in counts.items() if p.endswith('.toml')}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    files = sorted(card_folder("envs").glob("*.toml"))
    assert json.loads(done.stdout) == {str(path): 1 for path in files}
    assert len(task_cards()) > len(files), "families have many members"


# --- Policies that plan ahead ---


@pytest.mark.parametrize(
    ("chunk_length", "replan"), [(1, 0), (1, 1), (2, 0), (3, 0), (3, 1), (3, 2), (3, 3)]
)
def test_a_plan_is_executed_before_the_next_look(chunk_length, replan):
    card, weights = load_task("pointmass"), planning(6, 2, chunk_length)
    weights = replace(weights, replan=replan)
    (found,) = run_episodes(card, [3], 0, weights, EpisodeRules())
    task = make_task(card)
    observation, _ = task.reset(seed=3)
    observations, rewards, plan = [observation], [], []
    for _ in range(card.horizon_steps):
        if not plan:
            look, w0 = observation.astype(np.float64), weights.arrays["w0"].astype(np.float64)
            output = np.tanh(look @ w0 + weights.arrays["b0"])
            plan = list(executed(output.reshape(chunk_length, 2)))[: replan or chunk_length]
        observation, reward, *_ = task.step(plan.pop(0))
        observations.append(observation)
        rewards.append(reward)
    np.testing.assert_array_equal(found.observations, observations)
    np.testing.assert_array_equal(found.rewards, rewards)


def test_plans_of_episodes_that_end_apart_are_each_their_own(pool):
    """Episodes are run side by side; one that ends within a plan moves nobody else's."""
    from plain_line import Line

    weights = planning(3, 2, 2, seed=2)
    seeds = list(range(10))
    found = pool.episodes(LINE, seeds, [0] * 10, [weights], EpisodeRules())
    assert len({len(episode.rewards) % 2 for episode in found}) == 2
    for seed, episode in zip(seeds, found, strict=True):
        env, plan = Line(), []
        looks = [env.reset(seed=seed)[0]]
        for _ in range(LINE.horizon_steps):
            if not plan:
                seen = np.array([*looks[-1]["dice"], *looks[-1]["place"]], np.float32)
                plan = list(mlp_action(weights.arrays, seen[None]).reshape(2, 2))
            action = executed(plan.pop(0))
            own = np.array([2 * action[0], (action[1] + 1) / 2], np.float32)
            look, _, ended, _, _ = env.step(own.clip(env.action_space.low, env.action_space.high))
            looks.append(look)
            if ended:
                break
        places = [look["place"][0] for look in looks]
        np.testing.assert_allclose(episode.observations[:, 2], places, atol=1e-5)


def test_each_step_of_a_chunk_is_drawn_with_its_own_deviation():
    arrays = constant(6, 0.1, -0.2, 0.3, 0.0, 0.5, -0.4).arrays  # three steps of two actions
    std = np.array([0.0, 0.05, 0.4, 0.1, 0.2, 0.3], np.float32)
    drawing = PolicyWeights("gaussian", arrays | {"std": std}, 3, replan=2)
    rules = EpisodeRules(sampled=True)
    found = run_episodes(load_task("pointmass"), range(40), 0, drawing, rules)
    actions = np.concatenate([each.actions for each in found])  # 40 × 50 of them, two a look
    for place, mean in enumerate([[0.1, -0.2], [0.3, 0.0]]):
        drawn, own = actions[place::2], std[2 * place : 2 * place + 2]
        np.testing.assert_allclose(drawn.std(0), own, rtol=4 / np.sqrt(2 * len(drawn)), atol=1e-4)
        np.testing.assert_allclose(drawn.mean(0), mean, atol=4 * 0.4 / np.sqrt(len(drawn)))


def test_a_policy_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="executed must be a whole number from 0 to 2, not 3"):
        replace(planning(6, 2, 2), replan=3)
    arrays = constant(3, 0.1, 0.1).arrays
    with pytest.raises(UserError, match="an array 'std'; got w0, b0"):
        PolicyWeights("gaussian", arrays)
    with pytest.raises(UserError, match="of a policy's chunks must be a whole number from 1 to"):
        PolicyWeights("deterministic", arrays, 0)
    with pytest.raises(UserError, match="A policy is deterministic or gaussian, not 'discrete'"):
        PolicyWeights("discrete", arrays)


def test_members_are_split_with_their_kind_and_chunks():
    arrays = {"w0": np.arange(12.0).reshape(2, 3, 2), "std": np.ones((2, 1))}
    members = PolicyWeights("gaussian", arrays, 2).members()
    assert [(each.kind, each.chunk_length) for each in members] == [("gaussian", 2)] * 2
    assert planning(5, 3, 2).sizes == (5, 3)
    np.testing.assert_array_equal(members[1].arrays["w0"], arrays["w0"][1])
