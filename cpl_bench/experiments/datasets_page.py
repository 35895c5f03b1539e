"""`datasets/README.md`: a line a card for each thing that `inspect` measures."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cpl_bench.core.errors import UserError
from cpl_bench.core.files import write_atomically

Section = Literal["probe", "reward"]

HEADER = """\
<!-- Written by cpl-bench inspect: edits are lost. -->

# Datasets

One card a dataset. `cpl-bench collect NAME` makes its trajectories, `cpl-bench label NAME` its
preferences; both land in this folder and stay out of git.
"""
INTRODUCTIONS: dict[Section, str] = {
    "probe": """\
A card is accepted only if the data can tell methods apart: the behaviour's score within the card's
band, an expert of at least 90 % (data of another training's checkpoints have none), SFT at most 20
points above the behaviour. Where the best method reaches 97 % the card is saturated: it tells
methods that learn from those that do not, and no good one from a better. A card that is refused
passed with the cloning of its day, and stays because published results stand on its bytes. The
lines below are what `cpl-bench inspect NAME --probe` measured. SFT, CPL(λ), P-IQL: the laptop
presets, 2 seeds, the mean of four evaluations in the second half of training, 25 episodes each a
seed; ± is the standard error over those episodes. Expert: 100 episodes. Percent are of successes,
of returns where a task is scored by a normalised return.
""",
    "reward": """\
## Reward models

How well a plain reward model answers comparisons between segments of held-out episodes, as
`cpl-bench inspect NAME --reward` measured it: two hidden layers of 256, bounded to [0, 1],
standardised observations, 2,000 steps, no imitation, 2 seeds. Fitted: accuracy on the comparisons
of its last steps. Calibration error: |share right − confidence|, averaged over the comparisons in
five bins.
""",
}
MEASURED = "behaviour | band | expert | SFT | CPL(λ) | P-IQL | verdict"
COLUMNS: dict[Section, str] = {
    "probe": f"| card | episodes | segments | {MEASURED} |",
    "reward": "| card | labels | held-out segments | held out | fitted | calibration error |",
}


def record(path: Path, section: Section, card: str, row: str) -> None:
    """Put a card's row into a table of the page at `path`, in place of its earlier one."""
    tables = _read(path)
    tables[section][card] = row
    parts = [HEADER]
    for name, rows in tables.items():
        if rows:
            rule = "|" + "---|" * (COLUMNS[name].count("|") - 1)
            parts.append(INTRODUCTIONS[name])
            lines = [COLUMNS[name], rule, *(rows[each] for each in sorted(rows))]
            parts.append("\n".join(lines) + "\n")
    write_atomically(path, "\n".join(parts))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except UnicodeDecodeError as problem:
        raise UserError(f"{path} is damaged: {problem}. Take it from the repository.") from None


def _read(path: Path) -> dict[Section, dict[str, str]]:
    """The rows that are there, by table and card."""
    tables: dict[Section, dict[str, str]] = {"probe": {}, "reward": {}}
    rows: dict[str, str] = {}
    for line in _text(path).splitlines():
        started = [tables[section] for section, columns in COLUMNS.items() if line == columns]
        if started:
            (rows,) = started
        elif line.startswith("| "):
            rows[line.split("|")[1].strip()] = line
    return tables
