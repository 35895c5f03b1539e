"""The verb `label`: trajectories become preferences.

Segments are drawn from all episodes alike, uniformly over an episode's time; a scorer gives each a
number, an annotator turns two numbers into an answer. Dense data keep only the scores; sparse data
compare segment 2i with segment 2i + 1; ranked data segments iK … iK + K − 1 with each other.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from cpl_bench.core.dataset_cards import DatasetCard, Segments
from cpl_bench.core.errors import UserError
from cpl_bench.core.pairs import pair_keys, pairs_in_rounds, pairs_within
from cpl_bench.core.progress import say
from cpl_bench.core.seeds import generator
from cpl_bench.preferences.annotators import find_annotator
from cpl_bench.preferences.file import load_preferences, write_preferences
from cpl_bench.preferences.format import Preferences
from cpl_bench.preferences.labelling import (
    check_labelling,
    discount_of,
    is_asked_alike,
    paths_scored_alike,
    planned_info,
    preference_path,
    seeds_of,
)
from cpl_bench.preferences.scorers import SCORERS, STEPWISE, find_scorer
from cpl_bench.preferences.segments import draw_segments, segments_of
from cpl_bench.preferences.teachers import with_scale
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.tasks.registry import find_task
from cpl_bench.trajectories.dataset import TrajectorySet, content_hash
from cpl_bench.trajectories.formats.minari import read_record, read_trajectories


def is_labelled(card: DatasetCard) -> bool:
    """Whether the preferences lie on disk and were made from the trajectories that lie there."""
    path = preference_path(card)
    if not path.is_file():
        return False
    try:
        info = load_preferences(path).info
    except UserError:  # damaged or of another version: to be made again
        return False
    source = read_record(card.minari_id) or {}
    alike = is_asked_alike(info, card) and info.task == planned_info(card).task
    return alike and info.source_hash == source.get("content_hash")


def label(card: DatasetCard, pool: RolloutPool) -> Path:
    """Label the collected trajectories of a card; returns the preference file.

    What a scorer learns of forks is kept beside it until it is written: a kill costs little.

    Raises:
        UserError: no trajectories, an unknown scorer or annotator, or segments longer than every
            episode.
    """
    check_labelling(card.task, card.segments, card.labelling)
    cut, path = card.segments, preference_path(card)
    journal = path.with_name(f".{path.stem}.forks.jsonl")
    source = read_trajectories(card.minari_id, states=card.labelling.scorer not in STEPWISE)
    with pool.remembering(journal):
        preferences = labelled(card, source, pool)
    scores = preferences.scores
    assert scores is not None, "what a card labels has scores"
    write_preferences(path, preferences)
    journal.unlink(missing_ok=True)
    say(
        f"Labelled {cut.count} segments of {cut.length} steps by {card.labelling.scorer}, "
        f"{cut.pairs}, mean score {scores.mean():.1f} → {path}"
    )
    return path


def labelled(card: DatasetCard, source: TrajectorySet, pool: RolloutPool) -> Preferences:
    """What a card's labelling makes of some trajectories.

    Raises:
        UserError: segments longer than every episode, or a scorer that gives something else.
    """
    task, cut = find_task(card.task), card.segments
    starts = draw_segments(
        source.episode_ends, cut.length, cut.count, generator("segments", card.seed)
    )
    segments = segments_of(source, starts, cut.length)
    how = replace(card.labelling, discount=discount_of(card.labelling))
    scores = _known_scores(card, source, starts)
    if scores is None:
        scores = find_scorer(how.scorer)(segments, task, how, pool)
    if np.shape(scores) != (cut.count,):
        raise UserError(
            f"The scorer '{card.labelling.scorer}' must give {cut.count} scores, one a segment; "
            f"got shape {np.shape(scores)}."
        )
    return _assemble(card, source, starts, scores)


def _known_scores(
    card: DatasetCard, source: TrajectorySet, starts: np.ndarray
) -> np.ndarray | None:
    """What the same scorer said of the same segments, from a file in which somebody else answers.

    Only scorers of ours are trusted to be what they were.
    """
    wanted = planned_info(card, source.record.get("content_hash", ""))
    if card.labelling.scorer not in SCORERS or not wanted.source_hash:
        return None
    for path in paths_scored_alike(card):
        try:
            found = load_preferences(path)
        except UserError:  # damaged or of another version
            continue
        same = all(getattr(found.info, each) == getattr(wanted, each) for each in SCORED_BY)
        if same and found.scores is not None and np.array_equal(found.segment_starts, starts):
            say(f"Scores are those of {path.name}: only the answers are new.")
            return np.array(found.scores)
    return None


SCORED_BY = ("source_hash", "segment_length", "scorer", "scorer_settings", "versions")
"""What scores depend on, beside the segments."""


def _assemble(
    card: DatasetCard, source: TrajectorySet, starts: np.ndarray, scores: np.ndarray
) -> Preferences:
    how = card.labelling
    settings = with_scale(how.annotator, how.annotator_settings, scores)
    first, second = _compared(card.segments)
    answers, weight = find_annotator(how.annotator)(
        scores[first],
        scores[second],
        pair_keys(seeds_of(card)["annotator"], starts[first], starts[second]),
        settings,
    )
    weight = np.asarray(weight, np.float32)
    info = replace(planned_info(card, _vouched_for(source)), annotator_settings=settings)
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
        weight=None if (weight == 1).all() else weight,
        successes=_successes(source),
        terminations=_terminations(source),
        info=info,
    )


def _compared(cut: Segments) -> tuple[np.ndarray, np.ndarray]:
    """The pairs that a file lists, by position: none of dense data."""
    if cut.pairs == "sparse":
        return pairs_in_rounds(cut.count, cut.comparisons)
    size = cut.ranked_size or 2
    return pairs_within(cut.count // size if cut.pairs == "ranked" else 0, size)


def _vouched_for(source: TrajectorySet) -> str:
    """The hash of some trajectories; empty for foreign ones.

    Raises:
        UserError: they are not those that were collected.
    """
    named = source.record.get("content_hash", "")
    if named and content_hash(source.trajectories) != named:
        raise UserError(
            f"The trajectories of {source.minari_id} were altered after they were collected: the "
            "SHA-256 of their content is not the recorded one. Move them away, and collect again."
        )
    return named


def _successes(source: TrajectorySet) -> np.ndarray | None:
    """1 on each step at which the task's condition held, (N,); None if nobody wrote it down."""
    if not source.knows_successes:
        return None
    return np.concatenate([each.successes for each in source.trajectories]).astype(np.uint8)


def _terminations(source: TrajectorySet) -> np.ndarray | None:
    """1 on each step that ended its task, (N,); None if none did."""
    ended = np.array([each.terminated for each in source.trajectories])
    if not ended.any():
        return None
    flags = np.zeros(source.episode_ends[-1], np.uint8)
    flags[source.episode_ends[ended] - 1] = 1
    return flags
