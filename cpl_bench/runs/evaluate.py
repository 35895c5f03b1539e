"""The verb `evaluate`: policies of a run become numbers, and one of them a short film."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cpl_bench.core.cards import load_task
from cpl_bench.core.errors import UserError
from cpl_bench.core.files import atomic_path
from cpl_bench.core.progress import say
from cpl_bench.core.seeds import episode_seeds
from cpl_bench.runs.assess import assess, by_seed
from cpl_bench.runs.evaluations import append_evaluations, read_evaluations
from cpl_bench.runs.folder import RunFolder
from cpl_bench.tasks.pool import RolloutPool


def evaluate(
    run: Path, pool: RolloutPool, episodes: int = 100, checkpoint: int | None = None
) -> Path:
    """Evaluate a checkpoint (the last by default) on test episodes; returns the CSV's path.

    Every member runs `episodes` episodes of the test stream, which training never sees; the same
    ones for every method. Nothing is done again that is on disk.

    Raises:
        UserError: no run, no such checkpoint.
    """
    if episodes < 1:
        raise UserError(f"--episodes must be at least 1, not {episodes}.")
    folder = RunFolder(run)
    record = folder.read()
    step, weights = folder.at(checkpoint)
    last = step == folder.checkpoint_steps()[-1]
    path = folder.final if last else run / f"evaluation-{step}.csv"
    seeds = record["seeds"]
    if not _is_done(path, step, seeds, episodes):
        rows = assess(
            pool,
            load_task(record["task"]),
            weights,
            seeds,
            [episode_seeds("test", episodes, seed) for seed in seeds],
            step,
            label=f"evaluating {record['method']}",
        )
        with atomic_path(path) as temporary:
            append_evaluations(temporary, rows)
    rows = read_evaluations(path)
    rates = by_seed(rows)
    say(
        f"{record['method']} on {record['dataset']}, step {step}, {episodes} episodes × "
        f"{len(seeds)} seeds: success {np.mean(list(rates.values())):.1%} "
        f"({' '.join(f'{rate:.0%}' for rate in rates.values())}), return "
        f"{rows['return'].mean():.1f}, steps to success {rows['length'].mean():.0f} → {path}"
    )
    return path


def _is_done(path: Path, step: int, seeds: list[int], episodes: int) -> bool:
    """Whether the file holds this very evaluation."""
    if not path.is_file():
        return False
    try:
        rows = read_evaluations(path)
    except UserError:  # damaged: evaluated again, as the message advises
        return False
    return (
        set(rows["step"]) == {step}
        and sorted(set(rows["seed"])) == sorted(seeds)
        and len(rows["seed"]) == episodes * len(seeds)
    )
