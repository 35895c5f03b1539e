"""The `.npz` preference files of CPL's authors, and of human labels in the same form.

    a label a pair      obs_1, obs_2 (c, k, o), action_1, action_2 (c, k, a), label (c,), or so
                        many numbers of another name, often reward_1, reward_2 (c, k)
    a score a segment   obs (n, k, o), action (n, k, a), reward (n, k), rl_sum (n,) or (n, 1) and
                        other numbers a segment, of which any can be the score; state, timestep
                        and whatever else there is are passed over

With a score a segment, any two can be compared, or segment i with segment i + n/2, as their
training does in its mode `comparison`.

What is written is in `npz_out`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cpl_bench.core.errors import UserError, shortened
from cpl_bench.core.sources import OneMeans, Ties
from cpl_bench.preferences.arrays import preferences_from_arrays
from cpl_bench.preferences.format import Preferences
from cpl_bench.preferences.formats.archives import Header, read_headers, read_npz
from cpl_bench.preferences.formats.labels import answers_of

EXTRA = {"reward": "rewards", "terminal": "terminations", "success": "successes"}
"""What there may be of each step, and what we call it."""
OF_STEPS = ("obs", "action", *EXTRA, "state", "timestep", "no_reward")
"""What is no score, though segments of one step have it a number each."""


def preferences_from_npz(
    path: Path,
    *,
    label_one_means: OneMeans | None = None,
    ties: Ties = "half",
    label_key: str = "label",
    score_key: str = "",
    pairs: str = "dense",
    task: str = "",
    name: str = "",
    annotator: str = "human",
) -> Preferences:
    """The preferences in a file.

    Args:
        path: of the file.
        label_one_means: of a file with a label a pair, which of the two a 1 prefers.
        ties: of such a file, what a tie is: 0.5 or −1.
        label_key: of such a file, which array the labels are.
        score_key: of a file with scores, which array they are; higher is better.
        pairs: of a file with scores: dense, any two; sparse, segment i with segment i + n/2.
        task: where policies are rolled out; empty for nowhere.
        name: of the data.
        annotator: who answered; scores answer for themselves.

    Raises:
        UserError: a damaged file, arrays that are missing or do not fit together, labels outside
            the convention, or a convention that isn't said.
    """
    headers = read_headers(path)
    if "action_1" in headers:
        if label_one_means is None:
            raise UserError(
                f"{path} holds a label a pair, and does not say whether a 1 prefers the first or "
                "the second: say --label-one-means second (as CPL's authors have it), or first."
            )
        _wanted(path, headers, "obs_1", "obs_2", "action_1", "action_2")
        if label_key not in headers:
            raise UserError(
                f"{path}: {shortened(label_key)} is missing, which were the labels. Say which are "
                f"with --label-key (on a card, label_key); it holds {_listed(headers)}."
            )
        sides = [f"{key}_{side}" for key in ("obs", "action", *EXTRA) for side in "12"]
        arrays = read_npz(path, (label_key, "no_reward", *sides))
        answers = answers_of(arrays[label_key], label_one_means, f"{path}: {label_key}", ties)
        return _of_pairs(path, arrays, answers, task, name, annotator)
    if "action" not in headers:
        raise UserError(
            f"{path}: expected obs_1, obs_2, action_1, action_2 and label, or obs, action and a "
            f"score; it holds {', '.join(headers) or 'nothing'}."
        )
    if label_one_means is not None:
        raise UserError(f"{path} holds a score a segment and no labels; leave label_one_means out.")
    score_key = _score_key(path, headers, score_key)
    arrays = read_npz(path, ("obs", "action", "no_reward", *EXTRA, score_key))
    return _of_scores(path, arrays, score_key, pairs, task, name)


def _of_pairs(
    path: Path,
    arrays: dict[str, np.ndarray],
    answers: np.ndarray,
    task: str,
    name: str,
    annotator: str,
) -> Preferences:
    count = len(arrays["obs_1"])
    both = {}
    for key in ("obs", "action", *EXTRA):
        ours, theirs = arrays.get(f"{key}_1"), arrays.get(f"{key}_2")
        if ours is None and theirs is None:
            continue
        if ours is None or theirs is None or ours.shape != theirs.shape or len(ours) != count:
            shapes = [None if each is None else each.shape for each in (ours, theirs)]
            raise UserError(f"{path}: {key}_1 and {key}_2 must have one shape, got {shapes}.")
        both[key] = np.concatenate([ours, theirs])
    if len(answers) != count:
        raise UserError(f"{path}: {count} pairs, and {len(answers)} labels.")
    numbers = np.arange(count)
    return _named(
        path,
        both["obs"],
        both["action"],
        numbers,
        numbers + count,
        answers,
        task=task,
        name=name,
        annotator=annotator,
        scorer="",
        **_extra(arrays, both),
    )


def _score_key(path: Path, headers: dict[str, Header], score_key: str) -> str:
    """Which array is the score: the one that is named, or the only one that can be; of several that
    can, the only one of fractions."""
    _wanted(path, headers, "obs", "action")
    count = headers["action"].shape[0]
    able = [
        key
        for key, (shape, dtype) in headers.items()
        if shape in ((count,), (count, 1)) and dtype.kind in "fiub"
    ]
    if score_key in able:
        return score_key
    likely = [key for key in able if key not in OF_STEPS]
    fractions = [key for key in likely if headers[key].dtype.kind == "f"]
    for only in (fractions, likely):
        if not score_key and len(only) == 1:
            return only[0]
    what = "which of its arrays is the score, higher is better?"
    if score_key in headers:
        found = _listed({score_key: headers[score_key]})
        what = f"a score is a real number a segment, ({count},) or ({count}, 1), and not {found}."
    elif score_key:
        what = f"it holds no {shortened(score_key)}."
    there = ", ".join(likely) or f"none with a number a segment: it holds {_listed(headers)}"
    raise UserError(f"{path}: {what} Say --score-key; there is {there}.")


def _listed(headers: dict[str, Header]) -> str:
    """What arrays are: rl_sum (float32 of shape (24,))."""
    return ", ".join(f"{key} ({dtype} of shape {shape})" for key, (shape, dtype) in headers.items())


def _of_scores(
    path: Path, arrays: dict[str, np.ndarray], score_key: str, pairs: str, task: str, name: str
) -> Preferences:
    count = len(arrays["action"])
    scores = arrays[score_key].astype(np.float64).reshape(count)
    kept: dict[str, Any] = _extra(arrays, arrays)
    if pairs == "dense":
        found = _named(path, arrays["obs"], arrays["action"], scores=scores, task=task, name=name,
                       annotator="oracle", scorer=score_key, **kept)  # fmt: skip
    else:
        first = np.arange(count // 2)
        better = scores[first], scores[first + count // 2]
        answers = 0.5 * (better[0] <= better[1]) + 0.5 * (better[0] < better[1])
        found = _named(path, arrays["obs"], arrays["action"], first, first + count // 2, answers,
                       scores=scores, task=task, name=name, annotator="oracle", scorer=score_key,
                       **kept)  # fmt: skip
    return found


def _named(path: Path, *arrays: Any, scorer: str, **settings: Any) -> Preferences:
    """As `preferences_from_arrays`, which does not know the file."""
    try:
        found = preferences_from_arrays(*arrays, **settings)
    except UserError as problem:
        raise UserError(f"{path}: {problem}") from None
    return replace(found, info=replace(found.info, scorer=scorer))


def _wanted(path: Path, headers: dict[str, Header], *keys: str) -> None:
    missing = [key for key in keys if key not in headers]
    if missing:
        raise UserError(
            f"{path}: {', '.join(missing)} is missing; it holds {', '.join(sorted(headers))}."
        )
    single = [key for key in keys if not headers[key].shape]
    if single:
        raise UserError(f"{path}: {single[0]} is a single number, not an array.")


def _extra(arrays: dict[str, np.ndarray], stacked: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What there is of each step, (n, k), by our names; rewards that are none are left out."""
    found = {}
    for key, ours in EXTRA.items():
        if key in stacked and not (key == "reward" and "no_reward" in arrays):
            values = stacked[key]
            found[ours] = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    return found
