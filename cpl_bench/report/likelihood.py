"""The figure that shows a policy run off the data: how likely they are under it, as it learns.

The numbers are the runs' own: the metric that every training notes at its checkpoints
(`runs/watched.py`), in `metrics.csv`, or, of a published run, the same lines in `watched.csv`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cpl_bench.report.panels import Curve, Panel
from cpl_bench.report.read import EvaluatedRun
from cpl_bench.runs.metrics import LOG_PROB, METRICS_HEADER, read_metrics

METRICS, EXTRACT = "metrics.csv", "watched.csv"
QUANTITY = "log π of the data"


def likelihood_panels(runs: Sequence[EvaluatedRun]) -> list[Panel]:
    """A panel a dataset: the mean over seeds of each run that noted it, between the extreme seeds.

    Raises:
        UserError: a file of metrics is damaged; the line is named.
    """
    curves: dict[str, list[Curve]] = {}
    for run in runs:
        if curve := _curve(run):
            curves.setdefault(run.dataset, []).append(curve)
    return [
        Panel(dataset, tuple(found), behaviour=None, boundary=None, quantity=QUANTITY)
        for dataset, found in curves.items()
    ]


def extract(metrics: Path) -> str:
    """The lines of a file of metrics that the figure is drawn from; empty if there are none."""
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
    kept = [line for line in lines if f",{LOG_PROB}," in line]
    return "\n".join([METRICS_HEADER, *kept]) + "\n" if kept else ""


def _curve(run: EvaluatedRun) -> Curve | None:
    """None of a run that noted nothing, or not of every seed at every checkpoint."""
    there = [path for name in (METRICS, EXTRACT) if (path := run.folder / name).is_file()]
    if not there:
        return None
    found = read_metrics(there[0], None, (LOG_PROB,))[LOG_PROB]
    steps, seeds = (sorted({place[i] for place in found}) for i in (0, 1))
    if len(seeds) != len(run.last) or len(found) != len(steps) * len(seeds):
        return None
    values = np.array([[found[step, seed] for step in steps] for seed in seeds])  # (s, t)
    values = np.where(np.isfinite(values), values, np.nan)
    ends = values.min(axis=0), values.max(axis=0)
    return Curve(run.method, np.array(steps), values.mean(axis=0), *ends)
