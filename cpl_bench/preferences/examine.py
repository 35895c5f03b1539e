"""What `inspect` measures of preferences: agreement of scorers, noise of answers, coverage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cpl_bench.core.files import atomic_path
from cpl_bench.preferences.annotators import ask, can_answer
from cpl_bench.preferences.format import Preferences

TENTHS = 10
ROWS = 400
"""At most so many rows has a picture of episodes."""


class Noise(NamedTuple):
    """How answers differ from what scores say."""

    flipped: float
    """Share of the answers to unequal scores, ties left out, that go against the scores."""
    answers: int
    """How many of those there are."""
    tied: float
    """Share of the comparisons of unequal scores that were called equal."""
    skipped: float
    """Share of all comparisons that were skipped."""


def noise(
    preferences: Preferences, scores: np.ndarray, first: np.ndarray, second: np.ndarray
) -> Noise:
    """Measure answers against scores: the listed ones, or what the annotator says of these pairs.

    Args:
        preferences: whose answers.
        scores: of each segment, (n,), higher is better.
        first: positions of pairs, (c,); those of the file if it lists any.
        second: likewise.
    """
    if preferences.info.pairs == "dense":
        answers, weight = ask(preferences, first, second)
    else:
        answers = preferences.prefers_second
        weight = np.ones(len(first)) if preferences.weight is None else preferences.weight
    gap = scores[second] - scores[first]
    unequal, asked = gap != 0, weight > 0
    decided = asked & unequal & (answers != 0.5)
    return Noise(
        flipped=_mean(((answers > 0.5) != (gap > 0))[decided]),
        answers=int(decided.sum()),
        tied=_mean((answers == 0.5)[asked & unequal]),
        skipped=_mean(~asked),
    )


def agreement(
    scores: Mapping[str, np.ndarray], first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How often scorers give the same answer, of the comparisons that both decide; and their ties.

    Args:
        scores: s scorers' of each segment, (n,).
        first: positions of the pairs, (c,).
        second: likewise.

    Returns:
        (s, s), NaN where two decide nothing in common, and the share of each one's ties, (s,).
    """
    said = np.array([np.sign(each[second] - each[first]) for each in scores.values()])  # (s, c)
    shares = np.full((len(said), len(said)), np.nan)
    for i, ours in enumerate(said):
        for j, theirs in enumerate(said):
            decided = (ours != 0) & (theirs != 0)
            shares[i, j] = _mean((ours == theirs)[decided])
    return shares, (said == 0).mean(1)


def agreement_lines(
    scores: Mapping[str, np.ndarray], first: np.ndarray, second: np.ndarray
) -> list[str]:
    """The matrix in words; nothing for fewer than two scorers."""
    if len(scores) < 2:
        return []
    shares, ties = agreement(scores, first, second)
    wide = max(max(map(len, scores)), 8) + 2
    lines = ["agreement      of the comparisons that both scorers decide; and what each ties"]
    lines.append(" " * 15 + " " * wide + "".join(f"{name:>{wide}}" for name in [*scores, "ties"]))
    for name, row, tied in zip(scores, shares, ties, strict=True):
        cells = [*(f"{share:.1%}" for share in row), f"{tied:.1%}"]
        lines.append(" " * 15 + f"{name:<{wide}}" + "".join(f"{cell:>{wide}}" for cell in cells))
    return lines


def noise_line(
    preferences: Preferences, scores: np.ndarray, against: str, pairs: tuple[np.ndarray, np.ndarray]
) -> str:
    """The measured noise in words; of dense data that nobody can be asked about, nothing."""
    if preferences.info.pairs == "dense" and not can_answer(preferences.info.annotator):
        return f"noise          not measured: there is no annotator '{preferences.info.annotator}'"
    found = noise(preferences, scores, *pairs)
    return (
        f"noise          {found.flipped:.1%} of {found.answers:,} answers go against {against}; "
        f"{found.tied:.1%} of unequal pairs are called equal, {found.skipped:.1%} are skipped"
    )


def coverage_lines(preferences: Preferences) -> list[str]:
    """Which episodes, steps and times the segments are about, in words."""
    ends, starts = preferences.episode_ends, preferences.segment_starts
    episodes = np.searchsorted(ends, starts, side="right")
    each = np.bincount(episodes, minlength=len(ends))
    held, middle = each[each > 0], starts + preferences.info.segment_length / 2
    lengths = np.diff(ends, prepend=0)
    covered = (
        f"coverage       {len(held):,} of {len(ends):,} episodes hold {held.min()} to {held.max()} "
        f"segments; {(_times_covered(preferences) > 0).mean():.1%} of the steps are in one"
    )
    if (lengths[episodes] == preferences.info.segment_length).all():
        return [f"{covered}; each is a whole episode"]
    when = (middle - preferences.episode_starts[episodes]) / lengths[episodes]
    tenths = np.bincount(np.minimum((when * TENTHS).astype(int), TENTHS - 1), minlength=TENTHS)
    return [
        covered,
        "  over time    "
        + " ".join(f"{share:.0%}" for share in tenths / len(starts))
        + " of the segments have their middle in each tenth of their episode",
    ]


def draw_coverage(path: Path, preferences: Preferences) -> None:
    """How many segments hold each step: the longest episode first, time to the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    times, lengths = _times_covered(preferences), np.diff(preferences.episode_ends, prepend=0)
    shown = np.argsort(-lengths, kind="stable")
    shown = shown[np.unique(np.linspace(0, len(shown) - 1, min(ROWS, len(shown))).astype(int))]
    picture = np.full((len(shown), lengths.max()), np.nan)
    for row, episode in enumerate(shown):
        start = preferences.episode_starts[episode]
        picture[row, : lengths[episode]] = times[start : start + lengths[episode]]
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(picture, aspect="auto", interpolation="nearest", cmap="viridis")
    axes.set_xlabel("step")
    axes.set_ylabel("episodes, the longest first")
    figure.colorbar(image, label="segments that hold the step")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Software": None})


def file_lines(
    preferences: Preferences,
    pairs: tuple[np.ndarray, np.ndarray],
    others: Mapping[str, np.ndarray] | None = None,
) -> list[str]:
    """What is to be said of preferences of which only the file is known, and what `others` say."""
    scores, returns, lines = preferences.scores, partial_returns(preferences), []
    named = {} if scores is None else {preferences.info.scorer or "scores": scores}
    if returns is not None:
        named = {**named, "partial_return": returns} if len(pairs[0]) else named
    named |= others or {}
    for name, values in list(named.items())[:1]:
        lines.append(noise_line(preferences, values, f"{name}, their segments' score", pairs))
    return [*lines, *agreement_lines(named, *pairs), *coverage_lines(preferences)]


def partial_returns(preferences: Preferences) -> np.ndarray | None:
    """The sum of each segment's rewards (n,); None if the file holds none."""
    if preferences.rewards is None:
        return None
    sums = np.concatenate([[0.0], np.cumsum(preferences.rewards, dtype=np.float64)])
    starts = preferences.segment_starts
    return sums[starts + preferences.info.segment_length] - sums[starts]


def _times_covered(preferences: Preferences) -> np.ndarray:
    """How many segments hold each step, (N,)."""
    starts, steps = preferences.segment_starts, len(preferences.observations)
    opened = np.bincount(starts, minlength=steps + 1)
    closed = np.bincount(starts + preferences.info.segment_length, minlength=steps + 1)
    return np.cumsum(opened - closed)[:steps]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
