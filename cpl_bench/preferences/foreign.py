"""The verb `import`, of answers: other people's segments and comparisons become a preference file.

With a card, which says what the file must hold, they can be named like any dataset. Without one
they go to a file of their own.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from cpl_bench.core.dataset_cards import DatasetCard
from cpl_bench.core.errors import UserError
from cpl_bench.core.folders import data_root
from cpl_bench.core.locks import held
from cpl_bench.core.progress import say
from cpl_bench.core.published import short
from cpl_bench.core.sources import Source
from cpl_bench.preferences.file import load_preferences, write_preferences
from cpl_bench.preferences.format import PreferenceInfo, Preferences, preferences_hash
from cpl_bench.preferences.formats.npz import preferences_from_npz
from cpl_bench.preferences.labelling import planned_info, preference_path
from cpl_bench.tasks.registry import check_sizes, find_task
from cpl_bench.trajectories.foreign import sha256_of


def import_answers(card: DatasetCard, where: Path | None = None) -> Path:
    """Import the preferences that a card's source names; returns their file.

    Args:
        card: with a source that comes with its answers.
        where: the file, if it lies neither beside the card nor where data do.

    Raises:
        UserError: no such file, a damaged or another one, or one that holds something else than the
            card says.
    """
    source, target = card.source, preference_path(card)
    assert source is not None and source.answered
    path = where or _beside(card, source)
    digest = sha256_of(path) if path.is_file() else ""
    if digest and source.sha256 not in ("", digest):
        raise UserError(
            f"{path} has the SHA-256 {short(digest)}, and {card.path} wants "
            f"{short(source.sha256)}: another version of it, or a damaged one."
        )
    found = preferences_from_npz(
        path,
        label_one_means=source.label_one_means,
        score_key=source.score_key,
        pairs=card.segments.pairs,
        task=card.task,
        name=card.name,
        annotator=source.annotator,
    )
    _check(card, found, path)
    with held(target):
        _write(target, found, planned_info(card, digest))
    return target


def is_answered(card: DatasetCard) -> bool:
    """Whether the card's preferences lie on disk, from the file that it names."""
    path = preference_path(card)
    if not path.is_file():
        return False
    info, wanted = load_preferences(path).info, planned_info(card)
    named = card.source.sha256 if card.source is not None else ""
    same = replace(info, source_hash="", preferences_hash="", versions=wanted.versions) == wanted
    return same and named in ("", info.source_hash)


def write_imported(
    path: Path, preferences: Preferences, origin: str, source_hash: str, command: str
) -> None:
    """Write imported preferences without a card, and say what they are.

    Args:
        path: of the preference file.
        preferences: as read.
        origin: what they came from: its kind and its name.
        source_hash: the SHA-256 of that.
        command: the command line.

    Raises:
        UserError: they do not fit their task, or other preferences lie at `path`.
    """
    info = replace(
        preferences.info,
        source=origin,
        source_hash=source_hash,
        versions={name: version(name) for name in ("cpl-bench", "numpy")},
        command=command,
    )
    if path.is_file() and load_preferences(path).info.preferences_hash != preferences_hash(
        preferences
    ):
        raise UserError(f"{path} holds other preferences. Name another file with --out.")
    if info.task:
        _check_task(preferences, info.task, origin)
    _write(path, preferences, info)


def _write(path: Path, preferences: Preferences, info: PreferenceInfo) -> None:
    write_preferences(path, replace(preferences, info=info))
    k, count = info.segment_length, len(preferences.segment_starts)
    compared = "dense" if info.pairs == "dense" else f"{len(preferences.first):,} comparisons"
    say(
        f"Imported {info.source}: {count:,} segments of {k} steps, {compared}, answered by "
        f"{info.annotator} → {path}"
    )


def _beside(card: DatasetCard, source: Source) -> Path:
    """Where a card's file is looked for: beside a card of one's own, else where data lie."""
    folder = Path(card.file).parent if card.file else data_root()
    if not (folder / source.id).is_file():
        raise UserError(
            f"{card.name} is imported from {source.id}, which is not in {folder}. Get it, then: "
            f"cpl-bench import {card.file or card.name} --source PATH"
        )
    return folder / source.id


def _check(card: DatasetCard, found: Preferences, path: Path) -> None:
    """Refuse a file that holds something else than the card says."""
    cut = card.segments
    wanted, held_ = (
        f"{count} segments of {length} steps, {pairs}"
        for count, length, pairs in (
            (cut.count, cut.length, cut.pairs),
            (len(found.segment_starts), found.info.segment_length, found.info.pairs),
        )
    )
    if wanted != held_:
        raise UserError(f"{path} holds {held_}; {card.path} says {wanted}.")
    _check_task(found, card.task, str(path))


def _check_task(found: Preferences, task: str, whose: str) -> None:
    sizes = found.observations.shape[1], found.actions.shape[1]
    check_sizes(find_task(task), sizes, whose)
