"""What a dataset card says came out of it, so that every lab can see whether it has the same."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cpl_bench.core.files import write_atomically
from cpl_bench.core.tables import from_toml, read_toml

TABLE = "published"
SHOWN = 12
"""Letters of a hash that messages and pages show."""


@dataclass(frozen=True)
class Published:
    """Hashes (SHA-256) of the data of a card; empty where none were recorded."""

    card: str = ""
    """Of what the card asks for, shortened: a changed card has nothing to compare with."""
    trajectories: str = ""
    """Of all episodes."""
    tenths: tuple[str, ...] = ()
    """Of each tenth of the episodes, shortened: where data differ that do."""
    clone_steps: tuple[int, ...] = ()
    """Gradient steps at which the clone was stopped, one a level."""
    preferences: str = ""
    """Of the preferences that the card's own labelling gives."""
    arrays: dict[str, str] = field(default_factory=dict)
    """Of each array in their file, shortened."""
    sample_trajectories: str = ""
    """Of the card's sample: its first episodes…"""
    sample_preferences: str = ""
    """…with labels of their own."""
    mathematics: str = ""
    """What the workers that made them computed of sines and the like."""
    processor: str = ""
    """What they ran on."""


def short(digest: str) -> str:
    """The beginning of a hash, as it is shown."""
    return digest[:SHOWN] or "unknown"


def record(path: Path, published: Published) -> None:
    """Write the table into a card's file, in place of an earlier one; all else stays as it is."""
    before = path.read_text(encoding="utf-8")
    known = _others(read_toml(path))
    lines = [f"{key} = {_toml(value)}" for key, value in asdict(published).items()]
    table = [f"[{TABLE}] # What came out: cpl-bench inspect --record", *lines]
    kept = "\n".join(_without_table(before.splitlines())).rstrip("\n")
    text = "\n".join([kept, "", *table, ""])
    assert _others(from_toml(text, path)) == known, "only the one table may change"
    write_atomically(path, text)


def _without_table(lines: list[str]) -> list[str]:
    kept, inside = [], False
    for line in lines:
        if line.startswith("["):
            inside = line.startswith(f"[{TABLE}]")
        if not inside:
            kept.append(line)
    return kept


def _others(card: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in card.items() if key != TABLE}


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value)
