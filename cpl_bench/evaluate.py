"""The verb `evaluate`: policies of a run become numbers, and one of them a short film."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cpl_bench.assessment import assess, by_seed, member_weights
from cpl_bench.cards import TaskCard, load_task
from cpl_bench.errors import UserError
from cpl_bench.evaluations import append_evaluations, read_evaluations
from cpl_bench.files import atomic_path
from cpl_bench.progress import say
from cpl_bench.rollouts import RolloutPool, Weights
from cpl_bench.runs import RunFolder
from cpl_bench.seeds import episode_seeds

FRAME_SKIP = 4
FRAME_SIZE = 320
VIDEO_TRIES = 5
RENDER_HINT = (
    "No video: rendering does not work here. On Debian/Ubuntu: apt-get install libegl1 "
    "(or libosmesa6, then set MUJOCO_GL=osmesa)."
)


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
    step, weights = _checkpoint(folder, checkpoint)
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


def film(run: Path, checkpoint: int | None = None, path: Path | None = None) -> Path | None:
    """One episode of a run's best member as an animated WebP; None, with a hint, if it can't be."""
    folder = RunFolder(run)
    record = folder.read()
    step, stacked = _checkpoint(folder, checkpoint)
    weights = member_weights(stacked)
    last = step == folder.checkpoint_steps()[-1]
    source = folder.final if last and folder.final.exists() else folder.evaluations
    rows = read_evaluations(source) if source.exists() else {}
    here = {name: values[rows["step"] == step] for name, values in rows.items()}
    rates = by_seed(here) if rows else {}
    best = max(range(len(weights)), key=lambda i: rates.get(record["seeds"][i], 0.0))
    path = path or run / f"rollout-{step}.webp"
    frames = _render(load_task(record["task"]), weights[best], record["seeds"][best])
    if frames is None:
        return None
    _write_webp(path, frames)
    say(f"Filmed {record['method']} (seed {record['seeds'][best]}) → {path}")
    return path


def _checkpoint(folder: RunFolder, step: int | None) -> tuple[int, Weights]:
    """The checkpoint asked for, or the last, and what acts there."""
    steps = folder.checkpoint_steps()
    if not steps:
        raise UserError(f"{folder.path} has no checkpoint yet; train it first.")
    step = steps[-1] if step is None else step
    return step, folder.read_weights(step)


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


def _render(task: TaskCard, weights: Weights, seed: int) -> list[np.ndarray] | None:
    """Frames of the first success among a few test episodes, else of the last tried."""
    import os

    chosen = os.environ.get("MUJOCO_GL")
    problem = ""
    for backend in [chosen] if chosen else ["egl", "osmesa"]:
        frames = None
        try:
            with RolloutPool(1, {"MUJOCO_GL": backend}, quiet=True) as pool:
                for episode_seed in episode_seeds("test", VIDEO_TRIES, seed):
                    frames, success = pool.render(task, episode_seed, weights, FRAME_SKIP)
                    if success:
                        break
        except RuntimeError as failure:
            problem = str(failure).strip().splitlines()[-1]
            continue
        return frames
    say(f"{RENDER_HINT} ({problem})")
    return None


def _write_webp(path: Path, frames: list[np.ndarray]) -> None:
    from PIL import Image

    images = [Image.fromarray(frame).resize((FRAME_SIZE, FRAME_SIZE)) for frame in frames]
    with atomic_path(path) as temporary:
        images[0].save(
            temporary, save_all=True, append_images=images[1:], duration=50, loop=0, quality=60
        )
