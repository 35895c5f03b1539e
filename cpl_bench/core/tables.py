"""What files say in TOML or JSON, as tables that hold nothing a program could trip over.

Whoever wrote them: at most DEEPEST tables and lists within each other, whole numbers of 64 bits,
finite numbers, text without NUL.
"""

import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpl_bench.core.errors import UserError

DEEPEST = 32
TOO_DEEP = f"its tables and lists are nested more than {DEEPEST} deep"
LARGEST_BYTES = 4_000_000
"""Of a file that is a table; official cards have less than two thousand."""


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a file.

    Raises:
        UserError: it is no TOML, or says what no table of ours can.
    """
    return _parsed(path, "TOML", tomllib.loads)


def from_toml(text: str, where: Path | str) -> dict[str, Any]:
    """The table in a text, which stands `where`.

    Raises:
        UserError: as `read_toml` does.
    """
    return _sound(text, "TOML", tomllib.loads, where)


def read_json(path: Path) -> Any:
    """What a file says in JSON.

    Raises:
        UserError: it is no JSON, or says what no table of ours can.
    """
    return _parsed(path, "JSON", json.loads)


def from_json(text: str, where: Path | str) -> Any:
    """What a text, which stands `where`, says in JSON.

    Raises:
        UserError: it is no JSON, or says what no table of ours can.
    """
    return _sound(text, "JSON", json.loads, where)


def _parsed(path: Path, kind: str, parse: Callable[[str], Any]) -> Any:
    if path.stat().st_size > LARGEST_BYTES:
        raise UserError(
            f"{path} is not readable as {kind}: it has {path.stat().st_size:,} bytes, and no card "
            f"or record more than {LARGEST_BYTES:,}."
        )
    try:
        text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as problem:
        raise UserError(f"{path} is not readable as {kind}: {problem}.") from None
    return _sound(text, kind, parse, path)


def _sound(text: str, kind: str, parse: Callable[[str], Any], where: Path | str) -> Any:
    try:
        found = parse(text)
        if problem := _problem(found):
            raise ValueError(problem)
        return found
    except RecursionError:
        problem = TOO_DEEP
    except ValueError as error:  # the grammar's, or a number of thousands of digits
        problem = str(error).rstrip(".")
    raise UserError(f"{where} is not readable as {kind}: {problem}.")


def _problem(found: Any) -> str:
    """What is wrong with it, level by level; empty if nothing."""
    level, depth = [found], 0
    while level:
        if depth > DEEPEST:
            return TOO_DEEP
        below = []
        for value in level:
            if isinstance(value, dict):
                below += [*value, *value.values()]
            elif isinstance(value, list):
                below += value
            elif isinstance(value, int) and not -(2**63) <= value < 2**63:
                return "it holds a whole number of more than 64 bits"
            elif isinstance(value, float) and not math.isfinite(value):
                return "it holds a number that is not finite"
            elif isinstance(value, str) and "\0" in value:
                return "it holds text with a NUL in it"
        level, depth = below, depth + 1
    return ""
