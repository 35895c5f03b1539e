"""Our quicker Meta-World against Meta-World's own code, bit by bit."""

import sys

import mujoco
import numpy as np
import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation

from cpl_bench.tasks import metaworld, sawyer
from cpl_bench.tasks.metaworld import MetaWorldTask

pytestmark = pytest.mark.filterwarnings("ignore:Constant")  # Meta-World's experts, of clipping


@pytest.fixture
def plainly(monkeypatch):
    """A function that makes a task of Meta-World's own class, none of its code replaced."""

    def make(source_id: str) -> MetaWorldTask:
        own = ALL_V3_ENVIRONMENTS[source_id]
        monkeypatch.setattr(metaworld, "quick", lambda _: own)
        monkeypatch.setattr(reward_utils, "tolerance", sawyer._slow_tolerance)
        if hasattr(sys.modules[own.__module__], "Rotation"):
            monkeypatch.setattr(sys.modules[own.__module__], "Rotation", Rotation)
        task = MetaWorldTask(source_id)
        assert type(task._simulator) is own
        return task

    return make


def lived(task: MetaWorldTask, seeds: range, steps: int) -> np.ndarray:
    """Everything that comes out of an episode a seed: half expert, half random."""
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        task.reset(seed=seed)
        rows.append(np.concatenate([task._full_observation, task.get_state(), [0, 0]]))
        for step in range(steps):
            noisy = task.expert_action() + rng.normal(0.0, 0.3, 4)
            action = noisy if step < steps // 2 else rng.uniform(-1.0, 1.0, 4)
            _, reward, _, _, info = task.step(np.clip(action, -1.0, 1.0).astype(np.float32))
            now = [reward, info["success"]]
            rows.append(np.concatenate([task._full_observation, task.get_state(), now]))
    return np.stack(rows)


@pytest.mark.parametrize("source_id", ALL_V3_ENVIRONMENTS)
def test_every_task_gives_the_same_bits(source_id, plainly):
    quick = lived(MetaWorldTask(source_id), range(2), 40)
    plain = lived(plainly(source_id), range(2), 40)
    np.testing.assert_array_equal(quick, plain)
    assert quick.tobytes() == plain.tobytes(), "zeros have signs"


@pytest.mark.parametrize("source_id", ["drawer-open-v3", "bin-picking-v3"])
def test_whole_episodes_give_the_same_bits(source_id, plainly):
    quick = lived(MetaWorldTask(source_id), range(2, 4), 250)
    np.testing.assert_array_equal(quick, lived(plainly(source_id), range(2, 4), 250))


@pytest.mark.parametrize("source_id", ["door-open-v3", "bin-picking-v3"])
def test_a_state_goes_on_with_the_same_bits(source_id, plainly):
    task = MetaWorldTask(source_id)
    lived(task, range(1), 20)
    state = task.get_state()

    def onwards(other):
        other.reset(seed=9)  # another goal
        other.set_state(state)
        rows = [other.get_state()]
        for _ in range(30):
            other.step(other.expert_action())
            rows.append(other.get_state())
        return np.stack(rows).tobytes()

    assert onwards(MetaWorldTask(source_id)) == onwards(plainly(source_id))


def test_the_sigmoid_gives_the_same_bits():
    rng = np.random.default_rng(0)
    for _ in range(5_000):
        lower, width, margin = rng.exponential(0.2, 3)
        bounds = (lower, lower + width) if rng.random() < 0.5 else (0, width)
        x = rng.exponential(0.5)
        for value in (x, np.float64(x), bounds[0], bounds[1]):
            quick = sawyer.tolerance(value, bounds, margin, "long_tail")
            slow = sawyer._slow_tolerance(value, bounds, margin, "long_tail")
            assert quick == slow and type(quick) is type(slow)


@pytest.mark.parametrize(
    "asked",
    [
        {"sigmoid": "gaussian", "margin": 0.2},
        {"sigmoid": "long_tail", "margin": 0.0},
        {"sigmoid": "long_tail", "margin": 0.2, "value_at_margin": 0.3},
    ],
)
def test_other_sigmoids_are_left_to_meta_world(asked):
    for x in (0.0, 0.1, 0.7):
        assert sawyer.tolerance(x, (0, 0.1), **asked) == sawyer._slow_tolerance(
            x, (0, 0.1), **asked
        )


@pytest.mark.filterwarnings("ignore:overflow")
def test_what_cannot_be_squared_is_left_to_meta_world():
    assert sawyer.tolerance(0.5, (0, 0.1), 1e-156, "long_tail") == 0.0
    assert sawyer.tolerance(1e200, (0, 0.1), 0.1, "long_tail") == 0.0


def test_impossible_tolerances_are_refused_as_ever():
    with pytest.raises(ValueError, match="Lower bound"):
        sawyer.tolerance(0.5, (1.0, 0.0), 0.1, "long_tail")
    with pytest.raises(ValueError, match="non-negative"):
        sawyer.tolerance(0.5, (0.0, 1.0), -0.1, "long_tail")


def test_rotations_give_scipys_bits():
    rng = np.random.default_rng(0)
    matrix = np.empty(9)
    turns = rng.normal(size=(4_000, 4))
    turns[:1_000] *= rng.random((1_000, 4)) < 0.5  # about an axis or two
    turns = turns[np.linalg.norm(turns, axis=1) > 0]
    for turn in turns / np.linalg.norm(turns, axis=1, keepdims=True):
        mujoco.mju_quat2Mat(matrix, turn)
        square = matrix.reshape(3, 3)
        quick = sawyer.QuickRotation.from_matrix(square)
        assert isinstance(quick, sawyer.QuickRotation)
        np.testing.assert_array_equal(quick.as_quat(), Rotation.from_matrix(square).as_quat())


def test_a_matrix_that_is_no_rotation_is_left_to_scipy():
    skewed = np.eye(3) + np.triu(np.full((3, 3), 0.1), 1)
    mended = sawyer.QuickRotation.from_matrix(skewed).as_quat()
    np.testing.assert_array_equal(mended, Rotation.from_matrix(skewed).as_quat())
    with pytest.raises(ValueError, match="determinant"):
        sawyer.QuickRotation.from_matrix(-np.eye(3))


def test_a_reset_simulates_nothing_that_it_undoes(monkeypatch):
    steps = []
    step = mujoco.mj_step
    monkeypatch.setattr(mujoco, "mj_step", lambda *a, **k: (steps.append(1), step(*a, **k)))
    task = MetaWorldTask("drawer-open-v3")
    task.reset(seed=0)
    assert len(steps) == 2 * metaworld.SETTLE_STEPS, "the hand's own 50, and ours"
