"""Dataset cards: where trajectories come from, how they are cut, scored and answered."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cpl_bench.core.behaviours import Behaviour
from cpl_bench.core.cards import TaskCard, carded_task, named_table
from cpl_bench.core.counts import EPISODES, HORIZON, SEED, check_count
from cpl_bench.core.errors import UserError, shown
from cpl_bench.core.folders import card_folder, is_file
from cpl_bench.core.labelling import LATER, Labelling, Segments
from cpl_bench.core.names import NAME, check_line, check_name
from cpl_bench.core.no_dataset import no_dataset
from cpl_bench.core.published import Published, short
from cpl_bench.core.sources import Source
from cpl_bench.core.tables import read_toml
from cpl_bench.core.toml import build, merged


@dataclass(frozen=True)
class DatasetCard:
    """One dataset, `datasets/NAME.toml`: all that decides its bytes, and what they came out as."""

    name: str
    """What the command line calls it."""
    task: str
    """As --task has it: a task card's name or path, a Gymnasium id, or `module:Class`."""
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
    extends: str = ""
    """The card, by name or by a path from this one's folder, that this one only labels anew."""

    @property
    def path(self) -> Path:
        """The card's file."""
        return Path(self.file) if self.file else _official(self.name)

    @property
    def fingerprint(self) -> str:
        """Changes with whatever of the card decides its data."""
        asked = asdict(self)
        for name in ("name", "description", "published", "file", "extends"):
            del asked[name]
        if self.source is None:
            del asked["source"], asked["behaviour"]["score_band"]
        for where, name, default in LATER:
            if asked[where] and asked[where][name] == default:  # as if there were no such key
                del asked[where][name]
        return short(hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest())

    @property
    def minari_id(self) -> str:
        """The Minari dataset that `collect` or `import` writes."""
        return f"cpl_bench/{Path(self.extends).stem or self.name}-v0"

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
    path, table = _table(name, ())
    card = build(DatasetCard, table, path)
    _check_dataset_card(card, path)
    return card


def dataset_names() -> list[str]:
    """Every dataset that has a card, sorted; of a family its members."""
    return sorted(_files())


# --- Files ---


def _files() -> dict[str, Path]:
    """The file of each dataset in datasets/."""
    files = {}
    for path in card_folder("datasets").glob("*.toml"):
        members = read_toml(path).get("members", {path.stem: {}})
        files |= dict.fromkeys(members if isinstance(members, dict) else {path.stem: {}}, path)
    return files


def _official(name: str) -> Path:
    """The file in datasets/ that a dataset's card is in, or would be."""
    own = card_folder("datasets") / f"{name}.toml"
    return own if is_file(own) else _files().get(name, own)


def _table(name: str, above: tuple[Path, ...]) -> tuple[Path, dict[str, Any]]:
    """A card's file, and what it says, laid over what it extends; `above`: who extends it."""
    by_path = name.endswith(".toml")
    path = Path(name) if by_path else _official(name)
    if not is_file(path) and by_path:
        raise UserError(f"{path}: there is no such dataset card.")
    if not by_path and not (NAME.fullmatch(name) and is_file(path)):
        raise no_dataset(name, dataset_names())
    if path.resolve() in above:
        raise UserError(f"{path} extends a card that extends this one.")
    table = named_table(path.stem if by_path else name, path)
    check_name(f"{path}: a card's name", table["name"])
    if "members" in table:
        table = _member(table, path)
    if path.resolve().parent != card_folder("datasets").resolve():
        if path.stem in dataset_names():
            raise UserError(
                f"{path} has the name of an official dataset, '{path.stem}', whose data it would "
                "overwrite. Give the file another name."
            )
        beside = {key: _beside(table[key], path) for key in ("task", "extends") if key in table}
        table |= {"file": str(path.resolve()), **beside}
    extended = "extends" in table
    return path, _extended(table, path, (*above, path.resolve())) if extended else table


def _member(table: dict[str, Any], path: Path) -> dict[str, Any]:
    """One dataset of a family: what the family shares, with the member's own laid over it."""
    members = table.pop("members")
    if not isinstance(members, dict):
        raise UserError(f"{path}: members must be a table, a member's own keys by its name.")
    listing = ", ".join(members)
    if path.resolve().parent != card_folder("datasets").resolve():
        raise UserError(
            f"{path} is a family of datasets ({listing}), which works in datasets/ only. Elsewhere "
            "write a card for each."
        )
    if table["name"] not in members:
        raise UserError(f"{path} is a family of datasets. Name one of them: {listing}.")
    own = members[table["name"]]
    if not isinstance(own, dict):
        raise UserError(f"{path}: members.{table['name']} must be a table, not {shown(own)}.")
    return merged(table, own)


def _beside(name: Any, path: Path) -> Any:
    """A card that a card names by a path lies where that path leads from the card's folder."""
    if isinstance(name, str) and name.endswith(".toml"):
        check_line(f"{path}: a card's path", name)
        return str((path.resolve().parent / name).resolve())
    return name


def _extended(table: dict[str, Any], path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if own := set(table) - {"name", "file", "description", "extends", "segments", "labelling"}:
        raise UserError(
            f"{path}: a card that extends another has its trajectories, and may differ in segments "
            f"and labelling alone; remove {', '.join(sorted(own))}."
        )
    _, base = _table(str(table["extends"]), above)
    below = {k: v for k, v in base.items() if k not in ("name", "file", "published")}
    own = table.get("labelling")  # its settings go with whom they are for
    named = own if isinstance(own, dict) else {}
    gone = {f"{who}_settings" for who in ("annotator", "scorer") if who in named}
    below["labelling"] = {k: v for k, v in below.get("labelling", {}).items() if k not in gone}
    return merged(below, {**table, "extends": base.get("extends", table["extends"])})


# --- Checks ---


def _check_dataset_card(card: DatasetCard, path: Path) -> None:
    check_line(f"{path}: description", card.description)
    check_count(f"{path}: seed", card.seed, 0, SEED)
    task = carded_task(card.task)
    if task is not None:  # else only upper rooms know how long its episodes are
        check_fits(card, task, path)
    problems = _import_problems(card) if card.source else _behaviour_problems(card, path)
    misranked = {f"segments.{card.segments.misranked}": card.segments.misranked != ""}
    _refuse(misranked | problems, path)


def check_fits(card: DatasetCard, task: TaskCard, path: Path) -> None:
    """Refuse segments, or a behaviour, that a card's task has no room for; `path` is the card's.

    Raises:
        UserError: the first.
    """
    length, horizon = card.segments.length, task.horizon_steps
    problems = {
        f"segments.length, {length}, is longer than an episode of {card.task}, {horizon} steps": (
            length > horizon
        )
    }
    if card.behaviour is not None and card.source is None:
        problems |= card.behaviour.problems(task.scoring)
        least = card.minimum_steps
        problems[f"minimum_steps, {least}, is longer than an episode, {horizon} steps"] = (
            least > horizon
        )
    _refuse(problems, path)


def _refuse(problems: dict[str, bool], path: Path) -> None:
    for problem, found in problems.items():
        if found:
            raise UserError(f"{path}: {problem}.")


def _import_problems(card: DatasetCard) -> dict[str, bool]:
    assert card.source is not None
    changed = card.labelling != Labelling() or card.extends != ""
    return {
        f"{card.source} comes with its segments and answers: no [labelling] counts for it, and no "
        "card can extend it": card.source.answered and changed,
        "it has a [source], and what is imported has no [behaviour] and no episodes of ours": (
            card.behaviour is not None or card.episodes != 0
        ),
    }


def _behaviour_problems(card: DatasetCard, path: Path) -> dict[str, bool]:
    if card.behaviour is None:
        return {"the key 'behaviour' is missing (or 'source', of data to be imported)": True}
    if not card.episodes:
        return {f"the key 'episodes' is missing, or not from 1 to {EPISODES:,}": True}
    check_count(f"{path}: episodes", card.episodes, 1, EPISODES)
    check_count(f"{path}: stop_steps_after_success", card.stop_steps_after_success, 0, HORIZON)
    least = card.minimum_steps
    return {f"minimum_steps, {least}, is below segments.length": least < card.segments.length}
