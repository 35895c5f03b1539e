"""What a report found, for a terminal."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cpl_bench.report.report import ReportResult


def results_table(result: ReportResult) -> str:
    """Peak and last of every row with its interval, and what methods took online."""
    wide = max(len(row.dataset) for row in result.rows) + 2
    named = max(18, *(len(row.method) + 2 for row in result.rows))
    lines = [
        f"{'dataset':<{wide}}{'method':<{named}}{'peak':>7}{'last':>7}   95 % interval of last"
    ]
    for row in result.rows:
        scoring = result.scorings[row.dataset]
        peak, last, low, high = (
            "–" if isnan(value) else scoring.shown(value) + scoring.unit.strip()
            for value in (row.peak, row.last, row.ci_low, row.ci_high)
        )
        lines.append(
            f"{row.dataset:<{wide}}{row.method:<{named}}{peak:>7}{last:>7}   [{low}, {high}]  "
            f"{row.seeds} seeds × {row.episodes} episodes"
            + f", {row.failed} failed"
            * (row.failed > 0)
        )
    lines += [
        f"{method} took {steps:,} simulator steps a seed to learn; offline methods take none."
        for method, steps in result.online_transitions.items()
    ]
    return "\n".join(lines)
