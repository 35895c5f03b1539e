"""Where D4RL's files lie, where they can be had, and its reference scores.

Addresses and scores stand in the file `infos.py` of the package `d4rl`, which is read where it is
installed. The package itself is not imported: it wants a simulator that no longer installs.
"""

from __future__ import annotations

import os
import runpy
import shutil
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from cpl_bench.core.errors import UserError, unknown_name
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
    """What the installed package says of a dataset; None where it isn't installed.

    Raises:
        UserError: it knows no such dataset, or its file is another one than expected.
    """
    spec = find_spec("d4rl")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / "infos.py"
    try:
        found = runpy.run_path(str(path))
        addresses = found["DATASET_URLS"]
        lowest, highest = found["REF_MIN_SCORE"], found["REF_MAX_SCORE"]
    except Exception as problem:
        raise UserError(
            f"{path} does not say where datasets are ({type(problem).__name__}: {problem}). "
            f"Install the package anew: {INSTALL}"
        ) from None
    if name not in addresses:
        raise unknown_name("D4RL dataset", name, addresses, f"As {path} has them.")
    return Known(addresses[name], lowest.get(name), highest.get(name))


def find_file(name: str, file: str, download: bool) -> Path:
    """The file of the dataset `name`; `file` is what D4RL calls it, empty for as it is installed.

    A download says from where and to where before it begins.

    Raises:
        UserError: it isn't there (what to do is said), or it cannot be downloaded.
    """
    folder = d4rl_folder()
    known = known_of(name) if download or not file else None
    if known is not None:
        file = known.address.rpartition("/")[2]
    elif download or not file:
        raise UserError(
            f"Which file {name} is, and where to get it, the package d4rl says, which is not "
            f"installed: {INSTALL}"
        )
    path = folder / file
    if path.is_file():
        return path
    if not download:
        raise UserError(
            f"{name} is not on this machine: put {file} into {folder} ($D4RL_DATASET_DIR names "
            "another folder), name it with --source, or let --download get it."
        )
    assert known is not None
    _download(known.address, path)
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
    except (OSError, ValueError) as problem:
        raise UserError(
            f"{address} cannot be downloaded ({problem}). Get it in another way, and put it into "
            f"{path.parent}."
        ) from None
