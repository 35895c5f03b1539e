"""Configs by name: an algorithm's preset with some of its fields replaced."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from cpl_bench.core.errors import UserError, unknown_name
from cpl_bench.learning.methods import ALGOS

EVALUATE_EVERY = {"laptop": 500, "paper": 5000}
"""Gradient steps between the evaluations of a preset."""


def algorithm_of(config: Any) -> str:
    """The algorithm whose config this is."""
    return next(
        name for name, entry in ALGOS.items() if type(entry.presets["paper"]) is type(config)
    )


def configured(algorithm: str, preset: str, settings: dict[str, Any]) -> Any:
    """The config of a preset with some fields replaced.

    Raises:
        UserError: an unknown algorithm, preset or field, or a value that cannot be.
    """
    if algorithm not in ALGOS:
        raise unknown_name("algorithm", algorithm, ALGOS)
    presets = ALGOS[algorithm].presets
    if preset not in presets:
        raise unknown_name("preset", preset, presets)
    known = asdict(presets[preset])
    for key in settings:
        if key not in known:
            raise unknown_name(f"setting of {algorithm}", key, known)
    values = {key: _as_type(type(known[key]), value, key) for key, value in settings.items()}
    return replace(presets[preset], **values)


def _as_type(wanted: type, value: Any, key: str) -> Any:
    """A setting as its field wants it: TOML writes 1 for 1.0 and lists for tuples."""
    if (wanted, type(value)) in ((float, int), (tuple, list)):
        return wanted(value)
    if type(value) is not wanted:
        raise UserError(f"'{key}' must be of type {wanted.__name__}, not {value!r}.")
    return value
