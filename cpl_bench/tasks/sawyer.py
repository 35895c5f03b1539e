"""Meta-World's simulators with the slow Python in them replaced: the same numbers, bit for bit.

Half a step's time and more was Python, some of it for numbers that nobody reads. What is replaced
here is what all of the fifty tasks share; tests/test_tasks_sawyer.py holds every task against
Meta-World's own code. Physics, rewards and what is random stay Meta-World's.

The sigmoid and the rotation are names in Meta-World's modules: they are replaced for the whole
process when the first task is made. The simulators are as `cpl_bench.tasks.metaworld` sets them up:
goals visible, no step limit of their own.
"""

# pyright: reportAttributeAccessIssue=false, reportIncompatibleMethodOverride=false
# (MuJoCo ships no stubs for its bindings; the mixin's base is known where it is used.)

from __future__ import annotations

import sys
from functools import cache
from math import sqrt
from typing import Any

import metaworld  # noqa: F401  (its env_dict cannot be imported first)
import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation

UPRIGHT = np.array([1.0, 0.0, 1.0, 0.0])
"""The quaternion in which the hand is held."""
LARGEST = 1e150
"""What can be squared."""
FURTHEST_APART = 0.1  # metres between the fingers
LONG_TAIL = {0.1: sqrt(1 / 0.1 - 1)}
"""Scale of the sigmoid "long_tail", by its value at the margin."""


class QuickSawyer(SawyerXYZEnv):
    """What Meta-World's tasks share, without the detours; comes before a task's own class."""

    data: Any
    model: Any
    simulating = True
    """False: time stands still, for resets whose physics are undone anyway."""

    def __init__(self, **options: Any):
        self._bodies: dict[str, int] = {}
        self._sites: dict[str, int] = {}
        super().__init__(**options)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One control step of an action in [−1, 1], (4,); never ends an episode."""
        assert len(action) == 4, f"expected 4 numbers, got {len(action)}"
        data = self.data
        place = data.mocap_pos + (action[:3] * self.action_scale)[None]
        data.mocap_pos[:] = np.minimum(np.maximum(place, self.mocap_low), self.mocap_high)
        data.mocap_quat[:] = UPRIGHT
        self.do_simulation([action[3], -action[3]], self.frame_skip)
        self.curr_path_length += 1
        mujoco.mj_forward(self.model, data)  # places sites too, so nobody else need
        space = self.sawyer_observation_space
        full = np.minimum(np.maximum(self._get_obs(), space.low), space.high)
        reward, info = self.evaluate_state(full, action)
        return full, reward, False, False, info

    def do_simulation(self, ctrl: list[float], n_frames: int) -> None:
        """Physics alone: the forces on bodies (`mj_rnePostConstraint`) enter no observation."""
        if self.simulating:
            self.data.ctrl[:] = ctrl
            mujoco.mj_step(self.model, self.data, nstep=n_frames)

    def get_body_com(self, body_name: str) -> np.ndarray:
        """Where a body is, (3,): a view."""
        if body_name not in self._bodies:
            self._bodies[body_name] = self.model.body(body_name).id
        return self.data.xpos[self._bodies[body_name]]

    def get_endeff_pos(self) -> np.ndarray:
        """Where the hand is, (3,): a view."""
        return self.get_body_com("hand")

    @property
    def tcp_center(self) -> np.ndarray:
        """Half-way between the fingers, (3,)."""
        return (self._site("rightEndEffector") + self._site("leftEndEffector")) / 2.0

    def _site(self, name: str) -> np.ndarray:
        if name not in self._sites:
            self._sites[name] = self.model.site(name).id
        return self.data.site_xpos[self._sites[name]]

    def _get_site_pos(self, site_name: str) -> np.ndarray:
        return self._site(site_name).copy()

    def _get_obs(self) -> np.ndarray:
        """This frame, the one before and the goal, (39,)."""
        full = np.empty(39)
        frame = self._get_curr_obs_combined_no_goal()
        full[:18], full[18:36], full[36:] = frame, self._prev_obs, self._get_pos_goal()
        self._prev_obs = frame
        return full

    def _get_curr_obs_combined_no_goal(self) -> np.ndarray:
        """The hand, how far it is open, and each object's position and rotation, (18,)."""
        frame = np.zeros(18)
        between = self.get_body_com("rightclaw") - self.get_body_com("leftclaw")
        frame[:3] = self.get_body_com("hand")
        frame[3] = min(max(np.sqrt(between.dot(between)) / FURTHEST_APART, 0.0), 1.0)
        places = self._get_pos_objects().reshape(-1, 3)
        rotations = np.asarray(self._get_quat_objects()).reshape(-1, 4)
        objects = frame[4 : 4 + 7 * len(places)].reshape(-1, 7)  # a view
        objects[:, :3], objects[:, 3:] = places, rotations
        return frame

    def touching_object(self, object_geom_id: int) -> bool:
        """Whether both pads press on a geom, with the contacts read as arrays."""
        contact = self.data.contact
        first, second, address = contact.geom1, contact.geom2, contact.efc_address
        of_object = (first == object_geom_id) | (second == object_geom_id)
        if not of_object.any():
            return False
        for pad in ("leftpad_geom", "rightpad_geom"):
            pad_id = self.data.geom(pad).id
            hit = of_object & ((first == pad_id) | (second == pad_id))
            if not sum(self.data.efc_force[address[hit]]) > 0:
                return False
        return True


@cache
def quick(source_id: str) -> type[Any]:
    """Meta-World's class of that name, made quick."""
    own = ALL_V3_ENVIRONMENTS[source_id]
    reward_utils.tolerance = tolerance
    module = sys.modules[own.__module__]
    if hasattr(module, "Rotation"):
        module.Rotation = QuickRotation  # type: ignore[attr-defined]
    return type(f"Quick{own.__name__}", (QuickSawyer, own), {})


_slow_tolerance = reward_utils.tolerance


def tolerance(
    x: Any,
    bounds: tuple[float, float] = (0.0, 0.0),
    margin: Any = 0.0,
    sigmoid: Any = "gaussian",
    value_at_margin: float = 0.1,
) -> Any:
    """Meta-World's `tolerance`: 1 within the bounds, less the further beyond them; floats."""
    lower, upper = float(bounds[0]), float(bounds[1])
    scale = LONG_TAIL.get(value_at_margin) if sigmoid == "long_tail" else None
    if scale is None or not isinstance(x, float) or not margin > 0 or lower > upper:
        return _slow_tolerance(x, bounds, margin, sigmoid, value_at_margin)
    x = float(x)
    if lower <= x <= upper:
        return 1.0
    beyond = (lower - x if x < lower else x - upper) / float(margin)
    if beyond > LARGEST:
        return _slow_tolerance(x, bounds, margin, sigmoid, value_at_margin)
    return 1 / ((beyond * scale) ** 2 + 1)


class QuickRotation:
    """scipy's `Rotation`, as far as Meta-World asks: from a matrix (3, 3) to a quaternion."""

    def __init__(self, quaternion: np.ndarray):
        self._quaternion = quaternion

    @staticmethod
    def from_matrix(matrix: np.ndarray) -> Any:
        """F. L. Markley, "Unit Quaternion from Rotation Matrix" (2008); odd ones go to scipy."""
        (a, b, c), (d, e, f), (g, h, i) = rows = np.asarray(matrix, float).tolist()
        if not _orthogonal(rows):
            return Rotation.from_matrix(matrix)
        trace = a + e + i
        largest = max(a, e, i, trace)
        if a == largest:
            x, y, z, w = 1 - trace + 2 * a, d + b, g + c, h - f
        elif e == largest:
            x, y, z, w = b + d, 1 - trace + 2 * e, h + f, c - g
        elif i == largest:
            x, y, z, w = c + g, f + h, 1 - trace + 2 * i, d - b
        else:
            x, y, z, w = h - f, c - g, d - b, 1 + trace
        length = sqrt(x * x + y * y + z * z + w * w)
        return QuickRotation(np.array([x / length, y / length, z / length, w / length]))

    def as_quat(self) -> np.ndarray:
        """x, y, z, w"""
        return self._quaternion


def _orthogonal(rows: list[list[float]]) -> bool:
    """Right-handed too, and well within the limits beyond which scipy mends a matrix."""
    (a, b, c), (d, e, f), (g, h, i) = rows
    return (
        abs(a * d + b * e + c * f) < 1e-13
        and abs(a * g + b * h + c * i) < 1e-13
        and abs(d * g + e * h + f * i) < 1e-13
        and abs(a * a + b * b + c * c - 1) < 1e-9
        and abs(d * d + e * e + f * f - 1) < 1e-9
        and abs(g * g + h * h + i * i - 1) < 1e-9
        and a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g) > 0
    )
