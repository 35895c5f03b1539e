"""The verb `evaluate`: policies become numbers, a row an episode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.errors import UserError
from cpl_bench.core.files import atomic_path
from cpl_bench.core.progress import progress_bar, say
from cpl_bench.core.score import Score
from cpl_bench.core.seeds import episode_seeds
from cpl_bench.runs.assess import assess, rows_of
from cpl_bench.runs.evaluations import (
    Evaluations,
    append_evaluations,
    read_evaluations,
    scores_by_seed,
)
from cpl_bench.runs.folder import RunFolder
from cpl_bench.tasks.episodes import EpisodeRules, Trajectory, run_plan
from cpl_bench.tasks.policies import of_callable
from cpl_bench.tasks.pool import EPISODES_PER_JOB, RolloutPool
from cpl_bench.tasks.registry import check_sizes


@dataclass(frozen=True)
class Evaluation:
    """Episodes of finished policies on a task, a row an episode."""

    name: str
    scoring: Score
    rows: Evaluations
    """The columns of an evaluation file, each (n,): success, return, length, seed, episode."""
    path: Path | None = None
    """Where they are written, if they are."""

    @property
    def scores(self) -> np.ndarray:
        """The score of each episode, (n,)."""
        return self.scoring.of(self.rows["success"], self.rows["return"])

    @property
    def score(self) -> float:
        """The mean over seeds of each seed's mean."""
        return float(np.mean(list(self.by_seed.values())))

    @property
    def by_seed(self) -> dict[int, float]:
        """Each seed's mean score."""
        return scores_by_seed(self.rows, self.scoring)

    def __str__(self) -> str:
        shown, per_seed = (
            self.scoring.shown,
            " ".join(self.scoring.shown(score, 0) for score in self.by_seed.values()),
        )
        episodes = len(self.scores) // len(self.by_seed)
        length = "steps to success" if self.scoring.is_success else "steps"
        return (
            f"{self.name}, {episodes} episodes × {len(self.by_seed)} seeds: {self.scoring.name} "
            f"{shown(self.score)}{self.scoring.unit} ({per_seed}), return "
            f"{self.rows['return'].mean():.1f}, {length} {self.rows['length'].mean():.0f}"
        )


def evaluate(
    run: Path,
    pool: RolloutPool,
    episodes: int = 100,
    checkpoint: int | None = None,
    task: TaskCard | None = None,
) -> Evaluation:
    """Evaluate a checkpoint (the last by default) on test episodes, and write them down.

    Every member runs `episodes` episodes of the test stream, which training never sees; the same
    ones for every method. Nothing is done again that is on disk: of a file with more episodes the
    first ones count, and it stays as it is.

    Raises:
        UserError: no run, no such checkpoint, a run on data without a task and none given, or a
            task that the policies do not fit.
    """
    _check_episodes(episodes)
    folder = RunFolder(run)
    record = folder.read()
    task, elsewhere = record.rolled_out(task)
    step, weights = folder.at(checkpoint)
    last = step == folder.checkpoint_steps()[-1]
    path = folder.final if last and not elsewhere else run / f"evaluation-{step}{elsewhere}.csv"
    if elsewhere:
        check_sizes(task, weights.sizes, f"the policies of {run}")
    seeds = record.seeds
    rows = _known(path, step, seeds, episodes)
    if rows is None:
        own = [episode_seeds("test", episodes, seed) for seed in seeds]
        made = assess(pool, task, weights, seeds, own, step, f"evaluating {record.method}")
        with atomic_path(path) as temporary:
            append_evaluations(temporary, made)
        rows = read_evaluations(path)
    there = len(rows["seed"]) // len(seeds)
    rows = {name: column[rows["episode"] < episodes] for name, column in rows.items()}
    name = f"{record.method} on {record.dataset}, step {step}"
    found = Evaluation(name, task.scoring, rows, path)
    say(f"{found} → {path}" + f" (the first of {there} there)" * (there > episodes))
    return found


def evaluate_policy(
    act: Callable[[np.ndarray], np.ndarray], task: TaskCard, episodes: int = 100, seed: int = 0
) -> Evaluation:
    """Evaluate any function of observations on the test episodes of a seed, in this process.

    Args:
        act: observations (b, o) float32 → actions (b, a) within [−1, 1].
        task: where.
        episodes: how many.
        seed: whose test episodes; 0's are those of every run's seed 0.

    Raises:
        UserError: no episodes, or a function that gives something else.
    """
    _check_episodes(episodes)
    seeds = episode_seeds("test", episodes, seed)
    found: list[Trajectory] = []
    plan, rules = of_callable(act), EpisodeRules(keep_steps=False)
    with progress_bar(f"evaluating on {task.name}", episodes) as bar:
        for start in range(0, episodes, EPISODES_PER_JOB):  # as workers do
            some = run_plan(task, seeds[start : start + EPISODES_PER_JOB], plan, rules)
            found += some
            bar.update(len(some))
    rows = rows_of(found, 0, [seed] * episodes, list(range(episodes)))
    return Evaluation(f"a policy on {task.name}", task.scoring, rows)


def _check_episodes(episodes: int) -> None:
    if episodes < 1:
        raise UserError(f"--episodes must be at least 1, not {episodes}.")


def _known(
    path: Path, step: int, seeds: tuple[int, ...], episodes: int
) -> dict[str, np.ndarray] | None:
    """What the file holds of this very evaluation; None unless it has as many episodes or more.

    The first test episodes don't depend on how many there are.
    """
    if not path.is_file():
        return None
    try:
        rows = read_evaluations(path)
    except UserError:  # damaged: evaluated again, as the message advises
        return None
    of_this = set(rows["step"]) == {step} and sorted(set(rows["seed"])) == sorted(seeds)
    numbers = np.sort(rows["episode"].reshape(-1)) if of_this else np.zeros(0)
    whole = np.repeat(np.arange(len(numbers) // len(seeds)), len(seeds))
    enough = len(whole) >= episodes * len(seeds) and np.array_equal(numbers, whole)
    return dict(rows) if enough else None
