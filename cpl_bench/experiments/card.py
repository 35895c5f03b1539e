"""Published experiments: which methods meet on which datasets, read from TOML.

They lie in `results/` of a checkout, beside the evidence they gave; a wheel carries the
specifications inside the package.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cpl_bench.core import folders
from cpl_bench.core.cards import named_table
from cpl_bench.core.counts import CELLS, EPISODES, MEMBERS, SEED, STEPS, check_count
from cpl_bench.core.errors import UserError, unknown_name
from cpl_bench.core.names import NAME, check_folder, check_line
from cpl_bench.core.toml import build, merged


@dataclass(frozen=True)
class Method:
    """One line of an experiment's table: an algorithm and its settings."""

    name: str
    """In table and figure."""
    algorithm: str
    """A name in `cpl_bench.learning.methods.ALGOS`, of a package's, or `module:ENTRY`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of the algorithm's config that differ from the preset, nested as it is."""

    def __post_init__(self) -> None:
        check_line("a method's name", self.name)
        check_line("a method's algorithm", self.algorithm)


@dataclass(frozen=True)
class Experiment:
    """A published experiment, `results/NAME/experiment.toml`: datasets × methods × seeds."""

    name: str
    datasets: tuple[str, ...]
    """Dataset cards, by name, or by a path from the experiment's folder."""
    methods: tuple[Method, ...]
    seeds: int
    """Members of each run."""
    final_episodes: int
    """Test episodes a seed for the last checkpoint; 0: none are run, as is right for tuning."""
    first_seed: int = 0
    """The members' numbers go on from here."""
    episodes: int = 25
    """Monitoring episodes a seed in each evaluation during training."""
    evaluate_every: int = 0
    """Gradient steps between those evaluations; 0: as the preset says."""
    preset: Literal["laptop", "paper"] = "laptop"
    settings: dict[str, Any] = field(default_factory=dict)
    """Of every method, on top of the preset; a method's own come on top of these."""
    description: str = ""
    title: str = ""
    video: bool = False
    """Render one episode of the best policy at the end."""

    def __post_init__(self) -> None:
        check_folder("an experiment's name", self.name)
        check_line("title", self.title)
        for dataset in self.datasets:  # what is made of it is called as the card is
            if not NAME.fullmatch(Path(dataset).stem if dataset.endswith(".toml") else dataset):
                raise unknown_name("dataset", dataset, (), "It is a card's name or path.")
        if not self.datasets or not self.methods:
            raise UserError("an experiment names at least a dataset and a method.")
        check_count("datasets times methods", len(self.datasets) * len(self.methods), 1, CELLS)
        check_count("seeds", self.seeds, 1, MEMBERS)
        check_count("first_seed", self.first_seed, 0, SEED - MEMBERS)
        check_count("episodes", self.episodes, 1, EPISODES)
        check_count("final_episodes", self.final_episodes, 0, EPISODES)
        check_count("evaluate_every", self.evaluate_every, 0, STEPS)


def load_experiment(name: str) -> Experiment:
    """The experiment in the folder `name`, or the published one of that name.

    Raises:
        UserError: no such experiment, or a file that is wrong.
    """
    path = Path(name) / "experiment.toml"
    if not folders.is_file(path):
        path = folders.card_folder("results") / name / "experiment.toml"
    if not folders.is_file(path):
        known = [
            found.parent.name for found in folders.card_folder("results").glob("*/experiment.toml")
        ]
        raise unknown_name(
            "experiment", name, known, "An experiment is results/NAME/experiment.toml."
        )
    own = path.parent.name  # of `.` and `..`, what is meant
    table = named_table(own if own not in ("", "..") else path.resolve().parent.name, path)
    datasets = table.get("datasets")
    if isinstance(datasets, list):  # a card's path leads from the experiment's folder
        beside = [path.parent / str(name) for name in datasets]
        table["datasets"] = [
            folders.shown(card) if str(name).endswith(".toml") and folders.is_file(card) else name
            for name, card in zip(datasets, beside, strict=True)
        ]
    return _shared(build(Experiment, table, path))


def _shared(experiment: Experiment) -> Experiment:
    """The experiment with the settings of all methods written into each."""
    methods = tuple(
        replace(method, settings=merged(experiment.settings, method.settings))
        for method in experiment.methods
    )
    return replace(experiment, methods=methods, settings={})


def experiment_folder(name: str) -> Path | None:
    """Where an experiment's evidence is published: its own folder, if it can be written to."""
    for folder in (Path(name), folders.CHECKOUT / "results" / name):
        if (folder / "experiment.toml").is_file():
            return folder
    return None
