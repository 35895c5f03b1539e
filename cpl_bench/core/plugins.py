"""Choices by name: of ours, of an installed package's, or `module:NAME` of anybody's.

Ours stand in dictionary literals. A package adds its own by Python entry points, in the groups
`cpl_bench.algorithms`, `cpl_bench.tasks`, `cpl_bench.scorers` and `cpl_bench.annotators`; nothing
is imported before it is asked for by name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from cpl_bench.core.errors import UserError, unknown_name


def find(kind: str, name: str, ours: Mapping[str, Any], group: str) -> Any:
    """What `name` means: in `ours`, else in the group of entry points, else as `module:NAME`.

    Args:
        kind: what messages call it.
        name: as a card, an experiment or the command line has it.
        ours: the literal.
        group: of entry points.

    Raises:
        UserError: nothing of that name, or a module that cannot be imported.
    """
    if name in ours:
        return ours[name]
    for point in entry_points(group=group):
        if point.name == name:
            return load(kind, f"{point.module}:{point.attr}")
    if ":" in name:
        return load(kind, name)
    known = [*ours, *(point.name for point in entry_points(group=group))]
    hint = f"One of your own is called module:NAME, or by an entry point in the group {group}."
    raise unknown_name(kind, name, known, hint)


def find_function(kind: str, name: str, ours: Mapping[str, Any], group: str) -> Any:
    """As `find`, for what is called.

    Raises:
        UserError: nothing of that name, or nothing that can be called.
    """
    found = find(kind, name, ours, group)
    if not callable(found):
        raise UserError(f"The {kind} '{name}' is no function, but {found!r:.100}.")
    return found


def load(kind: str, where: str) -> Any:
    """The object that `module:NAME` names; the working directory is searched last.

    Raises:
        UserError: no such module, no such name in it, or a module that fails.
    """
    module_name, _, name = where.partition(":")
    if not module_name or not name:
        raise UserError(f"'{where}' names no {kind}: expected module:NAME.")
    module = imported(kind, where)
    if not hasattr(module, name):
        raise UserError(
            f"The module {module_name} ({module.__file__}) has no '{name}', which '{where}' asks "
            "for."
        )
    return getattr(module, name)


def imported(kind: str, where: str) -> ModuleType:
    """The module of `module:NAME`; the working directory is searched last.

    Raises:
        UserError: no such module, or one that fails.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(where.partition(":")[0])
    except Exception as problem:
        raise UserError(
            f"The {kind} '{where}' cannot be imported: {type(problem).__name__}: {problem}."
        ) from problem
