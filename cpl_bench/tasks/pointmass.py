"""A point mass that must reach a visible goal: the task whose answers are known.

It stands in for a simulator where one would only cost time, such as in tests of a learner: numpy
alone, no contacts, and an expert that is a saturated linear function of the observation.

    arena [-1, 1]² in metres      v ← DRAG·v + PUSH·action      p ← clip(p + v)

A step is 0.1 s, v is in metres a step; full thrust ends at PUSH / (1 - DRAG) = 0.1 metres a step.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from cpl_bench.core.errors import unknown_name
from cpl_bench.tasks.alike import paid, seen

SOURCE_IDS = ("PointMass-v0",)
DRAG = 0.6
PUSH = 0.04  # metres a step, each step
RADIUS = 0.1  # metres from the goal that count as success
LEAST_DISTANCE = 0.5  # metres between start and goal
POSITION_GAIN, SPEED_GAIN = 4.0, 5.0  # the expert's, close to critical damping
IMAGE_SIZE = 128  # pixels


class PointMassTask(gymnasium.Env):
    """The point mass; see `cpl_bench.tasks.protocol` for what it offers beyond Gymnasium.

    Observation (6,): position, velocity, goal. Action (2,): thrust. Reward: minus the metres to
    the goal.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        source_id: str,
        horizon_steps: int = 50,
        camera: str = "",
        render_mode: str | None = None,
    ):
        if source_id not in SOURCE_IDS:
            raise unknown_name("point-mass task", source_id, SOURCE_IDS)
        if camera:
            raise unknown_name("camera of the point mass", camera, ())
        self.horizon_steps = horizon_steps
        self.render_mode = render_mode
        self._position, self._velocity, self._goal = np.zeros((3, 2))
        self._steps = 0
        bound = np.array([1.0, 1.0, 0.1, 0.1, 1.0, 1.0], np.float32)
        self.observation_space = gymnasium.spaces.Box(-bound, bound, dtype=np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the episode that `seed` decides, at rest and away from the goal."""
        super().reset(seed=seed)
        self._position, self._goal = self.np_random.uniform(-1.0, 1.0, (2, 2))
        while self._distance() < LEAST_DISTANCE:
            self._position, self._goal = self.np_random.uniform(-1.0, 1.0, (2, 2))
        self._velocity = np.zeros(2)
        self._steps = 0
        return self._observation(), {"success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step of 0.1 s; `truncated` at the horizon, never `terminated`."""
        thrust = np.asarray(action, np.float64).clip(-1.0, 1.0)
        before = self._position
        self._position = (before + DRAG * self._velocity + PUSH * thrust).clip(-1.0, 1.0)
        self._velocity = self._position - before  # a wall takes the speed into it
        self._steps += 1
        distance = self._distance()
        truncated = self._steps >= self.horizon_steps
        return (
            self._observation(),
            paid(-distance),
            False,
            truncated,
            {"success": distance < RADIUS},
        )

    def get_state(self) -> np.ndarray:
        """Position, velocity, goal and the step count, (7,) float64."""
        return np.array([*self._position, *self._velocity, *self._goal, self._steps], np.float64)

    def set_state(self, state: np.ndarray) -> np.ndarray:
        """Take up a state of this or another instance; returns its observation."""
        state = np.array(state, np.float64)
        self._position, self._velocity, self._goal = state[:6].reshape(3, 2)
        self._steps = int(state[6])
        return self._observation()

    def expert_action(self) -> np.ndarray:
        """Towards the goal, slowing down, (2,) float32."""
        thrust = POSITION_GAIN * (self._goal - self._position) - SPEED_GAIN * self._velocity
        return thrust.clip(-1.0, 1.0).astype(np.float32)

    def render(self) -> np.ndarray:
        """The arena from above, goal green and mass dark, (height, width, 3) uint8."""
        ticks = np.linspace(-1.0, 1.0, IMAGE_SIZE)
        grid = np.stack(np.meshgrid(ticks, -ticks), axis=-1)  # (height, width, xy)
        image = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 255, np.uint8)
        image[np.linalg.norm(grid - self._goal, axis=-1) < RADIUS] = (120, 200, 120)
        image[np.linalg.norm(grid - self._position, axis=-1) < 0.05] = (40, 40, 90)
        return image

    def _observation(self) -> np.ndarray:
        return seen(np.concatenate([self._position, self._velocity, self._goal]))

    def _distance(self) -> float:
        east, north = self._goal - self._position
        return float(np.hypot(east, north))
