"""What `cpl-bench list` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path

from cpl_bench.core.cards import task_cards
from cpl_bench.core.dataset_cards import dataset_names, load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.preferences.labelling import preference_path
from cpl_bench.runs.folder import RunFolder


def tasks() -> Iterator[str]:
    """Name, Gymnasium id, horizon, description, reference numbers."""
    for name, card in task_cards().items():
        yield f"{name:<27}{card.env_id:<39}{card.horizon_steps:>4} steps  {card.description}"
        if card.references:
            yield f"{'':<27}{card.references}"


def datasets() -> Iterator[str]:
    """Name, description, and what of it lies on disk."""
    from cpl_bench.trajectories.formats.minari import minari_folder

    for name in dataset_names():
        card = load_dataset_card(name)
        there = (minari_folder(card.minari_id) / "data").is_dir()
        made = ("imported" if card.source else "collected") if there else ""
        made = "labelled" if preference_path(card).is_file() else made
        about = f"import of {card.source}" if card.source else card.description
        yield f"{name:<27}{about:<66}{made}"


def algos() -> Iterator[str]:
    """Name and summary."""
    from cpl_bench.learning.methods import summaries

    for name, summary in summaries().items():
        yield f"{name:<27}{summary}"


def scorers() -> Iterator[str]:
    """Name and the first line of the docstring."""
    from cpl_bench.preferences.scorers import GROUP, SCORERS

    yield from _functions(SCORERS, GROUP)


def annotators() -> Iterator[str]:
    """Name and the first line of the docstring."""
    from cpl_bench.preferences.annotators import ANNOTATORS, GROUP

    yield from _functions(ANNOTATORS, GROUP)


def _functions(ours: Mapping[str, Callable[..., object]], group: str) -> Iterator[str]:
    """Ours with the first line of their docstrings, and those of installed packages."""
    for name, function in ours.items():
        yield f"{name:<27}{(function.__doc__ or '').splitlines()[0]}"
    for point in entry_points(group=group):
        yield f"{point.name:<27}from {point.value}"


def runs() -> Iterator[str]:
    """Run folders below runs/, with their progress."""
    for path in sorted(Path("runs").rglob("run.json")):
        try:
            record = RunFolder(path.parent).read()
        except UserError as problem:
            yield str(problem)
            continue
        reached = max(RunFolder(path.parent).checkpoint_steps(), default=0)
        yield f"{path.parent!s:<47}{record.method:<16}step {reached} of {record.steps}"


KINDS: dict[str, Callable[[], Iterator[str]]] = {
    "tasks": tasks,
    "datasets": datasets,
    "algos": algos,
    "scorers": scorers,
    "annotators": annotators,
    "runs": runs,
}
