"""Writing files so that a reader never sees half of one.

A link to a folder is followed: whoever made it wants the files there. A link in the place of a file
never is: the file takes its place, and what it led to stays as it is.
"""

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
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


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


def append(path: Path, text: str, sync: bool = False) -> None:
    """Add to a file that is there, in one write; `sync`: it outlives a crash from then on.

    Raises:
        OSError: the system's; also where a link lies in the file's place.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "ab", buffering=0) as file:
        file.write(text.encode())
        if sync:
            os.fsync(file.fileno())


def remove_folder(path: Path) -> None:
    """Take away a folder with all there is in it, if it is there; of a link the link alone."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def drop_empty(folder: Path) -> None:
    """Take away a folder, if it is there and nothing was written into it."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def discard(path: Path) -> None:
    """Take away a folder in one step: a kill leaves all of it, or what the next call takes away."""
    drop_discarded(path)
    if path.exists():
        path.rename(_overwritten(path))
        drop_discarded(path)


def drop_discarded(path: Path) -> None:
    """Take away what a kill left of a folder of that name that was being discarded."""
    remove_folder(_overwritten(path))


def _overwritten(path: Path) -> Path:
    return path.with_name(f".{path.name}.overwritten")


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
    remove_folder(aside)


def recover_folder(target: Path) -> None:
    """Undo what was left half done by a killed `replace_folder`."""
    aside = _aside(target)
    if not aside.exists():
        return
    if target.exists():
        remove_folder(aside)
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
