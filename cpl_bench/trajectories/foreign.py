"""The verb `import`, of trajectories: what a card's source names becomes episodes of ours.

Read, checked against the card's task, and written as a Minari dataset beside the collected ones,
with where they came from in its metadata. Downstream nobody sees a difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.dataset_cards import DatasetCard
from cpl_bench.core.errors import UserError
from cpl_bench.core.files import check_writable
from cpl_bench.core.folders import data_root
from cpl_bench.core.locks import held
from cpl_bench.core.progress import say
from cpl_bench.core.published import Published, short
from cpl_bench.core.sources import Source
from cpl_bench.core.versions import installed, processor
from cpl_bench.tasks.episodes import Trajectory
from cpl_bench.tasks.registry import find_task
from cpl_bench.trajectories.dataset import content_hash
from cpl_bench.trajectories.fit import fitted
from cpl_bench.trajectories.formats.any_minari import find_dataset, read_any
from cpl_bench.trajectories.formats.d4rl import read_flat, trajectories_of
from cpl_bench.trajectories.formats.d4rl_files import find_file, known_of
from cpl_bench.trajectories.formats.minari import minari_folder, read_record, write_trajectories
from cpl_bench.trajectories.place import check_place

NOT_COMPARABLE = {
    "d4rl": (
        "recorded under mujoco-py in environments of 2018 to 2020; today's Gymnasium ones simulate "
        "with another MuJoCo and have other versions (Hopper-v5 is not hopper-v2), so returns in "
        "them do not compare with published D4RL scores digit for digit."
    ),
    "minari": (
        "Minari's Adroit, kitchen and maze sets are re-made, not D4RL's data of the same names; of "
        "D4RL's locomotion sets there is no copy in Minari. Results on the two do not compare."
    ),
}
"""What is said with every import."""


@dataclass(frozen=True)
class Foreign:
    """What was read of a source."""

    trajectories: list[Trajectory]
    origin: dict[str, Any]
    """Its hash, and what is known of it, for the metadata."""
    knows_successes: bool


def read_d4rl(card: DatasetCard, source: Source, where: Path | None, download: bool) -> Foreign:
    """The episodes of a D4RL file."""
    path = where or d4rl_file(card, source, download)
    known = None if where or is_file(source.id) else known_of(source.id)
    flat, limit = read_flat(path), source.limit_steps or find_task(card.task).horizon_steps
    origin: dict[str, Any] = {"file": path.name, "sha256": sha256_of(path)}
    if known is not None:
        reference = {"random_return": known.random_return, "expert_return": known.expert_return}
        origin |= {"address": known.address, "d4rl_reference": reference}
    return Foreign(trajectories_of(flat, limit), origin, knows_successes=False)


def d4rl_file(card: DatasetCard, source: Source, download: bool = False) -> Path:
    """The file that a card names by its path, from the card's folder, or by D4RL's name."""
    if is_file(source.id):
        return Path(card.file).parent / source.id if card.file else Path(source.id)
    return find_file(source.id, source.file, download)


def is_file(name: str) -> bool:
    """Whether a file is meant, and not a name of D4RL's."""
    return Path(name).suffix in (".hdf5", ".h5")


def read_minari(card: DatasetCard, source: Source, where: Path | None, download: bool) -> Foreign:
    """The episodes of a Minari dataset; `where` is the folder that it lies below."""
    root = where or find_dataset(source.id, download)
    if not (root / source.id / "data").is_dir():
        raise UserError(
            f"{root} holds no Minari dataset {source.id}: expected a folder data in it."
        )
    trajectories, known = read_any(source.id, root, source.parts)
    if source.rewards == "running_count":
        trajectories = [replace(each, rewards=paid_once(each.rewards)) for each in trajectories]
    files = sorted((root / source.id / "data").rglob("*"))
    files = [each for each in files if each.is_file() and each.name != "metadata.json"]
    return Foreign(trajectories, {"sha256": sha256_of(*files)}, known)


def paid_once(counts: np.ndarray) -> np.ndarray:
    """What each step raised a running count by, (T,); what is undone and done again is not paid."""
    highest = np.maximum.accumulate(np.concatenate([[0.0], counts]))
    return np.diff(highest)


READERS: dict[str, Callable[[DatasetCard, Source, Path | None, bool], Foreign]] = {
    "d4rl": read_d4rl,
    "minari": read_minari,
}


def import_trajectories(
    card: DatasetCard, where: Path | None = None, download: bool = False
) -> Path:
    """Import what a card's source names; returns the folder of the Minari dataset.

    Args:
        card: with a source that holds trajectories.
        where: the file, or the folder that Minari datasets lie below, if not where it is looked
            for.
        download: whether it may be fetched; from where is said first.

    Raises:
        UserError: it isn't there, is damaged, is not the file that the card names, does not fit
            the card's task, or something that isn't this card's lies in the place.
    """
    source, task = card.source, find_task(card.task)
    assert source is not None, "a card without a source is collected"
    check_place(card)
    check_writable(data_root())
    found = READERS[source.format](card, source, where, download)
    digest = found.origin["sha256"]
    if source.sha256 not in ("", digest):
        raise UserError(
            f"{source} has the SHA-256 {short(digest)}, and {card.path} wants "
            f"{short(source.sha256)}: another version of it, or a damaged one."
        )
    found = replace(found, trajectories=fitted(card, task, found.trajectories))
    record = {
        "card": asdict(replace(card, published=Published())),
        "recipe": import_recipe(card),
        "content_hash": content_hash(found.trajectories),
        "import": {"format": source.format, "id": source.id, **found.origin},
        "knows_successes": found.knows_successes,
        "versions": installed(task) | {"numpy": version("numpy")},
        "machine": {"processor": processor(), "mathematics": "not simulated here"},
    }
    with held(minari_folder(card.minari_id)):
        folder = write_trajectories(
            card.minari_id,
            task if source.rolled_out else None,
            found.trajectories,
            record,
            f"imported from {source}",
        )
    steps = sum(len(each.rewards) for each in found.trajectories)
    say(
        f"Imported {source}: {len(found.trajectories):,} episodes, {steps:,} steps, sha256 "
        f"{short(digest)} → {folder}"
    )
    for line in [*about(source, found), *_other_rewards(task, source, found.trajectories)]:
        say(line)
    return folder


STRANGE = 2.0
"""A mean score from which on rewards are taken to be another task's."""


def _other_rewards(
    task: TaskCard, source: Source, trajectories: Sequence[Trajectory]
) -> Iterator[str]:
    """A line, if the data return far more than the task's expert does."""
    scoring = task.scoring
    returns = float(np.mean([each.rewards.sum() for each in trajectories]))
    score = float(scoring.of([False], [returns])[0])
    if scoring.name == "normalised return" and score > STRANGE:
        yield (
            f"  Mind: its episodes return {returns:,.1f}, an expert of {task.name} "
            f"{scoring.high:,.1f}: its rewards are not the task's. "
            + ('If they count what is done so far: rewards = "running_count" in the [source].')
            * (source.format == "minari")
        )


def about(source: Source, found: Foreign) -> list[str]:
    """What whoever uses imported data should know."""
    lines = [f"  Mind: {NOT_COMPARABLE[source.format]}"]
    reference = found.origin.get("d4rl_reference", {})
    if None not in (low := reference.get("random_return"), high := reference.get("expert_return")):
        lines.append(f"  D4RL's reference returns: random {low:g}, expert {high:g}.")
    if not source.rolled_out:
        lines.append("  It is not observed as its task here is: train without a simulator.")
    if not found.knows_successes:
        lines.append("  It does not say where episodes succeeded.")
    return lines


def import_recipe(card: DatasetCard) -> dict[str, Any]:
    """Everything of a card that decides what its import writes, as JSON has it."""
    source, task = card.source, find_task(card.task)
    assert source is not None
    asked: dict[str, Any] = {"format": source.format, "id": source.id, "sha256": source.sha256}
    if not source.rolled_out:
        asked["rolled_out"] = False
    if source.format == "minari":
        asked["parts"] = list(source.parts)
        if source.rewards != "paid":
            asked["rewards"] = source.rewards
    else:
        asked["file"] = source.file
        asked["limit_steps"] = source.limit_steps or task.horizon_steps
    return {"import": asked, "task": [task.suite, task.source_id]}


def is_imported(card: DatasetCard) -> bool:
    """Whether the card's trajectories lie on disk, as it asks for them.

    Raises:
        UserError: what lies there cannot be read, or another program wrote it.
    """
    record = read_record(card.minari_id)
    return record is not None and record.get("recipe") == import_recipe(card)


def sha256_of(*paths: Path) -> str:
    """Of some files, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
