"""Anybody's Minari datasets, as episodes of ours.

Observations are laid out as tasks have them (`cpl_bench.tasks.flat`): of goal environments the
observation and the desired goal. Actions are rescaled to [−1, 1] from the bounds that the dataset's
action space names, as any Gymnasium environment's are; where it names none they are taken as they
are. Whatever is discrete is refused.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cpl_bench.core.errors import UserError, in_a_line, shortened, unknown_name
from cpl_bench.core.files import remove_folder, replace_folder
from cpl_bench.core.folders import data_root
from cpl_bench.core.progress import say
from cpl_bench.tasks.episodes import Trajectory
from cpl_bench.tasks.flat import flat
from cpl_bench.trajectories.formats.minari import minari_root
from cpl_bench.trajectories.formats.minari_open import open_dataset

ID = re.compile(r"[\w-]+(/[\w-]+)*-v\d+")
SUCCESS_KEYS = ("success", "is_success")
WIDEST = 1e6
"""No action has a bound beyond this; a larger one stands for none."""


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
    staging = root / f".downloading-{minari_id.replace('/', '-')}"
    remove_folder(staging)  # what a kill left
    try:
        with minari_root(staging):
            minari.download_dataset(minari_id)
        if not (staging / minari_id / "data" / "metadata.json").is_file():
            raise UserError("no data came")
        replace_folder(staging / minari_id, root / minari_id)
    except ImportError as problem:
        raise UserError(
            f"{minari_id} cannot be downloaded: Minari asks for a package of its own ({problem}). "
            "Install it with: pip install 'cpl_bench[download]'"
        ) from None
    except Exception as problem:  # of Minari's or its server's
        raise UserError(
            f"{minari_id} cannot be downloaded ({type(problem).__name__}: "
            f"{in_a_line(str(problem))}). Get it in another way, and put it into {root}."
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def read_any(minari_id: str, root: Path, parts: tuple[str, ...]) -> tuple[list[Trajectory], bool]:
    """All episodes of a dataset below `root`, and whether they say where they succeeded.

    Raises:
        UserError: it cannot be read, its actions or observations are discrete, its actions have no
            bounds that can be used, or its observations have no such `parts`.
    """
    trajectories, known = [], True
    try:
        with minari_root(root), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = open_dataset(minari_id, root)
            ours = "cpl_bench" in dataset.storage.metadata
            told = dataset.storage.get_episode_metadata(range(dataset.total_episodes))
            centre, reach = _bounds(minari_id, dataset.action_space)
            taken = _spaces(minari_id, dataset.observation_space, parts)
            episodes = dataset.storage.get_episodes(range(dataset.total_episodes))
            for number, (about, episode) in enumerate(zip(told, episodes, strict=True)):
                successes = _successes(episode.get("infos") or {}, len(episode["rewards"]))
                known = known and successes is not None
                seen = _laid_out(taken, episode["observations"])
                where = f"{minari_id}, episode {number}"
                found = _trajectory(where, episode, seen, centre, reach, successes)
                trajectories.append(_as_collected(found, about, episode) if ours else found)
    except UserError:
        raise
    except Exception as problem:  # of Minari, h5py, or of a package that it asks for
        raise UserError(
            f"The Minari dataset {minari_id} in {root} cannot be read ({type(problem).__name__}: "
            f"{in_a_line(str(problem))}). Get it again."
        ) from None
    return trajectories, known


def _bounds(minari_id: str, space: Any) -> tuple[np.ndarray, np.ndarray]:
    """(centre, reach) of each action; 0 and 1 where none has bounds.

    Raises:
        UserError: no such actions as policies here have, or bounds that nothing can be scaled by.
    """
    from gymnasium.spaces import Box

    if not isinstance(space, Box) or len(space.shape) != 1:
        raise UserError(
            f"{minari_id} has the actions {shortened(str(space))}: expected a one-dimensional Box. "
            "Policies here act in continuous numbers."
        )
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if np.isinf(low).all() and np.isinf(high).all():
        return np.zeros(len(low)), np.ones(len(low))
    if not ((low >= -WIDEST) & (low < high) & (high <= WIDEST)).all():
        raise UserError(
            f"{minari_id} has the actions {shortened(str(space))}: expected that all have bounds "
            f"within ±{WIDEST:g}, the lower below the upper, or none has. Write a copy whose "
            "action_space says what is meant."
        )
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


def _as_collected(
    found: Trajectory, about: Mapping[str, Any], episode: Mapping[str, Any]
) -> Trajectory:
    """With what only data of ours say: seed, level, and simulator states, if they were kept."""
    states = (episode.get("infos") or {}).get("state")
    return replace(
        found,
        seed=int(about.get("seed") or 0),
        policy=int(about.get("policy", 0)),
        states=found.states if states is None else np.asarray(states),
    )


def _spaces(minari_id: str, space: Any, parts: tuple[str, ...]) -> dict[str, Any]:
    """The spaces of what is taken of an observation: of `parts` by name, of all of it by "".

    Raises:
        UserError: it has no such parts, or what is taken is not of numbers alone.
    """
    from gymnasium.spaces import Box, Dict

    own = list(space.spaces) if isinstance(space, Dict) else []
    if set(parts) - set(own):
        has = f"the parts {', '.join(sorted(own))}" if own else "no parts"
        raise UserError(
            f"{minari_id}: the observations have {has}, and {', '.join(parts)} are asked for. Name "
            "others as `parts` of the card's [source], or none."
        )
    taken = {part: space[part] for part in parts} if parts else {"": space}
    for leaf in _leaves(list(taken.values())):
        if not isinstance(leaf, Box):
            raise UserError(
                f"{minari_id} has observations of {leaf}: expected numbers in Boxes. "
                + (f"Its parts are {', '.join(own)}: name some as `parts`." if own else "")
            )
    return taken


def _leaves(spaces: Sequence[Any]) -> list[Any]:
    """The spaces that some are made of, in the end."""
    from gymnasium.spaces import Dict, Tuple

    found = []
    for space in spaces:
        within = list(space.spaces.values()) if isinstance(space, Dict) else []
        within = list(space.spaces) if isinstance(space, Tuple) else within
        found += _leaves(within) if isinstance(space, Dict | Tuple) else [space]
    return found


def _laid_out(taken: Mapping[str, Any], observations: Any) -> np.ndarray:
    """(T + 1, o): by the rule of tasks, what is `taken` of them end to end."""
    rows = [
        flat(space, observations[part] if part else observations) for part, space in taken.items()
    ]
    return np.concatenate(rows, axis=1)


def _successes(infos: Mapping[str, Any], steps: int) -> np.ndarray | None:
    """Whether the task's condition held after each step, (T,); None if nobody wrote it down."""
    for key in SUCCESS_KEYS:
        if key in infos:
            values = np.asarray(infos[key]).reshape(-1) > 0
            return values[-steps:] if len(values) in (steps, steps + 1) else None
    return None
