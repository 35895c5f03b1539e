"""Task cards, read from TOML.

Cards lie in `envs/` and `datasets/` of a checkout; a wheel carries them inside the package. A key
that is missing, unknown or of the wrong type is an error that names the file.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cpl_bench.core.errors import UserError, unknown_name
from cpl_bench.core.folders import card_folder
from cpl_bench.core.toml import build, read_toml


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
