"""Those who answer: two scores in, an answer and its weight out, in one convention everywhere.

An answer is `prefers_second`: 1 if the second segment is better, 0 if the first is, 0.5 for a tie.
Its weight is 1, or 0 where the question is skipped. They work element by element and broadcast, on
NumPy arrays and on torch tensors alike, with the same answers; what they draw at random they draw
from the pair's own key, so that a pair is answered alike whenever it is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cpl_bench.core.errors import UserError, unknown_name
from cpl_bench.core.pairs import uniform


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
    """Errs, skips and sees no difference at times: a simulated teacher, flaws as settings.

    The teacher of B-Pref (Lee et al., arXiv 2111.03026, algorithm 1) but for its myopia, which is
    in the scores (`discount` on a card). Without a setting, its flaw is absent:

    rationality   β: the better segment is chosen with probability σ(β · gap), Bradley–Terry's;
                  `temperature` says the same as 1/β
    error_rate    ε: so many of the answers are turned round, whatever the gap
    equal_below   a smaller gap is a tie
    poor_below    two segments that both score less are skipped
    skip_below    a smaller gap is skipped (not B-Pref's)

    `equal_share` and `poor_share` are such thresholds as a share of the data's typical score, which
    labelling measures (`with_scale`).

    Deviations from B-Pref: equal scores tie, where its rational teacher takes the first and a
    fallible one throws a coin; its thresholds follow the average return of the policy that is
    learning, ours the mean score of the data's segments. B-Pref's thresholds look at undiscounted
    sums, ours at the scores: with a `discount` at the myopic ones.
    """
    known = numbers(settings, NOISELESS)
    rate, steepness = known["error_rate"], _rationality(settings, known)
    above = {name: value for name, value in known.items() if name not in ("poor_below", "floor")}
    if not 0 <= rate <= 0.5 or min(above.values()) < 0:
        raise UserError(f"error_rate must lie in [0, 0.5], no setting below 0; got {settings}.")
    poor, equal = _thresholds(settings, known)
    honest = oracle(score_first, score_second, keys, {}).prefers_second
    gap = abs(score_second - score_first)
    slip = 1 / (1 + _exponential(gap * steepness)) if steepness else gap * 0
    errs = 1.0 * (uniform(keys) < slip + rate * (1 - 2 * slip))
    answers = honest + errs * (1 - 2 * honest)
    answers = answers + (gap < equal) * (0.5 - answers)
    asked = (gap >= known["skip_below"]) & ((score_first >= poor) | (score_second >= poor))
    return Answers(answers, 1.0 * asked)


NOISELESS = {
    "rationality": 0.0,
    "temperature": 0.0,
    "error_rate": 0.0,
    "equal_below": 0.0,
    "equal_share": 0.0,
    "poor_below": -math.inf,
    "poor_share": 0.0,
    "skip_below": 0.0,
    "floor": 0.0,
    "typical": 0.0,
}
"""The settings of `noisy`, and what they are where they aren't given: no noise."""


SCALE = {"floor", "typical"}
"""Settings that labelling measures."""
SHARES = {"poor_share", "equal_share"}
"""Settings that are shares of them."""


def _rationality(settings: Settings, known: Settings) -> float:
    """β, or 0 for somebody who always sees which is better."""
    if "rationality" in settings and "temperature" in settings:
        raise UserError("Give rationality or temperature, which is 1/rationality, not both.")
    if "rationality" in settings and not settings["rationality"]:
        raise UserError("rationality must be above 0; leave it out for a rational teacher.")
    temperature = known["temperature"]
    return 1 / temperature if temperature else known["rationality"]


def _thresholds(settings: Settings, known: Settings) -> tuple[float, float]:
    """The score below which a segment is poor, and the gap below which two are equal."""
    found = []
    for name, origin in (("poor", known["floor"]), ("equal", 0.0)):
        share, below = f"{name}_share", f"{name}_below"
        if share in settings and below in settings:
            raise UserError(f"Give {share} or {below}, not both.")
        if known[share] and SCALE - set(settings):
            raise UserError(
                f"{share} is a share of the data's typical score, which labelling measures: label "
                f"with it, or give {below}."
            )
        relative = origin + known[share] * known["typical"]
        found.append(relative if known[share] else known[below])
    return found[0], found[1]


def _exponential(x: Any) -> Any:
    """e^x of x ≥ 0, at most e^50, which is sure enough, right to 1e-12.

    Of sums and products alone, which every processor rounds alike: a library's own exponential may
    differ in its last bit, and then so could an answer.
    """
    small = (x * (x <= 50) + 50.0 * (x > 50)) / 1024
    power = small * 0 + 1
    for n in range(7, 0, -1):
        power = 1 + power * small / n
    for _ in range(10):
        power = power * power
    return power


# --- B-Pref's teachers, with the settings that were published; the sixth is the oracle ---


def bpref_stochastic(first: Any, second: Any, keys: Any, settings: Settings) -> Answers:
    """B-Pref's stochastic teacher: Bradley–Terry of the scores as they are, β = 1."""
    return noisy(first, second, keys, _published(settings, rationality=1.0))


def bpref_mistake(first: Any, second: Any, keys: Any, settings: Settings) -> Answers:
    """B-Pref's teacher who makes mistakes: one answer of ten is turned round."""
    return noisy(first, second, keys, _published(settings, error_rate=0.1))


def bpref_skip(first: Any, second: Any, keys: Any, settings: Settings) -> Answers:
    """B-Pref's teacher who skips pairs of poor segments: below a tenth of the typical score."""
    return noisy(first, second, keys, _published(settings, poor_share=0.1))


def bpref_equal(first: Any, second: Any, keys: Any, settings: Settings) -> Answers:
    """B-Pref's teacher to whom segments are equal: within a tenth of the typical score."""
    return noisy(first, second, keys, _published(settings, equal_share=0.1))


def bpref_myopic(first: Any, second: Any, keys: Any, settings: Settings) -> Answers:
    """B-Pref's myopic teacher: a rational one whose scores discount earlier steps by 0.9."""
    return noisy(first, second, keys, _published(settings))


def _published(settings: Settings, **fixed: float) -> Settings:
    """The teacher's own settings; a card adds none but the measured ones."""
    numbers(settings, dict.fromkeys(SCALE, 0.0) if set(fixed) & SHARES else {})
    return {**settings, **fixed}


# --- Settings ---


def with_scale(name: str, settings: Settings, scores: np.ndarray) -> dict[str, float]:
    """The settings, with what an annotator whose thresholds are shares must know of the data.

    `floor` is the score of having achieved nothing: 0 as in B-Pref, or the lowest where scores are
    negative, as regret is. `typical` is the mean score above it: B-Pref's average return, cut to a
    segment's length.

    Args:
        name: the annotator's.
        settings: as a card has them.
        scores: of all segments, (n,).
    """
    relative = name in ("bpref_skip", "bpref_equal") or (name == "noisy" and SHARES & set(settings))
    if not relative:
        return dict(settings)
    floor = min(0.0, float(scores.min()))
    return {**settings, "floor": floor, "typical": float(scores.mean()) - floor}


def without_scale(settings: Settings) -> dict[str, float]:
    """The settings as a card has them."""
    return {name: value for name, value in settings.items() if name not in SCALE}


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
