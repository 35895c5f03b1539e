"""What was named where a dataset card's name is expected, and is none: what it is, and what to do.

Data of somebody else's are imported first, or named by a card; a list of cards would not say so.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection
from pathlib import Path

from cpl_bench.core.errors import UserError, in_a_line, shortened, unknown_name
from cpl_bench.core.folders import is_file

MINARI_ID = re.compile(r"[\w-]+(/[\w-]+)+-v\d+")
HDF5 = (".hdf5", ".h5")
DATA = (*HDF5, ".npz", ".safetensors", ".parquet", ".pkl", ".pickle")
"""How files end that somebody may take for a dataset."""


def no_dataset(name: str, known: Collection[str]) -> UserError:
    """What to raise where no dataset card is called `name`; `known` are those that there are."""
    path, there = Path(name), os.path.exists(name)  # noqa: PTH110 (pathlib's raises)
    word = shlex.quote(in_a_line(name) if there else shortened(name))
    card = _card_of(path, known)
    source = f" --source {word}" if there and path.suffix in HDF5 else ""
    ours = f" The card {card} imports such data: cpl-bench import {card}{source}." if card else ""
    if there:
        what = _folder(path, word) if path.is_dir() else _file(path, word)
        return UserError(f"{word} is {what}{ours}")
    if path.suffix in DATA:
        return UserError(f"{word}: there is no such file, nor a dataset card called so.{ours}")
    if MINARI_ID.fullmatch(name) and path.name not in known:
        return UserError(
            f"{word} is a Minari id, and no dataset card.{ours or _by('minari', name)}"
        )
    mine = f"A card of yours goes by its path: {word}.toml." * is_file(Path(f"{name}.toml"))
    hint = mine or "A dataset is a card in datasets/, or the path of one."
    return unknown_name("dataset", name, known, hint, "cpl-bench list datasets")


def _card_of(path: Path, known: Collection[str]) -> str:
    """The card of ours that is of such data, by what D4RL or Minari call them; empty if none."""
    likely = path.stem.replace("_", "-") if path.suffix in HDF5 else path.as_posix()
    likely = likely.replace("/", "-").lower()
    return likely if likely in known else ""


def _by(kind: str, name: str, more: str = "") -> str:
    """How a card names what is imported, and how it is then."""
    return (
        f' Write a card that names it, source = {{ format = "{kind}", id = "{shortened(name)}" }} '
        f"(docs/data.md has a whole one), then: cpl-bench import CARD.toml{more}."
    )


def _folder(path: Path, word: str) -> str:
    """What a folder is, by a file in it, and what to do."""
    kinds = {
        "episodes.parquet": (
            "a folder of Parquet tables, and no dataset card. Import it first: cpl-bench import "
            f"{word}, then name {path.name}.safetensors."
        ),
        "data/metadata.json": (
            "a Minari dataset's folder, and no dataset card."
            + _by("minari", "ITS/ID-v0", " --source FOLDER, below which its id begins")
        ),
        "run.json": f"a run: cpl-bench evaluate {word}, or cpl-bench report {word}.",
        "experiment.toml": f"an experiment: cpl-bench sweep {word}.",
    }
    other = "a folder, and no dataset card: a name of cpl-bench list datasets, or a .toml's path."
    return next((text for file, text in kinds.items() if is_file(path / file)), other)


def _file(path: Path, word: str) -> str:
    """What a file is, by its suffix, and what to do."""
    if path.suffix == ".npz":
        return (
            "an .npz of preferences, and no dataset card. Import it first: cpl-bench import "
            f"{word} --task TASK, which says what else it must know, then name "
            f"{path.stem}.safetensors."
        )
    if path.suffix == ".safetensors":
        return (
            "a preference file, labelled already, and no dataset card: train, inspect and export "
            "take it."
        )
    if path.suffix in HDF5:
        return "an HDF5 file, as D4RL's trajectories are, and no dataset card." + _by(
            "d4rl", path.name
        )
    return (
        "a file, and no dataset card, whose path ends in .toml. Pickled labels of D4RL's rows are "
        f"imported with --rows: cpl-bench import {word} --rows FIRST SECOND --trajectories NAME "
        "--segment-length STEPS --label-one-means second."
    )
