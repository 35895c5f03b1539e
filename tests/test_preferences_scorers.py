"""Scores are what their definitions say, measured again here by hand on the real simulator."""

from dataclasses import replace

import numpy as np
import pytest

from cpl_bench.core.cards import TaskCard, load_task
from cpl_bench.core.dataset_cards import Labelling
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.preferences.scorers import (
    SCORERS,
    _best_known,
    partial_return,
    regret,
    return_regret,
)
from cpl_bench.preferences.segments import SegmentSet, segments_of
from cpl_bench.tasks.alike import executed
from cpl_bench.tasks.episodes import EXPERT, EpisodeRules, Trajectory
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.tasks.registry import make_task
from cpl_bench.trajectories.dataset import TrajectorySet

pytestmark = pytest.mark.filterwarnings("ignore:Constant")  # Meta-World's experts, of clipping

LENGTH = 16
CAP = Labelling(cap_steps=150)


class CountingPool(RolloutPool):
    """A pool that remembers which states it was given."""

    def __init__(self):
        super().__init__(2)
        self.states = []

    def forks(self, card, function, arguments, caption="forks"):
        self.states += [state for each in arguments.values() for state in each["states"]]
        return super().forks(card, function, arguments, caption)


@pytest.fixture(scope="module")
def counting_pool():
    with CountingPool() as pool:
        yield pool


@pytest.fixture(scope="module")
def drawer():
    return load_task("drawer-open")


@pytest.fixture(scope="module")
def experts(drawer, pool):
    """Two of the expert's own episodes, until a little after success."""
    rules = EpisodeRules(stop_steps_after_success=20, keep_states=True)
    trajectories = pool.episodes(drawer, [1, 2], [EXPERT] * 2, [], rules)
    assert all(each.succeeded for each in trajectories)
    return trajectories


@pytest.fixture(scope="module")
def noisy(drawer, pool):
    """An episode that succeeds in spite of its noise."""
    rules = EpisodeRules(1.0, stop_steps_after_success=20, keep_states=True)
    (trajectory,) = pool.episodes(drawer, [4], [EXPERT], [], rules)
    assert trajectory.succeeded
    return trajectory


@pytest.fixture(scope="module")
def idle(drawer, pool):
    """An episode of doing nothing."""
    zeros = {"w0": np.zeros((35, 4), np.float32), "b0": np.zeros(4, np.float32)}
    still = PolicyWeights("deterministic", zeros)
    card = TaskCard("idle", drawer.suite, drawer.source_id, 60)
    (trajectory,) = pool.episodes(card, [3], [0], [still], EpisodeRules(keep_states=True))
    return trajectory


@pytest.fixture(scope="module")
def simulator(drawer):
    return make_task(drawer)


def cut(trajectories, places, length=LENGTH):
    episodes, offsets = np.array(places).T
    return SegmentSet(trajectories, episodes, offsets, length)


def steps_to_success(simulator, state, cap):
    """T_E by hand."""
    simulator.set_state(state)
    for step in range(1, cap + 1):
        if simulator.step(simulator.expert_action())[4]["success"]:
            return step
    return cap


# --- Regret ---


def test_the_experts_own_segments_have_no_regret(experts, drawer, pool):
    places = [
        (episode, offset)
        for episode, each in enumerate(experts)
        for offset in range(0, len(each.rewards) - LENGTH + 1, 7)
    ]
    scores = regret(cut(experts, places), drawer, CAP, pool)
    np.testing.assert_array_equal(scores, np.zeros(len(places)))


def test_regret_by_hand(noisy, drawer, simulator, pool):
    success = noisy.steps_to_success
    offsets = [0, 10, success // 2, success - LENGTH - 1, success - 5, success, success + 2]
    expected = []
    for start in offsets:
        at_ends = [
            0 if state >= success else steps_to_success(simulator, noisy.states[state], 150)
            for state in (start, start + LENGTH)
        ]
        spent = sum(step < success for step in range(start, start + LENGTH))
        expected.append(-(spent + at_ends[1] - at_ends[0]))
    found = regret(cut([noisy], [(0, offset) for offset in offsets]), drawer, CAP, pool)
    np.testing.assert_array_equal(found, expected)
    assert min(expected) < 0  # noise costs something


def test_steps_after_success_cost_nothing_and_are_not_rolled(noisy, drawer, counting_pool):
    counting_pool.states.clear()
    success = noisy.steps_to_success
    segments = cut([noisy], [(0, success), (0, success + 3)])
    np.testing.assert_array_equal(regret(segments, drawer, CAP, counting_pool), [0, 0])
    assert counting_pool.states == []


def test_doing_nothing_loses_every_step(idle, drawer, pool):
    assert not idle.succeeded
    places = [(0, offset) for offset in (5, 20, 40)]
    scores = regret(cut([idle], places), drawer, CAP, pool)
    np.testing.assert_allclose(scores, -LENGTH, atol=1)


def test_what_is_beyond_the_cap_counts_the_same(idle, drawer, pool):
    segments = cut([idle], [(0, 0), (0, 30)])
    scores = regret(segments, drawer, Labelling(cap_steps=10), pool)  # no expert is as quick
    np.testing.assert_array_equal(scores, [-LENGTH, -LENGTH])


def test_every_state_is_rolled_once(noisy, experts, drawer, counting_pool):
    counting_pool.states.clear()
    places = [(0, 0), (0, LENGTH), (0, 2 * LENGTH), (0, 0), (1, 0), (1, 0)]
    scores = regret(cut([noisy, experts[0]], places), drawer, CAP, counting_pool)
    assert len(counting_pool.states) == 6  # 4 ends of the noisy episode, 2 of the expert's
    assert len({state.tobytes() for state in counting_pool.states}) == 6
    assert scores[0] == scores[3]
    assert scores[4] == scores[5] == 0


def test_regrets_of_a_chain_add_up(noisy, drawer, pool):
    chain = regret(cut([noisy], [(0, 0), (0, LENGTH)]), drawer, CAP, pool)
    whole = regret(cut([noisy], [(0, 0)], 2 * LENGTH), drawer, CAP, pool)
    assert chain.sum() == whole.item()


# --- Returns ---


def test_return_regret_of_the_experts_own_rollout_is_zero(drawer, pool):
    short = replace(drawer, horizon_steps=70)
    (trajectory,) = pool.episodes(short, [1], [EXPERT], [], EpisodeRules(keep_states=True))
    segments = cut([trajectory], [(0, offset) for offset in (0, 13, 40, 70 - LENGTH)])
    np.testing.assert_allclose(return_regret(segments, short, CAP, pool), 0, atol=1e-6)


def test_return_regret_by_hand(noisy, drawer, simulator, pool):
    short = replace(drawer, horizon_steps=60)
    rewards = noisy.rewards[10 : 10 + LENGTH].sum()
    values = []
    for state in (10, 10 + LENGTH):
        simulator.set_state(noisy.states[state])
        acted = (executed(simulator.expert_action()) for _ in range(60 - state))
        values.append(sum(simulator.step(action)[1] for action in acted))
    found = return_regret(cut([noisy], [(0, 10)]), short, CAP, pool)
    assert found.item() == pytest.approx(rewards + values[1] - values[0], abs=1e-5)


def test_partial_return_sums_rewards(experts, noisy, drawer, counting_pool):
    counting_pool.states.clear()
    trajectories = [*experts, noisy]
    rng = np.random.default_rng(0)
    places = [
        (episode, rng.integers(0, len(trajectories[episode].rewards) - LENGTH + 1))
        for episode in rng.integers(0, 3, 40)
    ]
    found = partial_return(cut(trajectories, places), drawer, CAP, counting_pool)
    expected = [sum(trajectories[e].rewards[t : t + LENGTH].tolist()) for e, t in places]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert counting_pool.states == []  # the simulator is not asked


# --- What scorers stand on ---


@pytest.mark.parametrize("start", [0, 17, 60])
def test_a_restored_state_replays_the_recorded_rewards(noisy, simulator, start):
    simulator.set_state(noisy.states[start])
    steps = range(start, len(noisy.rewards))
    outcomes = [simulator.step(noisy.actions[step]) for step in steps]
    found = [reward for _, reward, *_ in outcomes]
    np.testing.assert_allclose(found, noisy.rewards[start:], atol=1e-9)
    assert [each[4]["success"] for each in outcomes] == noisy.successes[start:].tolist()


def test_segments_of_flat_rows_lie_in_their_episodes(experts, noisy):
    source = TrajectorySet("toy", [*experts, noisy], {})
    flat = np.concatenate([each.rewards for each in source.trajectories])
    lengths = [len(each.rewards) for each in source.trajectories]
    starts = np.array([0, lengths[0] - 5, lengths[0], sum(lengths[:2]), sum(lengths) - 5])
    segments = segments_of(source, starts, 5)
    assert segments.episodes.tolist() == [0, 0, 1, 2, 2]
    for episode, offset, start in zip(segments.episodes, segments.offsets, starts, strict=True):
        np.testing.assert_array_equal(
            source.trajectories[episode].rewards[offset : offset + 5], flat[start : start + 5]
        )
    np.testing.assert_array_equal(segments.ends, segments.offsets + 5)


@pytest.mark.parametrize("name", SCORERS)
def test_every_scorer_gives_a_finite_number_a_segment(name, pool):
    task = load_task("pointmass")
    rules = EpisodeRules(0.5, keep_states=True)
    trajectories = pool.episodes(task, [1, 2, 3], [EXPERT] * 3, [], rules)
    segments = cut(trajectories, [(2, 0), (0, 3), (1, 38), (2, 0)], 12)
    how = replace(CAP, scorer_settings={"steps": 3}) if name == "advantage" else CAP
    scores = SCORERS[name](segments, task, how, pool)
    assert scores.shape == (4,)
    assert np.isfinite(scores).all()
    assert scores[0] == scores[3]


def test_the_best_known_way_is_the_experts_or_the_episodes_own():
    states, steps = np.array([0, 10, 30, 40]), np.array([50, 200, 25, 200])
    # from 40 by its own success at 47: 7; from 30 by way of 40: 10 + 7; from 10: 20 + 17
    np.testing.assert_array_equal(_best_known(states, steps, 47.0), [47, 37, 17, 7])
    np.testing.assert_array_equal(_best_known(states, steps, np.inf), [50, 45, 25, 200])


class Told(RolloutPool):
    """A pool whose forks answer what they are told, a number a state."""

    def __init__(self, answers):
        super().__init__(1)
        self.answers, self.asked = answers, []

    def forks(self, card, function, arguments, caption="forks"):
        self.asked += arguments.values()
        numbers = [np.asarray(each["states"])[:, 0].astype(int) for each in arguments.values()]
        return [np.array([self.answers[state] for state in states]) for states in numbers]


def recorded(steps, success=None, terminated=False):
    """An episode whose states say their numbers."""
    successes = np.zeros(steps, bool)
    if success is not None:
        successes[success:] = True
    states = np.arange(steps + 1.0)[:, None]
    nothing = np.zeros((0, 1), np.float32)
    paid = np.ones(steps)
    return Trajectory(0, 0, nothing, nothing, paid, successes, states, terminated)


def test_regret_takes_the_shorter_way_by_the_episodes_own_success(drawer):
    """It succeeds with its sixth step; the expert would need forty."""
    segments = cut([recorded(12, success=5)], [(0, 0), (0, 2), (0, 8)], 4)
    found = regret(segments, drawer, CAP, Told(dict.fromkeys(range(13), 40)))
    assert found.tolist() == [-(4 + 2 - 6), -(4 + 0 - 4), 0]


def test_a_task_that_ends_unsolved_has_lost_all_that_is_left(drawer):
    answers = {0: 30, 4: 28, 8: 90}
    for terminated, at_end in ((True, CAP.cap_steps), (False, 90)):
        segments = cut([recorded(8, terminated=terminated)], [(0, 0), (0, 4)], 4)
        pool = Told(answers)
        found = regret(segments, drawer, CAP, pool)
        assert found.tolist() == [-(4 + 28 - 30), -(4 + at_end - 28)]
        assert len(pool.asked[0]["states"]) == (2 if terminated else 3)


def test_return_regret_counts_to_the_horizon(drawer):
    horizon = drawer.horizon_steps
    answers = {horizon - 5: 9.0, horizon - 1: 3.0}
    pool = Told(answers)
    segments = cut([recorded(horizon)], [(0, horizon - 5), (0, horizon - 4)], 4)
    answers[horizon - 4] = 8.0
    found = return_regret(segments, drawer, CAP, pool)
    assert found.tolist() == [4 + 3 - 9, 4 + 0 - 8]  # at the horizon nothing is left to gain
    assert [each.tolist() for each in (pool.asked[0]["horizons"],)] == [[5, 4, 1]]
