"""The benchmark for learning robot policies from preferences, offline.

    import cpl_bench

    run = cpl_bench.train("drawer-open-small", "cpl", settings={"lam": 0.5})
    print(run.table(), run.plot())

Importing the package is light; each name loads what it needs when it is first used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpl_bench.core.errors import UserError as UserError
    from cpl_bench.experiments.library import collect as collect
    from cpl_bench.experiments.library import evaluate as evaluate
    from cpl_bench.experiments.library import label as label
    from cpl_bench.experiments.library import report as report
    from cpl_bench.experiments.run import Run as Run
    from cpl_bench.experiments.training import train as train
    from cpl_bench.experiments.training import train_grid as train_grid
    from cpl_bench.preferences.arrays import preferences_from_arrays as preferences_from_arrays
    from cpl_bench.preferences.arrays import preferences_from_pairs as preferences_from_pairs
    from cpl_bench.preferences.file import load_preferences as load_preferences
    from cpl_bench.preferences.file import write_preferences as write_preferences
    from cpl_bench.tasks.registry import make_env as make_env

_HOMES = {
    "Run": "cpl_bench.experiments.run",
    "UserError": "cpl_bench.core.errors",
    "collect": "cpl_bench.experiments.library",
    "evaluate": "cpl_bench.experiments.library",
    "label": "cpl_bench.experiments.library",
    "load_preferences": "cpl_bench.preferences.file",
    "make_env": "cpl_bench.tasks.registry",
    "preferences_from_arrays": "cpl_bench.preferences.arrays",
    "preferences_from_pairs": "cpl_bench.preferences.arrays",
    "report": "cpl_bench.experiments.library",
    "train": "cpl_bench.experiments.training",
    "train_grid": "cpl_bench.experiments.training",
    "write_preferences": "cpl_bench.preferences.file",
}
__all__ = [
    "Run",
    "UserError",
    "collect",
    "evaluate",
    "label",
    "load_preferences",
    "make_env",
    "preferences_from_arrays",
    "preferences_from_pairs",
    "report",
    "train",
    "train_grid",
    "write_preferences",
]


class _Door(ModuleType):
    """`report` is a verb here and a room: the import system must not put the room in its place.

    So say `from cpl_bench.report import table`: `import cpl_bench.report.table as t` finds the
    verb.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cpl_bench' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


sys.modules[__name__].__class__ = _Door
