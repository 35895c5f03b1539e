"""Where D4RL's files lie, where they can be had, and its reference scores.

Addresses and scores stand in the file `infos.py` of the package `d4rl`, which is read where it is
installed. The package itself is not imported: it wants a simulator that no longer installs.
"""

from __future__ import annotations

import http.client
import os
import runpy
import shutil
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from cpl_bench.core.errors import UserError, in_a_line, unknown_name
from cpl_bench.core.files import atomic_path
from cpl_bench.core.progress import say

INSTALL = "pip install --no-deps d4rl"


class Known(NamedTuple):
    """What the package `d4rl` says of a dataset."""

    address: str
    random_return: float | None
    expert_return: float | None


def d4rl_folder() -> Path:
    """Where D4RL keeps its files: $D4RL_DATASET_DIR, else ~/.d4rl/datasets."""
    chosen = os.environ.get("D4RL_DATASET_DIR")
    return Path(chosen).expanduser() if chosen else Path.home() / ".d4rl" / "datasets"


def known_of(name: str) -> Known | None:
    """What the installed package says of a dataset; None where it isn't installed, or knows none.

    Raises:
        UserError: its file is another one than expected.
    """
    return _known().get(name)


def _known() -> dict[str, Known]:
    """What the installed package says of all its datasets; nothing where it isn't installed."""
    spec = find_spec("d4rl")
    folders = list(spec.submodule_search_locations or []) if spec else []
    path = next((Path(each) / "infos.py" for each in folders), None)
    if path is None or not path.is_file():  # any folder called d4rl may have been found
        return {}
    try:
        found = runpy.run_path(str(path))
        lowest, highest = found["REF_MIN_SCORE"], found["REF_MAX_SCORE"]
        return {
            name: Known(address, lowest.get(name), highest.get(name))
            for name, address in found["DATASET_URLS"].items()
        }
    except Exception as problem:
        raise UserError(
            f"{path} does not say where datasets are ({type(problem).__name__}: {problem}). "
            f"Install the package anew: {INSTALL}"
        ) from None


def find_file(name: str, file: str, download: bool) -> Path:
    """The file of the dataset `name`; `file` is what D4RL calls it, empty for as it is installed.

    A download says from where and to where before it begins.

    Raises:
        UserError: it isn't there (what to do is said), or it cannot be downloaded.
    """
    folder, address = d4rl_folder(), ""
    if download or not file:
        every = _known()
        if not every:
            raise UserError(
                f"Which file {name} is, and where to get it, the package d4rl says, which is not "
                f"installed: {INSTALL}"
            )
        if name not in every:
            raise unknown_name("D4RL dataset", name, every, "As the package d4rl has them.")
        address = every[name].address
        file = address.rpartition("/")[2]
    path = folder / file
    if path.is_file():
        return path
    if not download:
        raise UserError(
            f"{name} is not on this machine: put {file} into {folder} ($D4RL_DATASET_DIR names "
            "another folder), name it with --source, or let --download get it."
        )
    _download(address, path)
    return path


def _download(address: str, path: Path) -> None:
    say(f"Downloading {address} → {path}")
    try:
        with (
            urllib.request.urlopen(address, timeout=60) as answer,
            atomic_path(path) as temporary,
            temporary.open("wb") as file,
        ):
            shutil.copyfileobj(answer, file)
            size = answer.headers.get("Content-Length")
            if size and int(size) != file.tell():
                raise OSError(f"{file.tell():,} of {int(size):,} bytes came")
    except (OSError, ValueError, http.client.HTTPException) as problem:
        raise UserError(
            f"{address} cannot be downloaded ({type(problem).__name__}: "
            f"{in_a_line(str(problem))}). Get it in another way, and put it into {path.parent}."
        ) from None
