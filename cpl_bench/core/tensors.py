"""Named arrays in one `.safetensors` file that knows the SHA-256 of what it holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cpl_bench.core.errors import UserError, in_a_line
from cpl_bench.core.files import write_atomically
from cpl_bench.core.tables import from_json

KEY = "cpl_bench"
"""Of the metadata; a single one, as safetensors writes several in any order."""


def write_tensors(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write arrays, and what the file says of itself, which JSON must hold."""
    from safetensors.numpy import save

    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    header = {"about": about, "sha256": _hash(whole, about)}
    write_atomically(path, save(whole, {KEY: json.dumps(header, sort_keys=True)}))


def read_about(path: Path, remedy: str) -> dict[str, Any]:
    """What a file says of itself; the arrays are not looked at.

    Raises:
        UserError: it is damaged, or not ours; `remedy` says what to do then.
    """
    return _read(path, remedy, arrays=False)[0]


def read_tensors(path: Path, remedy: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a file says of itself, and its arrays.

    Raises:
        UserError: it is damaged, not ours, or was altered; `remedy` says what to do then.
    """
    return _read(path, remedy, arrays=True)


def _read(path: Path, remedy: str, arrays: bool) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = from_json((file.metadata() or {})[KEY], "its header")
            names = list(file.keys()) if arrays else []
            found = {name: file.get_tensor(name) for name in names}
        about, recorded = dict(header["about"]), header["sha256"]
    except (SafetensorError, UserError, KeyError, TypeError, ValueError) as problem:
        raise UserError(
            f"{path} is damaged, or no file of this version of cpl_bench "
            f"({type(problem).__name__}: {in_a_line(str(problem))}). {remedy}"
        ) from None
    if arrays and _hash(found, about) != recorded:
        raise UserError(
            f"{path} was altered after it was written: its content has another SHA-256 than its "
            f"header names. {remedy}"
        )
    return about, found


def _hash(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name} {array.dtype} {array.shape}\0".encode())
        digest.update(array.tobytes() if array.ndim == 0 else array.data)
    return digest.hexdigest()
