"""The verb `import`, of answers: other people's segments and comparisons become a preference file.

With a card, which says what the file must hold, they can be named like any dataset. Without one
they go to a file of their own.
"""

from __future__ import annotations

from dataclasses import replace
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
from cpl_bench.trajectories.fit import hint_for
from cpl_bench.trajectories.foreign import sha256_of


def import_answers(card: DatasetCard, where: Path | None = None) -> Path:
    """Import the preferences that a card's source names; returns their file.

    Args:
        card: with a source that comes with its answers.
        where: the file, if it lies neither beside the card nor where data do.

    Raises:
        UserError: no such file, a damaged or another one, or one that holds something else than the
            card says; or what another card imported lies in the place.
    """
    source, target = card.source, preference_path(card)
    assert source is not None and source.answered
    there, planned = _info_at(target), planned_info(card)
    if there is not None and there.command != planned.command:
        raise UserError(
            f"{target} holds the answers of another card of the same name (made with "
            f"{there.command}, not {planned.command}). Give the card another name, or point "
            "MINARI_DATASETS_PATH elsewhere."
        )
    path = where or place_of(card, source)
    if where is None and not path.is_file():
        raise UserError(
            f"{card.name} is imported from {source.id}, which is not in {path.parent}. Get it, "
            f"then: cpl-bench import {card.file or card.name} --source PATH"
        )
    digest = sha256_of(path) if path.is_file() else ""
    if digest and source.sha256 not in ("", digest):
        raise UserError(
            f"{path} has the SHA-256 {short(digest)}, and {card.path} wants "
            f"{short(source.sha256)}: another version of it, or a damaged one."
        )
    found = preferences_from_npz(
        path,
        label_one_means=source.label_one_means,
        ties=source.ties,
        label_key=source.label_key,
        score_key=source.score_key,
        pairs=card.segments.pairs,
        task=card.task,
        name=card.name,
        annotator=source.annotator,
    )
    _check(card, found, path)
    with held(target):
        _write(target, found, replace(planned, source_hash=digest))
    return target


def is_answered(card: DatasetCard) -> bool:
    """Whether the card's preferences lie on disk, from the file that it names, as it reads it."""
    info, wanted = _info_at(preference_path(card)), planned_info(card)
    if info is None:
        return False
    named = card.source.sha256 if card.source is not None else ""
    same = replace(info, source_hash="", preferences_hash="", versions=wanted.versions) == wanted
    return same and named in ("", info.source_hash)


def write_imported(path: Path, preferences: Preferences) -> None:
    """Write imported preferences without a card, and say what they are.

    Raises:
        UserError: they do not fit their task, or other preferences lie at `path`.
    """
    info, there = preferences.info, _info_at(path)
    if there is not None and there.preferences_hash != preferences_hash(preferences):
        raise UserError(f"{path} holds other preferences. Name another file with --out.")
    if info.task:
        check_sizes(find_task(info.task), _sizes(preferences), info.source)
    _write(path, preferences, info)


def _info_at(path: Path) -> PreferenceInfo | None:
    """What a preference file says of itself; None of none, or one that is to be written again."""
    try:
        return load_preferences(path).info if path.is_file() else None
    except UserError:  # damaged or of another version
        return None


def _write(path: Path, preferences: Preferences, info: PreferenceInfo) -> None:
    write_preferences(path, replace(preferences, info=info))
    k, count = info.segment_length, len(preferences.segment_starts)
    compared = "dense" if info.pairs == "dense" else f"{len(preferences.first):,} comparisons"
    say(
        f"Imported {info.source}: {count:,} segments of {k} steps, {compared}, answered by "
        f"{info.annotator} → {path}"
    )


def place_of(card: DatasetCard, source: Source) -> Path:
    """Where a card's file is looked for: beside a card of one's own, else where data lie."""
    return (Path(card.file).parent if card.file else data_root()) / source.id


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
    if card.source is not None and card.source.rolled_out:
        check_sizes(find_task(card.task), _sizes(found), str(path), hint_for(card))


def _sizes(found: Preferences) -> tuple[int, int]:
    return found.observations.shape[1], found.actions.shape[1]
