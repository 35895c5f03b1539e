"""A film says what it shows, and stays small."""

from pathlib import Path

import numpy as np
import pytest

from cpl_bench.runs import webp
from cpl_bench.runs.webp import LARGEST_FILM_BYTES, Film, read_film, write_film


def film_at(path: Path) -> Film:
    return Film(path, "CPL(λ)", "Выбор", seed=7, succeeded=False)


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
    film = film_at(tmp_path / "new" / "a.webp")
    write_film(film, frames(3))
    assert read_film(film.path) == film
    assert [milliseconds for milliseconds, _ in moments(film.path)] == [50, 50, 50]
    assert moments(film.path)[0][1].shape == (320, 320, 3)


def test_a_long_film_shows_every_other_frame_and_the_last(tmp_path, monkeypatch):
    shades = [np.full((8, 8, 3), 20 * i, np.uint8) for i in range(10)]
    film = film_at(tmp_path / "a.webp")
    write_film(film, shades)
    size = film.path.stat().st_size
    monkeypatch.setattr(webp, "LARGEST_FILM_BYTES", size - 1)
    write_film(film, shades)
    shown = moments(film.path)
    assert [milliseconds for milliseconds, _ in shown] == [100] * 5
    assert [round(image.mean() / 20) for _, image in shown] == [1, 3, 5, 7, 9]
    monkeypatch.setattr(webp, "LARGEST_FILM_BYTES", 0)
    write_film(film, shades)
    assert len(moments(film.path)) == 1 and read_film(film.path) == film


def test_a_film_can_be_published(tmp_path):
    film = film_at(tmp_path / "a.webp")
    write_film(film, frames(40))
    assert film.path.stat().st_size <= LARGEST_FILM_BYTES < 500_000


@pytest.mark.parametrize("content", [None, b"", b"RIFF", b"\x89PNG\r\n\x1a\n and so on"])
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
