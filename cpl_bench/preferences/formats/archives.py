"""NumPy's `.npz` archives from outside: plain arrays, and nothing that leads out of the archive."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from cpl_bench.core.errors import UserError, in_a_line

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
"""By the version of an array's file; later ones are for arrays with fields."""


class Header(NamedTuple):
    """What an array is said to be."""

    shape: tuple[int, ...]
    dtype: np.dtype


def read_headers(path: Path) -> dict[str, Header]:
    """What the arrays in an archive are, by name; none of them is read.

    Raises:
        UserError: no such file, no whole archive, members that lead out of it, are no arrays, or
            two of one name.
    """
    found: dict[str, Header] = {}
    with _opened(path) as archive:
        for each in archive.infolist():
            name = each.filename
            parts, key = name.replace("\\", "/").split("/"), name.removesuffix(".npy")
            if ".." in parts or parts[0] in ("", "~") or ":" in parts[0]:
                raise UserError(f"{path}: a member of the archive leads out of it: {name!r}.")
            if key in found:
                raise UserError(f"{path}: the archive holds {name!r} twice; which one counts?")
            with archive.open(each) as file:
                found[key] = _header(file)
    return found


def read_npz(path: Path, keys: Collection[str]) -> dict[str, np.ndarray]:
    """Those of the arrays `keys` that an archive holds; the others are not looked at.

    Raises:
        UserError: as `read_headers`, or arrays of anything but numbers, or that are not whole.
    """
    arrays = {}
    with _opened(path) as archive:
        for each in archive.infolist():
            key = each.filename.removesuffix(".npy")
            if key not in keys:
                continue
            with archive.open(each) as file:
                shape, dtype = _header(file)
                if dtype.kind not in "fiub":
                    raise ValueError(f"{key} holds {dtype}, not numbers")
                if each.file_size - file.tell() != np.prod(shape, dtype=object) * dtype.itemsize:
                    raise ValueError(f"{key} is said to have shape {shape}, and has not")
            with archive.open(each) as file:
                arrays[key] = npy.read_array(file, allow_pickle=False)
    return arrays


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """An archive; whatever is wrong with it is the user's to know, in a line."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except UserError:
        raise
    except Exception as problem:  # damaged bytes may raise anything
        raise UserError(
            f"{path} cannot be read as an .npz archive of plain arrays ({type(problem).__name__}: "
            f"{in_a_line(str(problem))}). Get it again."
        ) from None


def _header(file: IO[bytes]) -> Header:
    try:
        version = npy.read_magic(file)
    except ValueError:
        raise ValueError(f"{file.name} is no array of NumPy's") from None
    if version not in HEADERS:
        raise ValueError(f"an array's file of version {version}")
    shape, _, dtype = HEADERS[version](file)
    return Header(shape, dtype)
