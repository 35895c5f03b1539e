"""Other people's data in, ours out: what `cpl-bench import` and `export` do with a name or path."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from cpl_bench.core.dataset_cards import dataset_names, load_dataset_card
from cpl_bench.core.errors import UserError, shown
from cpl_bench.core.names import NAME
from cpl_bench.core.sources import OneMeans, Ties
from cpl_bench.experiments.make import check_card, ensure_imported
from cpl_bench.preferences.foreign import place_of, write_imported
from cpl_bench.preferences.format import Preferences
from cpl_bench.preferences.formats.archives import read_headers
from cpl_bench.preferences.formats.npz import preferences_from_npz
from cpl_bench.preferences.formats.npz_out import write_npz
from cpl_bench.preferences.formats.parquet import arrow, read_parquet, write_parquet
from cpl_bench.preferences.formats.rows import preferences_from_rows
from cpl_bench.preferences.labelling import preference_path
from cpl_bench.tasks.registry import find_task
from cpl_bench.trajectories.foreign import d4rl_file, is_file, sha256_of
from cpl_bench.trajectories.formats.d4rl import read_flat
from cpl_bench.trajectories.formats.d4rl_files import find_file
from cpl_bench.trajectories.formats.minari import minari_folder


def import_card(name: str, where: Path | None = None, download: bool = False) -> Path:
    """Import what a dataset card names; returns its trajectories' folder, or its preference file.

    Raises:
        UserError: a card whose data are collected, or what `ensure_imported` refuses.
    """
    card = load_dataset_card(name)
    if card.source is None:
        raise UserError(
            f"{card.name} is collected, not imported: cpl-bench collect {card.file or card.name}"
        )
    check_card(card)
    if card.source.answered and where is None and place_of(card, card.source).is_file():
        where = place_of(card, card.source)  # whoever says so may have put another one there
    ensure_imported(card, where, download)
    return preference_path(card) if card.source.answered else minari_folder(card.minari_id)


@dataclass(frozen=True)
class Answers:
    """What must be known of a file of answers that says nothing of itself."""

    task: str = ""
    """Where policies are rolled out; empty for nowhere."""
    annotator: str = ""
    """Who answered; empty: a human."""
    label_one_means: OneMeans | None = None
    ties: Ties | None = None
    """None: half."""
    label_key: str = ""
    """Empty: label."""
    score_key: str = ""
    pairs: Literal["dense", "sparse"] | None = None
    """None: dense."""
    rows: tuple[Path, Path] | None = None
    """Files of first rows, where the labels stand for rows of D4RL's `trajectories`."""
    trajectories: str = ""
    """A D4RL name, or the path of its HDF5 file."""
    segment_length: int = 0
    limit_steps: int = 0
    """D4RL's own step limit, where its file has no timeouts; 0: that of the card that
    `trajectories` names, else the task's horizon, else 1000."""

    def refuse_but(self, holds: str, *wanted: str) -> None:
        """Refuse what was said and does not count for what a file holds.

        Raises:
            UserError: something else than `wanted` was said.
        """
        given = [each.name for each in fields(self) if getattr(self, each.name) != each.default]
        if wrong := [f"--{each.replace('_', '-')}" for each in given if each not in wanted]:
            raise UserError(f"{holds}: leave out {' and '.join(wrong)}.")


OF_LABELS = ("task", "annotator", "label_one_means", "ties")
OF_D4RL = (
    "labels of rows number the steps of a D4RL dataset: name that one with --trajectories, by its "
    "name, as hopper-medium-expert-v2, by a card of D4RL's data, or by its HDF5 file"
)


def import_file(path: Path, out: Path, about: Answers, command: str = "") -> Path:
    """Import a file of answers without a card; returns the preference file.

    Args:
        path: an `.npz` file, a folder of Parquet tables, or pickled labels.
        out: the preference file to be written.
        about: what the file doesn't say.
        command: the command line, for the file's metadata.

    Raises:
        UserError: what cannot be read, a convention that isn't said, or one that the file has not.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"A preference file's name ends in .safetensors, and {out} does not.")
    if about.task:
        find_task(about.task)
    if path.is_dir():
        about.refuse_but(f"{path} holds tables of cpl_bench's, which say all of themselves")
        write_imported(out, read_parquet(path))
        return out
    files = [path]
    if about.rows is not None:
        file, limit = _steps_of(path, about)
        files += [*about.rows, file]
        found = _of_rows(path, about, file, limit)
    else:
        found = _of_npz(path, about)
    info = replace(
        found.info,
        source=f"{'npz' if about.rows is None else 'rows'}:{path.name}",
        source_hash=sha256_of(*files),
        versions={name: version(name) for name in ("cpl-bench", "numpy")},
        command=command,
    )
    write_imported(out, replace(found, info=info))
    return out


def _of_npz(path: Path, about: Answers) -> Preferences:
    headers = read_headers(path)
    if "action_1" in headers:
        about.refuse_but(f"{path} holds a label a pair", *OF_LABELS, "label_key")
    elif "action" in headers:
        about.refuse_but(f"{path} holds a score a segment", "task", "score_key", "pairs")
    return preferences_from_npz(
        path,
        label_one_means=about.label_one_means,
        ties=about.ties or "half",
        label_key=about.label_key or "label",
        score_key=about.score_key,
        pairs=about.pairs or "dense",
        task=about.task,
        annotator=about.annotator or "human",
    )


def _of_rows(labels: Path, about: Answers, file: Path, limit: int) -> Preferences:
    assert about.rows is not None and about.label_one_means is not None
    return preferences_from_rows(
        labels,
        about.rows,
        read_flat(file),
        segment_length=about.segment_length,
        limit_steps=limit,
        label_one_means=about.label_one_means,
        ties=about.ties or "half",
        task=about.task,
        annotator=about.annotator or "human",
    )


def _steps_of(labels: Path, about: Answers) -> tuple[Path, int]:
    """The D4RL file that rows are of, and its step limit; what a card says of them is believed."""
    of_rows = ("rows", "trajectories", "segment_length", "limit_steps")
    about.refuse_but(f"{labels} holds labels of rows", *OF_LABELS, *of_rows)
    if not about.trajectories or about.segment_length < 1 or about.label_one_means is None:
        raise UserError(
            "Labels of rows need --trajectories (D4RL's name or file), --segment-length, and "
            "--label-one-means second or first."
        )
    name, limit = about.trajectories, about.limit_steps
    if name.endswith(".toml") or name in dataset_names():
        card = load_dataset_card(name)
        source = card.source
        if source is None or source.format != "d4rl":
            held = f"a card of {source or 'data that are collected'}"
            raise UserError(f"{name} is {held}, and {OF_D4RL}.")
        file = d4rl_file(card, source)
        limit = limit or source.limit_steps or find_task(card.task).horizon_steps
    elif is_file(name):
        file = Path(name)
    elif NAME.fullmatch(name):
        file = find_file(name, "", download=False)
    else:
        raise UserError(f"{shown(name)} is no such name, and {OF_D4RL}.")
    if not limit:
        limit = find_task(about.task).horizon_steps if about.task else 1000
    return file, limit


def check_export(out: Path) -> None:
    """Refuse what nothing can be exported to, before anything is made for it.

    Raises:
        UserError: no form that there is, something that lies there, or no pyarrow.
    """
    if out.suffix not in ("", ".npz"):
        raise UserError(f"Export to FILE.npz, or to a folder for Parquet; {out} is neither.")
    if out.exists():
        raise UserError(f"{out} is there already. Name a file or a folder that isn't.")
    if not out.suffix:
        arrow()


def export(preferences: Preferences, out: Path) -> list[str]:
    """Write preferences in other people's form; returns what could not be kept, in lines.

    Args:
        preferences: to be written.
        out: `FILE.npz` as CPL's authors have it, or a folder of Parquet tables.

    Raises:
        UserError: what the form cannot hold, or something that lies there.
    """
    check_export(out)
    if out.suffix:
        return write_npz(out, preferences)
    write_parquet(out, preferences)
    return []
