"""The verb `inspect`: what is in a dataset, in numbers and one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.columns import NAMES, aligned, cells
from cpl_bench.core.dataset_cards import DatasetCard
from cpl_bench.core.files import atomic_path
from cpl_bench.core.progress import say
from cpl_bench.preferences.annotators import ask
from cpl_bench.preferences.answers import describe_file
from cpl_bench.preferences.examine import (
    agreement_lines,
    coverage_lines,
    draw_coverage,
    file_lines,
    noise_line,
    partial_returns,
)
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.format import Preferences
from cpl_bench.preferences.opinions import opinions, opinions_on_file
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.tasks.registry import find_task
from cpl_bench.trajectories.dataset import TrajectorySet, scores_of
from cpl_bench.trajectories.formats.minari import read_trajectories

SAMPLED_PAIRS = 200_000


def inspect(
    card: DatasetCard,
    preference_file: Path,
    pool: RolloutPool,
    scorers: Sequence[str] = (),
    verdicts: Sequence[str] = (),
) -> Path:
    """Print what a labelled dataset holds; returns the picture's path.

    `scorers` are further ones to compare the file's labels with, beside the partial return; those
    that fork the simulator take as long as labelling did. `verdicts` are lines printed at the end.
    """
    preferences = load_preferences(preference_file)
    source, task = read_trajectories(card.minari_id), find_task(card.task)
    others = opinions(preferences, source, task, card.labelling, scorers, pool)
    rows = _described(card, task, source, preferences, others)
    picture = preference_file.with_suffix(".png")
    returns = partial_returns(preferences)
    if returns is None:
        rows.append(("rewards", "none in the file: no partial returns to compare the scores with"))
    _draw(picture, preferences, returns)
    covered = preference_file.with_name(f"{preference_file.stem}-coverage.png")
    draw_coverage(covered, preferences)
    rows += [("picture", str(picture)), ("picture", str(covered)), *cells(verdicts)]
    for line in aligned(rows, least=NAMES):
        say(line)
    return picture


def inspect_file(path: Path, pool: RolloutPool, scorers: Sequence[str] = ()) -> Preferences:
    """Print what a preference file holds, whoever made it, and draw its segments beside it.

    `scorers` are asked of the trajectories that the segments were cut from.

    Raises:
        UserError: there are scorers to be asked, and no such trajectories.
    """
    preferences = load_preferences(path)
    others = opinions_on_file(path, preferences, scorers, pool) if scorers else {}
    lines = file_lines(preferences, pairs_of(preferences), others)
    for line in (*describe_file(preferences), *lines):
        say(line)
    covered = path.with_name(f"{path.stem}-coverage.png")
    draw_coverage(covered, preferences)
    say(f"picture        {covered}")
    return preferences


def _described(
    card: DatasetCard,
    task: TaskCard,
    source: TrajectorySet,
    preferences: Preferences,
    others: dict[str, np.ndarray],
) -> list[tuple[str, str]]:
    """Rows of a name and what is said of it."""
    info, scores = preferences.info, preferences.scores
    assert scores is not None, "what a card labels has scores"
    scoring, achieved = task.scoring, float(np.mean(scores_of(task, source.trajectories)))
    ended = np.mean([each.terminated for each in source.trajectories])
    lengths = np.diff(preferences.episode_ends, prepend=0)
    first, second = pairs_of(preferences)
    tied = scores[first] == scores[second]
    band, player = "", "clone"
    if card.behaviour is not None:
        player = "checkpoint" if card.behaviour.checkpoints else "clone"
        low, high = (scoring.shown(each, 0) for each in card.behaviour.score_band)
        band = f" (the card wants {low} to {high}{scoring.unit})"
    known = source.knows_successes or not scoring.is_success
    score = f"{scoring.shown(achieved)}{scoring.unit}{band}"
    rows = [
        ("dataset", f"{card.name}: {card.task}, seed {card.seed}"),
        *([("imported", str(card.source))] if card.source else []),
        (
            "episodes",
            f"{len(lengths):,} ({lengths.min()} to {lengths.max()} steps, mean "
            f"{lengths.mean():.0f}); {len(preferences.observations):,} steps",
        ),
        (
            "observations",
            f"{preferences.observations.shape}, actions {preferences.actions.shape}",
        ),
        (scoring.name, score if known else "not written down in the data"),
        *([("terminated", f"{ended:.1%} of the episodes")] if ended else []),
        *([("references", task.references)] if task.references else []),
        *(
            (
                f"  level {scoring.shown(level['wanted'], 0)}{scoring.unit}",
                f"{player} at step {level['step']}, measured "
                f"{scoring.shown(level['measured'], 0)}{scoring.unit}, "
                f"{_share(source, i):.0%} of the episodes",
            )
            for i, level in enumerate(source.record.get("levels", []))
        ),
        (
            "segments",
            f"{len(scores):,} of {info.segment_length} steps; {info.pairs}: "
            + (
                "every pair is comparable"
                if info.pairs == "dense"
                else f"{len(first):,} comparisons"
            ),
        ),
        ("scorer", f"{info.scorer}, annotator {info.annotator}"),
        (
            "scores",
            ", ".join(f"{q}%: {np.percentile(scores, q):.1f}" for q in (0, 5, 25, 50, 75, 95, 100))
            + f"; mean {scores.mean():.1f}, std {scores.std():.1f}",
        ),
        ("ties", f"{tied.mean():.1%} of the comparisons"),
    ]
    if skipped := float(np.mean(ask(preferences, first, second).weight == 0)):
        rows.append(("skipped", f"{skipped:.1%} of the comparisons"))
    lines = [noise_line(preferences, scores, f"{info.scorer}'s scores", (first, second))]
    for name, values in others.items():
        decided = ~tied & (values[first] != values[second])
        agree = (values[second] > values[first]) == (scores[second] > scores[first])
        share = agree[decided].mean() if decided.any() else float("nan")
        correlation = np.corrcoef(scores, values)[0, 1] if scores.std() and values.std() else np.nan
        lines.append(
            f"agreement      {info.scorer} and {name} agree on {share:.1%} of the decided "
            f"comparisons; correlation {correlation:.2f}"
        )
    if len(others) > 1:
        lines += agreement_lines({info.scorer: scores, **others}, first, second)
    return rows + cells([*lines, *coverage_lines(preferences)])


def _share(source: TrajectorySet, level: int) -> float:
    return float(np.mean([each.policy == level for each in source.trajectories]))


def pairs_of(preferences: Preferences) -> tuple[np.ndarray, np.ndarray]:
    """The comparisons of the file; for dense data a fixed sample of all pairs."""
    if preferences.info.pairs != "dense":
        return preferences.first, preferences.second
    n = len(preferences.segment_starts)
    if n * (n - 1) // 2 <= SAMPLED_PAIRS:
        return np.triu_indices(n, 1)
    first = np.random.default_rng(0).integers(0, n, SAMPLED_PAIRS)
    return first, (first + np.random.default_rng(1).integers(1, n, SAMPLED_PAIRS)) % n


def _draw(path: Path, preferences: Preferences, returns: np.ndarray | None) -> None:
    """Histogram of the scores; partial return against the score, if it is known."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    info = preferences.info
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 1 if returns is None else 2, squeeze=False)[0]
    histogram, scatter = panels[0], panels[-1]
    assert preferences.scores is not None, "what a card labels has scores"
    histogram.hist(preferences.scores, bins=60, color="#4477aa")
    histogram.set_xlabel(f"{info.scorer} score of a segment (higher is better)")
    histogram.set_ylabel("segments")
    if returns is not None:
        scatter.scatter(preferences.scores, returns, s=4, alpha=0.3, linewidths=0, color="#4477aa")
        scatter.set_xlabel(f"{info.scorer} score")
        scatter.set_ylabel("partial return")
    figure.suptitle(f"{info.title}: {len(preferences.scores):,} segments")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Software": None})
