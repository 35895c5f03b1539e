"""TOML tables become frozen dataclasses, strictly."""

import tomllib
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cpl_bench.core.errors import UserError, unknown_name

Card = TypeVar("Card")


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a file.

    Raises:
        UserError: it is no TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise UserError(f"{path} is not readable as TOML: {problem}.") from None


def build(kind: type[Card], table: dict[str, Any], path: Path, where: str = "") -> Card:
    """The dataclass that a table describes.

    `path` and `where` (the table's place in the file, with a dot at its end) are for messages.

    Raises:
        UserError: a key that is missing, unknown (the nearest is suggested) or of the wrong type.
    """
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    known = {entry.name: entry for entry in fields(kind)}
    for key in table:
        if key not in known:
            raise UserError(
                f"{path}: {unknown_name('key', where + key, [where + k for k in known])}"
            )
    for name, entry in known.items():
        required = entry.default is MISSING and entry.default_factory is MISSING
        if required and name not in table:
            raise UserError(f"{path}: the key '{where}{name}' is missing.")
    values = {key: _convert(hints[key], value, path, where + key) for key, value in table.items()}
    return typing.cast(Card, kind(**values))


def _convert(hint: Any, value: Any, path: Path, key: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return build(hint, value, path, f"{key}.")
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(
                _convert(arguments[0], x, path, f"{key}[{i}]") for i, x in enumerate(value)
            )
        if len(arguments) == len(value):
            return tuple(_convert(a, x, path, key) for a, x in zip(arguments, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {k: _convert(arguments[1], v, path, f"{key}.{k}") for k, v in value.items()}
    if origin in (Union, types.UnionType) and any(isinstance(value, a) for a in arguments):
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    wanted = (
        " or ".join(map(repr, arguments))
        if origin is Literal
        else getattr(hint, "__name__", str(hint))
    )
    raise UserError(f"{path}: '{key}' must be {wanted}, not {value!r}.")
