"""What a preference file must be before anybody learns from it."""

from __future__ import annotations

from typing import get_args

import numpy as np

from cpl_bench.core.errors import UserError
from cpl_bench.core.pairs import Pairs, pairs_within
from cpl_bench.preferences.annotators import check_name
from cpl_bench.preferences.format import Preferences

LAYOUT = {
    "observations": ("N o", np.float32),
    "actions": ("N a", np.float32),
    "rewards": ("N", np.float32),
    "episode_ends": ("E", np.int64),
    "segment_starts": ("n", np.int64),
    "scores": ("n", np.float64),
    "first": ("c", np.int64),
    "second": ("c", np.int64),
    "prefers_second": ("c", np.float32),
    "weight": ("c", np.float32),
    "successes": ("N", np.uint8),
    "terminations": ("N", np.uint8),
}
OPTIONAL = ("rewards", "scores", "weight", "successes", "terminations")


def verify(preferences: Preferences, where: str = "preferences") -> None:
    """Check everything that can be checked without the source, in one pass over the data.

    Args:
        preferences: what to check.
        where: what the message calls them, usually the file.

    Raises:
        UserError: a wrong dtype or shape, nothing in it, NaN or infinity, episodes out of order, a
            window that leaves its episode, an index out of range, ranked data that do not list the
            pairs of whole questions, an answer outside [0, 1].
    """
    _verify_layout(preferences, where)
    info, steps = preferences.info, len(preferences.observations)
    ends, starts = preferences.episode_ends, preferences.segment_starts

    # --- Check episodes and windows ---
    if ends[0] < 1 or ends[-1] != steps or (np.diff(ends) < 1).any():
        raise UserError(
            f"{where}: episode_ends must increase from at least 1 to the number of steps, {steps}; "
            f"got {_shorten(ends)}. An episode's end is the row after its last step."
        )
    last = steps - info.segment_length
    outside = (starts < 0) | (starts > last)
    _refuse(outside, starts, where, "segment_starts", f"in [0, {last}]")
    crosses = starts + info.segment_length > ends[np.searchsorted(ends, starts, side="right")]
    wanted = f"windows of {info.segment_length} steps within one episode"
    _refuse(crosses, starts, where, "segment_starts", wanted)

    # --- Check comparisons and values ---
    for name in ("first", "second"):
        positions = getattr(preferences, name)
        wrong = (positions < 0) | (positions >= len(starts))
        _refuse(wrong, positions, where, name, f"positions in [0, {len(starts) - 1}]")
    if info.pairs == "ranked":
        _verify_questions(preferences, where)
    answers = preferences.prefers_second
    _refuse(~((answers >= 0) & (answers <= 1)), answers, where, "prefers_second", "in [0, 1]")
    weight = preferences.weight
    if weight is not None:
        _refuse(~((weight >= 0) & (weight <= 1)), weight, where, "weight", "in [0, 1]")
        if len(weight) and not weight.any():
            raise UserError(f"{where}: every question was skipped; there is nothing to learn from.")
    for name in ("observations", "actions", "rewards", "scores"):
        values = getattr(preferences, name)
        if values is not None and not (np.isfinite(values.min()) and np.isfinite(values.max())):
            _refuse(~np.isfinite(values), values, where, name, "finite")
    for name in ("successes", "terminations"):
        values = getattr(preferences, name)
        if values is not None:
            _refuse(values > 1, values, where, name, "0 or 1")
    ended = preferences.terminations
    if ended is not None:
        early = ended.copy()
        early[ends - 1] = 0
        _refuse(early > 0, ended, where, "terminations", "0 but on an episode's last step")


def _verify_layout(preferences: Preferences, where: str) -> None:
    """Dtypes, shapes that agree with each other, nothing empty, pairs as `info` says."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, (axes, dtype) in LAYOUT.items():
        values = getattr(preferences, name)
        if name in OPTIONAL and values is None:
            continue
        if values.dtype != dtype or values.ndim != len(axes.split()):
            raise UserError(
                f"{where}: {name} must be {dtype.__name__} of shape ({axes.replace(' ', ', ')}), "
                f"got {values.dtype} of shape {values.shape}."
            )
        for axis, size in zip(axes.split(), values.shape, strict=True):
            expected, named_by = sizes.setdefault(axis, (size, name))
            if size != expected:
                raise UserError(
                    f"{where}: {name} must have {expected} entries along {axis}, as {named_by} "
                    f"has; got {size}."
                )
            if size == 0 and axis != "c":
                raise UserError(f"{where}: {name} is empty; there is nothing to learn from.")
    info, comparisons = preferences.info, len(preferences.first)
    if info.segment_length < 1:
        raise UserError(f"{where}: segment_length must be at least 1, got {info.segment_length}.")
    if info.pairs not in get_args(Pairs):
        raise UserError(
            f"{where}: pairs must be {' or '.join(get_args(Pairs))}, got {info.pairs!r}."
        )
    if info.pairs != "ranked" and info.ranked_size:
        raise UserError(
            f"{where}: a ranked_size is for ranked data only, and these are {info.pairs}; got "
            f"{info.ranked_size}."
        )
    if info.pairs == "sparse" and comparisons == 0:
        raise UserError(f"{where}: sparse data must list at least one comparison, got none.")
    if info.pairs == "dense" and comparisons > 0:
        raise UserError(
            f"{where}: dense data compare every pair and list none, got {comparisons} comparisons; "
            "say pairs = sparse to use only those."
        )
    if info.pairs == "dense" and len(preferences.segment_starts) < 2:
        raise UserError(f"{where}: comparing takes at least 2 segments, got 1.")
    if info.pairs == "dense":
        if preferences.scores is None:
            raise UserError(
                f"{where}: dense data are answered from scores, and there are none; list the "
                "comparisons that were answered, with pairs = sparse."
            )
        try:
            check_name(info.annotator, info.annotator_settings)
        except UserError as problem:
            raise UserError(
                f"{where}: dense data are answered by their annotator. {problem}"
            ) from None


def _verify_questions(preferences: Preferences, where: str) -> None:
    """All pairs of neighbouring segments K by K, question by question, and nothing else."""
    size, segments = preferences.info.ranked_size, len(preferences.segment_starts)
    if type(size) is not int or not 2 <= size <= segments:
        raise UserError(
            f"{where}: ranked data must say a ranked_size, segments of a "
            f"question, of 2 to {segments}; got {size!r}."
        )
    questions, pairs = segments // size, size * (size - 1) // 2
    if len(preferences.first) != questions * pairs:
        raise UserError(
            f"{where}: {questions} questions of {size} segments must list {questions * pairs} "
            f"comparisons, {pairs} each; got {len(preferences.first)}."
        )
    first, second = pairs_within(questions, size)
    for name, wanted in (("first", first), ("second", second)):
        positions = getattr(preferences, name)
        order = f"{_shorten(wanted)}, for the pairs within each {size} segments in turn"
        _refuse(positions != wanted, positions, where, name, order)


def _refuse(wrong: np.ndarray, values: np.ndarray, where: str, name: str, wanted: str) -> None:
    """Raise if anything is `wrong`, naming the first place."""
    if wrong.any():
        place = np.unravel_index(int(wrong.argmax()), wrong.shape)
        index = ", ".join(map(str, place))
        raise UserError(
            f"{where}: {name} must be {wanted}; got {values[place]} at [{index}] "
            f"({int(wrong.sum()):,} of {wrong.size:,} are wrong)."
        )


def _shorten(values: np.ndarray) -> str:
    return np.array2string(values, threshold=6, edgeitems=3, separator=", ")
