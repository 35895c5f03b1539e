"""The file of a film: an animated WebP, small enough for a page, that says what it shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from cpl_bench.core.errors import UserError
from cpl_bench.core.files import write_atomically
from cpl_bench.core.tables import from_json
from cpl_bench.core.toml import build
from cpl_bench.runs.folder import RunFolder

FILM = "rollout.webp"
"""The film beside a report's page."""
TRIES, TRIES_IN_WORDS = 5, "five"
"""Test episodes among which the first success is filmed."""
FRAME_SIZE = 320
FRAME_MILLISECONDS = 50
QUALITY = 60
LARGEST_FILM_BYTES = 480_000
_MARK = "cpl-bench film "
_DESCRIPTION = 0x010E  # EXIF's ImageDescription


@dataclass(frozen=True)
class Origin:
    """A checkpoint of a run; a run made anew under the same names is another origin."""

    method: str
    dataset: str
    step: int
    data: str
    """The hash of the preferences that the run saw."""
    evaluations: str
    """SHA-256 of the run's `evaluations.csv`, empty without one."""


@dataclass(frozen=True)
class Film:
    """One episode of one seed's policy."""

    origin: Origin
    seed: int
    succeeded: bool
    """It is the first success among `TRIES` test episodes, else the last of them."""


def origin_of(run: Path, step: int) -> Origin:
    """What tells the run in a folder from others, at a checkpoint.

    Raises:
        UserError: it is no run folder.
    """
    folder = RunFolder(run)
    record, source = folder.read(), folder.evaluations
    found = hashlib.sha256(source.read_bytes()).hexdigest() if source.exists() else ""
    data = record.preferences.preferences_hash
    return Origin(record.method, record.dataset, step, data, found)


def write_film(path: Path, film: Film, frames: Sequence[np.ndarray]) -> None:
    """Write a film of frames (h, w, 3).

    Where they would make too large a file, every other frame stands twice as long, and so on.
    """
    from PIL import Image

    images = [Image.fromarray(frame).resize((FRAME_SIZE, FRAME_SIZE)) for frame in frames]
    said = _MARK + json.dumps(asdict(film))
    write_animation(path, [np.asarray(image) for image in images], said)


def write_animation(path: Path, frames: Sequence[np.ndarray], description: str = "") -> None:
    """Write frames (h, w, 3) as an animation that says what it shows, thinned as a film is."""
    from PIL import Image

    about = Image.Exif()
    if description:
        about[_DESCRIPTION] = description
    images = [Image.fromarray(frame) for frame in frames]
    every = 1
    while True:
        first, *others = images[(len(images) - 1) % every :: every]  # the last one stays
        first.save(
            file := BytesIO(),
            format="WEBP",
            save_all=True,
            append_images=others,
            duration=FRAME_MILLISECONDS * every,
            loop=0,
            quality=QUALITY,
            exif=about,
        )
        if file.tell() <= LARGEST_FILM_BYTES or not others:
            break
        every *= 2
    write_atomically(path, file.getvalue())


def read_film(path: Path) -> Film | None:
    """What the film at `path` says that it shows; None if there is none that can be read.

    A damaged one, somebody else's and one of other facts than ours are none.
    """
    if not path.is_file() or path.read_bytes()[8:12] != b"WEBP":
        return None
    from PIL import Image

    try:
        with Image.open(path) as image:
            said = str(image.getexif().get(_DESCRIPTION, ""))
        facts = from_json(said.removeprefix(_MARK), path) if said.startswith(_MARK) else None
        return build(Film, facts, path) if isinstance(facts, dict) else None
    except (OSError, SyntaxError, ValueError, UserError, Image.DecompressionBombError):
        return None
