"""Evidence: the small files of an experiment, copied beside its `experiment.toml`."""

from __future__ import annotations

from pathlib import Path

from cpl_bench.core.errors import UserError
from cpl_bench.core.files import write_atomically
from cpl_bench.core.progress import say
from cpl_bench.experiments.card import Experiment
from cpl_bench.experiments.cells import cells
from cpl_bench.report.likelihood import EXTRACT, METRICS, extract
from cpl_bench.runs.record import read_record
from cpl_bench.runs.webp import FILM

EVIDENCE = ("table.csv", "curves.csv", "curves.png", "curves.pdf", "README.md")
SOMETIMES = (
    *("reward.png", "reward.pdf", FILM),
    *("likelihood.png", "likelihood.pdf", "likelihood.csv"),
    *("settings.png", "settings.pdf"),
)
"""What not every report has."""
RUN_EVIDENCE = ("run.json", "evaluations.csv")
FINAL = "final.csv"
LARGEST_METRICS_BYTES = 250_000
"""A larger file of metrics is not published with its run."""


def publish(experiment: Experiment, out: Path, results: Path) -> None:
    """Copy the small files that are evidence from `out` to `results`, run folders included.

    Metrics are copied of runs with online steps, the numbers behind `reward.png`; of others those
    behind `likelihood.png`. Published runs that are not under `out` stay as they are.
    """
    if not (results / "experiment.toml").is_file():
        raise UserError(f"{results} is no experiment: it has no experiment.toml.")
    for name in EVIDENCE:
        write_atomically(results / name, (out / name).read_bytes())
    for name in SOMETIMES:
        _copy(name, out, results, (out / name).exists())
    for run in (cell.folder for cell in cells(experiment)):
        if not (out / run).exists() and (results / run / "run.json").is_file():
            continue
        for name in RUN_EVIDENCE:
            write_atomically(results / run / name, (out / run / name).read_bytes())
        _copy(FINAL, out / run, results / run, experiment.final_episodes > 0)
        metrics = out / run / METRICS
        wanted = read_record(out / run).online_transitions > 0 and metrics.exists()
        if wanted and metrics.stat().st_size >= LARGEST_METRICS_BYTES:
            say(f"{metrics} stays unpublished: {LARGEST_METRICS_BYTES:,} bytes or more.")
            wanted = False
        _copy(METRICS, out / run, results / run, wanted)
        lines = "" if wanted else extract(metrics)
        if lines:
            write_atomically(results / run / EXTRACT, lines)
        else:  # of a run that was published already
            _copy(EXTRACT, out / run, results / run, not wanted and (out / run / EXTRACT).exists())
    say(f"Published {experiment.name} → {results}")


def _copy(name: str, origin: Path, target: Path, wanted: bool) -> None:
    """Copy a file that not every experiment has, or take an older one away."""
    if wanted:
        write_atomically(target / name, (origin / name).read_bytes())
    else:
        (target / name).unlink(missing_ok=True)
