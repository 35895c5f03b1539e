"""What `cpl-bench list` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path

from cpl_bench.core.cards import task_cards
from cpl_bench.core.columns import aligned
from cpl_bench.core.dataset_cards import dataset_names, load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.preferences.labelling import preference_path
from cpl_bench.runs.folder import RunFolder


def tasks() -> list[str]:
    """Name, Gymnasium id, horizon, description, reference numbers."""
    rows: list[tuple[str, ...]] = []
    for name, card in task_cards().items():
        rows.append(
            (name, card.env_id, f"{card.horizon_steps:>4} steps  {card.description}".rstrip())
        )
        if card.references:
            rows.append(("", card.references))
    return aligned(rows)


def datasets() -> list[str]:
    """Name, description, and what of it lies on disk."""
    from cpl_bench.trajectories.formats.minari import minari_folder

    rows = []
    for name in dataset_names():
        card = load_dataset_card(name)
        there = (minari_folder(card.minari_id) / "data").is_dir()
        made = ("imported" if card.source else "collected") if there else ""
        made = "labelled" if preference_path(card).is_file() else made
        rows.append((name, f"import of {card.source}" if card.source else card.description, made))
    return aligned(rows)


def algos() -> list[str]:
    """Name and summary."""
    from cpl_bench.learning.methods import summaries

    return aligned(list(summaries().items()))


def scorers() -> list[str]:
    """Name and the first line of the docstring."""
    from cpl_bench.preferences.scorers import GROUP, SCORERS

    return _functions(SCORERS, GROUP)


def annotators() -> list[str]:
    """Name and the first line of the docstring."""
    from cpl_bench.preferences.annotators import ANNOTATORS, GROUP

    return _functions(ANNOTATORS, GROUP)


def _functions(ours: Mapping[str, Callable[..., object]], group: str) -> list[str]:
    """Ours with the first line of their docstrings, and those of installed packages."""
    first = {name: (each.__doc__ or "").partition("\n")[0] for name, each in ours.items()}
    theirs = [(point.name, f"from {point.value}") for point in entry_points(group=group)]
    return aligned([*first.items(), *theirs])


def runs() -> list[str]:
    """Run folders below runs/, with their progress."""
    rows: list[tuple[str, ...]] = []
    for path in sorted(Path("runs").rglob("run.json")):
        try:
            record = RunFolder(path.parent).read()
        except UserError as problem:
            rows.append((str(problem),))
            continue
        reached = max(RunFolder(path.parent).checkpoint_steps(), default=0)
        rows.append((str(path.parent), record.method, f"step {reached} of {record.steps}"))
    return aligned(rows)


KINDS: dict[str, Callable[[], list[str]]] = {
    "tasks": tasks,
    "datasets": datasets,
    "algos": algos,
    "scorers": scorers,
    "annotators": annotators,
    "runs": runs,
}
