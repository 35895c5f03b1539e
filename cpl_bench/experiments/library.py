"""The verbs for notebooks and scripts: `cpl_bench.collect`, `label`, `evaluate`, `report`.

What is missing is made on demand, as on the command line, which calls these functions too; `train`
is in `experiments/training.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cpl_bench.core.dataset_cards import load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.core.pairs import Pairs
from cpl_bench.experiments.make import (
    ensure_preferences,
    ensure_trajectories,
)
from cpl_bench.experiments.run import Policy, Run
from cpl_bench.preferences.labelling import with_options
from cpl_bench.report.report import ReportResult
from cpl_bench.report.report import report as compare
from cpl_bench.runs.evaluate import Evaluation, evaluate_policy
from cpl_bench.runs.evaluate import evaluate as measure
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.tasks.registry import find_task
from cpl_bench.trajectories.formats.minari import minari_folder

if TYPE_CHECKING:
    import torch


def collect(dataset: str | Path, *, workers: int = 0) -> Path:
    """Make the trajectories of a dataset card, unless they are there; returns their folder.

    Says whether they are the published bytes, which the card names.

    Raises:
        UserError: no such card, or a task without an expert.
    """
    card = load_dataset_card(str(dataset))
    with RolloutPool(workers or None) as pool:
        ensure_trajectories(card, pool, tell=True)
    return minari_folder(card.minari_id)


def label(
    dataset: str | Path,
    *,
    scorer: str | None = None,
    annotator: str | None = None,
    annotator_settings: Mapping[str, float] | None = None,
    segments: int | None = None,
    segment_length: int | None = None,
    pairs: Pairs | None = None,
    ranked_size: int | None = None,
    comparisons: int | None = None,
    discount: float | None = None,
    scorer_settings: Mapping[str, Any] | None = None,
    workers: int = 0,
) -> Path:
    """Make the preferences of a dataset card, unless they are there; returns their file.

    What isn't given is as on the card.

    Raises:
        UserError: no such card, scorer or annotator, or numbers that cannot be.
    """
    card = load_dataset_card(str(dataset))
    cut = (segments, segment_length, pairs, ranked_size, annotator_settings, comparisons)
    card = with_options(card, scorer, annotator, *cut, discount, scorer_settings)
    with RolloutPool(workers or None) as pool:
        return ensure_preferences(card, pool, tell=True)


def evaluate(
    policy: str | Path | Run | Policy | torch.nn.Module,
    task: str | None = None,
    *,
    episodes: int = 100,
    checkpoint: int | None = None,
    seed: int = 0,
    workers: int = 0,
) -> Evaluation:
    """Roll policies out on test episodes, which training never sees.

    Args:
        policy: a run (its folder or what `train` gave), any function of observations (b, o) →
            actions (b, a), or a torch module that is such a function.
        task: where: a card's name or path, a Gymnasium id, or `module:Class`; a run knows its own.
        episodes: how many, a seed.
        checkpoint: a run's gradient step; the last by default.
        seed: whose test episodes a function or module is given; a run has seeds of its own.
        workers: rollout processes for a run; 0 for one a processor.

    Raises:
        UserError: no such run, checkpoint or task, or a policy that gives something else.
    """
    card = find_task(task) if task else None
    if isinstance(policy, str | Path | Run):
        path = policy.path if isinstance(policy, Run) else Path(policy)
        with RolloutPool(workers or None) as pool:
            return measure(path, pool, episodes, checkpoint, card)
    if card is None:
        raise UserError("Say where: evaluate(policy, task), a card's name or a Gymnasium id.")
    return evaluate_policy(_as_function(policy), card, episodes, seed)


def report(
    runs: str | Path | Run | Sequence[str | Path | Run],
    out: str | Path | None = None,
    title: str = "",
) -> ReportResult:
    """Compare runs: a table with intervals, learning curves and a page in the folder `out`.

    By default `out` is the folder `report` beside the first run.

    Raises:
        UserError: no runs, damaged ones, or runs that contradict each other.
    """
    several = [runs] if isinstance(runs, str | Path | Run) else list(runs)
    folders = [run.path if isinstance(run, Run) else Path(run) for run in several]
    if not folders:
        raise UserError("There are no runs to report on. Name run folders: runs/drawer-open/*.")
    return compare(folders, Path(out) if out else folders[0].parent / "report", title)


def _as_function(policy: Any) -> Policy:
    """A torch module as a function of numpy arrays; any other callable as it is."""
    if not callable(policy):
        raise UserError(
            f"A policy is a run, a function of observations or a torch module, not {policy!r:.100}."
        )
    if not hasattr(policy, "parameters"):
        return cast(Policy, policy)
    import torch

    module = cast("torch.nn.Module", policy)
    like = next(module.parameters(), torch.zeros(()))

    def act(observations: np.ndarray) -> np.ndarray:
        training = module.training
        module.eval()
        try:
            with torch.no_grad():
                return module(torch.as_tensor(observations).to(like)).cpu().numpy()
        finally:
            module.train(training)

    return act
