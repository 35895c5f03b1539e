"""Pickled lists and arrays of numbers, and nothing else that a pickle may hold.

Preference Transformer's human labels are pickles. A pickle names functions, and reading one calls
them; so here it may name those four that an array of NumPy's is made of. Any other name is refused
before anything is called.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from cpl_bench.core.errors import UserError


def _encode(text: str, encoding: str) -> bytes:
    """`_codecs.encode`, as pickles of protocol 2 use it: for the bytes of an array."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode(encoding)


_reconstruct: Any = np.ndarray(0).__reduce__()[0]

ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}
"""What a pickle may name."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What the pickle names, if it may.

        Raises:
            UserError: it may not.
        """
        if (module, name) not in ALLOWED:
            raise UserError(
                f"it names {module}.{name}, and only arrays and lists of numbers are read from "
                "pickles. Nothing of it was executed."
            )
        return ALLOWED[module, name]


def read_numbers(path: Path) -> np.ndarray:
    """The numbers in a pickled list or array.

    Raises:
        UserError: no such file, no pickle, one that names anything else, or anything but numbers.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    try:
        with path.open("rb") as file:
            found = _Reader(file).load()
        if not isinstance(found, list | np.ndarray):
            raise UserError(f"it holds {type(found).__name__}, not a list or an array.")
        values = np.asarray(found)
        if values.dtype.kind not in "fiub" or values.ndim != 1:
            raise UserError(f"it holds {values.dtype} of shape {values.shape}, no row of numbers.")
    except UserError as problem:
        raise UserError(f"{path}: {problem}") from None
    except Exception as problem:  # a damaged pickle may raise anything
        raise UserError(
            f"{path} cannot be read as a pickle ({type(problem).__name__}: {problem})."
        ) from None
    return values
