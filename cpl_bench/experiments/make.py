"""What is missing is made: from a dataset's name to its trajectories and its preferences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.dataset_cards import DatasetCard, check_fits, load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.core.files import check_writable, drop_empty
from cpl_bench.core.folders import data_root
from cpl_bench.core.locks import held
from cpl_bench.core.progress import say
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.foreign import import_answers, is_answered
from cpl_bench.preferences.format import Preferences
from cpl_bench.preferences.label import is_labelled, label
from cpl_bench.preferences.labelling import check_labelling, preference_path
from cpl_bench.preferences.published import preferences_verdict, trajectories_verdict
from cpl_bench.preferences.scorers import FORKING
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.tasks.protocol import can_fork, has_expert
from cpl_bench.tasks.registry import check_sizes, find_task, make_task
from cpl_bench.trajectories.checkpoints import checkpoint_file
from cpl_bench.trajectories.collect import collect, is_collected
from cpl_bench.trajectories.foreign import import_trajectories, is_imported
from cpl_bench.trajectories.formats.minari import minari_folder, read_record
from cpl_bench.trajectories.place import check_place


def check_card(card: DatasetCard) -> None:
    """Refuse a dataset that cannot be made, before anything is.

    Raises:
        UserError: labels that cannot be given, data of somebody else's in the place, or a task that
            cannot be made, has no expert to clone, or has none or cannot be forked where the scorer
            forks; successes that nobody wrote down to score by; or checkpoints that aren't there.
    """
    if card.source is not None and card.source.answered:
        return
    check_fits(card, find_task(card.task), card.path)  # unknown till now of one without a card
    check_labelling(card.task, card.segments, card.labelling)
    if card.source is not None:
        if card.labelling.scorer in FORKING:
            raise UserError(
                f"{card.name} is imported, without simulator states, and the scorer "
                f"{card.labelling.scorer} forks there. Label with --scorer partial_return."
            )
        _check_successes(card)
        return check_place(_base(card))
    card = replace(_base(card), labelling=card.labelling)
    if is_collected(card):
        return
    check_place(card)
    task = make_task(find_task(card.task))
    scripted, forkable = has_expert(task), can_fork(task)
    task.close()
    if card.cloned.checkpoints:
        checkpoint_file(card)
    elif not scripted:
        raise UserError(
            f"{card.name} clones an expert, and {card.task} has none (no method expert_action). "
            "Bring preferences of your own, or give the environment one."
        )
    if card.labelling.scorer in FORKING and not scripted:
        raise UserError(
            f"{card.name} is labelled by {card.labelling.scorer}, which is measured against an "
            f"expert, and {card.task} has none. Label with partial_return."
        )
    if card.labelling.scorer in FORKING and not forkable:
        raise UserError(
            f"{card.name} is labelled by {card.labelling.scorer}, which forks the simulator, and "
            f"{card.task} cannot be forked (no get_state and set_state). Label with partial_return."
        )


def _check_successes(card: DatasetCard) -> None:
    """Refuse to score imported data by successes that nobody wrote down, as far as is known yet."""
    base = _base(card)
    if card.labelling.scorer != "success" or base.source is None:
        return
    known = base.source.format != "d4rl"
    if is_imported(base):
        known = (read_record(base.minari_id) or {}).get("knows_successes", known)
    if not known:
        raise UserError(
            f"{card.name} is imported from {base.source}, which does not say where episodes "
            "succeeded, and success is to score them. Label with --scorer partial_return."
        )


def _base(card: DatasetCard) -> DatasetCard:
    """The card whose trajectories a card has: its own, or that of the card that it extends."""
    return load_dataset_card(card.extends) if card.extends else card


def ensure_trajectories(card: DatasetCard, pool: RolloutPool, tell: bool = False) -> None:
    """Collect or import unless this card's trajectories lie on disk; `tell`: say whose bytes in any
    case. They are those of the card that it extends."""
    card = _base(card)
    if card.source is not None:
        return ensure_imported(card)
    there = is_collected(card)
    if not there:
        check_fits(card, find_task(card.task), card.path)
        check_writable(data_root())
        say(f"No trajectories of {card.name} yet: collecting {card.episodes} episodes (minutes).")
        with held(minari_folder(card.minari_id)):
            if not is_collected(card):  # by somebody, meanwhile
                collect(card, pool)
    if tell or not there:
        say(trajectories_verdict(card))


def ensure_imported(card: DatasetCard, where: Path | None = None, download: bool = False) -> None:
    """Import what a card's source names unless it lies on disk; `where` and `download` say how.

    It is that of the card that it extends.

    Raises:
        UserError: it isn't where it is looked for, or cannot be what the card says.
    """
    card = _base(card)
    assert card.source is not None
    if card.source.answered:
        if where or not is_answered(card):
            import_answers(card, where)
    elif where or not is_imported(card):
        import_trajectories(card, where, download)


def ensure_preferences(card: DatasetCard, pool: RolloutPool, tell: bool = False) -> Path:
    """Label, and collect or import, unless this card's preferences lie on disk; `tell` as above."""
    check_card(card)
    if card.source is not None and card.source.answered:
        ensure_imported(card)
        return preference_path(card)
    ensure_trajectories(card, pool, tell)
    _check_successes(card)
    there = is_labelled(card)
    if not there:
        path = preference_path(card)
        check_writable(path.parent)
        say(
            f"No {card.labelling.scorer} preferences of {card.name} yet: labelling "
            f"{card.segments.count} segments (minutes)."
        )
        try:
            with held(path):
                if not is_labelled(card):
                    label(card, pool)
        finally:
            drop_empty(path.parent)
    if tell or not there:
        say(preferences_verdict(card))
    return preference_path(card)


def has_trajectories(data: str) -> bool:
    """Whether the name or path `data` is of trajectories with labels, and not of answers alone.

    Raises:
        UserError: there is no such card.
    """
    if data.endswith(".safetensors"):
        return False
    source = load_dataset_card(data).source
    return source is None or not source.answered


def find_file(data: str | Path, pool: RolloutPool) -> Path:
    """A preference file: the one at the path `data`, or that of a card, made if need be.

    Raises:
        UserError: there is none.
    """
    if str(data).endswith(".safetensors"):
        return Path(data)
    return ensure_preferences(load_dataset_card(str(data)), pool)


def find_preferences(data: str | Path, pool: RolloutPool) -> tuple[str, Preferences]:
    """A dataset's name and its preferences; `data` names a card or is a preference file.

    Raises:
        UserError: neither.
    """
    if str(data).endswith(".safetensors"):
        preferences = load_preferences(data)
        return f"{preferences.info.card}-{Path(data).stem}".lstrip("-"), preferences
    card = load_dataset_card(str(data))
    preferences = load_preferences(ensure_preferences(card, pool))
    if card.published.preferences not in ("", preferences.info.preferences_hash):
        say(
            f"{card.name}: not the published bytes. Where they differ: "
            f"cpl-bench label {card.file or card.name}"
        )
    return card.name, preferences


def task_of(
    preferences: Preferences, named: str | None = None, simulated: bool = True
) -> TaskCard | None:
    """Where policies from these preferences are rolled out; `named` overrules what the file says.

    Sizes are compared only if anything is to be `simulated` there.

    Raises:
        UserError: there is no such task, or its observations are of another size.
    """
    name = preferences.info.task if named is None else named
    if not name:
        return None
    card = find_task(name)
    elsewhere = named is not None or not preferences.info.source.startswith("cpl_bench/")
    if simulated and elsewhere:
        sizes = preferences.observations.shape[1], preferences.actions.shape[1]
        check_sizes(card, sizes, preferences.info.title)
    return card
