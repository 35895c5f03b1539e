"""Dataset cards: where trajectories come from, how they are cut, scored and answered."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from cpl_bench.core.cards import load_task, named_table
from cpl_bench.core.errors import UserError, unknown_name
from cpl_bench.core.folders import card_folder
from cpl_bench.core.names import NAME
from cpl_bench.core.pairs import Pairs
from cpl_bench.core.published import Published, short
from cpl_bench.core.toml import build


@dataclass(frozen=True)
class Behaviour:
    """The behaviour policy: one clone of the expert, stopped at several levels of success; or the
    checkpoints of another training."""

    levels: tuple[float, ...]
    """Mean scores (with action noise) at which the clone is stopped, or to which the checkpoints
    chosen are the nearest; an episode draws one."""
    score_band: tuple[float, float]
    """The mean score that the finished dataset must have, lowest and highest."""
    action_noise: float = 0.3
    """Standard deviation of the Gaussian noise on every action of the data, then clipped."""
    demonstrations: int = 20
    """Expert episodes that the clone imitates."""
    demonstration_noise: float = 0.3
    """Standard deviation of the noise on the demonstrating expert's actions."""
    clone_steps: int = 4000
    """Gradient steps after which the search for the levels gives up."""
    probe_episodes: int = 40
    """Episodes that measure one checkpoint's success."""
    checkpoints: str = ""
    """A file beside the card, of policies that `scripts/train_behaviour.py` exported; nothing is
    demonstrated or cloned then."""


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
    episodes: int
    """How many episodes are collected."""
    behaviour: Behaviour
    segments: Segments
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
        return Path(self.file) if self.file else card_folder("datasets") / f"{self.name}.toml"

    @property
    def fingerprint(self) -> str:
        """Changes with whatever of the card decides its data."""
        asked = asdict(self)
        for name in ("name", "description", "published", "file"):
            del asked[name]
        del asked["behaviour"]["score_band"]
        if not self.behaviour.checkpoints:
            del asked["behaviour"]["checkpoints"]
        return short(hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest())

    @property
    def minari_id(self) -> str:
        """The Minari dataset that `collect` writes."""
        return f"cpl_bench/{self.name}-v0"


def load_dataset_card(name: str) -> DatasetCard:
    """The dataset card called `name`, or the one at a path that ends in `.toml`.

    Raises:
        UserError: no such card (the nearest name is suggested), or a card that is wrong.
    """
    folder = card_folder("datasets")
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.is_file() and name.endswith(".toml"):
        raise UserError(f"{path}: there is no such dataset card.")
    if not path.is_file():
        raise unknown_name("dataset", name, dataset_names(), "A dataset is a card in datasets/.")
    table = named_table(path.stem, path)
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


def _task_beside(task: Any, path: Path) -> Any:
    """A task card that a card names by a path lies where that path leads from the card's folder."""
    if isinstance(task, str) and task.endswith(".toml"):
        return str((path.resolve().parent / task).resolve())
    return task


def dataset_names() -> list[str]:
    """Every dataset that has a card, sorted."""
    return sorted(path.stem for path in card_folder("datasets").glob("*.toml"))


def _check_dataset_card(card: DatasetCard, path: Path) -> None:
    behaviour = card.behaviour
    low, high = behaviour.score_band
    task, length = load_task(card.task), card.segments.length
    horizon, least, most = task.horizon_steps, *((0, 1) if task.scoring.is_share else (-inf, inf))
    problems = {
        "a card's name is made of letters, digits, - and _": not NAME.fullmatch(card.name),
        "episodes must be at least 1": card.episodes < 1,
        "seed and stop_steps_after_success must not be negative": (
            min(card.seed, card.stop_steps_after_success) < 0
        ),
        "behaviour.demonstrations, clone_steps and probe_episodes must be at least 1": (
            min(behaviour.demonstrations, behaviour.clone_steps, behaviour.probe_episodes) < 1
        ),
        "labelling.cap_steps must be at least 1": card.labelling.cap_steps < 1,
        "behaviour.levels must name at least one score": not behaviour.levels,
        f"behaviour.levels must lie in [{least}, {most}]": any(
            not least <= x <= most for x in behaviour.levels
        ),
        f"behaviour.score_band must be [low, high] within [{least}, {most}]": (
            not least <= low < high <= most
        ),
        "behaviour noise must lie in [0, 10]": not (
            0 <= behaviour.action_noise <= 10 and 0 <= behaviour.demonstration_noise <= 10
        ),
        "segments.count must be at least 2": card.segments.count < 2,
        "segments.length must be at least 1": card.segments.length < 1,
        f"segments.{card.segments.misranked}": card.segments.misranked != "",
        f"segments.length, {length}, is longer than an episode of {card.task}, {horizon} steps": (
            length > horizon
        ),
        f"minimum_steps, {card.minimum_steps}, must lie between segments.length and {horizon}": (
            not length <= card.minimum_steps <= horizon
        ),
    }
    for problem, found in problems.items():
        if found:
            raise UserError(f"{path}: {problem}.")
