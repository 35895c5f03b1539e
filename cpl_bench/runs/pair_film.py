"""Two segments side by side with the answer: a short film of a pair, a sheet of several.

Frames are drawn from the simulator states that `collect` stored; preferences know their source.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cpl_bench.core.errors import UserError
from cpl_bench.core.files import atomic_path
from cpl_bench.core.progress import say
from cpl_bench.preferences.annotators import ask
from cpl_bench.preferences.format import Preferences
from cpl_bench.runs.film import rendered
from cpl_bench.runs.webp import FRAME_SIZE, write_animation
from cpl_bench.tasks.registry import find_task
from cpl_bench.trajectories.dataset import TrajectorySet, content_hash
from cpl_bench.trajectories.formats.minari import read_trajectories

PAIRS, FRAMES = 5, 6
"""Pairs of a contact sheet, and frames of each segment there."""
FRAME_SKIP = 2
"""Simulator steps from one frame of a film to the next."""
MARGIN, THUMB = 26, 128
GREEN, GREY, WHITE = (70, 160, 90), (110, 110, 110), (255, 255, 255)


class Pair(NamedTuple):
    """A comparison by position, with its answer."""

    first: int
    second: int
    prefers_second: float
    weight: float

    def captions(self, preferences: Preferences) -> list[tuple[str, tuple[int, int, int]]]:
        """What stands above each of the two, and in which colour."""
        favour = 1 - self.prefers_second, self.prefers_second
        captions = []
        for position, share in zip((self.first, self.second), favour, strict=True):
            words = "skipped" if not self.weight else "tie" if share == 0.5 else ""
            words = words or ("preferred" if share > 0.5 else "not preferred")
            scores = preferences.scores
            score = "" if scores is None else f", score {scores[position]:.1f}"
            green = self.weight and share > 0.5
            captions.append((f"segment {position}: {words}{score}", GREEN if green else GREY))
        return captions


def film_pairs(
    preferences: Preferences, folder: Path, name: str, chosen: tuple[int, int] | None = None
) -> list[Path]:
    """Write NAME-pair.webp, a film of one pair, and NAME-pairs.png, a sheet of several.

    Returns what was written: nothing, with a hint, where rendering does not work.

    Args:
        preferences: of segments whose simulator states lie on disk.
        folder: where the pictures go.
        name: how theirs begin.
        chosen: the positions of the pair to film; one that was decided by default.

    Raises:
        UserError: no such pair, or no states of these very trajectories.
    """
    pairs = _pairs(preferences, chosen)
    source = _source(preferences)
    info = preferences.info
    assert info.task, "what has a source of ours has a task"
    task = find_task(info.task)
    film = [_states(preferences, source, each)[::FRAME_SKIP] for each in pairs[0][:2]]
    rows = [_states(preferences, source, each) for pair in pairs for each in pair[:2]]
    picked = np.linspace(0, info.segment_length, FRAMES).astype(int)
    wanted = {f"film {i}": states for i, states in enumerate(film)}
    wanted |= {f"segment {i}": states[picked] for i, states in enumerate(rows)}
    calls = {each: {"states": states} for each, states in wanted.items()}
    found = rendered(lambda pool: pool.forks(task, "render_states", calls, "drawing segments"))
    if found is None:
        return []
    paths = folder / f"{name}-pair.webp", folder / f"{name}-pairs.png"
    captions = pairs[0].captions(preferences)
    write_animation(paths[0], [_beside(two, captions) for two in zip(*found[:2], strict=True)])
    _write_sheet(paths[1], preferences, pairs, found[2:])
    for path in paths:
        say(f"picture        {path}")
    return list(paths)


def _pairs(preferences: Preferences, chosen: tuple[int, int] | None) -> list[Pair]:
    """Some comparisons with their answers, decided ones before others; the chosen one first."""
    n = len(preferences.segment_starts)
    if chosen and not all(0 <= position < n for position in chosen):
        raise UserError(f"A pair is two positions from 0 to {n - 1}; got {chosen}.")
    rng = np.random.default_rng(0)
    if preferences.info.pairs == "dense":
        first = rng.permutation(n)[: 10 * PAIRS]
        second = (first + rng.integers(1, n, len(first))) % n
        if chosen:
            first, second = np.append(chosen[0], first), np.append(chosen[1], second)
        answers, weight = ask(preferences, first, second)
    else:
        some = rng.permutation(len(preferences.first))[: 10 * PAIRS]
        if chosen:
            some = np.append(_place_of(preferences, *chosen), some)
        first, second = preferences.first[some], preferences.second[some]
        answers = preferences.prefers_second[some]
        whole = preferences.weight
        weight = np.ones(len(some)) if whole is None else whole[some]
        if chosen and first[0] != chosen[0]:  # it is listed the other way round
            first[0], second[0], answers[0] = second[0], first[0], 1 - answers[0]
    pairs = [
        Pair(int(a), int(b), float(y), float(w))
        for a, b, y, w in zip(first, second, answers, weight, strict=True)
    ]
    ahead = pairs[:1] if chosen else []
    rest = sorted(pairs[len(ahead) :], key=lambda pair: not pair.weight or pair[2] == 0.5)
    return [*ahead, *rest][:PAIRS]


def _place_of(preferences: Preferences, first: int, second: int) -> int:
    """Which of the listed comparisons is of these two, in their order if it is listed in both."""
    for one, other in ((first, second), (second, first)):
        here = (preferences.first == one) & (preferences.second == other)
        if here.any():
            return int(here.argmax())
    raise UserError(f"The file lists no comparison of {first} and {second}.")


def _source(preferences: Preferences) -> TrajectorySet:
    """The trajectories that segments were cut from, with their states."""
    info = preferences.info
    if not info.task or "/" not in info.source:
        raise UserError(
            f"{info.title} names no trajectories with simulator states: nothing to film."
        )
    source = read_trajectories(info.source)
    if content_hash(source.trajectories) != info.source_hash:
        raise UserError(
            f"The trajectories {info.source} are not those that {info.title} was cut from."
        )
    if not all(len(each.states) for each in source.trajectories):
        raise UserError(
            f"The trajectories {info.source} hold no simulator states: nothing to film."
        )
    return source


def _states(preferences: Preferences, source: TrajectorySet, position: int) -> np.ndarray:
    """The k + 1 states that a segment runs through."""
    start = int(preferences.segment_starts[position])
    episode = int(np.searchsorted(preferences.episode_ends, start, side="right"))
    offset = start - int(preferences.episode_starts[episode])
    return source.trajectories[episode].states[
        offset : offset + preferences.info.segment_length + 1
    ]


def _beside(
    frames: Sequence[np.ndarray], captions: Sequence[tuple[str, tuple[int, int, int]]]
) -> np.ndarray:
    """Two frames beside each other under their captions, (h, w, 3)."""
    from PIL import Image, ImageDraw

    sheet = Image.new("RGB", (2 * FRAME_SIZE + 4, FRAME_SIZE + MARGIN), WHITE)
    pen = ImageDraw.Draw(sheet)
    for i, (frame, (caption, colour)) in enumerate(zip(frames, captions, strict=True)):
        left = i * (FRAME_SIZE + 4)
        pen.rectangle((left, 0, left + FRAME_SIZE, MARGIN - 1), fill=colour)
        pen.text((left + 8, 7), caption, fill=WHITE)
        sheet.paste(Image.fromarray(frame).resize((FRAME_SIZE, FRAME_SIZE)), (left, MARGIN))
    return np.asarray(sheet)


def _write_sheet(
    path: Path,
    preferences: Preferences,
    pairs: Sequence[Pair],
    rows: Sequence[Any],
) -> None:
    """A row a segment, two rows a pair, time to the right."""
    from PIL import Image, ImageDraw

    high = THUMB + MARGIN
    sheet = Image.new("RGB", (FRAMES * THUMB, len(rows) * high + 8 * len(pairs)), WHITE)
    pen = ImageDraw.Draw(sheet)
    captions = [caption for pair in pairs for caption in pair.captions(preferences)]
    for i, (frames, (caption, colour)) in enumerate(zip(rows, captions, strict=True)):
        top = i * high + 8 * (i // 2)
        pen.rectangle((0, top, FRAMES * THUMB, top + MARGIN - 1), fill=colour)
        pen.text((8, top + 7), caption, fill=WHITE)
        for j, frame in enumerate(frames):
            image = Image.fromarray(frame).resize((THUMB, THUMB))
            sheet.paste(image, (j * THUMB, top + MARGIN))
    with atomic_path(path) as temporary:
        sheet.save(temporary, optimize=True)
