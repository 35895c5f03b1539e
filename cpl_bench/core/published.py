"""What a dataset card says came out of it, so that every lab can see whether it has the same."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cpl_bench.core.files import write_atomically

HEADING = "[published]"
SHOWN = 12
"""Letters of a hash that messages and pages show."""


@dataclass(frozen=True)
class Published:
    """Hashes (SHA-256) of the data of a card; empty where none were recorded."""

    trajectories: str = ""
    """Of all episodes."""
    tenths: tuple[str, ...] = ()
    """Of each tenth of the episodes, shortened: where data differ that do."""
    clone_steps: tuple[int, ...] = ()
    """Gradient steps at which the clone was stopped, one a level."""
    preferences: str = ""
    """Of the arrays of the preference file that the card's own labelling gives."""
    arrays: dict[str, str] = field(default_factory=dict)
    """Of each of those arrays, shortened."""
    sample: str = ""
    """Of the card's sample: its first episodes, with labels of their own."""
    processor: str = ""
    """Where this was recorded."""


def short(digest: str) -> str:
    """The beginning of a hash, as it is shown."""
    return digest[:SHOWN] or "unknown"


def record(path: Path, published: Published) -> None:
    """Write the table into a card's file, in place of an earlier one; comments elsewhere stay."""
    text = path.read_text(encoding="utf-8").split(f"\n{HEADING}")[0].rstrip("\n")
    lines = [f"{key} = {_toml(value)}" for key, value in asdict(published).items()]
    note = "# What came out: cpl-bench inspect --record"
    write_atomically(path, "\n".join([text, "", f"{HEADING} {note}", *lines, ""]))


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value)
