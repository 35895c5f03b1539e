"""D4RL's HDF5 (Fu et al., arXiv 2004.07219): all episodes laid end to end, in flat arrays.

    observations        ├──── episode 0 ────┤├── episode 1 ──┤├─ episode 2 …      (N, o)
    actions, rewards                                                  (N, a), (N,) or (N, 1)
    terminals           . . . . . . . . . . 1 . . . . . . . . .                 its task ended
    timeouts            . . . . . . . . . . . . . . . . . . . 1                 its time was over
    next_observations   what each step led to; not in every file

Early files have no timeouts: there an episode is cut at its task's step limit. Without
next_observations nobody knows what the last step before a timeout led to: that step is dropped,
and its observation ends the episode. A step that ended the task is kept; nothing follows it, and
its own observation stands for the state it led to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from cpl_bench.core.errors import UserError, in_a_line, shown
from cpl_bench.tasks.episodes import Trajectory

REQUIRED = ("observations", "actions", "rewards", "terminals")
WIDE = ("observations", "actions", "next_observations")
"""Which have more than a number a step."""


@dataclass(frozen=True, eq=False)
class Flat:
    """N steps of a file, as checked."""

    observations: Float32[np.ndarray, "N o"]
    actions: Float32[np.ndarray, "N a"]
    rewards: Float64[np.ndarray, "N"]
    terminals: Bool[np.ndarray, "N"]
    timeouts: Bool[np.ndarray, "N"] | None
    next_observations: Float32[np.ndarray, "N o"] | None

    def last_steps(self, limit_steps: int) -> Bool[np.ndarray, "N"]:
        """Whether time ended an episode with each step: as the file says, or by the limit."""
        if self.timeouts is not None:
            return self.timeouts
        cut = np.zeros(len(self.terminals), bool)
        begin = 0
        for end in [*(np.flatnonzero(self.terminals) + 1), len(cut)]:
            cut[begin + limit_steps - 1 : end : limit_steps] = True
            begin = end
        return cut


def read_flat(path: Path) -> Flat:
    """What a file holds, checked.

    Raises:
        UserError: no such file, a truncated one, arrays that are missing, of other shapes than they
            must be, or not finite.
    """
    import h5py

    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    try:
        with h5py.File(path, "r") as file:
            missing = [key for key in REQUIRED if key not in file]
            if missing:
                raise UserError(
                    f"{path}: expected D4RL's arrays {', '.join(REQUIRED)}; missing: "
                    f"{', '.join(missing)}; it holds: {', '.join(sorted(file)) or 'nothing'}."
                )
            keys = [*REQUIRED, "timeouts", "next_observations"]
            count = (getattr(file["observations"], "shape", None) or (0,))[0]
            for key in keys:
                if key in file:
                    _check_shape(path, key, file[key], count)
            found = {key: np.asarray(file[key]) for key in keys if key in file}
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, MemoryError) as problem:
        raise UserError(
            f"{path} cannot be read as HDF5; it may be truncated ({in_a_line(str(problem))}). Get "
            "it again."
        ) from None
    arrays = {key: _checked(path, key, values) for key, values in found.items()}
    return Flat(
        arrays["observations"].astype(np.float32),
        arrays["actions"].astype(np.float32),
        arrays["rewards"].astype(np.float64),
        arrays["terminals"] > 0,
        arrays["timeouts"] > 0 if "timeouts" in arrays else None,
        arrays["next_observations"].astype(np.float32) if "next_observations" in arrays else None,
    )


def _check_shape(path: Path, key: str, stored: Any, count: int) -> None:
    """Refuse, unread, what is no array of numbers of the shape that it must have.

    Raises:
        UserError: it is not (N,) or (N, 1), or of wide ones (N, width).
    """
    shape, kind = getattr(stored, "shape", None), getattr(stored, "dtype", None)
    if shape is None or kind is None or kind.kind not in "fiub":
        raise UserError(f"{path}: {key} must be numbers, got {shown(kind or stored)}.")
    wide = key in WIDE
    fits = len(shape) == 2 if wide else shape[1:] in ((), (1,))
    if not fits or shape[:1] != (count,) or 0 in shape:
        wanted = f"({count or 'N'}, n)" if wide else f"({count or 'N'},)"
        raise UserError(f"{path}: {key} must have shape {wanted}, got {shape}.")


def _checked(path: Path, key: str, values: np.ndarray) -> np.ndarray:
    """An array of a file, (N,) or (N, width), whose values can be what they must."""
    wide = key in WIDE
    values = values if wide else values.reshape(-1)
    if not wide and key != "rewards" and not np.isin(values, (0, 1)).all():
        raise UserError(f"{path}: {key} must be 0 or 1, got {values[~np.isin(values, (0, 1))][0]}.")
    if not np.isfinite(values).all():
        place = [int(i) for i in np.argwhere(~np.isfinite(values))[0]]
        raise UserError(f"{path}: {key} must be finite, got {values[tuple(place)]} at {place}.")
    return values


def trajectories_of(flat: Flat, limit_steps: int) -> list[Trajectory]:
    """The episodes of a file; of those whose last step led nowhere known, all but that step."""
    timeouts = flat.last_steps(limit_steps)
    ends = np.flatnonzero(flat.terminals | timeouts) + 1
    found: list[Trajectory] = []
    begin = 0
    for end in [*ends, len(timeouts)]:
        if end > begin:
            found += _episode(flat, begin, int(end))
        begin = int(end)
    return found


def _episode(flat: Flat, begin: int, end: int) -> list[Trajectory]:
    """The one in rows `begin` to `end`, unless nothing is left of it."""
    terminated = bool(flat.terminals[end - 1])
    known, seen = flat.next_observations, flat.observations[begin:end]
    if known is not None:
        seen = np.concatenate([seen, known[end - 1 : end]])
    elif terminated:
        seen = np.concatenate([seen, seen[-1:]])
    steps = len(seen) - 1
    if not steps:
        return []
    rows = slice(begin, begin + steps)
    return [
        Trajectory(
            seed=0,
            policy=0,
            observations=seen,  # (T+1, o)
            actions=flat.actions[rows],
            rewards=flat.rewards[rows],
            successes=np.zeros(steps, bool),
            states=np.zeros((0, 0)),
            terminated=terminated,
        )
    ]


def qlearning_rows(flat: Flat, limit_steps: int) -> Int64[np.ndarray, "M"]:
    """Which rows of a file are left in D4RL's `qlearning_dataset`, in its order.

    It drops each step that a timeout ended, whether or not it also ended the task, and the file's
    last step, whatever it was. Where the step limit counts, an oddity of its counter is followed:
    after a step that ended the task it begins at 1, so that it cuts a step early.
    """
    count = len(flat.terminals)
    kept = np.arange(count) < count - 1
    if flat.timeouts is not None:
        return np.flatnonzero(kept & ~flat.timeouts)
    ends = iter(np.flatnonzero(flat.terminals))
    begin, counted, ended = 0, 0, next(ends, count)
    while begin < count:
        over = begin + limit_steps - 1 - counted
        if ended < over:
            begin, counted = ended + 1, 1
        else:
            kept[over : over + 1] = False
            begin, counted = over + 1, 0
        while ended < min(begin, count):
            ended = next(ends, count)
    return np.flatnonzero(kept)
