"""Lines in columns, each as wide as its longest cell."""

from __future__ import annotations

from collections.abc import Sequence

NAMES = 15
"""Letters of the column of names in what verbs print of data, where none is longer than usual."""


def aligned(rows: Sequence[Sequence[str]], least: int = 0) -> list[str]:
    """Rows of cells as lines; a row's last cell runs on, the others are followed by a gap.

    The first column is at `least` so wide.
    """
    wide: dict[int, int] = {0: least}
    for row in rows:
        for place, cell in enumerate(row[:-1]):
            wide[place] = max(wide.get(place, 0), len(cell) + 2)
    lines = (
        "".join(f"{cell:<{wide[place]}}" for place, cell in enumerate(row[:-1])) + row[-1]
        for row in rows
    )
    return [line.rstrip() for line in lines]


def cells(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Lines whose names stand in the usual column, as rows of a name and what is said of it."""
    return [(line[:NAMES].rstrip(), line[NAMES:]) for line in lines]
