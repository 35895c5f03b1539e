"""The CSV of evaluation episodes in a run folder: written a checkpoint at a time, read whole.

    step,seed,episode,success,return,length
    5000,0,0,1,412.7,83          one line an episode; success is 0 or 1, length in steps

A file holds, for every step, the same seeds and as many episodes of one as of another: that is
checked on reading, because a mean over seeds is wrong without it.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpl_bench.core.errors import UserError, shortened
from cpl_bench.core.files import append, write_atomically
from cpl_bench.core.score import Score

COLUMNS: dict[str, type] = {
    "step": np.int64,
    "seed": np.int64,
    "episode": np.int64,
    "success": np.float64,
    "return": np.float64,
    "length": np.int64,
}
HEADER = ",".join(COLUMNS)
_WANTED = dict.fromkeys(COLUMNS, "a whole number from 0")
_WANTED |= {"success": "0 or 1", "return": "a finite number"}

WHOLE = re.compile(r"[0-9]{1,18}")
"""Steps, seeds, episodes and lengths as they are written."""

Evaluations = dict[str, NDArray]
"""The columns by name, each (n,) for n episodes."""

_AGAIN = "Train the run again with --overwrite."
_REMEDY = "Evaluate the run again, or resume its training with --resume."


def read_evaluations(path: Path) -> Evaluations:
    """The columns of an evaluation file, each (n,), in the order of the lines.

    Raises:
        UserError: the file is missing, empty, cut off or not such a file; the line is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. {_REMEDY}") from None
    except (UnicodeDecodeError, OSError) as problem:
        raise UserError(f"{path} cannot be read: {problem}. {_REMEDY}") from None
    lines = text.splitlines()
    if not lines:
        raise UserError(f"{path} is empty; expected the header '{HEADER}'. {_REMEDY}")
    if lines[0] != HEADER:
        raise UserError(
            f"{path} is no evaluation file: expected the header '{HEADER}', "
            f"got '{shortened(lines[0])}'. {_REMEDY}"
        )
    if len(lines) == 1:
        raise UserError(f"{path} holds a header but no episode. {_REMEDY}")
    if not text.endswith("\n"):
        raise UserError(
            f"{path}, line {len(lines)} is cut off: '{shortened(lines[-1])}'. {_REMEDY}"
        )
    rows = [line.split(",") for line in lines[1:]]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(COLUMNS):
            raise UserError(
                f"{path}, line {number}: expected {len(COLUMNS)} values ({HEADER}), "
                f"got {len(row)}: '{shortened(lines[number - 1])}'. {_REMEDY}"
            )
    columns = {
        name: _column(path, name, texts)
        for name, texts in zip(COLUMNS, zip(*rows, strict=True), strict=True)
    }
    _check_balance(path, columns)
    return columns


def append_evaluations(path: Path, columns: Mapping[str, ArrayLike]) -> None:
    """Add episodes at the end; a file that is not there yet begins with the header.

    The lines go out in a single write and are synced to disk before this returns.

    Args:
        columns: a value for every column, (n,) for n episodes or a single one for all of them
    """
    if set(columns) != set(COLUMNS):
        raise ValueError(f"expected the columns {HEADER}, got {','.join(columns)}")
    arrays = {name: np.atleast_1d(columns[name]) for name in COLUMNS}
    for name, array in arrays.items():
        if not _allowed(name, array).all():
            raise ValueError(f"'{name}' must be {_WANTED[name]}, got {array}")
    lines = [
        f"{step:.0f},{seed:.0f},{episode:.0f},{success:.0f},{float(score)!r},{length:.0f}"
        for step, seed, episode, success, score, length in zip(
            *np.broadcast_arrays(*arrays.values()), strict=True
        )
    ]
    content = "".join(f"{line}\n" for line in lines)
    if not path.exists():
        write_atomically(path, f"{HEADER}\n{content}")
        return
    append(path, content, sync=True)


def drop_after(path: Path, step: int) -> None:
    """Take out the episodes beyond `step`, and a last line that a killed run left unfinished.

    For resuming from the checkpoint of `step`. Nothing happens where there is no file yet.

    Raises:
        UserError: the file is no evaluation file, or is damaged up to there.
    """
    if not path.exists():
        return
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except UnicodeDecodeError as problem:
        raise UserError(f"{path} is damaged: {problem}. {_AGAIN}") from None
    if not lines or lines[0] != HEADER:
        raise UserError(f"{path} is no evaluation file: expected the header '{HEADER}'. {_AGAIN}")
    kept = [HEADER]
    for number, line in enumerate(lines[1:], start=2):
        reached = line.split(",")[0]
        if not WHOLE.fullmatch(reached):
            raise UserError(
                f"{path}, line {number}: 'step' is no number in '{shortened(line)}'. {_AGAIN}"
            )
        if int(reached) <= step:
            kept.append(line)
    write_atomically(path, "\n".join(kept) + "\n")
    if len(kept) > 1:
        try:
            read_evaluations(path)  # what a resume goes on from is whole
        except UserError as problem:
            raise UserError(str(problem).replace(_REMEDY, _AGAIN)) from None


def scores_by_checkpoint(
    columns: Evaluations, scoring: Score
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Average the episodes of each seed at each step.

    Returns:
        steps (t,) ascending, seeds (s,) ascending, mean scores (s, t).
    """
    steps, column = np.unique(columns["step"], return_inverse=True)
    seeds, row = np.unique(columns["seed"], return_inverse=True)
    cells, count = row * len(steps) + column, len(seeds) * len(steps)
    episodes = np.bincount(cells, minlength=count)
    scores = scoring.of(columns["success"], columns["return"])
    means = np.bincount(cells, scores, minlength=count) / episodes
    return steps, seeds, means.reshape(len(seeds), len(steps))


def scores_by_seed(columns: Evaluations, scoring: Score) -> dict[int, float]:
    """Mean score of each seed, whatever the step."""
    scores = scoring.of(columns["success"], columns["return"])
    seeds = np.unique(columns["seed"])
    return {int(seed): float(scores[columns["seed"] == seed].mean()) for seed in seeds}


def _column(path: Path, name: str, texts: tuple[str, ...]) -> NDArray:
    """Convert a column, or name its first bad line."""
    if (values := _converted(name, texts)) is not None:
        return values
    for number, text in enumerate(texts, start=2):
        if _converted(name, (text,)) is None:
            raise UserError(
                f"{path}, line {number}: '{name}' must be {_WANTED[name]}, not "
                f"'{shortened(text)}'. {_REMEDY}"
            )
    raise AssertionError(f"{path}: the column '{name}' is wrong but each of its values is right")


def _converted(name: str, texts: tuple[str, ...]) -> NDArray | None:
    """A column's values; None if any is none that may stand there."""
    if COLUMNS[name] is np.int64 and not all(map(WHOLE.fullmatch, texts)):
        return None
    try:
        values = np.array(texts).astype(COLUMNS[name])
    except (ValueError, OverflowError):
        return None
    return values if _allowed(name, values).all() else None


def _allowed(name: str, values: NDArray) -> NDArray[np.bool_]:
    if name == "success":
        return (values == 0) | (values == 1)
    if name == "return":
        return np.isfinite(values)
    return (values >= 0) & (values % 1 == 0)


def _check_balance(path: Path, columns: Evaluations) -> None:
    """Every step needs every seed, each with the same number of distinct episodes."""
    episodes = np.stack([columns["step"], columns["seed"], columns["episode"]], axis=1)  # (n, 3)
    distinct, copies = np.unique(episodes, axis=0, return_counts=True)
    if len(distinct) != len(episodes):
        step, seed, episode = distinct[copies > 1][0]
        raise UserError(
            f"{path}: episode {episode} of seed {seed} at step {step} stands there more than once. "
            f"{_REMEDY}"
        )
    seeds, rows = np.unique(distinct[:, 1], return_inverse=True)
    steps, begins = np.unique(distinct[:, 0], return_index=True)  # `distinct` ascends
    for step, ours in zip(steps, np.split(rows, begins[1:]), strict=True):
        found, counts = np.unique(ours, return_counts=True)
        if len(found) < len(seeds) or len(set(counts)) > 1:
            said = ", ".join(f"seed {seeds[i]}: {c}" for i, c in zip(found, counts, strict=True))
            raise UserError(
                f"{path}: step {step} is incomplete, expected as many episodes of each of "
                f"{len(seeds)} seeds, got {shortened(said)}. {_REMEDY}"
            )
