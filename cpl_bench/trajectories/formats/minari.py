"""Trajectories as Minari datasets (HDF5), environment, simulator states and success included.

<root>/cpl_bench/<card>-v0/data/main_data.hdf5
    episode_i   observations (T+1, o), actions (T, a), rewards (T,), terminations, truncations,
                infos/success (T+1,), infos/state (T+1, d)      attributes: seed, policy
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.errors import UserError, in_a_line
from cpl_bench.core.files import recover_folder, remove_folder, replace_folder
from cpl_bench.core.folders import data_root
from cpl_bench.core.tables import from_json, read_json
from cpl_bench.core.toml import build
from cpl_bench.core.versions import installed
from cpl_bench.tasks.episodes import Trajectory
from cpl_bench.trajectories.dataset import Recorded, TrajectorySet, check_alike
from cpl_bench.trajectories.formats.minari_open import open_dataset


def read_record(minari_id: str) -> dict[str, Any] | None:
    """What `collect` wrote down about a dataset; None where there is no dataset.

    Raises:
        UserError: what lies there cannot be read, or another program wrote it.
    """
    folder = minari_folder(minari_id)
    recover_folder(folder)
    if not folder.exists():
        return None
    path = folder / "data" / "metadata.json"
    try:
        metadata = read_json(path)
        if not isinstance(metadata, dict):
            raise UserError(f"{path} holds no table")
        if "cpl_bench" in metadata:
            return _record(metadata["cpl_bench"], path)
    except (OSError, UserError) as problem:
        raise UserError(
            f"{folder} is there and cannot be read ({problem}). It is left as it is: mend it, or "
            f"{LEAVE_IT}"
        ) from None
    raise UserError(
        f"{folder} holds a Minari dataset that cpl_bench collect did not write. It is left as it "
        f"is; for data of our own, {LEAVE_IT}"
    )


def minari_folder(minari_id: str) -> Path:
    """Where the dataset lies, or would."""
    return data_root() / minari_id


CLONE = "a clone of the scripted expert, stopped at several levels"
LEAVE_IT = "move it away, or point MINARI_DATASETS_PATH to another folder."


def write_trajectories(
    minari_id: str,
    task: TaskCard | None,
    trajectories: Sequence[Trajectory],
    record: dict[str, Any],
    players: str = CLONE,
) -> Path:
    """Write a Minari dataset beside, then put it in the place of one of the same id.

    Without a `task` it names no environment; `players` says who acted. Returns its folder. A kill
    leaves the old one or the new one, see `replace_folder`.
    """
    import minari
    from minari.data_collector import EpisodeBuffer

    buffers = [
        EpisodeBuffer(
            id=i,
            seed=trajectory.seed,
            observations=trajectory.observations,  # type: ignore[arg-type]
            actions=trajectory.actions,  # type: ignore[arg-type]
            rewards=trajectory.rewards,  # type: ignore[arg-type]
            terminations=_at_the_end(trajectory, trajectory.terminated),  # type: ignore[arg-type]
            truncations=_at_the_end(trajectory, not trajectory.terminated),  # type: ignore[arg-type]
            infos=_infos(trajectory, record.get("knows_successes", True)),  # type: ignore[arg-type]
        )
        for i, trajectory in enumerate(trajectories)
    ]
    target = minari_folder(minari_id)
    staging = data_root() / f".writing-{minari_id.replace('/', '-')}"
    remove_folder(staging)  # what a kill left
    try:
        with minari_root(staging), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = minari.create_dataset_from_buffers(
                minari_id,
                buffers,
                algorithm_name=players,
                author="cpl_bench",
                description=f"Behaviour data of {minari_id} for preference learning.",
                data_format="hdf5",
                **(_environment(task) if task else _spaces(trajectories[0])),
            )
            dataset.storage.update_episode_metadata(
                [{"policy": trajectory.policy} for trajectory in trajectories]
            )
            dataset.storage.update_metadata({"cpl_bench": json.dumps(record, sort_keys=True)})
        replace_folder(staging / minari_id, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _infos(trajectory: Trajectory, knows_successes: bool) -> dict[str, np.ndarray]:
    """What an episode holds beside; of unknown successes nothing, lest they be read as failures."""
    known = {"success": np.concatenate([[False], trajectory.successes])} if knows_successes else {}
    return known | ({"state": trajectory.states} if len(trajectory.states) else {})


def _environment(task: TaskCard) -> dict[str, Any]:
    """What a dataset says of the environment that its episodes are of."""
    from cpl_bench.tasks.registry import env_spec

    versions = installed(task).items()
    return {"env": env_spec(task), "requirements": [f"{name}=={each}" for name, each in versions]}


def _spaces(like: Trajectory) -> dict[str, Any]:
    """What it says where no environment is known."""
    from gymnasium.spaces import Box

    sizes = like.observations.shape[1:], like.actions.shape[1:]
    return {
        "observation_space": Box(-np.inf, np.inf, sizes[0], np.float32),
        "action_space": Box(-1.0, 1.0, sizes[1], np.float32),
    }


def _at_the_end(trajectory: Trajectory, ended: bool) -> np.ndarray:
    """Whether an episode ended so, (T,): it can only at its last step."""
    return (np.arange(len(trajectory.rewards)) == len(trajectory.rewards) - 1) & ended


def read_trajectories(
    minari_id: str, root: Path | None = None, states: bool = True
) -> TrajectorySet:
    """All episodes of a Minari dataset, ours with the record of how they came about.

    It lies below `root`, by default where datasets are looked for. Without their simulator `states`
    they take a fraction of the memory.

    A foreign one may lack successes (none then) and simulator states (none can be forked).

    Raises:
        UserError: there is none, or it cannot be read.
    """
    root = root or data_root()
    folder = root / minari_id
    recover_folder(folder)
    if not (folder / "data").is_dir():
        raise UserError(
            f"No trajectories at {folder}. Make them with: cpl-bench collect "
            f"{minari_id.removeprefix('cpl_bench/').removesuffix('-v0')}"
        )
    try:
        with minari_root(root):
            dataset = open_dataset(minari_id, root)
            every = range(dataset.total_episodes)
            metadata = list(dataset.storage.get_episode_metadata(every))
            trajectories = [
                _trajectory(metadata[i], episode, states)
                for begin in range(0, len(every), AT_ONCE)
                for i, episode in enumerate(
                    dataset.storage.get_episodes(every[begin : begin + AT_ONCE]), begin
                )
            ]
        check_alike(trajectories)
        record = _record(dataset.storage.metadata.get("cpl_bench", "{}"), folder)
    except Exception as problem:  # of Minari, h5py, Gymnasium and whatever module a spec names
        raise UserError(
            f"The trajectories at {folder} cannot be read ({type(problem).__name__}: "
            f"{in_a_line(str(problem))}). They are left as they are: mend them, or {LEAVE_IT}"
        ) from None
    return TrajectorySet(minari_id, trajectories, record)


def _record(text: object, where: Path) -> dict[str, Any]:
    """What `collect` wrote down, as far as it is looked at."""
    record = from_json(text, where) if isinstance(text, str) else None
    if not isinstance(record, dict):
        raise UserError(f"{where}: what cpl_bench recorded there is no table.")
    looked_at = [entry.name for entry in fields(Recorded)]
    build(Recorded, {key: record[key] for key in looked_at if key in record}, where)
    return record


AT_ONCE = 50
"""Episodes that Minari reads together, states and all."""


def _trajectory(metadata: dict[str, Any], episode: dict[str, Any], keep: bool) -> Trajectory:
    rewards, infos = np.asarray(episode["rewards"], np.float64), episode.get("infos") or {}
    successes = np.asarray(infos.get("success", np.zeros(len(rewards) + 1)), bool)
    states = np.asarray(infos["state"]) if keep and "state" in infos else np.zeros((0, 0))
    return Trajectory(
        seed=int(metadata.get("seed") or 0),
        policy=int(metadata.get("policy", 0)),
        observations=np.asarray(episode["observations"], np.float32),
        actions=np.asarray(episode["actions"], np.float32),
        rewards=rewards,
        successes=successes[1:],
        states=states,
        terminated=bool(episode["terminations"][-1]),
    )


@contextmanager
def minari_root(folder: Path) -> Iterator[None]:
    """Data lie in `folder` for a while; Minari knows its root by an environment variable alone."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
