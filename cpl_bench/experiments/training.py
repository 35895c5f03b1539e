"""`cpl_bench.train` and `train_grid`: training for notebooks, scripts and the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from cpl_bench.core.counts import MEMBERS, check_count
from cpl_bench.core.errors import UserError, shown
from cpl_bench.core.files import check_writable
from cpl_bench.core.toml import nested
from cpl_bench.experiments.make import find_preferences, task_of
from cpl_bench.experiments.run import Run
from cpl_bench.preferences.format import Preferences
from cpl_bench.tasks.pool import RolloutPool


def train(
    data: str | Path | Preferences,
    method: str = "cpl",
    *,
    settings: Mapping[str, Any] | None = None,
    preset: str = "auto",
    seeds: int | Sequence[int] = 4,
    task: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    threads: int = 0,
    evaluate_every: int = 0,
    episodes: int = 25,
    note: str = "",
    title: str = "",
    runs: str | Path = "runs",
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 0,
    command: str = "",
) -> Run:
    """Train a method on preferences, all seeds side by side.

    On a CPU the process keeps the memory that training frees, from then on (docs/performance.md).

    Args:
        data: a dataset card's name or path, a preference file, or preferences in memory.
        method: a name (`cpl-bench list algos`), or `module:ENTRY` of your own.
        settings: fields of the method's config: {"lam": 0.5, "policy": {"hidden": [64, 64]}}, or
            with dots in the names: {"policy.hidden": [64, 64]}.
        preset: what the other fields are: laptop, paper, or auto (paper on a GPU).
        seeds: how many members, numbered from 0, or their numbers.
        task: where policies are rolled out, if not where the data come from; "" nowhere.
        device: auto, cpu, cuda or cuda:N.
        precision: auto, fp32, tf32 or bf16: what matrix products are computed in.
        threads: torch's while it trains; 0 leaves them as they are.
        evaluate_every: gradient steps between evaluations; 0: as the preset has it.
        episodes: episodes a seed in each evaluation; 0 trains without a simulator.
        note: added to the run folder's name.
        title: the name in tables and figures; the method's own by default.
        runs: where run folders are made.
        resume: continue a run that was cut off.
        overwrite: delete a run of the same name first.
        workers: rollout processes; 0 for one a processor.
        command: what the record says that made the run.

    Raises:
        UserError: whatever cannot be, before anything is trained.
    """
    [run] = _train(
        {},
        data=data,
        method=method,
        settings=settings,
        preset=preset,
        seeds=seeds,
        task=task,
        device=device,
        precision=precision,
        threads=threads,
        evaluate_every=evaluate_every,
        episodes=episodes,
        note=note,
        title=title,
        runs=runs,
        resume=resume,
        overwrite=overwrite,
        workers=workers,
        command=command,
    )
    return run


def train_grid(
    data: str | Path | Preferences,
    method: str,
    vary: Mapping[str, Sequence[float]],
    **options: Any,
) -> list[Run]:
    """Train every choice of some settings, each with all seeds, side by side as one training.

    Args:
        data: as of `train`.
        method: likewise.
        vary: settings with the numbers that each takes: {"lam": [0.25, 0.5, 0.75, 1]}.
        options: the others of `train`; a choice's numbers are added to `note` and `title`.

    Returns:
        a run each, in the order of `itertools.product`; each has a folder of its own.

    Raises:
        UserError: as `train`, and for a setting that members cannot differ in.
    """
    asked = signature(train).bind(data, method, **options)
    asked.apply_defaults()
    if not vary:
        raise UserError("vary names settings with their numbers: {'lam': [0.25, 0.5, 1]}.")
    return _train(vary, **asked.arguments)


def _train(
    vary: Mapping[str, Sequence[float]],
    *,
    data: str | Path | Preferences,
    method: str,
    settings: Mapping[str, Any] | None,
    preset: str,
    seeds: int | Sequence[int],
    task: str | None,
    device: str,
    precision: str,
    threads: int,
    evaluate_every: int,
    episodes: int,
    note: str,
    title: str,
    runs: str | Path,
    resume: bool,
    overwrite: bool,
    workers: int,
    command: str,
) -> list[Run]:
    """A run each choice of the varied settings; one, if nothing is varied."""
    from cpl_bench.learning.methods import EVALUATE_EVERY, configured
    from cpl_bench.learning.precision import choose_precision
    from cpl_bench.runs.grid import train_grid as fit_all
    from cpl_bench.runs.options import TrainOptions, choose_device
    from cpl_bench.runs.points import grid
    from cpl_bench.runs.train import train as fit

    found = choose_device(device)  # refuse before data are made
    choose_precision(precision, found)
    if preset == "auto":
        preset = "paper" if found.type == "cuda" else "laptop"
    config = configured(method, preset, nested(settings or {}))
    if isinstance(seeds, int):
        check_count("seeds", seeds, 1, MEMBERS)
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else seeds
    if isinstance(numbers, str | float) or not all(isinstance(each, int) for each in numbers):
        raise UserError(f"seeds is how many, or whole numbers from 0; got {shown(seeds)}.")
    options = TrainOptions(
        seeds=tuple(numbers),
        device=device,
        precision=precision,
        threads=threads,
        evaluate_every=evaluate_every or EVALUATE_EVERY.get(preset, 500),
        episodes=episodes,
        note=note,
        method=title,
        runs=Path(runs),
        resume=resume,
        overwrite=overwrite,
    )
    if vary:
        grid("data", method, config, vary, options)  # refuse before data are made
    check_writable(options.runs)
    with RolloutPool(workers or None) as pool:
        if isinstance(data, Preferences):
            name, preferences = data.info.card or "data", data
        else:
            name, preferences = find_preferences(data, pool)
        where = task_of(preferences, task, simulated=episodes > 0)
        told = (options, pool, where, command)
        if vary:
            return [*map(Run, fit_all(preferences, name, method, config, vary, *told))]
        return [Run(fit(preferences, name, method, config, *told))]
