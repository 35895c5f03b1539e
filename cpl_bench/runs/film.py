"""A short film of a policy: one episode as an animated WebP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.core.progress import say
from cpl_bench.core.seeds import episode_seeds
from cpl_bench.runs.evaluations import read_evaluations, scores_by_seed
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.webp import TRIES, Film, origin_of, write_film
from cpl_bench.tasks.pool import RolloutPool

FRAME_SKIP = 4
"""Simulator steps from one frame to the next."""
RENDER_HINT = (
    "No video: rendering does not work here. On Debian/Ubuntu: apt-get install libegl1 "
    "(or libosmesa6, then set MUJOCO_GL=osmesa)."
)


def film(
    run: Path, checkpoint: int | None = None, path: Path | None = None, task: TaskCard | None = None
) -> Film | None:
    """One episode of a run's best member as an animated WebP; None, with a hint, if it can't be.

    It is the first success among a few test episodes, else the last of them.

    Raises:
        UserError: no run, no such checkpoint, or a run on data without a task and none given.
    """
    folder = RunFolder(run)
    step, weights, record = folder.acting(checkpoint)
    task, elsewhere = record.rolled_out(task)
    last = step == folder.checkpoint_steps()[-1]
    source = folder.final if last and folder.final.exists() else folder.evaluations
    rows = read_evaluations(source) if source.exists() else {}
    here = {name: values[rows["step"] == step] for name, values in rows.items()}
    scores = scores_by_seed(here, record.scoring) if rows else {}
    members = weights.members()
    best = max(range(len(members)), key=lambda i: scores.get(record.seeds[i], -np.inf))
    path = path or run / f"rollout-{step}{elsewhere}.webp"
    rendered = _render(task, members[best], record.seeds[best])
    if rendered is None:
        return None
    frames, succeeded = rendered
    made = Film(origin_of(run, step), record.seeds[best], succeeded)
    write_film(path, made, frames)
    say(f"Filmed {record.method} (seed {record.seeds[best]}) → {path}")
    return made


def _render(
    task: TaskCard, weights: PolicyWeights, seed: int
) -> tuple[list[np.ndarray], bool] | None:
    """Frames of the first success among a few test episodes, else of the last, and which it is."""

    def drawn(pool: RolloutPool) -> tuple[list[np.ndarray], bool]:
        frames, success = [], False
        for episode_seed in episode_seeds("test", TRIES, seed):
            frames, success = pool.render(task, episode_seed, weights, FRAME_SKIP)
            if success:
                break
        return frames, success

    return rendered(drawn)


T = TypeVar("T")


def rendered(draw: Callable[[RolloutPool], T]) -> T | None:
    """What `draw` makes with a worker that can render; None, with a hint, where none can."""
    import os

    chosen = os.environ.get("MUJOCO_GL")
    problem = ""
    for backend in [chosen] if chosen else ["egl", "osmesa"]:
        try:
            with RolloutPool(1, {"MUJOCO_GL": backend}, quiet=True) as pool:
                return draw(pool)
        except RuntimeError as failure:
            problem = str(failure).strip().splitlines()[-1]
    say(f"{RENDER_HINT} ({problem})")
    return None
