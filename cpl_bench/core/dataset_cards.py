"""Dataset cards: where trajectories come from, how they are cut, scored and answered."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cpl_bench.core.behaviours import Behaviour
from cpl_bench.core.cards import TaskCard, load_task, named_table
from cpl_bench.core.errors import UserError, unknown_name
from cpl_bench.core.folders import card_folder
from cpl_bench.core.names import NAME
from cpl_bench.core.pairs import Pairs
from cpl_bench.core.published import Published, short
from cpl_bench.core.sources import Source
from cpl_bench.core.toml import build, merged, read_toml


@dataclass(frozen=True)
class Segments:
    """How trajectories are cut and compared."""

    count: int
    """How many segments are drawn: from all episodes alike, uniformly over an episode's time."""
    length: int
    """Steps in a segment."""
    pairs: Pairs = "dense"
    """dense: any two segments of a batch are compared; sparse: segment 2i with segment 2i+1;
    ranked: segments iK to iK+K-1 with each other."""
    ranked_size: int = 0
    """K, the segments that are ranked together; for ranked pairs only."""

    @property
    def misranked(self) -> str:
        """What is wrong with `ranked_size`; empty if nothing."""
        if self.pairs == "ranked" and not 2 <= self.ranked_size <= self.count:
            return (
                f"ranked_size must lie between 2 and the number of segments, {self.count}, for "
                f"ranked pairs; got {self.ranked_size}"
            )
        if self.pairs != "ranked" and self.ranked_size != 0:
            return f"ranked_size is for ranked pairs only, not for {self.pairs} ones"
        return ""


@dataclass(frozen=True)
class Labelling:
    """Who says which segment is better."""

    scorer: str = "regret"
    """A name in `cpl_bench.preferences.scorers.SCORERS`."""
    annotator: str = "oracle"
    """A name in `cpl_bench.preferences.annotators.ANNOTATORS`."""
    annotator_settings: dict[str, float] = field(default_factory=dict)
    """Numbers that the annotator asks for, such as `error_rate` for noisy."""
    cap_steps: int = 200
    """The expert's steps to success are capped here: the cost of a state where the task is lost."""


@dataclass(frozen=True)
class DatasetCard:
    """One dataset, `datasets/NAME.toml`: all that decides its bytes, and what they came out as."""

    name: str
    """What the command line calls it."""
    task: str
    """A task card's name."""
    segments: Segments
    episodes: int = 0
    """How many episodes are collected; of an import all are taken."""
    behaviour: Behaviour | None = None
    """Who is to act; None where the data are imported."""
    source: Source | None = None
    """What is imported; None where the data are collected."""
    labelling: Labelling = field(default_factory=Labelling)
    description: str = ""
    """One line for `cpl-bench list`."""
    seed: int = 0
    """Decides demonstrations, clone, episodes and segments."""
    stop_steps_after_success: int = 10
    """An episode of the data ends this many steps after its first success."""
    minimum_steps: int = 64
    """No episode is stopped earlier than this, so that each holds a whole segment, unless its task
    ends before."""
    published: Published = field(default_factory=Published)
    """What came out where the card was recorded; decides nothing."""
    file: str = ""
    """The card's file, if it is none of those in datasets/."""

    @property
    def path(self) -> Path:
        """The card's file."""
        return Path(self.file) if self.file else _official(self.name)

    @property
    def fingerprint(self) -> str:
        """Changes with whatever of the card decides its data."""
        asked = asdict(self)
        for name in ("name", "description", "published", "file"):
            del asked[name]
        if self.source is None:
            del asked["source"], asked["behaviour"]["score_band"]
            if not self.cloned.checkpoints:
                del asked["behaviour"]["checkpoints"]
        return short(hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest())

    @property
    def minari_id(self) -> str:
        """The Minari dataset that `collect` or `import` writes."""
        return f"cpl_bench/{self.name}-v0"

    @property
    def cloned(self) -> Behaviour:
        """The behaviour of a card whose data are collected."""
        assert self.behaviour is not None, "the data of this card are imported"
        return self.behaviour


def load_dataset_card(name: str) -> DatasetCard:
    """The dataset card called `name`, or the one at a path that ends in `.toml`.

    Raises:
        UserError: no such card (the nearest name is suggested), or a card that is wrong.
    """
    folder = card_folder("datasets")
    path = Path(name) if name.endswith(".toml") else _official(name)
    if not path.is_file() and name.endswith(".toml"):
        raise UserError(f"{path}: there is no such dataset card.")
    if not path.is_file():
        raise unknown_name("dataset", name, dataset_names(), "A dataset is a card in datasets/.")
    table = named_table(path.stem if name.endswith(".toml") else name, path)
    if "members" in table:
        table = _member(table, path)
    if path.resolve().parent != folder.resolve():
        if path.stem in dataset_names():
            raise UserError(
                f"{path} has the name of an official dataset, '{path.stem}', whose data it would "
                "overwrite. Give the file another name."
            )
        table |= {"file": str(path.resolve()), "task": _task_beside(table.get("task"), path)}
    card = build(DatasetCard, table, path)
    _check_dataset_card(card, path)
    return card


def _member(table: dict[str, Any], path: Path) -> dict[str, Any]:
    """One dataset of a family: what the family shares, with the member's own laid over it."""
    members = table.pop("members")
    if table["name"] not in members:
        listing = ", ".join(members)
        raise UserError(f"{path} is a family of datasets. Name one of them: {listing}.")
    return merged(table, members[table["name"]])


def _task_beside(task: Any, path: Path) -> Any:
    """A task card that a card names by a path lies where that path leads from the card's folder."""
    if isinstance(task, str) and task.endswith(".toml"):
        return str((path.resolve().parent / task).resolve())
    return task


def dataset_names() -> list[str]:
    """Every dataset that has a card, sorted; of a family its members."""
    return sorted(_files())


def _files() -> dict[str, Path]:
    """The file of each dataset in datasets/."""
    files = {}
    for path in card_folder("datasets").glob("*.toml"):
        members = read_toml(path).get("members", {path.stem: {}})
        files |= dict.fromkeys(members, path)
    return files


def _official(name: str) -> Path:
    """The file in datasets/ that a dataset's card is in, or would be."""
    own = card_folder("datasets") / f"{name}.toml"
    return own if own.is_file() else _files().get(name, own)


def _check_dataset_card(card: DatasetCard, path: Path) -> None:
    task, length = load_task(card.task), card.segments.length
    horizon = task.horizon_steps
    problems = {
        "a card's name is made of letters, digits, - and _": not NAME.fullmatch(card.name),
        "seed and stop_steps_after_success must not be negative": (
            min(card.seed, card.stop_steps_after_success) < 0
        ),
        "labelling.cap_steps must be at least 1": card.labelling.cap_steps < 1,
        "segments.count must be at least 2": card.segments.count < 2,
        "segments.length must be at least 1": card.segments.length < 1,
        f"segments.{card.segments.misranked}": card.segments.misranked != "",
        f"segments.length, {length}, is longer than an episode of {card.task}, {horizon} steps": (
            length > horizon
        ),
        **(_import_problems(card) if card.source else _behaviour_problems(card, task)),
    }
    for problem, found in problems.items():
        if found:
            raise UserError(f"{path}: {problem}.")


def _import_problems(card: DatasetCard) -> dict[str, bool]:
    return {
        "it has a [source], and what is imported has no [behaviour] and no episodes of ours": (
            card.behaviour is not None or card.episodes != 0
        ),
    }


def _behaviour_problems(card: DatasetCard, task: TaskCard) -> dict[str, bool]:
    if card.behaviour is None:
        return {"the key 'behaviour' is missing (or 'source', of data to be imported)": True}
    length, horizon = card.segments.length, task.horizon_steps
    return {
        "the key 'episodes' is missing, or below 1: it must be at least 1": card.episodes < 1,
        **card.behaviour.problems(task.scoring),
        f"minimum_steps, {card.minimum_steps}, must lie between segments.length and {horizon}": (
            not length <= card.minimum_steps <= horizon
        ),
    }
