"""Preference files: read, vouched for and mapped into memory; written whole or not at all."""

import json
import time
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cpl_bench.core.errors import UserError, shown
from cpl_bench.core.files import atomic_path
from cpl_bench.core.tables import from_json
from cpl_bench.core.toml import build
from cpl_bench.preferences.format import (
    FORMAT_VERSION,
    PreferenceInfo,
    Preferences,
    preferences_hash,
)
from cpl_bench.preferences.verify import LAYOUT, OPTIONAL, verify

_METADATA_KEY = "cpl_bench"
_vouched_for: set[tuple[int, int, int, int]] = set()
_SETTLED = 2_000_000_000
"""Nanoseconds after which a file that is written again has another time of writing."""

_DTYPES = {"F32": np.float32, "F64": np.float64, "I64": np.int64, "U8": np.uint8}


def write_preferences(path: Path | str, preferences: Preferences) -> None:
    """Verify `preferences` and write them; equal preferences give equal bytes.

    Raises:
        UserError: they contradict themselves (see `verify`); nothing is written.
    """
    path = Path(path)
    verify(preferences, str(path))
    tensors = {
        name: np.ascontiguousarray(getattr(preferences, name))
        for name in LAYOUT
        if getattr(preferences, name) is not None
    }
    info = replace(preferences.info, preferences_hash=preferences_hash(preferences))
    metadata = {"format_version": FORMAT_VERSION, **asdict(info)}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {_METADATA_KEY: json.dumps(metadata, sort_keys=True)})


def load_preferences(path: Path | str) -> Preferences:
    """Verify the file at `path` and map it into memory, read-only.

    A process vouches for a file once: one whose inode, size and time of writing are the same is
    not read through again.

    Raises:
        UserError: no such file, or one that cannot be vouched for: not a whole safetensors file,
            another program's, another format version, contradicting itself (see `verify`), or
            altered.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such preference file. `cpl-bench label DATASET` writes one.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as problem:
        raise UserError(
            f"{path}: expected a whole .safetensors file, got one that is damaged, truncated or of "
            f"another format ({problem}). Make it again with `cpl-bench label`."
        ) from None
    info = _parse_info(metadata, path)
    written = path.stat()
    preferences = Preferences(info=info, **_map_tensors(path))
    version = (written.st_dev, written.st_ino, written.st_size, written.st_mtime_ns)
    if version in _vouched_for:
        return preferences
    try:
        verify(preferences, str(path))
    except UserError as problem:
        raise UserError(f"{problem} Make the file again with `cpl-bench label`.") from None
    if preferences_hash(preferences) != info.preferences_hash:
        raise UserError(
            f"{path} was altered after it was written: its content has another SHA-256 than its "
            "header names. Make the file again with `cpl-bench label`."
        )
    if time.time_ns() - written.st_mtime_ns > _SETTLED:  # else its next writing may look the same
        _vouched_for.add(version)
    return preferences


# --- Read the file ---


def _parse_info(metadata: dict[str, str], path: Path) -> PreferenceInfo:
    if _METADATA_KEY not in metadata:
        raise UserError(
            f"{path}: expected a preference file of cpl_bench, got another program's .safetensors."
        )
    table = from_json(metadata[_METADATA_KEY], f"{path}: its header")
    if not isinstance(table, dict):
        raise UserError(f"{path}: the metadata are no JSON object. Make it again.")
    version = table.pop("format_version", None)
    if version != FORMAT_VERSION:
        command = table.get("command") or "cpl-bench label"
        raise UserError(
            f"{path}: expected format version {FORMAT_VERSION}, got {shown(version)}. Make it "
            f"again with `{command}`, or read it with the cpl_bench that wrote it."
        )
    missing = [entry.name for entry in fields(PreferenceInfo) if entry.name not in table]
    try:
        if missing:
            raise UserError(f"{path}: its header lacks {', '.join(missing)}.")
        return build(PreferenceInfo, table, f"{path}: its header")
    except UserError as problem:
        raise UserError(f"{problem} Make it again with `cpl-bench label`.") from None


def _map_tensors(path: Path) -> dict[str, np.ndarray]:
    """Views of the file, read when touched (the tensors that safe_open returns are copies)."""
    with path.open("rb") as file:
        header_length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_length))
    header.pop("__metadata__", None)
    required = [name for name in LAYOUT if name not in OPTIONAL]
    missing = [name for name in required if name not in header]
    unknown = [name for name in header if name not in LAYOUT]
    if missing or unknown:
        raise UserError(
            f"{path}: expected the tensors {', '.join(required)}, perhaps {', '.join(OPTIONAL)}. "
            f"Missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}. "
            "Make it again with `cpl-bench label`."
        )
    data = np.asarray(np.memmap(path, np.uint8, "r"))[8 + header_length :]
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            wanted = LAYOUT[name][1].__name__
            raise UserError(
                f"{path}: {name} must be {wanted}, got {entry['dtype']}. Make it again."
            )
        begin, end = entry["data_offsets"]
        tensors[name] = data[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors
