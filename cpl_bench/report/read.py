"""A run folder as a report sees it: what was trained, and how it fared at every checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpl_bench.core.errors import UserError
from cpl_bench.core.score import Score
from cpl_bench.runs.evaluations import Evaluations, read_evaluations, scores_by_checkpoint
from cpl_bench.runs.record import RunRecord, read_record

Scores = NDArray[np.float64]
"""Mean scores; success rates and normalised returns are shares, 0 to 1."""


@dataclass(frozen=True)
class EvaluatedRun:
    """One `runs/<dataset>/<algorithm>[-note]/`: s seeds, evaluated at t checkpoints."""

    folder: Path
    record: RunRecord
    checkpoints: NDArray[np.int64]
    """(t,) gradient steps, ascending."""
    scores: Scores
    """(s, t) in the evaluations during training."""
    episodes: tuple[Scores, ...]
    """Behind `scores`: for each checkpoint (s, n), a row of episodes a seed."""
    last: Scores
    """(s,) at the last checkpoint: in `final.csv` if there is one, else the last of `scores`."""
    final: Scores
    """(s, n) the episodes behind `last`."""

    @property
    def last_episodes(self) -> int:
        """Episodes per seed behind `last`."""
        return self.final.shape[1]

    @property
    def dataset(self) -> str:
        """The name of the data."""
        return self.record.dataset

    @property
    def method(self) -> str:
        """The name in table and figure."""
        return self.record.method

    @property
    def scoring(self) -> Score:
        """What the scores are."""
        return self.record.scoring


def read_run(folder: Path) -> EvaluatedRun:
    """What `folder` holds.

    Raises:
        UserError: it is no run folder, or its files are damaged or contradict each other.
    """
    record = read_record(folder)
    path = folder / "evaluations.csv"
    if not path.exists() and not record.episodes:
        raise UserError(
            f"{folder} was trained without evaluations: there is no curve to draw. Its last "
            f"checkpoint can be evaluated: cpl-bench evaluate {folder}"
        )
    columns = read_evaluations(path)
    checkpoints, seeds, scores = scores_by_checkpoint(columns, record.scoring)
    _check_seeds(path, seeds, record.seeds)
    reached = int(checkpoints[-1])
    if reached > record.steps:
        raise UserError(
            f"{path} goes to step {reached}, but run.json says that the run has {record.steps} "
            "steps. The two are not from the same run: train it again."
        )
    episodes = _episodes(columns, record.scoring)
    last, behind = scores[:, -1], episodes[-1]
    final = folder / "final.csv"
    if final.exists():
        columns = read_evaluations(final)
        evaluated, seeds, found = scores_by_checkpoint(columns, record.scoring)
        _check_seeds(final, seeds, record.seeds)
        if evaluated.tolist() != [reached]:
            raise UserError(
                f"{final} must evaluate the last checkpoint of evaluations.csv, step {reached}, "
                f"and it holds {_listing('step', evaluated)}. Evaluate the run again."
            )
        last, behind = found[:, 0], _episodes(columns, record.scoring)[0]
    return EvaluatedRun(
        folder=folder,
        record=record,
        checkpoints=checkpoints,
        scores=scores,
        episodes=episodes,
        last=last,
        final=behind,
    )


def _episodes(columns: Evaluations, scoring: Score) -> tuple[Scores, ...]:
    """The score of every episode, (seeds, episodes) for each step; all three ascend."""
    order = np.lexsort((columns["episode"], columns["seed"], columns["step"]))
    scores = scoring.of(columns["success"], columns["return"])[order]
    _, starts = np.unique(columns["step"][order], return_index=True)
    seeds = len(np.unique(columns["seed"]))
    return tuple(part.reshape(seeds, -1) for part in np.split(scores, starts[1:]))


def _check_seeds(path: Path, found: NDArray[np.int64], expected: Sequence[int]) -> None:
    if found.tolist() != sorted(expected):
        raise UserError(
            f"{path} holds {_listing('seed', found)}, but run.json says "
            f"{_listing('seed', expected)}. Evaluate the run again, or resume its training with "
            "--resume."
        )


def _listing(noun: str, numbers: NDArray[np.int64] | Sequence[int]) -> str:
    return f"{noun}{'s' if len(numbers) > 1 else ''} {', '.join(str(n) for n in numbers)}"
