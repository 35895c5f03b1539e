"""What forks have answered, kept on disk as it comes, so that a kill costs the last few alone.

One line of JSON an answer, under the hash of all that was asked: nothing else is ever taken for an
answer, and a line that a kill cut off is none.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.versions import installed
from cpl_bench.tasks.jobs import Job


class Journal:
    """The answers in a file, and those that are added to it."""

    def __init__(self, path: Path):
        self.path = path
        self._known = _read(path)
        self._file: BinaryIO | None = None

    def __len__(self) -> int:
        return len(self._known)

    def get(self, job: Job) -> np.ndarray | None:
        """The answer to a job, if it was given."""
        return self._known.get(_key(job))

    def keep(self, job: Job, answer: np.ndarray) -> None:
        """Write an answer down."""
        key, kind = _key(job), np.asarray(answer).dtype.str
        line = {"key": key, "kind": kind, "answer": np.asarray(answer).tolist()}
        self._write(json.dumps(line).encode() + b"\n")
        self._known[key] = np.asarray(answer)

    def close(self) -> None:
        """Leave the file for whoever goes on."""
        if self._file is not None:
            self._file.close()

    def _write(self, line: bytes) -> None:
        if self._file is None:  # made with the first answer
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
            line = b"\n" + line if self._file.tell() else line  # a kill may have cut one off
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())


def _read(path: Path) -> dict[str, np.ndarray]:
    """The whole lines of a file."""
    known = {}
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            found = json.loads(line)
            known[found["key"]] = np.array(found["answer"], np.dtype(found["kind"]))
        except (ValueError, TypeError, KeyError):  # cut off, or damaged: to be asked again
            continue
    return known


def _key(job: Job) -> str:
    """The hash of everything that decides an answer."""
    asked: dict[str, Any] = dict(job.arguments)
    card: TaskCard = asked.pop("card")
    about = [job.function, card.suite, card.source_id, card.horizon_steps, installed(card)]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in sorted(asked.items()):
        array = np.ascontiguousarray(value)
        digest.update(f"\0{name} {array.dtype.str} {array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:32]
