"""Annotators: two scores in, an answer and its weight out, in one convention everywhere.

An answer is `prefers_second`: 1 if the second segment is better, 0 if the first is, 0.5 for a tie.
Its weight is 1, or 0 where the annotator skips the question. An annotator works element by element
and broadcasts, on NumPy arrays and on torch tensors alike; what it draws at random it draws from
the pair's own key, so that a pair is answered alike whenever it is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, NamedTuple

import numpy as np

from cpl_bench.core import plugins
from cpl_bench.core.errors import UserError, unknown_name
from cpl_bench.core.pairs import pair_keys, uniform
from cpl_bench.preferences.format import Preferences

GROUP = "cpl_bench.annotators"


class Answers(NamedTuple):
    """What an annotator says of some pairs; both of the pairs' shape."""

    prefers_second: Any
    """1: the second is better, 0: the first, 0.5: a tie, anything between: a soft label."""
    weight: Any
    """1, and 0 where the question was skipped."""


Settings = Mapping[str, float]
Annotator = Callable[[Any, Any, Any, Settings], Answers]
"""(scores of the first, of the second, int64 keys of the pairs, settings) → answers."""


def oracle(score_first: Any, score_second: Any, keys: Any, settings: Settings) -> Answers:
    """Never errs: the higher score is better, equal scores tie.

    Args:
        score_first: the first segments' scores, finite, higher is better.
        score_second: the second segments' scores, broadcastable with the first.
        keys: random bits of each pair; not used here.
        settings: none.

    Returns:
        prefers_second, in {0, 0.5, 1}, of the broadcast shape, with weight 1.
    """
    numbers(settings, {})
    answers = 0.5 * (score_second >= score_first) + 0.5 * (score_second > score_first)
    return Answers(answers, answers * 0 + 1)


def noisy(score_first: Any, score_second: Any, keys: Any, settings: Settings) -> Answers:
    """Errs at times: the simulated teachers of B-Pref (Lee et al., arXiv 2111.03026).

    Settings, all 0 by default: `temperature` T: the better segment is chosen with probability
    σ(gap / T); `error_rate`: so many of the answers are turned round, whatever the gap;
    `skip_below`: questions with a smaller gap of scores are skipped.
    """
    known = numbers(settings, {"temperature": 0.0, "error_rate": 0.0, "skip_below": 0.0})
    rate, temperature = known["error_rate"], known["temperature"]
    if not 0 <= rate <= 0.5 or min(known.values()) < 0:
        raise UserError(f"error_rate must lie in [0, 0.5], no setting below 0; got {settings}.")
    honest = oracle(score_first, score_second, keys, {}).prefers_second
    gap = abs(score_second - score_first)
    slip = gap * 0
    if temperature:
        steep = gap / temperature
        steep = steep - (steep > 50) * (steep - 50)  # e^50 is sure enough, and finite
        slip = 1 / (1 + math.e**steep)
    errs = 1.0 * (uniform(keys) < slip + rate * (1 - 2 * slip))
    return Answers(honest + errs * (1 - 2 * honest), 1.0 * (gap >= known["skip_below"]))


ANNOTATORS: dict[str, Annotator] = {
    "oracle": oracle,
    "noisy": noisy,
}
"""What `label --annotator` and a dataset card may name, besides `module:function`."""


def find_annotator(name: str) -> Annotator:
    """The annotator called `name`, or anybody's `module:function`.

    Raises:
        UserError: there is none.
    """
    return plugins.find_function("annotator", name, ANNOTATORS, GROUP)


def check_name(name: str, settings: Settings) -> None:
    """Whether a file may name this annotator; nothing is imported for it, and nothing called.

    Raises:
        UserError: it is none of ours, no entry point's and no `module:function`, or one of ours
            that refuses these settings.
    """
    if name in ANNOTATORS:
        check_annotator(name, settings)
    elif ":" not in name and name not in entry_points(group=GROUP).names:
        raise unknown_name("annotator", name, ANNOTATORS, "Or module:function.")


def can_answer(name: str) -> bool:
    """Whether this annotator is a function of scores, and no person who was asked once."""
    try:
        find_annotator(name)
    except UserError:
        return False
    return True


def ask(preferences: Preferences, first: np.ndarray, second: np.ndarray) -> Answers:
    """What the annotator of some preferences with scores says of any pairs of their segments.

    Args:
        preferences: with scores.
        first: positions among the segments, (c,).
        second: likewise.
    """
    info, scores, starts = preferences.info, preferences.scores, preferences.segment_starts
    assert scores is not None, "only who gave scores can be asked again"
    keys = pair_keys(info.seeds.get("annotator", 0), starts[first], starts[second])
    annotator = find_annotator(info.annotator)
    return annotator(scores[first], scores[second], keys, info.annotator_settings)


def check_annotator(name: str, settings: Settings) -> None:
    """Ask once, to see whether it can be asked.

    Raises:
        UserError: there is none of that name, or it refuses these settings.
    """
    annotator = find_annotator(name)
    try:
        found = annotator(np.zeros(1), np.ones(1), np.zeros(1, np.int64), settings)
        answer, weight = (np.asarray(each, np.float64) for each in found)
    except UserError:
        raise
    except Exception as problem:
        raise UserError(
            f"The annotator '{name}' cannot be asked about the scores 0 and 1: "
            f"{type(problem).__name__}: {problem}. It is given (scores of the first, of the "
            "second, keys, settings) and gives (prefers_second, weight)."
        ) from None
    for what, values in (("prefers_second", answer), ("weight", weight)):
        if values.shape != (1,) or not 0 <= values[0] <= 1:
            raise UserError(
                f"The annotator '{name}' must give one {what} in [0, 1] a pair; got {values}."
            )


def numbers(settings: Settings, known: dict[str, float]) -> dict[str, float]:
    """The settings, with what is known in place of what isn't given.

    Raises:
        UserError: one that isn't known, or is no finite number.
    """
    for name, value in settings.items():
        if name not in known:
            raise unknown_name("setting of this annotator", name, known)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise UserError(f"The annotator's '{name}' must be a finite number, not {value!r}.")
    return {**known, **settings}
