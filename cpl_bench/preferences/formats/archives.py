"""NumPy's `.npz` archives from outside: plain arrays, and nothing that leads out of the archive."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from cpl_bench.core.errors import UserError


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays in an archive; nothing in it is executed, nothing unpacked to a path of its own.

    Raises:
        UserError: no such file, no whole archive, members that lead out of it, two of one name, or
            arrays of anything but numbers.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        for each in names:
            parts = each.replace("\\", "/").split("/")
            if ".." in parts or parts[0] in ("", "~") or ":" in parts[0]:
                raise UserError(f"{path}: a member of the archive leads out of it: {each!r}.")
            if names.count(each) > 1:
                raise UserError(f"{path}: the archive holds {each!r} twice; which one counts?")
        with np.load(path, allow_pickle=False) as loaded:
            arrays = {key: loaded[key] for key in loaded.files}
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, KeyError, NotImplementedError) as p:
        raise UserError(
            f"{path} cannot be read as an .npz archive of plain arrays ({p}). Get it again."
        ) from None
    wrong = [key for key, values in arrays.items() if not isinstance(values, np.ndarray)]
    if wrong:
        raise UserError(f"{path}: {wrong[0]} is no array of NumPy's.")
    return arrays
