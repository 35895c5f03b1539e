"""Other people's data in, ours out: what `cpl-bench import` and `export` do with a name or path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cpl_bench.core.cards import load_task
from cpl_bench.core.dataset_cards import load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.core.sources import OneMeans
from cpl_bench.experiments.make import check_card, ensure_imported
from cpl_bench.preferences.foreign import write_imported
from cpl_bench.preferences.format import Preferences
from cpl_bench.preferences.formats.npz import preferences_from_npz, write_npz
from cpl_bench.preferences.formats.parquet import read_parquet, write_parquet
from cpl_bench.preferences.formats.rows import preferences_from_rows
from cpl_bench.preferences.labelling import preference_path
from cpl_bench.tasks.registry import find_task
from cpl_bench.trajectories.foreign import sha256_of
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
    ensure_imported(card, where, download)
    return preference_path(card) if card.source.answered else minari_folder(card.minari_id)


@dataclass(frozen=True)
class Answers:
    """What must be known of a file of answers that says nothing of itself."""

    task: str = ""
    """Where policies are rolled out; empty for nowhere."""
    annotator: str = "human"
    label_one_means: OneMeans | None = None
    score_key: str = ""
    pairs: str = "dense"
    rows: tuple[Path, Path] | None = None
    """Files of first rows, where the labels stand for rows of D4RL's `trajectories`."""
    trajectories: str = ""
    """A D4RL name, or the path of its HDF5 file."""
    segment_length: int = 0
    limit_steps: int = 0
    """D4RL's own step limit, where its file has no timeouts; 0: the task's horizon, else 1000."""


def import_file(path: Path, out: Path, about: Answers, command: str = "") -> Path:
    """Import a file of answers without a card; returns the preference file.

    Args:
        path: an `.npz` file, a folder of Parquet tables, or pickled labels.
        out: the preference file to be written.
        about: what the file doesn't say.
        command: the command line, for the file's metadata.

    Raises:
        UserError: what cannot be read, or a convention that isn't said.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"A preference file's name ends in .safetensors, and {out} does not.")
    if about.task:
        find_task(about.task)
    if path.is_dir():
        found = read_parquet(path)
        write_imported(out, found, found.info.source, found.info.source_hash, found.info.command)
        return out
    if about.rows is not None:
        found = _of_rows(path, about)
        kind = "rows"
    else:
        kind = "npz"
        found = preferences_from_npz(
            path,
            label_one_means=about.label_one_means,
            score_key=about.score_key,
            pairs=about.pairs,
            task=about.task,
            annotator=about.annotator,
        )
    write_imported(out, found, f"{kind}:{path.name}", sha256_of(path), command)
    return out


def _of_rows(labels: Path, about: Answers) -> Preferences:
    if not about.trajectories or about.segment_length < 1 or about.label_one_means is None:
        raise UserError(
            "Labels of rows need --trajectories (D4RL's name or file), --segment-length, and "
            "--label-one-means second or first."
        )
    assert about.rows is not None
    named = Path(about.trajectories)
    file = named if named.suffix in (".hdf5", ".h5") else _d4rl(about.trajectories)
    limit = about.limit_steps or (load_task(about.task).horizon_steps if about.task else 1000)
    return preferences_from_rows(
        labels,
        about.rows,
        read_flat(file),
        segment_length=about.segment_length,
        limit_steps=limit,
        label_one_means=about.label_one_means,
        task=about.task,
        annotator=about.annotator,
    )


def _d4rl(name: str) -> Path:
    """A D4RL file by its name; what a card says of its file is believed."""
    try:
        source = load_dataset_card(name).source
    except UserError:
        source = None
    file = source.file if source is not None and source.format == "d4rl" else ""
    return find_file(name, file, download=False)


def export(preferences: Preferences, out: Path) -> list[str]:
    """Write preferences in other people's form; returns what could not be kept, in lines.

    Args:
        preferences: to be written.
        out: `FILE.npz` as CPL's authors have it, or a folder of Parquet tables.

    Raises:
        UserError: what the form cannot hold, or something that lies there.
    """
    if out.suffix == ".npz":
        return write_npz(out, preferences)
    if out.suffix:
        raise UserError(f"Export to FILE.npz, or to a folder for Parquet; {out} is neither.")
    write_parquet(out, preferences)
    return []
