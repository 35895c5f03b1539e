"""The file of a film: an animated WebP, small enough for a page, that says what it shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from cpl_bench.core.files import write_atomically

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
class Film:
    """One episode of one seed's policy, and where it is shown."""

    path: Path
    method: str
    dataset: str
    seed: int
    succeeded: bool
    """It is the first success among `TRIES` test episodes, else the last of them."""


def write_film(film: Film, frames: Sequence[np.ndarray]) -> None:
    """Write frames (h, w, 3) at `film.path`.

    Where they would make too large a file, every other frame stands twice as long, and so on.
    """
    from PIL import Image

    about = Image.Exif()
    facts = {name: value for name, value in vars(film).items() if name != "path"}
    about[_DESCRIPTION] = _MARK + json.dumps(facts)
    images = [Image.fromarray(frame).resize((FRAME_SIZE, FRAME_SIZE)) for frame in frames]
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
    write_atomically(film.path, file.getvalue())


def read_film(path: Path) -> Film | None:
    """What the film at `path` says that it shows; None if there is none, or somebody else's."""
    if not path.is_file() or path.read_bytes()[8:12] != b"WEBP":
        return None
    from PIL import Image

    with Image.open(path) as image:
        said = str(image.getexif().get(_DESCRIPTION, ""))
    if not said.startswith(_MARK):
        return None
    return Film(path=path, **json.loads(said.removeprefix(_MARK)))
