"""Trajectories as Minari datasets (HDF5), environment, simulator states and success included.

<root>/cpl_bench/<card>-v0/data/main_data.hdf5
    episode_i   observations (T+1, o), actions (T, a), rewards (T,), terminations, truncations,
                infos/success (T+1,), infos/state (T+1, d)      attributes: seed, policy
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.errors import UserError
from cpl_bench.core.folders import data_root
from cpl_bench.core.versions import installed
from cpl_bench.tasks.episodes import Trajectory
from cpl_bench.trajectories.dataset import TrajectorySet


def read_record(minari_id: str) -> dict[str, Any]:
    """What `collect` wrote down about a dataset, {} where there is none of ours."""
    path = minari_folder(minari_id) / "data" / "metadata.json"
    try:
        return json.loads(json.loads(path.read_text())["cpl_bench"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def minari_folder(minari_id: str) -> Path:
    """Where the dataset lies, or would."""
    return data_root() / minari_id


def write_trajectories(
    minari_id: str, task: TaskCard, trajectories: Sequence[Trajectory], record: dict[str, Any]
) -> Path:
    """Write a Minari dataset beside, then put it in the place of one of the same id.

    Returns its folder. A kill between the two leaves the old one in `.writing-…` under the root.
    """
    import minari
    from gymnasium import spec
    from minari.data_collector import EpisodeBuffer

    import cpl_bench.tasks  # noqa: F401  (registers the ids)

    buffers = [
        EpisodeBuffer(
            id=i,
            seed=trajectory.seed,
            observations=trajectory.observations,  # type: ignore[arg-type]
            actions=trajectory.actions,  # type: ignore[arg-type]
            rewards=trajectory.rewards,  # type: ignore[arg-type]
            terminations=np.zeros(len(trajectory.rewards), bool),  # type: ignore[arg-type]
            truncations=np.arange(1, len(trajectory.rewards) + 1) == len(trajectory.rewards),  # type: ignore[arg-type]
            infos={
                "success": np.concatenate([[False], trajectory.successes]),
                "state": trajectory.states,
            },
        )
        for i, trajectory in enumerate(trajectories)
    ]
    target = minari_folder(minari_id)
    staging = data_root() / f".writing-{uuid.uuid4().hex[:8]}"
    try:
        with _minari_root(staging), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = minari.create_dataset_from_buffers(
                minari_id,
                buffers,
                env=spec(task.env_id),
                algorithm_name="a clone of the scripted expert, stopped at several levels",
                author="cpl_bench",
                description=f"Behaviour data of {task.name} for preference learning.",
                requirements=[f"{name}=={wanted}" for name, wanted in installed(task).items()],
                data_format="hdf5",
            )
            dataset.storage.update_episode_metadata(
                [{"policy": trajectory.policy} for trajectory in trajectories]
            )
            dataset.storage.update_metadata({"cpl_bench": json.dumps(record, sort_keys=True)})
        target.parent.mkdir(parents=True, exist_ok=True)
        replaced = staging / "replaced"
        if target.exists():
            target.rename(replaced)
        try:
            (staging / minari_id).rename(target)
        except OSError:
            if replaced.exists():
                replaced.rename(target)
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def read_trajectories(minari_id: str) -> TrajectorySet:
    """All episodes of a Minari dataset that `collect` wrote.

    Raises:
        UserError: there is none, it is damaged, or it lacks success and simulator states.
    """
    import minari

    folder = minari_folder(minari_id)
    if not (folder / "data").is_dir():
        raise UserError(
            f"No trajectories at {folder}. Make them with: cpl-bench collect "
            f"{minari_id.removeprefix('cpl_bench/').removesuffix('-v0')}"
        )
    try:
        with _minari_root(data_root()):
            dataset = minari.load_dataset(minari_id)
            every = range(dataset.total_episodes)
            trajectories = [
                Trajectory(
                    seed=int(metadata.get("seed", 0)),
                    policy=int(metadata.get("policy", 0)),
                    observations=episode["observations"],
                    actions=episode["actions"],
                    rewards=np.asarray(episode["rewards"], np.float64),
                    successes=np.asarray(episode["infos"]["success"][1:], bool),
                    states=np.asarray(episode["infos"]["state"]),
                )
                for metadata, episode in zip(
                    dataset.storage.get_episode_metadata(every),
                    dataset.storage.get_episodes(every),
                    strict=True,
                )
            ]
    except (OSError, KeyError, ValueError, AssertionError, RuntimeError) as problem:
        raise UserError(
            f"The trajectories at {folder} cannot be read ({problem}). Delete the folder and "
            "collect them again."
        ) from None
    return TrajectorySet(minari_id, trajectories, read_record(minari_id))


@contextmanager
def _minari_root(folder: Path) -> Iterator[None]:
    """Minari knows its root by an environment variable alone."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
