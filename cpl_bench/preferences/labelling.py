"""How a card is labelled: what decides a preference file, its name, and what cannot be.

The verb is `cpl_bench.preferences.label`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from cpl_bench.core.dataset_cards import DatasetCard, Labelling, Segments
from cpl_bench.core.errors import UserError, unknown_name
from cpl_bench.core.folders import data_root, shown
from cpl_bench.core.names import file_part
from cpl_bench.core.pairs import Pairs
from cpl_bench.core.versions import installed
from cpl_bench.preferences.annotators import DISCOUNTS, check_annotator
from cpl_bench.preferences.format import PreferenceInfo
from cpl_bench.preferences.scorers import STEPWISE, check_scorer
from cpl_bench.preferences.teachers import without_scale
from cpl_bench.tasks.registry import find_task


def preference_path(card: DatasetCard) -> Path:
    """Where `label` writes the preferences of a card: the name holds everything that decides them.

    regret-cap_steps200-2500x64-dense-oracle-seed0.safetensors

    What comes with its answers is called as the file that it comes from.
    """
    cut, how = card.segments, card.labelling
    if card.source is not None and card.source.answered:
        name = file_part(Path(card.source.id).stem)
        return data_root() / "preferences" / card.name / f"{name}.safetensors"
    parts = [
        _scored(card),
        f"{cut.pairs}{cut.ranked_size or (cut.comparisons if cut.comparisons > 1 else '')}",
        file_part(how.annotator),
        *_shown(how.annotator_settings),
        f"seed{card.seed}",
    ]
    return data_root() / "preferences" / card.name / f"{'-'.join(parts)}.safetensors"


def paths_scored_alike(card: DatasetCard) -> list[Path]:
    """Other preference files of this card, and of the one it extends, that have its scores."""
    folders = {card.name, Path(card.extends).stem or card.name}
    name = f"{_scored(card)}-*-seed{card.seed}.safetensors"
    return [
        path
        for folder in sorted(folders)
        for path in sorted((data_root() / "preferences" / folder).glob(name))
        if path != preference_path(card)
    ]


def _scored(card: DatasetCard) -> str:
    """The part of a file's name that decides the scores, with the seed."""
    cut, how = card.segments, card.labelling
    parts = [file_part(how.scorer), *_shown(scorer_settings(how)), f"{cut.count}x{cut.length}"]
    return "-".join(parts)


def with_options(
    card: DatasetCard,
    scorer: str | None = None,
    annotator: str | None = None,
    segments: int | None = None,
    segment_length: int | None = None,
    pairs: Pairs | None = None,
    ranked_size: int | None = None,
    annotator_settings: Mapping[str, float] | None = None,
    comparisons: int | None = None,
    discount: float | None = None,
    scorer_settings: Mapping[str, Any] | None = None,
) -> DatasetCard:
    """The card with some of its labelling replaced; what belongs to what was replaced is dropped:
    `ranked_size` and `comparisons` with other pairs, the settings of another annotator or scorer.

    Raises:
        UserError: an unknown scorer or annotator, or numbers that cannot be.
    """
    if card.source is not None and card.source.answered:
        asked = [segments, segment_length, pairs, ranked_size, comparisons, scorer, annotator]
        asked += [annotator_settings, scorer_settings, discount]
        if any(each is not None for each in asked):
            raise UserError(f"{card.name} comes with its segments and answers; import it as it is.")
        return card
    before, kind = card.segments, pairs or card.segments.pairs
    if ranked_size is None:
        ranked_size = before.ranked_size if kind == before.pairs else 0
    if comparisons is None:
        comparisons = before.comparisons if kind == before.pairs else 1
    cut = Segments(
        before.count if segments is None else segments,
        before.length if segment_length is None else segment_length,
        kind,
        ranked_size,
        comparisons,
    )
    how = card.labelling
    if annotator_settings is None:
        kept = annotator in (None, how.annotator)
        annotator_settings = how.annotator_settings if kept else {}
    if scorer_settings is None:
        scorer_settings = how.scorer_settings if scorer in (None, how.scorer) else {}
    labelling = replace(
        how,
        scorer=scorer or how.scorer,
        annotator=annotator or how.annotator,
        annotator_settings=dict(annotator_settings),
        discount=how.discount if discount is None else discount,
        scorer_settings=dict(scorer_settings),
    )
    check_labelling(card.task, cut, labelling)
    changed, published = replace(card, segments=cut, labelling=labelling), card.published
    if changed != card and published.card == card.fingerprint:  # it names its own labels' hash
        published = replace(published, card=changed.fingerprint, preferences="", arrays={})
    return replace(changed, published=published)


def planned_info(card: DatasetCard, source_hash: str = "") -> PreferenceInfo:
    """What a card's preference file will say of itself."""
    cut = card.segments
    packages = {name: version(name) for name in ("cpl-bench", "numpy", "gymnasium")}
    source = card.source
    task = card.task if source is None or source.rolled_out else ""
    if source is not None and source.answered:
        return PreferenceInfo(
            card=card.name,
            task=task,
            segment_length=cut.length,
            pairs=cut.pairs,
            source=str(source),
            source_hash=source_hash,
            scorer=source.score_key,
            annotator=source.answers,
            annotator_settings=source.read_as,
            versions=packages,
            command=f"cpl-bench import {card.file or card.name}",
        )
    return PreferenceInfo(
        card=card.name,
        task=task,
        segment_length=cut.length,
        pairs=cut.pairs,
        source=card.minari_id,
        source_hash=source_hash,
        scorer=card.labelling.scorer,
        annotator=card.labelling.annotator,
        scorer_settings=scorer_settings(card.labelling),
        annotator_settings=card.labelling.annotator_settings,
        ranked_size=cut.ranked_size,
        seeds=seeds_of(card),
        versions=packages | installed(find_task(card.task)),
        command=_command(card),
    )


def is_asked_alike(info: PreferenceInfo, card: DatasetCard) -> bool:
    """Whether some preferences were asked for as the card asks."""
    cut, how = card.segments, card.labelling
    asked = (info.segment_length, info.pairs, info.ranked_size, info.seeds)
    settings = without_scale(info.annotator_settings)
    answered = (info.scorer, info.scorer_settings, info.annotator, settings)
    return (*asked, *answered) == (
        *(cut.length, cut.pairs, cut.ranked_size, seeds_of(card)),
        *(how.scorer, scorer_settings(how), how.annotator, how.annotator_settings),
    )


def _command(card: DatasetCard) -> str:
    """The command line that makes the same file."""
    cut, how = card.segments, card.labelling
    ranked = f" --ranked-size {cut.ranked_size}" if cut.ranked_size else ""
    ranked += f" --comparisons {cut.comparisons}" if cut.comparisons > 1 else ""
    if how.discount != 1:
        ranked += f" --discount {how.discount!r}"
    settings = "".join(f" {name} {value!r}" for name, value in how.annotator_settings.items())
    return (
        f"cpl-bench label {shown(card.file) if card.file else card.name} --scorer {how.scorer} "
        f"--annotator {how.annotator} --segments {cut.count} "
        f"--segment-length {cut.length} --pairs {cut.pairs}{ranked}"
        + (f" --annotator-settings{settings}" if settings else "")
    )


def scorer_settings(labelling: Labelling) -> dict[str, Any]:
    """The settings that decide the scores: scorers that sum over steps alone have no cap."""
    without = labelling.scorer in (*STEPWISE, "return_regret")
    settings: dict[str, Any] = {} if without else {"cap_steps": labelling.cap_steps}
    if (discount := discount_of(labelling)) != 1:
        settings["discount"] = discount
    return settings | labelling.scorer_settings


def discount_of(labelling: Labelling) -> float:
    """The γ that steps are scored with: the card's, or what its annotator is known for."""
    return (
        DISCOUNTS.get(labelling.annotator, 1.0) if labelling.discount == 1 else labelling.discount
    )


def seeds_of(card: DatasetCard) -> dict[str, int]:
    """What each seed decides, and the seed."""
    return {"segments": card.seed, "annotator": card.seed}


def _shown(settings: Mapping[str, Any]) -> list[str]:
    """Settings as parts of a file's name."""
    words = {name: repr(value) for name, value in sorted(settings.items())}
    safe = re.compile(r"[A-Za-z0-9_.+-]+")
    return [f"{k}{v if safe.fullmatch(v) else file_part(v)}" for k, v in words.items()]


def check_labelling(task: str, cut: Segments, labelling: Labelling) -> None:
    """Refuse what cannot be labelled, before anything is collected for it.

    Raises:
        UserError: an unknown scorer or annotator, one that refuses its settings, segments that no
            episode holds, or a ranked_size or comparisons that don't go with the pairs.
    """
    card = find_task(task)
    check_scorer(labelling.scorer, labelling.scorer_settings, card)
    if discount_of(labelling) != 1 and labelling.scorer not in STEPWISE:
        raise UserError(
            f"A discount of {discount_of(labelling)} (a myopic teacher's) takes scores of single "
            f"steps, and {labelling.scorer} scores whole segments. Scorers of steps: "
            f"{', '.join(STEPWISE)}."
        )
    check_annotator(labelling.annotator, labelling.annotator_settings)
    if cut.pairs not in get_args(Pairs):
        raise unknown_name("kind of pairs", cut.pairs, get_args(Pairs))
    if cut.misranked:
        raise UserError(
            f"{cut.misranked}. Choose with --pairs ranked --ranked-size K, or --pairs sparse "
            "--comparisons C."
        )
    if cut.length > card.horizon_steps:
        raise UserError(
            f"A segment of {cut.length} steps is longer than an episode of {task}, "
            f"{card.horizon_steps} steps."
        )
