"""Which segments are compared with which, in a file and in a batch."""

from typing import Literal

import numpy as np
from jaxtyping import Int64

Pairs = Literal["dense", "sparse", "ranked"]
"""dense: any two segments are comparable, so none are listed. sparse: some comparisons are listed.
ranked: K neighbouring segments are put in order together; all K(K − 1)/2 pairs are listed."""


def pairs_within(groups: int, size: int) -> tuple[Int64[np.ndarray, "c"], Int64[np.ndarray, "c"]]:
    """(first, second): all pairs within each of `groups` runs of `size` neighbours, run by run.

    pairs_within(2, 3) is (0 0 1 3 3 4, 1 2 2 4 5 5).
    """
    begins = np.arange(groups, dtype=np.int64)[:, None] * size  # (groups, 1)
    first, second = np.triu_indices(size, 1)
    return (begins + first).ravel(), (begins + second).ravel()
