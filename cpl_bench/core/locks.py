"""One writer at a time: a lock on what is being written, which dies with whoever holds it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from cpl_bench.core.errors import UserError, shortened
from cpl_bench.core.files import NOFOLLOW

try:
    import fcntl
except ImportError:  # no POSIX: nothing is locked there
    fcntl = None


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Nobody else may write `path`, a file or a folder, until the block or the process ends.

    The lock is on a file beside it, `.NAME.lock`, which says who holds it and since when.

    Raises:
        UserError: somebody else holds it.
    """
    if fcntl is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    place = path.with_name(f".{path.name}.lock")
    descriptor = _taken(place, path)
    try:
        os.truncate(descriptor, 0)
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        os.pwrite(descriptor, f"process {os.getpid()} since {now}".encode(), 0)
        yield
    finally:
        place.unlink(missing_ok=True)  # while it is held: who waits for it finds out, and asks anew
        os.close(descriptor)


def _taken(place: Path, path: Path) -> int:
    """The descriptor of a lock file that is locked, and still the one of that name."""
    assert fcntl is not None
    while True:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(place.stat(), os.fstat(descriptor)):
                return descriptor
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise UserError(
                f"{path} is being written by {shortened(holder)}. Wait until it is done, or end "
                "it first."
            ) from None
        except FileNotFoundError:  # released between two looks
            pass
        os.close(descriptor)
