"""Anybody's Minari datasets, as episodes of ours.

Observations are laid out as tasks have them (`cpl_bench.tasks.flat`): of goal environments the
observation and the desired goal. Actions are rescaled to [−1, 1] from the
bounds that the dataset's action space names, as any Gymnasium environment's are. Discrete actions
are refused.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cpl_bench.core.errors import UserError, unknown_name
from cpl_bench.core.folders import data_root
from cpl_bench.core.progress import say
from cpl_bench.tasks.episodes import Trajectory
from cpl_bench.tasks.flat import flat
from cpl_bench.trajectories.formats.minari import minari_root

ID = re.compile(r"[\w-]+(/[\w-]+)*-v\d+")
SUCCESS_KEYS = ("success", "is_success")


def find_dataset(minari_id: str, download: bool) -> Path:
    """The folder that a dataset lies below: ours, or Minari's own.

    Raises:
        UserError: it isn't there (the nearest local one is suggested), or cannot be downloaded.
    """
    if not ID.fullmatch(minari_id):
        raise UserError(f"'{minari_id}' is no Minari id: expected one as mujoco/hopper/medium-v0.")
    roots = list(dict.fromkeys([data_root(), Path.home() / ".minari" / "datasets"]))
    for root in roots:
        if (root / minari_id / "data").is_dir():
            return root
    if not download:
        local = {each for root in roots for each in _local(root)}
        places = " and ".join(map(str, roots))
        raise unknown_name(
            "Minari dataset", minari_id, local, f"Looked in {places}; --download asks its server."
        )
    _download(minari_id, roots[0])
    return roots[0]


def _local(root: Path) -> list[str]:
    """The datasets below a folder that we did not write."""
    found = (path.parent.parent.relative_to(root) for path in root.rglob("data/metadata.json"))
    return [each.as_posix() for each in found if each.parts[0] != "cpl_bench"]


def _download(minari_id: str, root: Path) -> None:
    import minari
    from minari.storage.remotes import DEFAULT_REMOTE

    say(f"Downloading {DEFAULT_REMOTE}/{minari_id} (or from $MINARI_REMOTE) → {root}")
    try:
        with minari_root(root):
            minari.download_dataset(minari_id)
    except Exception as problem:  # of Minari's, its server's, or of a package that it asks for
        raise UserError(
            f"{minari_id} cannot be downloaded ({type(problem).__name__}: {problem}). Get it in "
            f"another way, and put it into {root}."
        ) from None


def read_any(minari_id: str, root: Path, parts: tuple[str, ...]) -> tuple[list[Trajectory], bool]:
    """All episodes of a dataset below `root`, and whether they say where they succeeded.

    Raises:
        UserError: it cannot be read, its actions are discrete, or its observations have no such
            `parts`.
    """
    import minari

    try:
        with minari_root(root), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = minari.load_dataset(minari_id)
            episodes = list(dataset.storage.get_episodes(range(dataset.total_episodes)))
            seen, space = dataset.observation_space, dataset.action_space
    except (OSError, KeyError, ValueError, AssertionError, RuntimeError, TypeError) as problem:
        raise UserError(
            f"The Minari dataset {minari_id} in {root} cannot be read ({type(problem).__name__}: "
            f"{problem}). Get it again."
        ) from None
    centre, reach = _bounds(minari_id, space)
    trajectories, known = [], True
    for number, episode in enumerate(episodes):
        where = f"{minari_id}, episode {number}"
        successes = _successes(episode.get("infos") or {}, len(episode["rewards"]))
        known = known and successes is not None
        observations = _laid_out(where, seen, episode["observations"], parts)
        trajectories.append(_trajectory(where, episode, observations, centre, reach, successes))
    return trajectories, known


def _bounds(minari_id: str, space: Any) -> tuple[np.ndarray, np.ndarray]:
    """(centre, reach) of each action; 0 and 1 where it has no bounds."""
    from gymnasium.spaces import Box

    if not isinstance(space, Box) or len(space.shape) != 1:
        raise UserError(
            f"{minari_id} has the actions {space}: expected a one-dimensional Box. Policies here "
            "act in continuous numbers."
        )
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if not (np.isfinite(low) & np.isfinite(high)).all():
        return np.zeros(len(low)), np.ones(len(low))
    return (low + high) / 2, (high - low) / 2


def _trajectory(
    where: str,
    episode: Mapping[str, Any],
    observations: np.ndarray,
    centre: np.ndarray,
    reach: np.ndarray,
    successes: np.ndarray | None,
) -> Trajectory:
    rewards = np.asarray(episode["rewards"], np.float64).reshape(-1)
    terminations = np.asarray(episode["terminations"], bool).reshape(-1)
    actions = (np.asarray(episode["actions"], np.float64) - centre) / reach
    steps = len(rewards)
    shapes = (len(observations) - 1, len(actions), len(terminations))
    if set(shapes) != {steps} or not steps:
        raise UserError(
            f"{where}: expected T + 1 observations and T actions, rewards and terminations; got "
            f"{len(observations)}, {len(actions)}, {steps} and {len(terminations)}."
        )
    if terminations[:-1].any():
        raise UserError(f"{where}: it goes on after a step that ended its task.")
    return Trajectory(
        seed=0,
        policy=0,
        observations=observations.astype(np.float32),
        actions=actions.astype(np.float32),
        rewards=rewards,
        successes=np.zeros(steps, bool) if successes is None else successes,
        states=np.zeros((0, 0)),
        terminated=bool(terminations[-1]),
    )


def _laid_out(where: str, space: Any, observations: Any, parts: tuple[str, ...]) -> np.ndarray:
    """(T + 1, o): by the rule of tasks, or the `parts` of a dictionary, end to end."""
    if not parts or not isinstance(observations, Mapping):
        return flat(space, observations)
    missing = [part for part in parts if part not in observations]
    if missing:
        raise UserError(
            f"{where}: the observations have the parts {', '.join(sorted(observations))}, and "
            f"{', '.join(parts)} are asked for. Name others as `parts` of the card's [source]."
        )
    return np.concatenate([flat(space[part], observations[part]) for part in parts], axis=1)


def _successes(infos: Mapping[str, Any], steps: int) -> np.ndarray | None:
    """Whether the task's condition held after each step, (T,); None if nobody wrote it down."""
    for key in SUCCESS_KEYS:
        if key in infos:
            values = np.asarray(infos[key]).reshape(-1) > 0
            return values[-steps:] if len(values) in (steps, steps + 1) else None
    return None
