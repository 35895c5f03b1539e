"""Dataset cards: where trajectories come from, how they are cut, scored and answered."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from cpl_bench.core.cards import load_task, named_table
from cpl_bench.core.counts import (
    COMPARISONS,
    EPISODES,
    HORIZON,
    LEVELS,
    SEED,
    SEGMENTS,
    STEPS,
    check_count,
)
from cpl_bench.core.errors import UserError, unknown_name
from cpl_bench.core.folders import card_folder
from cpl_bench.core.names import NAME, check_line, check_name
from cpl_bench.core.pairs import Pairs
from cpl_bench.core.published import Published, short
from cpl_bench.core.toml import build, merged


@dataclass(frozen=True)
class Behaviour:
    """The behaviour policy: one clone of the expert, stopped at several levels of success."""

    levels: tuple[float, ...]
    """Mean scores (with action noise) at which the clone is stopped; an episode draws one."""
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
    comparisons: int = 1
    """c, the comparisons that each segment is in; for sparse pairs only. Round r = 0 … c-1 compares
    segment 2i with segment 2i+1+2r, counted round."""

    @property
    def misranked(self) -> str:
        """What is wrong with `ranked_size` or `comparisons`; empty if nothing."""
        if self.pairs == "ranked" and not 2 <= self.ranked_size <= self.count:
            return (
                f"ranked_size must lie between 2 and the number of segments, {self.count}, for "
                f"ranked pairs; got {self.ranked_size}"
            )
        if self.pairs == "ranked" and self.count * (self.ranked_size - 1) > 2 * COMPARISONS:
            return (
                f"ranked_size, {self.ranked_size}, would list more than {COMPARISONS:,} pairs of "
                f"{self.count} segments"
            )
        if self.pairs != "ranked" and self.ranked_size != 0:
            return f"ranked_size is for ranked pairs only, not for {self.pairs} ones"
        if self.pairs != "sparse" and self.comparisons != 1:
            return f"comparisons is for sparse pairs only, not for {self.pairs} ones"
        if not 1 <= self.comparisons <= self.count // 2:
            return (
                f"comparisons must lie between 1 and half the number of segments, {self.count}; "
                f"got {self.comparisons}"
            )
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
    discount: float = 1.0
    """γ of a myopic teacher: a step that lies t steps before a segment's end counts γ^t. Below 1
    only for scorers that score each step."""
    scorer_settings: dict[str, Any] = field(default_factory=dict)
    """What the scorer asks for beside, such as `steps` of `advantage`."""

    def __post_init__(self) -> None:
        for name in ("scorer", "annotator"):
            check_line(name, getattr(self, name))
        for name in self.annotator_settings:  # they are part of a file's name
            check_name("the name of an annotator's setting", name)
        check_count("cap_steps", self.cap_steps, 1, HORIZON)


LATER: list[tuple[str, str, Any]] = [
    ("segments", "comparisons", 1),
    ("labelling", "discount", 1.0),
    ("labelling", "scorer_settings", {}),
]
"""Keys that cards have had since some were recorded, and what they were before."""


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
    extends: str = ""
    """The card, by name or by a path from this one's folder, that this one only labels anew."""

    @property
    def path(self) -> Path:
        """The card's file."""
        return Path(self.file) if self.file else card_folder("datasets") / f"{self.name}.toml"

    @property
    def fingerprint(self) -> str:
        """Changes with whatever of the card decides its data."""
        asked = asdict(self)
        for name in ("name", "description", "published", "file", "extends"):
            del asked[name]
        del asked["behaviour"]["score_band"]
        for where, name, default in LATER:
            if asked[where][name] == default:  # as if there were no such key
                del asked[where][name]
        return short(hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest())

    @property
    def minari_id(self) -> str:
        """The Minari dataset that `collect` writes."""
        return f"cpl_bench/{Path(self.extends).stem or self.name}-v0"


def load_dataset_card(name: str) -> DatasetCard:
    """The dataset card called `name`, or the one at a path that ends in `.toml`.

    Raises:
        UserError: no such card (the nearest name is suggested), or a card that is wrong.
    """
    path = Path(name) if name.endswith(".toml") else card_folder("datasets") / f"{name}.toml"
    if not path.is_file() and name.endswith(".toml"):
        raise UserError(f"{path}: there is no such dataset card.")
    if not (name.endswith(".toml") or NAME.fullmatch(name)) or not path.is_file():
        raise unknown_name("dataset", name, dataset_names(), "A dataset is a card in datasets/.")
    card = build(DatasetCard, _table(path), path)
    _check_dataset_card(card, path)
    return card


def _table(path: Path) -> dict[str, Any]:
    """What a card's file says, laid over what it extends."""
    table = named_table(path.stem, path)
    check_name(f"{path}: a card's name", path.stem)
    if path.resolve().parent != card_folder("datasets").resolve():
        if path.stem in dataset_names():
            raise UserError(
                f"{path} has the name of an official dataset, '{path.stem}', whose data it would "
                "overwrite. Give the file another name."
            )
        beside = {key: _beside(table[key], path) for key in ("task", "extends") if key in table}
        table |= {"file": str(path.resolve()), **beside}
    return _extended(table, path) if "extends" in table else table


def _beside(name: Any, path: Path) -> Any:
    """A card that a card names by a path lies where that path leads from the card's folder."""
    if isinstance(name, str) and name.endswith(".toml"):
        check_line(f"{path}: a card's path", name)
        return str((path.resolve().parent / name).resolve())
    return name


def _extended(table: dict[str, Any], path: Path) -> dict[str, Any]:
    if own := set(table) - {"name", "file", "description", "extends", "segments", "labelling"}:
        raise UserError(
            f"{path}: a card that extends another has its trajectories, and may differ in segments "
            f"and labelling alone; remove {', '.join(sorted(own))}."
        )
    base = load_dataset_card(str(table["extends"]))
    below = {k: v for k, v in _table(base.path).items() if k not in ("name", "file", "published")}
    own = table.get("labelling")  # its settings go with whom they are for
    named = own if isinstance(own, dict) else {}
    gone = {f"{who}_settings" for who in ("annotator", "scorer") if who in named}
    below["labelling"] = {k: v for k, v in below.get("labelling", {}).items() if k not in gone}
    return merged(below, {**table, "extends": base.extends or table["extends"]})


def dataset_names() -> list[str]:
    """Every dataset that has a card, sorted."""
    return sorted(path.stem for path in card_folder("datasets").glob("*.toml"))


def _check_dataset_card(card: DatasetCard, path: Path) -> None:
    behaviour = card.behaviour
    check_line(f"{path}: description", card.description)
    for key, value, least, largest in (
        ("episodes", card.episodes, 1, EPISODES),
        ("seed", card.seed, 0, SEED),
        ("stop_steps_after_success", card.stop_steps_after_success, 0, HORIZON),
        ("behaviour.demonstrations", behaviour.demonstrations, 1, EPISODES),
        ("behaviour.clone_steps", behaviour.clone_steps, 1, STEPS),
        ("behaviour.probe_episodes", behaviour.probe_episodes, 1, EPISODES),
        ("segments.count", card.segments.count, 2, SEGMENTS),
        ("segments.length", card.segments.length, 1, HORIZON),
    ):
        check_count(f"{path}: {key}", value, least, largest)
    low, high = behaviour.score_band
    task, length = load_task(card.task), card.segments.length
    horizon, least, most = task.horizon_steps, *((0, 1) if task.scoring.is_share else (-inf, inf))
    problems = {
        f"behaviour.levels must name 1 to {LEVELS} scores": (
            not 1 <= len(behaviour.levels) <= LEVELS
        ),
        "labelling.discount must lie in (0, 1]": not 0 < card.labelling.discount <= 1,
        f"behaviour.levels must lie in [{least}, {most}]": any(
            not least <= x <= most for x in behaviour.levels
        ),
        f"behaviour.score_band must be [low, high] within [{least}, {most}]": (
            not least <= low < high <= most
        ),
        "behaviour noise must lie in [0, 10]": not (
            0 <= behaviour.action_noise <= 10 and 0 <= behaviour.demonstration_noise <= 10
        ),
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
