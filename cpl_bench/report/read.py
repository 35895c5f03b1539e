"""A run folder as a report sees it: what was trained, and how it fared at every checkpoint."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpl_bench.core.errors import UserError
from cpl_bench.runs.evaluations import read_evaluations, success_by_checkpoint

Rates = NDArray[np.float64]
"""Success rates, 0 to 1."""


@dataclass(frozen=True)
class EvaluatedRun:
    """One `runs/<dataset>/<algorithm>[-note]/`: s seeds, evaluated at t checkpoints."""

    folder: Path
    dataset: str
    method: str
    """The name in table and figure."""
    steps: int
    """Gradient steps that the run was to take."""
    command: str
    behaviour_success: float | None
    """Success rate of the policy behind the data, where it is known."""
    online_transitions: int
    """Simulator steps that each seed took to learn from; 0 for offline methods."""
    phases: tuple[tuple[str, int], ...]
    """Name and steps of each."""
    versions: dict[str, str]
    checkpoints: NDArray[np.int64]
    """(t,) gradient steps, ascending."""
    success: Rates
    """(s, t) in the evaluations during training."""
    last: Rates
    """(s,) at the last checkpoint: in `final.csv` if there is one, else the last of `success`."""
    last_episodes: int
    """Episodes per seed behind `last`."""


def read_run(folder: Path) -> EvaluatedRun:
    """What `folder` holds.

    Raises:
        UserError: it is no run folder, or its files are damaged or contradict each other.
    """
    facts = _read_facts(folder)
    path = folder / "evaluations.csv"
    columns = read_evaluations(path)
    checkpoints, seeds, success = success_by_checkpoint(columns)
    _check_seeds(path, seeds, facts["seeds"])
    reached = int(checkpoints[-1])
    if reached > facts["steps"]:
        raise UserError(
            f"{path} goes to step {reached}, but run.json says that the run has {facts['steps']} "
            "steps. The two are not from the same run: train it again."
        )
    last = success[:, -1]
    final = folder / "final.csv"
    if final.exists():
        columns = read_evaluations(final)
        evaluated, seeds, rates = success_by_checkpoint(columns)
        _check_seeds(final, seeds, facts["seeds"])
        if evaluated.tolist() != [reached]:
            raise UserError(
                f"{final} must evaluate the last checkpoint of evaluations.csv, step {reached}, "
                f"and it holds {_listing('step', evaluated)}. Evaluate the run again."
            )
        last = rates[:, 0]
    return EvaluatedRun(
        folder=folder,
        dataset=facts["dataset"],
        method=facts["method"],
        steps=facts["steps"],
        command=facts["command"],
        behaviour_success=facts["behaviour_success"],
        online_transitions=facts["online_transitions"],
        phases=tuple((name, steps) for name, steps in facts["phases"]),
        versions={name: str(version) for name, version in facts["versions"].items()},
        checkpoints=checkpoints,
        success=success,
        last=last,
        last_episodes=int((columns["step"] == reached).sum()) // len(seeds),
    )


def _read_facts(folder: Path) -> dict[str, Any]:
    """`run.json`, every key that a report needs checked."""
    path = folder / "run.json"
    if not path.is_file():
        found = "it has no run.json" if folder.is_dir() else "there is no such folder"
        raise UserError(
            f"{folder} is no run folder: {found}. `cpl-bench train` writes run folders, "
            "runs/<dataset>/<algorithm>."
        )
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise UserError(
            f"{path} is not readable as JSON: {problem}. Train the run again."
        ) from None
    if not isinstance(facts, dict):
        raise UserError(
            f"{path} must hold a table of keys, not {facts!r:.100}. Train the run again."
        )
    facts = _OF_OLDER_RUNS | facts
    for key, (wanted, test) in _FACTS.items():
        if key not in facts:
            raise UserError(f"{path}: the key '{key}' is missing. Train the run again.")
        if not test(facts[key]):
            raise UserError(f"{path}: '{key}' must be {wanted}, not {facts[key]!r:.100}.")
    planned = sum(steps for _, steps in facts["phases"])
    if planned != facts["steps"]:
        raise UserError(
            f"{path}: the phases add up to {planned} steps, but 'steps' is {facts['steps']}."
        )
    return facts


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_seeds(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(_is_count(seed) for seed in value)
        and len(set(value)) == len(value)
    )


def _is_rate(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1  # pyright: ignore[reportOperatorIssue]


def _is_phases(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(phase, list) and len(phase) == 2 and _is_name(phase[0]) and _is_count(phase[1])
        for phase in value
    )


_FACTS = {
    "dataset": ("a name", _is_name),
    "method": ("a name", _is_name),
    "algorithm": ("a name", _is_name),
    "seeds": ("a list of different whole numbers", _is_seeds),
    "steps": ("a whole number", _is_count),
    "command": ("text", lambda x: isinstance(x, str)),
    "behaviour_success": ("a rate from 0 to 1 or null", lambda x: x is None or _is_rate(x)),
    "online_transitions": ("a whole number", _is_count),
    "phases": ("a list of [name, steps]", _is_phases),
    "versions": ("a table of versions", lambda x: isinstance(x, dict)),
}
_OF_OLDER_RUNS: dict[str, Any] = {"online_transitions": 0}
"""What a key means where it is missing: runs written before there was such a key."""


def _check_seeds(path: Path, found: NDArray[np.int64], expected: list[int]) -> None:
    if found.tolist() != sorted(expected):
        raise UserError(
            f"{path} holds {_listing('seed', found)}, but run.json says "
            f"{_listing('seed', expected)}. Evaluate the run again, or resume its training with "
            "--resume."
        )


def _listing(noun: str, numbers: NDArray[np.int64] | list[int]) -> str:
    return f"{noun}{'s' if len(numbers) > 1 else ''} {', '.join(str(n) for n in numbers)}"
