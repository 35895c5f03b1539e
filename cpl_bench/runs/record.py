"""What a run says of itself: `run.json`, written once and read back by whoever needs it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.counts import EPISODES, MEMBERS, SEED, STEPS, check_count
from cpl_bench.core.errors import UserError, shown
from cpl_bench.core.files import write_atomically
from cpl_bench.core.names import check_folder, check_line
from cpl_bench.core.score import Score
from cpl_bench.core.tables import read_json
from cpl_bench.core.toml import build, table_of
from cpl_bench.core.versions import processor
from cpl_bench.learning.config import MethodConfig
from cpl_bench.preferences.format import PreferenceInfo

RECORD_VERSION = 2


@dataclass(frozen=True)
class RunRecord:
    """One run: a method on a dataset, s seeds side by side."""

    dataset: str
    """The name of the data in tables and figures."""
    task: TaskCard | None
    """The whole card, so that the run can be rolled out wherever it lies; None: no simulator."""
    algorithm: str
    """A name in `cpl_bench.learning.methods.ALGOS`, of an entry point, or `module:ENTRY`."""
    method: str
    """The name in tables and figures."""
    config: dict[str, Any]
    """The method's config, nested as its class is, but for what `core.toml.added` is about."""
    seeds: tuple[int, ...]
    """As the user counts them, from 0."""
    steps: int
    """Gradient steps that the run was to take."""
    phases: tuple[tuple[str, int], ...]
    """Name and steps of each."""
    evaluate_every: int
    """Gradient steps between checkpoints."""
    episodes: int
    """Episodes a seed in each evaluation; 0: none is made."""
    preferences: PreferenceInfo
    """Where the data come from."""
    behaviour_score: float | None = None
    """What the policy behind the data achieved on average, where it is known."""
    online_transitions: int = 0
    """Simulator steps that each seed was to take to learn from; 0 for offline methods."""
    device: str = "cpu"
    precision: str = "fp32"
    """What matrix products were computed in."""
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    machine: dict[str, str | int] = field(default_factory=dict)
    diverged: tuple[tuple[int, int], ...] = ()
    """(seed, the checkpoint's step) of members whose weights were no longer finite there."""
    resumed: tuple[dict[str, Any], ...] = ()
    """Where it went on under other versions, code or on another machine: what was other, since
    which step."""
    record_version: int = RECORD_VERSION

    def __post_init__(self) -> None:
        check_folder("the dataset's name", self.dataset)
        check_line("the method's name", self.method)
        check_line("algorithm", self.algorithm)
        check_count("how many seeds there are", len(self.seeds), 1, MEMBERS)
        check_count("steps", self.steps, 0, STEPS)
        check_count("evaluate_every", self.evaluate_every, 1, STEPS)
        check_count("episodes", self.episodes, 0, EPISODES)
        for _, steps in self.phases:
            check_count("the steps of a phase", steps, 0, STEPS)
        checks = {
            "the method must have a name": not self.method,
            f"seeds must be different whole numbers from 0 to {SEED}; got {shown(self.seeds)}": (
                len(set(self.seeds)) < len(self.seeds)
                or not 0 <= min(self.seeds) <= max(self.seeds) <= SEED
            ),
            f"the phases must add up to steps, {self.steps}; got {shown(self.phases)}": (
                sum(n for _, n in self.phases) != self.steps
            ),
            f"behaviour_score, a success rate, must lie in [0, 1]; got {self.behaviour_score}": (
                self.behaviour_score is not None
                and self.scoring.is_success
                and not 0 <= self.behaviour_score <= 1
            ),
            f"diverged must name seeds of the run, each once; got {self.diverged}": (
                len({seed for seed, _ in self.diverged} & {*self.seeds}) < len(self.diverged)
            ),
            f"online_transitions may not be negative; got {self.online_transitions}": (
                self.online_transitions < 0
            ),
        }
        for problem, found in checks.items():
            if found:
                raise UserError(f"{problem}.")

    @property
    def scoring(self) -> Score:
        """How the run's episodes are scored."""
        return self.task.scoring if self.task else Score()

    def diverged_by(self, step: int) -> list[int]:
        """Seeds whose weights at a checkpoint are no numbers any more: they stand still."""
        return [seed for seed, since in self.diverged if since <= step]

    def rolled_out(self, named: TaskCard | None) -> tuple[TaskCard, str]:
        """Where: the run's own task or the one `named`; and what files about another are called by.

        Raises:
            UserError: the data named no task, and none is given.
        """
        task = named or self.task
        if task is None:
            raise UserError(
                f"{self.method} was trained on data that name no task; say which with --task."
            )
        return task, "" if task == self.task else f"-{task.name}-{task.fingerprint}"


DECISIVE = (
    "algorithm",
    "config",
    "seeds",
    "preferences",
    "task",
    "evaluate_every",
    "episodes",
    "method",
    "device",
    "precision",
)
"""What must agree for a run to be taken up again."""
ABSENT = "the default"
"""What a table has that doesn't name a setting."""


def gone_on(before: RunRecord, now: RunRecord, step: int) -> RunRecord:
    """The record of a run that goes on at a step: it names what is other than before, if anything.

    What was found beyond the step is forgotten, as the files beyond it are.

    None of it makes another run, but the bytes of an uninterrupted one are no longer to be
    expected.
    """
    before = replace(before, diverged=tuple(each for each in before.diverged if each[1] <= step))
    last: dict[str, Any] = {"versions": before.versions, "commit": before.commit}
    last |= {"machine": before.machine}
    for earlier in before.resumed:
        last |= earlier
    ours = {"versions": now.versions, "commit": now.commit, "machine": now.machine}
    other = {name: value for name, value in ours.items() if value != last[name]}
    if not other:
        return before
    return replace(before, resumed=(*before.resumed, {"step": step, **other}))


def difference(before: RunRecord, now: RunRecord) -> str:
    """The first thing that makes two records two runs; empty if nothing does.

    How the preference file was asked for doesn't matter.
    """
    ours, theirs = (json.loads(_text(record)) for record in (before, now))
    for table in (ours, theirs):
        table["preferences"].pop("command")
    return _difference({key: ours[key] for key in DECISIVE}, theirs, "")


def _difference(ours: Mapping[str, Any], theirs: Mapping[str, Any], where: str) -> str:
    """The first of our keys that differs, by its place in nested tables."""
    for key, value in ours.items():
        other, place = theirs.get(key, ABSENT), f"{where}{key}"
        if value == other:
            continue
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            inner = _difference({**dict.fromkeys(other, ABSENT), **value}, other, f"{place}.")
            return inner or f"another '{place}'"
        return f"another '{place}' ({value!r}, now {other!r})"
    return ""


def write_record(path: Path, record: RunRecord) -> None:
    """Write `run.json`."""
    write_atomically(path, _text(record))


def read_record(folder: Path) -> RunRecord:
    """The record of a run folder.

    Raises:
        UserError: this is no run folder, or its `run.json` is damaged, of another version or
            contradicts itself.
    """
    path = folder / "run.json"
    if not path.is_file():
        found = "it has no run.json" if folder.is_dir() else "there is no such folder"
        raise UserError(
            f"{folder} is no run folder: {found}. `cpl-bench train` writes run folders, "
            "runs/<dataset>/<algorithm>; `cpl-bench list runs` shows those there are."
        )
    try:
        table = read_json(path)
    except UserError as problem:
        raise UserError(f"{problem} Train the run again.") from None
    if not isinstance(table, Mapping):
        raise UserError(f"{path} must hold a table of keys, not {shown(table)}. Train again.")
    if table.get("record_version") != RECORD_VERSION:
        raise UserError(
            f"{path}: expected record_version {RECORD_VERSION}, got "
            f"{shown(table.get('record_version'))}. Train the run again, or read it with the "
            "cpl_bench that wrote it."
        )
    try:
        return build(RunRecord, table, path)
    except UserError as problem:
        raise UserError(f"{problem} Train the run again.") from None


def as_table(config: MethodConfig) -> dict[str, Any]:
    """A method's config as JSON has it: nested tables, lists for tuples."""
    return json.loads(json.dumps(table_of(config)))


def machine(threads: int = 0) -> dict[str, Any]:
    """What a number may depend on besides its seed; `threads`: torch's, 0 for as they are."""
    import torch

    about = {
        "processor": processor(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch_threads": threads or torch.get_num_threads(),
    }
    return about | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def _text(record: RunRecord) -> str:
    return json.dumps(asdict(record), indent=2, allow_nan=False) + "\n"
