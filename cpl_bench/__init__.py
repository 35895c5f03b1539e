"""The benchmark for learning robot policies from preferences, offline.

For notebooks: `cpl_bench.load_preferences`, `cpl_bench.make_env`, and the verbs from the modules of
their names: `from cpl_bench.train import train`. Importing the package is light; each name loads
what it needs when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpl_bench.preferences.file import load_preferences as load_preferences
    from cpl_bench.tasks.registry import make_env as make_env

_HOMES = {"load_preferences": "cpl_bench.preferences.file", "make_env": "cpl_bench.tasks.registry"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cpl_bench' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
