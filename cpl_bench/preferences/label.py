"""The verb `label`: trajectories become preferences.

Segments are drawn from all episodes alike, uniformly over an episode's time; a scorer gives each a
number, an annotator turns two numbers into an answer. Dense data keep only the scores; sparse data
compare segment 2i with segment 2i + 1; ranked data segments iK … iK + K − 1 with each other.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from cpl_bench.core.cards import load_task
from cpl_bench.core.dataset_cards import DatasetCard, Label, Segments
from cpl_bench.core.errors import UserError, unknown_name
from cpl_bench.core.folders import data_root
from cpl_bench.core.pairs import Pairs, pairs_within
from cpl_bench.core.progress import say
from cpl_bench.core.seeds import generator
from cpl_bench.core.versions import installed
from cpl_bench.preferences.annotators import ANNOTATORS
from cpl_bench.preferences.file import load_preferences, write_preferences
from cpl_bench.preferences.format import PreferenceInfo, Preferences
from cpl_bench.preferences.scorers import SCORERS
from cpl_bench.preferences.segments import draw_segments, segments_of
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.trajectories.dataset import TrajectorySet
from cpl_bench.trajectories.formats.minari import read_record, read_trajectories


def preference_path(card: DatasetCard) -> Path:
    """Where `label` writes the preferences of a card."""
    cut = card.segments
    pairs = f"{cut.pairs}{cut.ranked_size or ''}"
    name = f"{card.label.scorer}-{cut.count}x{cut.length}-{pairs}.safetensors"
    return data_root() / "preferences" / card.name / name


def with_options(
    card: DatasetCard,
    scorer: str | None = None,
    annotator: str | None = None,
    segments: int | None = None,
    segment_length: int | None = None,
    pairs: Pairs | None = None,
    ranked_size: int | None = None,
) -> DatasetCard:
    """The card with some of its labelling replaced; other pairs drop the card's `ranked_size`.

    Raises:
        UserError: an unknown scorer or annotator, or numbers that cannot be.
    """
    before, kind = card.segments, pairs or card.segments.pairs
    if ranked_size is None:
        ranked_size = before.ranked_size if kind == before.pairs else 0
    cut = Segments(
        before.count if segments is None else segments,
        before.length if segment_length is None else segment_length,
        kind,
        ranked_size,
    )
    label = replace(
        card.label,
        scorer=scorer or card.label.scorer,
        annotator=annotator or card.label.annotator,
    )
    check_labelling(card.task, cut, label)
    return replace(card, segments=cut, label=label)


def is_labelled(card: DatasetCard) -> bool:
    """Whether the preferences lie on disk and were made from the trajectories that lie there."""
    path = preference_path(card)
    if not path.is_file():
        return False
    try:
        info = load_preferences(path).info
    except UserError:  # damaged: to be made again
        return False
    return (
        info.source_hash == read_record(card.minari_id).get("content_hash")
        and info.annotator == card.label.annotator
        and info.seeds == {"segments": card.seed}
        and info.scorer_settings == _scorer_settings(card.label)
        and info.annotator_settings == _annotator_settings(card.segments)
    )


def label(card: DatasetCard, pool: RolloutPool) -> Path:
    """Label the collected trajectories of a card; returns the preference file.

    Raises:
        UserError: no trajectories, an unknown scorer or annotator, or segments longer than every
            episode.
    """
    check_labelling(card.task, card.segments, card.label)
    task, cut = load_task(card.task), card.segments
    source = read_trajectories(card.minari_id)
    starts = draw_segments(
        source.episode_ends, cut.length, cut.count, generator("segments", card.seed)
    )
    segments = segments_of(source, starts, cut.length)
    scores = SCORERS[card.label.scorer](segments, task, card.label, pool)
    preferences = _assemble(card, source, starts, scores)
    path = preference_path(card)
    write_preferences(path, preferences)
    say(
        f"Labelled {cut.count} segments of {cut.length} steps by {card.label.scorer}, "
        f"{cut.pairs}, mean score {scores.mean():.1f} → {path}"
    )
    return path


def _assemble(
    card: DatasetCard, source: TrajectorySet, starts: np.ndarray, scores: np.ndarray
) -> Preferences:
    cut = card.segments
    together = cut.ranked_size or 2
    questions = 0 if cut.pairs == "dense" else len(starts) // together
    first, second = pairs_within(questions, together)
    answers = ANNOTATORS[card.label.annotator](scores[first], scores[second])
    packages = {name: version(name) for name in ("cpl-bench", "numpy", "gymnasium")}
    info = PreferenceInfo(
        card=card.name,
        task=card.task,
        segment_length=cut.length,
        pairs=cut.pairs,
        source=card.minari_id,
        source_hash=source.record.get("content_hash", ""),
        scorer=card.label.scorer,
        annotator=card.label.annotator,
        scorer_settings=_scorer_settings(card.label),
        annotator_settings=_annotator_settings(cut),
        seeds={"segments": card.seed},
        versions=packages | installed(load_task(card.task)),
        command=_command(card),
    )
    trajectories = source.trajectories
    return Preferences(
        observations=np.concatenate([each.observations[:-1] for each in trajectories]),
        actions=np.concatenate([each.actions for each in trajectories]),
        rewards=np.concatenate([each.rewards for each in trajectories]).astype(np.float32),
        episode_ends=source.episode_ends.astype(np.int64),
        segment_starts=starts.astype(np.int64),
        scores=scores.astype(np.float64),
        first=first,
        second=second,
        prefers_second=np.asarray(answers, np.float32),
        successes=np.concatenate([each.successes for each in trajectories]).astype(np.uint8),
        info=info,
    )


def _command(card: DatasetCard) -> str:
    """The command line that makes the same file."""
    cut = card.segments
    ranked = f" --ranked-size {cut.ranked_size}" if cut.ranked_size else ""
    return (
        f"cpl-bench label {card.name} --scorer {card.label.scorer} "
        f"--annotator {card.label.annotator} --segments {cut.count} "
        f"--segment-length {cut.length} --pairs {cut.pairs}{ranked}"
    )


def _scorer_settings(label: Label) -> dict[str, int]:
    return {"cap_steps": label.cap_steps} if label.scorer == "regret" else {}


def _annotator_settings(cut: Segments) -> dict[str, int]:
    return {"ranked_size": cut.ranked_size} if cut.pairs == "ranked" else {}


def check_labelling(task: str, cut: Segments, label: Label) -> None:
    """Refuse what cannot be labelled, before anything is collected for it.

    Raises:
        UserError: an unknown scorer or annotator, segments that no episode holds, or a ranked_size
            that doesn't go with the pairs.
    """
    if label.scorer not in SCORERS:
        raise unknown_name("scorer", label.scorer, SCORERS)
    if label.annotator not in ANNOTATORS:
        raise unknown_name("annotator", label.annotator, ANNOTATORS)
    if cut.count < 2 or cut.length < 1:
        raise UserError(
            f"Expected at least 2 segments of at least 1 step, not {cut.count} of {cut.length}."
        )
    if cut.misranked:
        raise UserError(f"{cut.misranked}. Choose with --pairs ranked --ranked-size K.")
    horizon = load_task(task).horizon_steps
    if cut.length > horizon:
        raise UserError(
            f"A segment of {cut.length} steps is longer than an episode of {task}, {horizon} steps."
        )
