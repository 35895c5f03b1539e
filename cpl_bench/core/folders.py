"""Where things lie: cards in a checkout or inside a wheel, data where Minari looks for them."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
CHECKOUT = PACKAGE.parent


WHEEL_CARDS = PACKAGE / "_cards"


def data_root() -> Path:
    """Where datasets are written and looked for: $MINARI_DATASETS_PATH, else `datasets/`."""
    chosen = os.environ.get("MINARI_DATASETS_PATH")
    if chosen:
        return Path(chosen).expanduser().resolve()
    return (CHECKOUT if is_checkout() else Path.cwd()) / "datasets"


def is_checkout() -> bool:
    """Whether the package runs from a checkout, whose cards and folders it then uses."""
    return (CHECKOUT / "envs").is_dir() and (CHECKOUT / "pyproject.toml").is_file()


def is_file(path: Path) -> bool:
    """Whether a file lies there; none does under a name that no file can have."""
    return os.path.isfile(path)  # noqa: PTH113 (pathlib's raises)


def shown(path: Path | str) -> str:
    """A path as commands have it: from the working directory on, if it lies below that."""
    place = Path(path).absolute()
    return str(place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else path)


def card_folder(kind: str) -> Path:
    """Where the cards of a kind lie: envs, datasets or results."""
    return (CHECKOUT if is_checkout() else WHEEL_CARDS) / kind
