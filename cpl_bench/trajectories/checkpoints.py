"""One learner's policies at several times, and how well each does: what behaviour is mixed from.

They are a clone's stops (`cpl_bench.trajectories.clone`), or what another library trained and
`scripts/train_behaviour.py` exported: plain arrays in one file, never a pickle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.dataset_cards import DatasetCard
from cpl_bench.core.errors import UserError
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.core.tensors import read_tensors, write_tensors
from cpl_bench.tasks.registry import check_sizes


@dataclass(frozen=True)
class Checkpoints:
    """A learner stopped at several times."""

    policies: list[PolicyWeights]
    """One a stop."""
    steps: list[int]
    """Of training at each: gradient steps of a clone, environment steps of others."""
    score: list[float]
    """Measured mean score of each, with action noise."""

    def nearest(self, levels: tuple[float, ...]) -> Checkpoints:
        """Those whose scores are nearest to some levels; of several as near, the first."""
        score = np.array(self.score)
        chosen = [int(np.abs(score - level).argmin()) for level in levels]
        return Checkpoints(
            [self.policies[i] for i in chosen],
            [self.steps[i] for i in chosen],
            [self.score[i] for i in chosen],
        )


def behaviour_of(card: DatasetCard, task: TaskCard) -> Checkpoints:
    """The policies in the file that a card names, those nearest to its levels.

    Raises:
        UserError: no such file, a damaged one, one that was trained for another task, or policies
            that don't fit the task.
    """
    path = checkpoint_file(card)
    remedy = "Make it again with scripts/train_behaviour.py."
    found = read_checkpoints(path, remedy, task)
    check_sizes(task, found.policies[0].sizes, f"the policies in {path}")
    return found.nearest(card.cloned.levels)


def checkpoint_file(card: DatasetCard) -> Path:
    """The file that a card names: beside the card.

    Raises:
        UserError: there is none.
    """
    path = card.path.parent / card.cloned.checkpoints
    if not path.is_file():
        raise UserError(
            f"{card.name} is played by the policies in {path}, and there is no such file. Make it "
            "with scripts/train_behaviour.py."
        )
    return path


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_checkpoints(
    path: Path, checkpoints: Checkpoints, about: Mapping[str, Any] | None = None
) -> None:
    """Write them, and whatever else `about` has to say of where they come from."""
    tensors = {
        f"{i}.{name}": value
        for i, policy in enumerate(checkpoints.policies)
        for name, value in policy.arrays.items()
    }
    own = {"steps": checkpoints.steps, "score": checkpoints.score}
    write_tensors(path, tensors, {**(about or {}), **own})


def read_checkpoints(path: Path, remedy: str, task: TaskCard | None = None) -> Checkpoints:
    """What a file holds; deterministic policies.

    Raises:
        UserError: it is damaged, not ours, or says that it is of another task than `task`.
    """
    about, tensors = read_tensors(path, remedy)
    of = about.get("task")
    if task is not None and of not in (None, list(task.simulated)):
        raise UserError(f"{path} holds policies of {of}, not of {list(task.simulated)}. {remedy}")
    try:
        steps, score = [int(x) for x in about["steps"]], [float(x) for x in about["score"]]
        policies = [_policy(tensors, i) for i in range(len(steps))]
        if not 0 < len(steps) == len(score):
            raise ValueError(f"{len(steps)} steps and {len(score)} scores")
        if not np.isfinite(score).all():  # the nearest to a level would be found among them
            raise ValueError(f"scores {score}")
    except (KeyError, TypeError, ValueError, OverflowError) as problem:
        raise UserError(f"{path} holds no checkpoints ({problem!r:.200}). {remedy}") from None
    except UserError as problem:
        raise UserError(f"{path} holds no policies: {problem} {remedy}") from None
    return Checkpoints(policies, steps, score)


def _policy(tensors: Mapping[str, np.ndarray], number: int) -> PolicyWeights:
    own = {name: array for name, array in tensors.items() if name.startswith(f"{number}.")}
    policy = PolicyWeights("deterministic", {name.split(".")[1]: a for name, a in own.items()})
    replace(policy, arrays={name: a[None] for name, a in policy.arrays.items()}).check_members()
    return policy
