"""Preferences as CPL's authors keep them, an `.npz` of the form that `npz` reads.

Their loader reads it, with the same labels: 1 prefers the second. It wants rewards; where there are
none it gets zeros, and an array `no_reward` that it passes over says so. So it does with `terminal`
and `success`, which its files have no place for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cpl_bench.core.errors import UserError
from cpl_bench.core.files import atomic_path
from cpl_bench.preferences.format import Preferences
from cpl_bench.preferences.formats.npz import EXTRA

ACTION_LIMIT = 1 - 1e-5
"""Actions are written within ± this, as the authors' training clips them, and ours does."""


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
