"""TOML tables become frozen dataclasses, strictly: cards, experiments, settings, records.

And back again, for records: what a dataclass is, as a table.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, field, fields, is_dataclass, replace
from operator import index
from pathlib import Path
from typing import (
    Any,
    Literal,
    SupportsIndex,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from cpl_bench.core.errors import UserError, shortened, shown, unknown_name

Card = TypeVar("Card")
T = TypeVar("T")

ADDED = {"added": True}
"""Marks a field that came after the first records were written."""


def added(default: T) -> T:
    """The default of a field that came later: tables leave such a field out while it has it.

    So the records of earlier runs, which know nothing of it, read and compare as ever. It stands
    for what was done before there was the field, and must never be changed.
    """
    return field(default=default, metadata=ADDED)


def table_of(card: Any) -> dict[str, Any]:
    """A dataclass as nested tables, without what was `added` and has its default."""
    table = asdict(card)
    for entry in fields(card):
        value = getattr(card, entry.name)
        if ADDED.items() <= entry.metadata.items() and value == entry.default:
            del table[entry.name]
        elif is_dataclass(value):
            table[entry.name] = table_of(value)
    return table


def build(kind: type[Card], table: Mapping[str, Any], path: Path | str, where: str = "") -> Card:
    """The dataclass that a table describes.

    `path` and `where` (the table's place in the file, with a dot at its end) are for messages.

    Raises:
        UserError: a key that is missing, unknown (the nearest is suggested) or of the wrong type,
            or a value that the dataclass itself refuses.
    """
    assert is_dataclass(kind)
    _check_keys(kind, table, path, where)  # first: a key that is misspelt is missing, too
    for entry in fields(kind):
        required = entry.default is MISSING and entry.default_factory is MISSING
        if required and entry.name not in table:
            raise UserError(f"{path}: the key '{where}{entry.name}' is missing.")
    values = _values(kind, {}, table, path, where)
    return typing.cast(Card, _made(lambda: kind(**values), path, where))


def replaced(card: Card, table: Mapping[str, Any], path: Path | str, where: str = "") -> Card:
    """The dataclass with what the table says in place of what was there, nested ones likewise.

    Raises:
        UserError: as `build` does; nothing can be missing.
    """
    assert is_dataclass(card) and not isinstance(card, type)
    _check_keys(type(card), table, path, where)
    before = {entry.name: getattr(card, entry.name) for entry in fields(card)}
    values = _values(type(card), before, table, path, where)
    return typing.cast(Card, _made(lambda: replace(card, **values), path, where))


def _check_keys(kind: Any, table: Mapping[str, Any], path: Path | str, where: str) -> None:
    """Refuse a key that is no field."""
    known = [entry.name for entry in fields(kind)]
    for key in table:
        if key not in known:
            raise UserError(
                f"{path}: {unknown_name('key', where + key, [where + k for k in known])}"
            )


def _values(
    kind: type, before: Mapping[str, Any], table: Mapping[str, Any], path: Path | str, where: str
) -> dict[str, Any]:
    """The fields that the table names, converted."""
    hints = get_type_hints(kind)
    values = {}
    for key, value in table.items():
        if is_dataclass(before.get(key)) and isinstance(value, Mapping):
            values[key] = replaced(before[key], value, path, f"{where}{key}.")
        else:
            values[key] = _convert(hints[key], value, path, where + key)
    return values


def _made(make: typing.Callable[[], Any], path: Path | str, where: str) -> Any:
    """What `make` makes; a refusal is told with its place, once."""
    try:
        return make()
    except UserError as problem:
        raise UserError(f"{path}: {where}{problem}") from None


def _convert(hint: Any, value: Any, path: Path | str, key: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return build(hint, value, path, f"{key}.")
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(
                _convert(arguments[0], x, path, f"{key}[{i}]") for i, x in enumerate(value)
            )
        if len(arguments) == len(value):
            return tuple(_convert(a, x, path, key) for a, x in zip(arguments, value, strict=True))
    if origin is list and isinstance(value, list | tuple):
        return [_convert(arguments[0], x, path, f"{key}[{i}]") for i, x in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {k: _convert(arguments[1], v, path, f"{key}.{k}") for k, v in value.items()}
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [each for each in arguments if each is not type(None)]
        exact = [each for each in kinds if type(value) is each]
        return _convert((exact or kinds)[0], value, path, key)
    if hint is float and isinstance(value, float):
        return float(value)
    if hint is float and type(value) is int and abs(value) < 2**1023:
        return float(value)
    if hint is int and isinstance(value, SupportsIndex) and not isinstance(value, bool):
        return index(value)  # NumPy's whole numbers, too
    if isinstance(hint, type) and type(value) is hint:
        return value
    wanted = (
        " or ".join(map(repr, arguments))
        if origin is Literal
        else getattr(hint, "__name__", str(hint))
    )
    raise UserError(f"{path}: '{shortened(key)}' must be {wanted}, not {shown(value)}.")


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables laid over each other: what stands above hides what is below."""
    result = dict(below)
    for key, value in above.items():
        under = below.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            value = merged(under, value)
        result[key] = value
    return result


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with dots in their names as nested tables."""
    tables: dict[str, Any] = {}
    for name, value in settings.items():
        first, dot, rest = name.partition(".")
        if dot:
            value = {rest: value}
        if isinstance(value, Mapping):
            before = tables.get(first, {})
            value = nested({**(before if isinstance(before, Mapping) else {}), **value})
        tables[first] = value
    return tables
