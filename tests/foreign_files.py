"""Small files in the exact forms of other people's data, made where a test runs."""

from pathlib import Path

import h5py
import numpy as np

HUMAN = Path(__file__).resolve().parents[2] / "shared" / "data" / "human"
HOPPER = HUMAN / "hopper-medium-expert-v2"


def flat_arrays(lengths=(30, 12, 30), ended=(False, True, False), sizes=(6, 2), seed=0):
    """D4RL's arrays: episodes of such lengths, some of which ended their task."""
    rng = np.random.default_rng(seed)
    count, at = sum(lengths), np.cumsum(lengths) - 1
    arrays = {
        "observations": rng.normal(size=(count, sizes[0])).astype(np.float32),
        "actions": rng.uniform(-1, 1, (count, sizes[1])).astype(np.float32),
        "rewards": rng.normal(size=count).astype(np.float32),
        "terminals": np.zeros(count, bool),
        "timeouts": np.zeros(count, bool),
    }
    arrays["terminals"][at] = ended
    arrays["timeouts"][at] = ~np.array(ended)
    return arrays


def write_d4rl(path, arrays):
    """D4RL's file of such arrays, with the groups that its files have besides."""
    with h5py.File(path, "w") as file:
        for key, values in arrays.items():
            file[key] = values
        file["infos/qpos"] = np.zeros((len(arrays["rewards"]), 2))
        file["metadata/algorithm"] = "SAC"
    return path


def pair_arrays(count=12, k=5, sizes=(6, 2), seed=0, rewards=True):
    """The authors' old form: a label a pair."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for side in "12":
        arrays[f"obs_{side}"] = rng.normal(size=(count, k, sizes[0]))
        arrays[f"action_{side}"] = rng.uniform(-1, 1, (count, k, sizes[1]))
        if rewards:
            arrays[f"reward_{side}"] = rng.normal(size=(count, k))
    arrays["label"] = np.resize([0.0, 1.0, 0.5, 1.0], count)
    return arrays


def stacked_arrays(count=24, k=5, sizes=(6, 2), seed=0):
    """The authors' new form: several numbers a segment, and what they keep besides."""
    rng = np.random.default_rng(seed)
    arrays = {
        "obs": rng.normal(size=(count, k, sizes[0])).astype(np.float32),
        "action": rng.uniform(-1, 1, (count, k, sizes[1])).astype(np.float32),
        "reward": rng.normal(size=(count, k)).astype(np.float32),
        "state": np.zeros((count, k, 9), np.float32),
        "timestep": np.zeros((count, k), np.int32),
    }
    names = ("rl_sum", "rl_dir", "rl_dis_sum", "rl_l2")
    return arrays | {each: rng.normal(size=count).astype(np.float32) for each in names}
