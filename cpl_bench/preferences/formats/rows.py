"""Human labels that name their segments by rows of a D4RL dataset, as Preference Transformer keeps
them (Kim et al., arXiv 2303.00957): two files of first rows, one of labels, all of them pickles.

A row is one of D4RL's `qlearning_dataset`, which leaves out some of the file's. Files of rows can
be longer than the labels: as many count as there are labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cpl_bench.core.errors import UserError
from cpl_bench.core.sources import OneMeans, Ties
from cpl_bench.preferences.arrays import preferences_from_arrays
from cpl_bench.preferences.format import Preferences
from cpl_bench.preferences.formats.labels import answers_of
from cpl_bench.preferences.formats.pickles import read_numbers
from cpl_bench.trajectories.formats.d4rl import Flat, qlearning_rows


def preferences_from_rows(
    labels: Path,
    rows: tuple[Path, Path],
    flat: Flat,
    *,
    segment_length: int,
    limit_steps: int,
    label_one_means: OneMeans,
    ties: Ties = "half",
    task: str = "",
    name: str = "",
    annotator: str = "human",
) -> Preferences:
    """The preferences, with the segments cut out of D4RL's steps.

    Args:
        labels: the file of labels.
        rows: the files of first rows, of the first and of the second segments.
        flat: D4RL's file.
        segment_length: steps in a segment.
        limit_steps: the task's, where D4RL's file has no timeouts.
        label_one_means: which of the two a label of 1 prefers.
        ties: what a tie is, 0.5 or −1, as Preference Transformer's are.
        task: where policies are rolled out; empty for nowhere.
        name: of the data.
        annotator: who answered.

    Raises:
        UserError: a pickle that isn't numbers, labels outside the convention, fewer rows than
            labels, or rows that are none, or whose segments do not lie in one episode.
    """
    answers = answers_of(read_numbers(labels), label_one_means, str(labels), ties)
    begins = [_first_rows(path, len(answers)) for path in rows]
    kept = qlearning_rows(flat, limit_steps)
    steps = []
    for path, starts in zip(rows, begins, strict=True):
        wrong = (starts < 0) | (starts > len(kept) - segment_length)
        if wrong.any():
            raise UserError(
                f"{path}: row {starts[wrong][0]} and {segment_length} steps from there are not in "
                f"the {len(kept):,} rows of D4RL's dataset: is it another one's?"
            )
        windows = kept[starts[:, None] + np.arange(segment_length)]  # (c, k)
        broken = (np.diff(windows) != 1).any(1) | flat.terminals[windows[:, :-1]].any(1)
        if broken.any():
            raise UserError(
                f"{path}: {broken.sum()} of {len(broken)} segments of {segment_length} steps cross "
                "an episode's end: they are of another dataset, or of another length."
            )
        steps.append(windows)
    at = np.concatenate(steps)  # (2c, k)
    numbers, ended = np.arange(len(answers)), flat.terminals[at]
    return preferences_from_arrays(
        flat.observations[at],
        flat.actions[at],
        numbers,
        numbers + len(answers),
        answers,
        rewards=flat.rewards[at],
        terminations=ended if ended.any() else None,
        task=task,
        name=name,
        annotator=annotator,
    )


def _first_rows(path: Path, count: int) -> np.ndarray:
    rows = read_numbers(path)
    if len(rows) < count:
        raise UserError(f"{path} names {len(rows)} segments, and there are {count} labels.")
    if (rows[:count] % 1 != 0).any():
        raise UserError(f"{path}: rows must be whole numbers.")
    return rows[:count].astype(np.int64)
