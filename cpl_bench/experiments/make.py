"""What is missing is made: from a dataset's name to its trajectories and its preferences."""

from __future__ import annotations

from pathlib import Path

from cpl_bench.core.dataset_cards import DatasetCard, load_dataset_card
from cpl_bench.core.progress import say
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.label import check_labelling, is_labelled, label, preference_path
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.trajectories.collect import collect, is_collected


def ensure_trajectories(card: DatasetCard, pool: RolloutPool) -> None:
    """Collect unless this card's trajectories lie on disk."""
    if not is_collected(card):
        say(f"No trajectories of {card.name} yet: collecting {card.episodes} episodes (minutes).")
        collect(card, pool)


def ensure_preferences(card: DatasetCard, pool: RolloutPool) -> Path:
    """Label, and collect, unless this card's preferences lie on disk."""
    check_labelling(card.task, card.segments, card.label)
    ensure_trajectories(card, pool)
    if not is_labelled(card):
        say(
            f"No {card.label.scorer} preferences of {card.name} yet: labelling "
            f"{card.segments.count} segments (minutes)."
        )
        label(card, pool)
    return preference_path(card)


def find_preferences(data: str, pool: RolloutPool) -> tuple[str, Path]:
    """A dataset's name and its preference file; `data` names a card or is such a file.

    Raises:
        UserError: neither.
    """
    if data.endswith(".safetensors"):
        path = Path(data)
        return f"{load_preferences(path).info.card}-{path.stem}".lstrip("-"), path
    card = load_dataset_card(data)
    return card.name, ensure_preferences(card, pool)
