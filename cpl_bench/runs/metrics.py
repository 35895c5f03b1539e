"""`metrics.csv` of a run folder: what a training noted of itself, a line a number.

step,phase,seed,metric,value
100,clone,0,clone_loss,0.41
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cpl_bench.core.errors import UserError, shortened
from cpl_bench.core.files import append, write_atomically
from cpl_bench.core.progress import say

if TYPE_CHECKING:
    from torch import Tensor

METRICS_HEADER = "step,phase,seed,metric,value"
LOG_PROB = "data_log_prob"
"""What every training notes at its checkpoints (`watched.py`)."""
LINE = re.compile(
    r"[0-9]{1,18},[^,\x00-\x1f\ufffd]+,[0-9]{1,18},[^,\x00-\x1f\ufffd]+,[-+0-9.einfa]+"
)
LONGEST_CELL = 200
_REMEDY = "Resume its training with --resume, or train it again."


def append_metrics(
    path: Path, step: int, phase: str, seeds: Sequence[int], metrics: Mapping[str, Tensor]
) -> None:
    """Add a line a member and metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for name, values in metrics.items():
        for seed, value in zip(seeds, values.tolist(), strict=True):
            writer.writerow([step, phase, seed, name, repr(value)])
    if not path.exists():
        write_atomically(path, METRICS_HEADER + "\n")
    append(path, text.getvalue())


def drop_metrics_after(path: Path, step: int) -> None:
    """Take out what was noted beyond `step`, and a last line that a kill left unfinished.

    Whatever is no line of metrics goes, too: it must not stand in the way of a good checkpoint.
    """
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    sound = [line for line in lines if LINE.fullmatch(line)]
    if lines[:1] != [METRICS_HEADER] or len(lines) > len(sound) + 1:
        say(f"{path} was damaged, and some of its lines are lost. No policy depends on them.")
    kept = [line for line in sound if int(line.split(",")[0]) <= step]
    write_atomically(path, "\n".join([METRICS_HEADER, *kept]) + "\n")


def read_metrics(
    path: Path, phase: str | None, metrics: Sequence[str]
) -> dict[str, dict[tuple[int, int], float]]:
    """{metric: {(step, seed): value}} of some metrics in a phase, or in any; all lines are checked.

    Raises:
        UserError: the file is damaged; the line is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as problem:
        raise UserError(f"{path} cannot be read: {problem}. {_REMEDY}") from None
    lines = text.splitlines()
    if not lines or lines[0] != METRICS_HEADER:
        found = f"'{shortened(lines[0])}'" if lines else "an empty file"
        raise UserError(
            f"{path} is no file of metrics: expected the header '{METRICS_HEADER}', got {found}. "
            f"{_REMEDY}"
        )
    if not text.endswith("\n"):
        raise UserError(
            f"{path}, line {len(lines)} is cut off: '{shortened(lines[-1])}'. {_REMEDY}"
        )
    values: dict[str, dict[tuple[int, int], float]] = {metric: {} for metric in metrics}
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split(",")
        try:
            step, of_phase, seed, metric, value = cells
            place, amount = (int(step), int(seed)), float(value)
            if max(map(len, cells)) > LONGEST_CELL:
                raise ValueError
        except ValueError:
            raise UserError(
                f"{path}, line {number}: expected '{METRICS_HEADER}' with numbers for step, seed "
                f"and value, got '{shortened(line)}'. {_REMEDY}"
            ) from None
        if phase not in (None, of_phase) or metric not in values:
            continue
        if place in values[metric]:
            raise UserError(
                f"{path}, line {number}: '{metric}' of seed {seed} at step {step} stands there "
                f"more than once. {_REMEDY}"
            )
        values[metric][place] = amount
    return values
