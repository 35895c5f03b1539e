"""The `.npz` preference files of CPL's authors, and of human labels in the same form.

    a label a pair      obs_1, obs_2 (c, k, o), action_1, action_2 (c, k, a), label (c,),
                        often reward_1, reward_2 (c, k)
    a score a segment   obs (n, k, o), action (n, k, a), reward (n, k), rl_sum (n,) and other
                        numbers a segment, of which any can be the score; state, timestep and
                        whatever else there is are passed over

With a score a segment, any two can be compared, or segment i with segment i + n/2, as their
training does in its mode `comparison`.

What is written their loader reads, with the same labels: 1 prefers the second. It wants rewards;
where there are none it gets zeros, and an array `no_reward` that it passes over says so. So do
`terminal` and `success`, which its files have no place for.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cpl_bench.core.errors import UserError
from cpl_bench.core.files import atomic_path
from cpl_bench.core.sources import OneMeans, Ties
from cpl_bench.preferences.arrays import preferences_from_arrays
from cpl_bench.preferences.format import Preferences
from cpl_bench.preferences.formats.archives import Header, read_headers, read_npz
from cpl_bench.preferences.formats.labels import answers_of

ACTION_LIMIT = 1 - 1e-5
"""Actions are written within ± this, as the authors' training clips them, and ours does."""
EXTRA = {"reward": "rewards", "terminal": "terminations", "success": "successes"}
"""What there may be of each step, and what we call it."""


def preferences_from_npz(
    path: Path,
    *,
    label_one_means: OneMeans | None = None,
    ties: Ties = "half",
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
        _wanted(path, headers, "obs_1", "obs_2", "action_1", "action_2", "label")
        sides = [f"{key}_{side}" for key in ("obs", "action", *EXTRA) for side in "12"]
        arrays = read_npz(path, ("label", "no_reward", *sides))
        answers = answers_of(arrays["label"], label_one_means, f"{path}: label", ties)
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
    """Which array is the score: the one that is named, or the only one that can be."""
    _wanted(path, headers, "obs", "action")
    one_each = headers["action"].shape[:1]
    able = [k for k, each in headers.items() if each.shape == one_each and each.dtype.kind == "f"]
    if not score_key and len(able) == 1:
        return able[0]
    if score_key not in able:
        raise UserError(
            f"{path}: which of its arrays is the score, higher is better? Say --score-key; there "
            f"is {', '.join(able) or 'none with a number a segment'}."
        )
    return score_key


def _of_scores(
    path: Path, arrays: dict[str, np.ndarray], score_key: str, pairs: str, task: str, name: str
) -> Preferences:
    count = len(arrays["action"])
    scores = arrays[score_key].astype(np.float64)
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


def write_npz(path: Path, preferences: Preferences) -> list[str]:
    """Write preferences as the authors keep them; returns what could not be kept, in lines.

    Listed comparisons become a label a pair, dense data a score a segment (`label`, which is what
    their loader looks for).

    Raises:
        UserError: answers of dense data that are not decided by the scores alone, or answers that
            count in part.
    """
    info, said = preferences.info, []
    rows = preferences.segment_starts[:, None] + np.arange(info.segment_length)  # (n, k)
    steps: dict[str, np.ndarray] = {
        "obs": preferences.observations[rows],
        "action": np.clip(preferences.actions[rows], -ACTION_LIMIT, ACTION_LIMIT),
    }
    for key, ours in EXTRA.items():
        values = getattr(preferences, ours)
        if values is not None:
            steps[key] = values[rows]
    none = {} if "reward" in steps else {"no_reward": np.ones(len(rows), np.uint8)}
    steps.setdefault("reward", np.zeros(rows.shape, np.float32))
    if info.pairs == "dense":
        if info.annotator != "oracle":
            raise UserError(
                f"{info.title} is dense and answered by '{info.annotator}', and these files hold "
                "scores, which answer without error. Label with --pairs sparse, then export."
            )
        arrays = {**steps, "label": preferences.scores, **none}
    else:
        kept = np.ones(len(preferences.first), bool)
        if preferences.weight is not None:
            if not np.isin(preferences.weight, (0, 1)).all():
                raise UserError(f"{info.title}: answers that count in part have no place in .npz.")
            kept = preferences.weight > 0
            said.append(f"{(~kept).sum():,} skipped questions are left out: .npz has no weights.")
        sides = {"1": preferences.first[kept], "2": preferences.second[kept]}
        arrays = {f"{k}_{side}": v[at] for k, v in steps.items() for side, at in sides.items()}
        arrays["label"] = answers = preferences.prefers_second[kept]
        if soft := int((~np.isin(answers, (0, 0.5, 1))).sum()):
            said.append(
                f"{soft:,} soft labels are written as they are; the authors' code rounds them."
            )
        arrays |= {key: values[: kept.sum()] for key, values in none.items()}
    if preferences.scores is not None and info.pairs != "dense":
        said.append("scores of the segments are left out: the file holds a label a pair.")
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
    return said
