"""Task cards and dataset cards: the specification, read from TOML.

Cards lie in `envs/` and `datasets/` of a checkout; a wheel carries them inside the package. A key
that is missing, unknown or of the wrong type is an error that names the file.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cpl_bench.errors import UserError, unknown_name
from cpl_bench.pairs import Pairs
from cpl_bench.tables import build, read_toml

CHECKOUT = Path(__file__).resolve().parent.parent
NAME = re.compile(r"[A-Za-z0-9_-]+")
WHEEL_CARDS = Path(__file__).resolve().parent / "_cards"


@dataclass(frozen=True)
class TaskCard:
    """One simulated task, `envs/NAME.toml`."""

    name: str
    """What the command line calls it."""
    suite: Literal["metaworld", "fetch", "pointmass"]
    """The module of `cpl_bench.tasks` that builds it."""
    source_id: str
    """What the suite itself calls it."""
    horizon_steps: int
    """Steps after which an episode is truncated."""
    description: str = ""
    """One line for `cpl-bench list`."""
    camera: str = ""
    """The camera for videos; empty for the suite's default."""
    simulators: dict[str, str] = field(default_factory=dict)
    """Package versions behind the reference numbers."""
    reference: dict[str, float] = field(default_factory=dict)
    """Returns and success rates for orientation: random_return, expert_return, paper_*."""

    @property
    def env_id(self) -> str:
        """The registered Gymnasium id."""
        return f"cpl_bench/{self.name}-v0"


@dataclass(frozen=True)
class Behaviour:
    """The behaviour policy: one clone of the expert, stopped at several levels of success."""

    levels: tuple[float, ...]
    """Success rates (with action noise) at which the clone is stopped; an episode draws one."""
    success_band: tuple[float, float]
    """The success rate that the finished dataset must have, lowest and highest."""
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
class Label:
    """Who says which segment is better."""

    scorer: str = "regret"
    """A name in `cpl_bench.scorers.SCORERS`."""
    annotator: str = "oracle"
    """A name in `cpl_bench.annotators.ANNOTATORS`."""
    cap_steps: int = 200
    """The expert's steps to success are capped here: the cost of a state where the task is lost."""


@dataclass(frozen=True)
class DatasetCard:
    """One dataset, `datasets/NAME.toml`: everything that decides its bytes but the versions."""

    name: str
    """What the command line calls it."""
    task: str
    """A task card's name."""
    episodes: int
    """How many episodes are collected."""
    behaviour: Behaviour
    segments: Segments
    label: Label = field(default_factory=Label)
    description: str = ""
    """One line for `cpl-bench list`."""
    seed: int = 0
    """Decides demonstrations, clone, episodes and segments."""
    stop_steps_after_success: int = 10
    """An episode of the data ends this many steps after its first success."""
    minimum_steps: int = 64
    """No episode ends earlier than this, so that each holds a whole segment."""

    @property
    def minari_id(self) -> str:
        """The Minari dataset that `collect` writes."""
        return f"cpl_bench/{self.name}-v0"


def load_task(name: str) -> TaskCard:
    """The task card called `name`.

    Raises:
        UserError: no such card (the nearest name is suggested), or a card that is wrong.
    """
    path = card_folder("envs") / f"{name}.toml"
    if path.is_file():
        return build(TaskCard, named_table(name, path), path)
    for family in _families():
        if name in family["members"]:
            member = {key: value for key, value in family.items() if key not in ("members", "path")}
            member["source_id"] = member["source_id"].format(name=name)
            return build(TaskCard, {"name": name, **member}, family["path"])
    raise unknown_name("task", name, task_names(), "A task is a card in envs/.")


def task_names() -> list[str]:
    """Every task that has a card, members of families included, sorted."""
    own = {
        path.stem for path in card_folder("envs").glob("*.toml") if "members" not in read_toml(path)
    }
    return sorted(own.union(*(family["members"] for family in _families())))


def load_dataset_card(name: str) -> DatasetCard:
    """The dataset card called `name`, or the one at a path that ends in `.toml`.

    Raises:
        UserError: no such card (the nearest name is suggested), or a card that is wrong.
    """
    path = Path(name) if name.endswith(".toml") else card_folder("datasets") / f"{name}.toml"
    if not path.is_file():
        raise unknown_name("dataset", name, dataset_names(), "A dataset is a card in datasets/.")
    card = build(DatasetCard, named_table(path.stem, path), path)
    _check_dataset_card(card, path)
    return card


def dataset_names() -> list[str]:
    """Every dataset that has a card, sorted."""
    return sorted(path.stem for path in card_folder("datasets").glob("*.toml"))


def data_root() -> Path:
    """Where datasets are written and looked for: $MINARI_DATASETS_PATH, else `datasets/`."""
    chosen = os.environ.get("MINARI_DATASETS_PATH")
    if chosen:
        return Path(chosen).expanduser().resolve()
    return (CHECKOUT if is_checkout() else Path.cwd()) / "datasets"


def is_checkout() -> bool:
    """Whether the package runs from a checkout, whose cards and folders it then uses."""
    return (CHECKOUT / "envs").is_dir() and (CHECKOUT / "pyproject.toml").is_file()


def card_folder(kind: str) -> Path:
    """Where the cards of a kind lie: envs, datasets or results."""
    return (CHECKOUT if is_checkout() else WHEEL_CARDS) / kind


def named_table(name: str, path: Path) -> dict[str, Any]:
    """The table in a card's file, with the name that the file gives it."""
    table = read_toml(path)
    if "name" in table:
        raise UserError(f"{path}: remove the key 'name'; the file's name is the card's, '{name}'.")
    return {"name": name, **table}


def _families() -> list[dict[str, Any]]:
    """Cards that describe many tasks alike: they list `members`."""
    read = [(path, read_toml(path)) for path in sorted(card_folder("envs").glob("*.toml"))]
    return [{**table, "path": path} for path, table in read if "members" in table]


def _check_dataset_card(card: DatasetCard, path: Path) -> None:
    behaviour = card.behaviour
    low, high = behaviour.success_band
    horizon, length = load_task(card.task).horizon_steps, card.segments.length
    problems = {
        "a card's name is made of letters, digits, - and _": not NAME.fullmatch(card.name),
        "episodes must be at least 1": card.episodes < 1,
        "seed and stop_steps_after_success must not be negative": (
            min(card.seed, card.stop_steps_after_success) < 0
        ),
        "behaviour.demonstrations, clone_steps and probe_episodes must be at least 1": (
            min(behaviour.demonstrations, behaviour.clone_steps, behaviour.probe_episodes) < 1
        ),
        "label.cap_steps must be at least 1": card.label.cap_steps < 1,
        "behaviour.levels must name at least one success rate": not behaviour.levels,
        "behaviour.levels must lie in [0, 1]": any(not 0 <= x <= 1 for x in behaviour.levels),
        "behaviour.success_band must be [low, high] within [0, 1]": not 0 <= low < high <= 1,
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
