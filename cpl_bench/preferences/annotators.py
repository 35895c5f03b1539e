"""Annotators by name: found, checked, and asked.

What they do is in `cpl_bench.preferences.teachers`.
"""

from __future__ import annotations

from importlib.metadata import entry_points

import numpy as np

from cpl_bench.core import plugins
from cpl_bench.core.errors import UserError, unknown_name
from cpl_bench.core.pairs import pair_keys
from cpl_bench.preferences import teachers
from cpl_bench.preferences.format import Preferences
from cpl_bench.preferences.teachers import Annotator, Answers, Settings, noisy, oracle, with_scale

GROUP = "cpl_bench.annotators"
ANNOTATORS: dict[str, Annotator] = {
    "oracle": oracle,
    "noisy": noisy,
    "bpref_stochastic": teachers.bpref_stochastic,
    "bpref_mistake": teachers.bpref_mistake,
    "bpref_skip": teachers.bpref_skip,
    "bpref_equal": teachers.bpref_equal,
    "bpref_myopic": teachers.bpref_myopic,
}
"""What `label --annotator` and a dataset card may name, besides `module:function`."""
DISCOUNTS = {"bpref_myopic": 0.9}
"""The γ of those who see the last steps of a segment best, unless a card says another."""


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
    settings = {**with_scale(name, settings, np.arange(2.0)), **settings}
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
