"""A film says what it shows, and stays small."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from cpl_bench.runs import webp
from cpl_bench.runs.webp import LARGEST_FILM_BYTES, Film, Origin, read_film, write_film

FILM = Film(Origin("CPL(λ)", "Выбор", 200, "a" * 64, "e" * 64), seed=7, succeeded=False)


def frames(count: int) -> list[np.ndarray]:
    """Frames alike in nothing: the worst that can be compressed."""
    return list(np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8))


def moments(path: Path) -> list[tuple[int, np.ndarray]]:
    """(milliseconds, image) of each frame."""
    from PIL import Image

    shown = []
    with Image.open(path) as image:
        for place in range(getattr(image, "n_frames", 1)):
            image.seek(place)
            pixels = np.asarray(image.convert("RGB"))  # and only now it knows how long
            shown.append((image.info["duration"], pixels))
    return shown


def test_a_film_says_what_it_shows(tmp_path):
    path = tmp_path / "new" / "a.webp"
    write_film(path, FILM, frames(3))
    assert read_film(path) == FILM
    assert [milliseconds for milliseconds, _ in moments(path)] == [50, 50, 50]
    assert moments(path)[0][1].shape == (320, 320, 3)


def test_a_long_film_shows_every_other_frame_and_the_last(tmp_path, monkeypatch):
    shades = [np.full((8, 8, 3), 20 * i, np.uint8) for i in range(10)]
    path = tmp_path / "a.webp"
    write_film(path, FILM, shades)
    size = path.stat().st_size
    monkeypatch.setattr(webp, "LARGEST_FILM_BYTES", size - 1)
    write_film(path, FILM, shades)
    shown = moments(path)
    assert [milliseconds for milliseconds, _ in shown] == [100] * 5
    assert [round(image.mean() / 20) for _, image in shown] == [1, 3, 5, 7, 9]
    monkeypatch.setattr(webp, "LARGEST_FILM_BYTES", 0)
    write_film(path, FILM, shades)
    assert len(moments(path)) == 1 and read_film(path) == FILM


def test_a_film_can_be_published(tmp_path):
    path = tmp_path / "a.webp"
    write_film(path, FILM, frames(40))
    assert path.stat().st_size <= LARGEST_FILM_BYTES < 500_000


RUBBISH = [
    b"",
    b"RIFF",
    b"\x89PNG\r\n\x1a\n and so on",
    b"RIFF\x10\x00\x00\x00WEBPVP8 ",
    b"RIFF\x10\x00\x00\x00WEBPVP8X" + bytes(8),
]


@pytest.mark.parametrize("content", [None, *RUBBISH])
def test_what_is_no_film_of_ours_says_nothing(tmp_path, content):
    if content is not None:
        (tmp_path / "a.webp").write_bytes(content)
    assert read_film(tmp_path / "a.webp") is None


def test_somebody_elses_picture_says_nothing(tmp_path):
    from PIL import Image

    about = Image.Exif()
    about[0x010E] = "A holiday"
    for name, extra in (("a.webp", {}), ("b.webp", {"exif": about})):
        Image.new("RGB", (8, 8)).save(tmp_path / name, **extra)
        assert read_film(tmp_path / name) is None


def test_a_film_that_is_cut_off_says_nothing(tmp_path):
    path = tmp_path / "a.webp"
    write_film(path, FILM, frames(1))
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 50):
        path.write_bytes(whole[:length])
        assert read_film(path) is None, length


FACTS = asdict(FILM)


@pytest.mark.parametrize(
    "facts",
    [
        {name: value for name, value in FACTS.items() if name != "seed"},
        FACTS | {"mood": "good"},
        FACTS | {"path": "elsewhere.webp"},
        FACTS | {"seed": "7"},
        FACTS | {"seed": True},
        FACTS | {"succeeded": 1},
        FACTS | {"origin": None},
        FACTS | {"origin": {**FACTS["origin"], "step": 0.5}},
        {**FACTS, **FACTS["origin"]},
        [],
        7,
        None,
    ],
    ids=str,
)
def test_a_film_of_other_facts_says_nothing(tmp_path, facts):
    said_by(tmp_path / "a.webp", json.dumps(facts))
    assert read_film(tmp_path / "a.webp") is None


def test_a_films_facts_are_json(tmp_path):
    said_by(tmp_path / "a.webp", json.dumps(FACTS))
    assert read_film(tmp_path / "a.webp") == FILM
    said_by(tmp_path / "a.webp", json.dumps(FACTS)[:-1])
    assert read_film(tmp_path / "a.webp") is None


def said_by(path: Path, facts: str) -> None:
    """A picture that says it were a film of such facts."""
    from PIL import Image

    about = Image.Exif()
    about[0x010E] = "cpl-bench film " + facts
    Image.new("RGB", (8, 8)).save(path, exif=about)
