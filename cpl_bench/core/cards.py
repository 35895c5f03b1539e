"""Task cards, read from TOML.

Cards lie in `envs/` and `datasets/` of a checkout; a wheel carries them inside the package. A key
that is missing, unknown or of the wrong type is an error that names the file.
"""

import hashlib
import json
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from cpl_bench.core.counts import HORIZON, check_count
from cpl_bench.core.errors import UserError, unknown_name
from cpl_bench.core.folders import card_folder, is_file
from cpl_bench.core.names import NAME, check_line, check_name
from cpl_bench.core.score import Score
from cpl_bench.core.tables import read_toml
from cpl_bench.core.toml import build


@dataclass(frozen=True)
class TaskCard:
    """One simulated task, `envs/NAME.toml`."""

    name: str
    """What the command line calls it."""
    suite: str
    """Who builds it: metaworld, fetch, pointmass, gymnasium (any Gymnasium environment), a suite of
    an installed package's, or `module:Class`."""
    source_id: str
    """What the suite itself calls it; for gymnasium an id or `module:Class`."""
    horizon_steps: int
    """Steps after which an episode is truncated."""
    description: str = ""
    """One line for `cpl-bench list`."""
    camera: str = ""
    """The camera for videos; empty for the suite's default."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Of the environment itself, as `gymnasium.make` takes them; for the suite gymnasium."""
    score: Literal["success", "return"] = "success"
    """What an episode achieved: success at any step, or its return, normalised so that the
    references `random_return` and `expert_return` are 0 and 1 if the card has them."""
    goal: dict[str, list[int]] = field(default_factory=dict)
    """Entries of an observation, from 0: those `achieved` are to become equal to the `desired`."""
    simulators: dict[str, str] = field(default_factory=dict)
    """Package versions behind the reference numbers."""
    reference: dict[str, float] = field(default_factory=dict)
    """Returns and success rates for orientation: random_return, expert_return, paper_*."""

    def __post_init__(self) -> None:
        check_name("a card's name", self.name)
        for key in ("suite", "source_id", "description", "camera"):
            check_line(key, getattr(self, key))
        check_count("horizon_steps", self.horizon_steps, 1, HORIZON)
        ends = self._ends
        if len(ends) == 1 or (len(ends) == 2 and not ends[0] < ends[1]):
            raise UserError(
                "A return is normalised between two references, random_return below expert_return; "
                f"got {self.reference}."
            )

    @property
    def scoring(self) -> Score:
        """How episodes of this task are scored."""
        if self.score == "success":
            return Score()
        return Score("normalised return", *self._ends) if self._ends else Score("return")

    @property
    def fingerprint(self) -> str:
        """Eight letters that change with whatever of the card decides an episode's score."""
        decisive = (*self.simulated, self.score, self._ends)
        return hashlib.sha256(repr(decisive).encode()).hexdigest()[:8]

    @property
    def simulated(self) -> tuple[str | int, ...]:
        """Whatever of the card decides an episode; a task without kwargs has one item less."""
        kwargs = [json.dumps(self.kwargs, sort_keys=True)] if self.kwargs else []
        return (self.suite, self.source_id, self.horizon_steps, *kwargs)

    @property
    def references(self) -> str:
        """The reference numbers in a line: paper CPL 83.6 %, random return -12.99."""
        return ", ".join(_reference(name, value) for name, value in self.reference.items())

    @property
    def _ends(self) -> list[float]:
        """What a return is normalised between; empty for tasks that are scored by success."""
        if self.score == "success":
            return []
        names = ("random_return", "expert_return")
        return [self.reference[name] for name in names if name in self.reference]

    @property
    def env_id(self) -> str:
        """The registered Gymnasium id."""
        return f"cpl_bench/{self.name}-v0"


def load_task(name: str) -> TaskCard:
    """The task card called `name`, or the one at a path that ends in `.toml`.

    Raises:
        UserError: no such card (the nearest name is suggested), or a card that is wrong.
    """
    card = known_task(name)
    if card is None:
        raise unknown_task(name)
    return card


def known_task(name: str) -> TaskCard | None:
    """The task card of that name, path or Gymnasium id; None if no card has it.

    Raises:
        UserError: a path at which there is none, or a card that is wrong.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not is_file(path):
            raise UserError(f"{path}: there is no such task card.")
        return build(TaskCard, named_table(path.stem, path), path)
    path = card_folder("envs") / f"{name}.toml"
    if NAME.fullmatch(name) and is_file(path):
        table = named_table(name, path)
        if "members" not in table:
            return build(TaskCard, table, path)
    cards, own = task_cards().values(), name.rpartition(":")[2]
    return next((each for each in cards if name == each.name or own == each.env_id), None)


def carded_task(name: str) -> TaskCard | None:
    """The card of a task; None of a Gymnasium id or `module:Class` without one, of which
    `cpl_bench.tasks.registry.find_task` makes one.

    Raises:
        UserError: none of these, or a card that is wrong.
    """
    card = known_task(name)
    if card is None and ":" not in name:
        import gymnasium

        if name not in gymnasium.registry:
            raise unknown_task(name)
    return card


def unknown_task(name: str) -> UserError:
    """What to raise when no task is called so: the nearest names, Gymnasium's among them."""
    import gymnasium

    near = get_close_matches(name.rpartition(":")[2], gymnasium.registry, n=1)
    hint = "A task is a card in envs/, the path of one, a Gymnasium id or module:Class."
    return unknown_name("task", name, [*task_cards(), *near], hint)


def task_cards() -> dict[str, TaskCard]:
    """Every task that has a card, by name, members of families included; each file is read once."""
    cards: dict[str, TaskCard] = {}
    for path in sorted(card_folder("envs").glob("*.toml")):
        table = named_table(path.stem, path)
        for member in _members(table, path):
            own = {key: value for key, value in table.items() if key != "members"}
            if "members" in table and isinstance(own.get("source_id"), str):
                own |= {"name": member, "source_id": own["source_id"].replace("{name}", member)}
            cards[member] = build(TaskCard, own, path)
    return dict(sorted(cards.items()))


def _members(table: dict[str, Any], path: Path) -> list[str]:
    """The tasks of a family, or the one that a card is about."""
    members = table.get("members", [path.stem])
    if not isinstance(members, list) or not all(isinstance(each, str) for each in members):
        raise UserError(f"{path}: 'members' must be a list of names.")
    return members


def named_table(name: str, path: Path) -> dict[str, Any]:
    """The table in a card's file, with the name that the file gives it."""
    table = read_toml(path)
    for key in ("name", "file"):
        if key in table:
            raise UserError(
                f"{path}: remove the key '{key}'; the file's name is the card's, '{name}'."
            )
    return {"name": name, **table}


def _reference(name: str, value: float) -> str:
    """`paper_cpl_success = 0.836` → "paper CPL 83.6 %"."""
    words = [word.upper() if word in CAPITALS else word for word in name.split("_")]
    if words[-1] == "success":
        kept = words[:-1] if words[0] == "paper" else words
        return f"{' '.join(kept)} {100 * value:.1f} %"
    return f"{' '.join(words)} {value:g}"


CAPITALS = ("sft", "cpl", "ppo", "piql", "d4rl")
