"""Writing files so that a reader never sees half of one."""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}(\.[^.]+)?")
"""What a file is called while it is written."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place once the block succeeds.

    The block writes the temporary file and closes it; the file and its folder are then synced, so
    that the new content outlives a crash. If the block raises, `path` is as it was before and the
    temporary file is gone. The temporary name ends like `path`, for writers that go by the suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace the content of `path` in one step; text is written as UTF-8 with `\\n` line ends."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def check_writable(folder: Path) -> None:
    """Find out now whether files can be written in a folder, or the folder be made.

    Raises:
        OSError: the system's, where they cannot.
    """
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    probe = there / f".probe.{uuid.uuid4().hex[:8]}"
    probe.write_bytes(b"")
    probe.unlink()


def drop_temporaries(folder: Path) -> None:
    """Take away what a kill left of files being written; only for whoever holds the folder."""
    for path in filter(is_temporary, folder.glob(".*")):
        path.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether that is what a file is called while it is written."""
    return TEMPORARY.fullmatch(path.name) is not None


def replace_folder(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target`; both lie on one file system.

    Whatever stops it, one of the two is there afterwards: the old one is only moved aside, and put
    back by `recover_folder` where a kill left nothing in its place.
    """
    recover_folder(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(target)
    try:
        if target.exists():
            target.rename(aside)
        new.rename(target)
    except BaseException:
        recover_folder(target)
        raise
    _sync_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def recover_folder(target: Path) -> None:
    """Undo what was left half done by a killed `replace_folder`."""
    aside = _aside(target)
    if not aside.exists():
        return
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.rename(target)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system lets folders be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
