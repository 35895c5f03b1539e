"""Preferences from one's own arrays: segments, and who was preferred to whom.

segments      (n, k, o) observations, (n, k, a) actions      each an episode of its own
comparisons   first, second, prefers_second (c,)             positions among the segments
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cpl_bench.core.errors import UserError
from cpl_bench.preferences.format import PreferenceInfo, Preferences, preferences_hash
from cpl_bench.preferences.verify import verify


def preferences_from_arrays(
    observations: ArrayLike,
    actions: ArrayLike,
    first: ArrayLike | None = None,
    second: ArrayLike | None = None,
    prefers_second: ArrayLike | None = None,
    *,
    weight: ArrayLike | None = None,
    scores: ArrayLike | None = None,
    rewards: ArrayLike | None = None,
    successes: ArrayLike | None = None,
    terminations: ArrayLike | None = None,
    task: str = "",
    name: str = "",
    annotator: str = "",
) -> Preferences:
    """Preferences over n segments of k steps, in any number format.

    With answers, those comparisons are learned from, and no scores are needed. Without, the scores
    answer every pair: the higher is preferred.

    Args:
        observations: (n, k, o).
        actions: (n, k, a), within [−1, 1].
        first: (c,) positions among the segments.
        second: (c,) likewise.
        prefers_second: (c,) 1 if the second is better, 0 if the first, 0.5 a tie.
        weight: (c,) what an answer counts, 0 to 1; all 1 by default.
        scores: (n,) higher is better.
        rewards: (n, k) the environment's, for baselines that may see them.
        successes: (n, k) whether the task's condition held after a step.
        terminations: (n, k) whether the task ended with a step: a segment's last one.
        task: where policies are rolled out: a card's name or path, a Gymnasium id, `module:Class`.
        name: of the data, in folders and tables; the card's or "data" by default.
        annotator: who answered; "human" by default, "oracle" if the scores answer.

    Raises:
        UserError: what is wrong, in one line.
    """
    looks, acts = (
        _numbers(x, n, 3) for x, n in ((observations, "observations"), (actions, "actions"))
    )
    n, k = looks.shape[:2]
    if acts.shape[:2] != (n, k):
        raise UserError(
            f"actions must have shape ({n}, {k}, a), as observations are {looks.shape}; got "
            f"{acts.shape}."
        )
    if np.abs(acts).max(initial=0) > 1 + 1e-6:
        raise UserError(
            f"actions must lie within [-1, 1], and reach {np.abs(acts).max():g}: rescale them."
        )
    answers = {"first": first, "second": second, "prefers_second": prefers_second}
    given = [each for each, values in answers.items() if values is not None]
    if given and len(given) < 3:
        raise UserError(f"first, second and prefers_second belong together; got {given} alone.")
    if not given and scores is None:
        raise UserError("Give first, second and prefers_second, or scores that answer every pair.")
    info = PreferenceInfo(
        card=name,
        task=task,
        segment_length=k,
        pairs="sparse" if given else "dense",
        source="arrays",
        source_hash="",
        scorer="" if scores is None else "given",
        annotator=annotator or ("human" if given else "oracle"),
    )

    def of(values: ArrayLike | None, what: str, shape: tuple[int, ...], kind: type) -> Any:
        if values is None:
            return None
        array = _numbers(values, what, len(shape))
        if array.shape != shape:
            raise UserError(f"{what} must have shape {shape}; got {array.shape}.")
        if kind is np.uint8:
            _refuse((array != 0) & (array != 1), array, what, "0 or 1")
        return array.reshape(-1).astype(kind)

    none = np.zeros(0)
    if terminations is not None:
        ended = of(terminations, "terminations", (n, k), np.uint8).reshape(n, k)
        early = (ended > 0) & (np.arange(k) < k - 1)
        _refuse(early, ended, "terminations", "0 but on a segment's last step")
    places = _positions(first if given else none, "first", n)
    count = len(places)
    preferences = Preferences(
        observations=looks.reshape(n * k, -1).astype(np.float32),
        actions=acts.reshape(n * k, -1).astype(np.float32),
        episode_ends=np.arange(1, n + 1) * k,
        segment_starts=np.arange(n) * k,
        first=places,
        second=_positions(second if given else none, "second", n, count),
        prefers_second=of(
            prefers_second if given else none, "prefers_second", (count,), np.float32
        ),
        weight=of(weight, "weight", (count,), np.float32),
        scores=of(scores, "scores", (n,), np.float64),
        rewards=of(rewards, "rewards", (n, k), np.float32),
        successes=of(successes, "successes", (n, k), np.uint8),
        terminations=of(terminations, "terminations", (n, k), np.uint8),
        info=info,
    )
    verify(preferences, "the arrays")
    own = preferences_hash(preferences)
    return replace(preferences, info=replace(info, source_hash=own, preferences_hash=own))


def preferences_from_pairs(
    observations_first: ArrayLike,
    actions_first: ArrayLike,
    observations_second: ArrayLike,
    actions_second: ArrayLike,
    prefers_second: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    task: str = "",
    name: str = "",
    annotator: str = "human",
) -> Preferences:
    """Preferences over c pairs of segments, as people's answers are usually stored.

    Args:
        observations_first: (c, k, o).
        actions_first: (c, k, a), within [−1, 1].
        observations_second: (c, k, o).
        actions_second: (c, k, a).
        prefers_second: (c,) 1 if the second is better, 0 if the first, 0.5 a tie.
        weight: (c,) what an answer counts, 0 to 1; all 1 by default.
        task: where policies are rolled out, as in `preferences_from_arrays`.
        name: of the data, in folders and tables.
        annotator: who answered.

    Raises:
        UserError: what is wrong, in one line.
    """
    both: list[np.ndarray] = []
    for what, ours, theirs in (
        ("observations", observations_first, observations_second),
        ("actions", actions_first, actions_second),
    ):
        first, second = _numbers(ours, f"{what}_first", 3), _numbers(theirs, f"{what}_second", 3)
        if first.shape != second.shape:
            raise UserError(
                f"{what}_first and {what}_second must have one shape; got {first.shape} and "
                f"{second.shape}."
            )
        both.append(np.concatenate([first, second]))
    count = len(both[0]) // 2
    numbers = np.arange(count)
    looks, acts = both
    second = count + numbers
    return preferences_from_arrays(
        looks,
        acts,
        numbers,
        second,
        prefers_second,
        weight=weight,
        task=task,
        name=name,
        annotator=annotator,
    )


def _numbers(values: ArrayLike, what: str, axes: int) -> np.ndarray:
    """The values as float64, all of which float32 can hold."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as problem:
        raise UserError(f"{what} must be numbers in an array: {problem}.") from None
    if array.ndim != axes or (axes > 1 and array.size == 0):
        wanted = "1 axis" if axes == 1 else f"{axes} axes, none of them empty"
        raise UserError(f"{what} must have {wanted}; got shape {array.shape}.")
    _refuse(~(np.abs(array) <= np.finfo(np.float32).max), array, what, "finite in float32")
    return array


def _positions(
    values: ArrayLike | None, what: str, segments: int, count: int | None = None
) -> np.ndarray:
    assert values is not None
    array = _numbers(values, what, 1)
    if count not in (None, len(array)):
        raise UserError(f"{what} must have shape ({count},), as first has; got {array.shape}.")
    wrong = (array % 1 != 0) | (array < 0) | (array >= segments)
    _refuse(wrong, array, what, f"whole numbers, positions in [0, {segments - 1}]")
    return array.astype(np.int64)


def _refuse(wrong: np.ndarray, values: np.ndarray, what: str, wanted: str) -> None:
    """Raise if anything is `wrong`, naming the first place."""
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise UserError(f"{what} must be {wanted}; got {values[place]:g} at {list(place)}.")
