"""Cells: an experiment's units of work. A launcher only decides where and when each runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpl_bench.core.dataset_cards import load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.core.names import slug
from cpl_bench.core.progress import say
from cpl_bench.experiments.card import Experiment, Method
from cpl_bench.experiments.make import check_card, find_preferences, task_of
from cpl_bench.learning.config import MethodConfig
from cpl_bench.learning.methods import EVALUATE_EVERY, configured
from cpl_bench.preferences.labelling import planned_info
from cpl_bench.runs.checks import check_method
from cpl_bench.runs.evaluate import evaluate
from cpl_bench.runs.options import EPISODES, TrainOptions
from cpl_bench.runs.record import as_table, read_record
from cpl_bench.runs.train import folder_name, train
from cpl_bench.tasks.pool import RolloutPool


@dataclass(frozen=True)
class Cell:
    """One method on one dataset, all its members: trained, and evaluated on test episodes."""

    dataset: str
    """A dataset card's name, or the path of one."""
    method: Method
    preset: str
    seeds: int
    """How many members."""
    final_episodes: int
    """Test episodes a seed; 0 for none."""
    first_seed: int = 0
    """The members' first number."""
    episodes: int = EPISODES
    """Monitoring episodes a seed in each evaluation during training."""
    evaluate_every: int = 0
    """Gradient steps between those; 0: as the preset says."""

    @property
    def members(self) -> tuple[int, ...]:
        """Their numbers."""
        return tuple(range(self.first_seed, self.first_seed + self.seeds))

    @property
    def config(self) -> MethodConfig:
        """The method's, as the preset and the settings have it."""
        return configured(self.method.algorithm, self.preset, self.method.settings)

    @property
    def steps_between(self) -> int:
        """Gradient steps between evaluations, the preset's number put in."""
        return self.evaluate_every or EVALUATE_EVERY[self.preset]

    @property
    def folder(self) -> Path:
        """The run's, below where the experiment's runs are."""
        name = Path(self.dataset).stem  # as the card is called
        return Path(name) / folder_name(self.method.algorithm, slug(self.method.name))

    @property
    def command(self) -> str:
        """The `train` command that makes the same run by hand."""
        words = ["cpl-bench", "train", "--data", self.dataset, "--seeds", str(self.seeds)]
        words += ["--preset", self.preset, "--note", slug(self.method.name)]
        words += ["--title", self.method.name]
        if self.first_seed:
            words += ["--first-seed", str(self.first_seed)]
        if self.episodes != EPISODES:
            words += ["--episodes", str(self.episodes)]
        if self.evaluate_every:
            words += ["--evaluate-every", str(self.evaluate_every)]
        words.append(self.method.algorithm)
        return shlex.join([*words, *_options(self.method.settings)])


Launcher = Callable[[Sequence[Cell], Path, RolloutPool], dict[Path, str]]
"""Runs the cells, each into its folder below the path; what stopped those that were stopped."""


def cells(experiment: Experiment) -> list[Cell]:
    """Dataset by dataset, every method."""
    return [
        Cell(
            dataset,
            method,
            experiment.preset,
            experiment.seeds,
            experiment.final_episodes,
            experiment.first_seed,
            experiment.episodes,
            experiment.evaluate_every,
        )
        for dataset in experiment.datasets
        for method in experiment.methods
    ]


def one_by_one(todo: Sequence[Cell], out: Path, pool: RolloutPool) -> dict[Path, str]:
    """The launcher of this machine: a cell that cannot go on does not stop the others."""
    problems = {}
    for cell in todo:
        try:
            run_cell(cell, out, pool)
        except UserError as problem:
            say(f"{cell.folder} stops, the others go on: {problem}")
            problems[cell.folder] = str(problem)
    return problems


def run_cell(cell: Cell, out: Path, pool: RolloutPool) -> Path:
    """Make what a cell needs, train and evaluate it; returns the run folder.

    A run that was cut off is resumed; nothing that is on disk is done again.
    """
    name, preferences = find_preferences(cell.dataset, pool)
    method = cell.method
    options = TrainOptions(
        seeds=cell.members,
        note=slug(method.name),
        method=method.name,
        runs=out,
        resume=True,
        evaluate_every=cell.steps_between,
        episodes=cell.episodes,
    )
    task = task_of(preferences)
    data, algorithm = (preferences, name), method.algorithm
    run = train(*data, algorithm, cell.config, options, pool, task, cell.command)
    if cell.final_episodes:
        evaluate(run, pool, cell.final_episodes)
    return run


def check_cells(todo: Sequence[Cell], out: Path | None = None) -> None:
    """Refuse whatever of the cells cannot be run, before anything is collected for them.

    Raises:
        UserError: the first thing that is wrong: a card, a task, a method, a setting, data that do
            not hold what a method needs, or a run of other settings in a cell's folder.
    """
    folders = [cell.folder for cell in todo]
    if len(set(folders)) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise UserError(f"Two methods would share the folder {twice}: give them different names.")
    names = [(cell.folder.parent, cell.method.name) for cell in todo]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)[1]
        raise UserError(f"Two methods are called '{twice}': a table has one line for each.")
    for dataset in dict.fromkeys(cell.dataset for cell in todo):
        check_card(load_dataset_card(dataset))
    for cell in todo:
        card, method = load_dataset_card(cell.dataset), cell.method
        config = cell.config
        check_method(method.algorithm, config, planned_info(card), rewards=True)
        if out and ((folder := out / cell.folder) / "run.json").is_file():
            before = read_record(folder)
            if before.config != as_table(config) or before.seeds != cell.members:
                raise UserError(
                    f"{folder} holds a run of '{method.name}' with other settings or seeds. Move "
                    "it away, or give the method another name."
                )


def _options(settings: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Settings as the command line has them: --policy.hidden 256 256."""
    for key, value in settings.items():
        name = key.replace("_", "-")
        if isinstance(value, Mapping):
            yield from _options(value, f"{where}{name}.")
        elif isinstance(value, bool):
            yield f"--{where}{name}" if value else f"--{where}no-{name}"
        else:
            values = value if isinstance(value, list | tuple) else [value]
            yield from (f"--{where}{name}", *map(str, values))
