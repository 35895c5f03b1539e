"""What several methods begin with is trained once: SFT, CPL and preference-PPO all clone first.

A run that has come to the end of a first phase that others may share leaves a copy of what it has
written until then in a folder beside it; a run that begins with the very same phase takes it over,
and goes on from there to the bytes that it would have come to alone:

runs/<dataset>/.shared/<key>/
    about.json          everything that decides the phase, and the sha256 of the files
    metrics.csv, evaluations.csv, checkpoints/      as in a run folder
    state.safetensors   of what the phase moves

The key is a hash of all that decides: phase, settings, data, task, seeds, evaluations, the source
of this package, versions and machine. Only a run that was not interrupted before leaves one, and
none whose task's code isn't known here. Folders can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import cpl_bench
from cpl_bench.core.errors import UserError
from cpl_bench.core.files import remove_folder, write_atomically
from cpl_bench.core.locks import held
from cpl_bench.core.tables import read_json
from cpl_bench.learning.interface import OnlinePhase, Phase, Shared
from cpl_bench.learning.state import take_up
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.record import RunRecord
from cpl_bench.tasks.registry import SUITES

ABOUT = "about.json"
DECISIVE = (
    "seeds",
    "task",
    "evaluate_every",
    "episodes",
    "preferences",
    "device",
    "precision",
    "versions",
    "machine",
)
"""What decides a phase, of what a run records; what the method is called or does later doesn't."""


class SharedStart:
    """A run's first phase, where other methods may begin with the same."""

    def __init__(self, phases: Sequence[Phase | OnlinePhase], record: RunRecord, run: RunFolder):
        first = next(phase for phase in phases if phase.steps)
        self.run, self._shared = run, getattr(first, "shared", None)
        task = record.task
        if task is not None and (task.suite not in SUITES or ":" in task.source_id):
            self._shared = None  # the code of somebody's own task may change, and no hash tells
        self.steps = first.steps if self._shared else 0  # 0: there is no end to wait for
        self._about = _about(first, self._shared, record) if self._shared else {}
        key = hashlib.sha256(_text(self._about).encode()).hexdigest()[:16]
        self.folder = RunFolder(run.path.parent / ".shared" / key)

    def take(self) -> int:
        """Take over what another run left, into an empty run; returns the step reached, 0: none.

        What is damaged, or was meant for another phase, is as if it weren't there.
        """
        if self._shared is None or not self._is_whole():
            return 0
        try:
            step, state = self.folder.read_state()
            self._copy(self.folder.path, self.run.path)
            take_up(self._shared.part, state)
        except (UserError, OSError):  # damaged, taken away meanwhile, or no room
            self.run.drop_after(0)
            return 0
        return step

    def leave(self) -> None:
        """Leave a copy for others; to be called right at the end of the phase."""
        if self._shared is None or self._is_whole():
            return
        made = RunFolder(self.folder.path.with_name(f".{self.folder.path.name}.writing"))
        with suppress(UserError, OSError), held(self.folder.path):  # else only time is lost
            remove_folder(made.path)  # what a kill left
            self._copy(self.run.path, made.path)
            made.write_state(self.steps, self._shared.part.state())
            about = {"decided_by": self._about, "files": _hashes(made.path)}
            write_atomically(made.path / ABOUT, _text(about))
            remove_folder(self.folder.path)  # a damaged one
            made.path.rename(self.folder.path)

    def _is_whole(self) -> bool:
        """Whether all files are there as they were left, and meant for this very phase."""
        try:
            about = read_json(self.folder.path / ABOUT)
            return about == {"decided_by": self._about, "files": _hashes(self.folder.path)}
        except (OSError, UserError):
            return False

    def _copy(self, source: Path, target: Path) -> None:
        for path in _files(source):
            write_atomically(target / path.relative_to(source), path.read_bytes())


def _about(phase: Phase | OnlinePhase, shared: Shared, record: RunRecord) -> dict[str, Any]:
    """Everything that decides a phase, as JSON has it."""
    table = asdict(record)
    about = {name: table[name] for name in DECISIVE}
    about["preferences"] = {**about["preferences"], "command": ""}
    about["phase"] = [phase.name, phase.steps, repr(phase.feed), repr(shared.decided_by)]
    about["source"] = source_hash()
    return json.loads(_text(about))


@cache
def source_hash() -> str:
    """Of this package's code, by content: a commit alone doesn't tell of files that changed."""
    root, digest = Path(cpl_bench.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    """What runs share of a run folder, but for the state."""
    named = [folder / name for name in ("metrics.csv", "evaluations.csv")]
    return [path for path in named if path.is_file()] + sorted(
        (folder / "checkpoints").glob("[0-9]*.safetensors")
    )


def _hashes(folder: Path) -> dict[str, str]:
    """{path: sha256} of what is shared, the state among it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in [*_files(folder), folder / "state.safetensors"]
    }


def _text(table: Mapping[str, Any]) -> str:
    return json.dumps(table, indent=2, sort_keys=True) + "\n"
