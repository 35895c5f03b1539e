"""Other people's labels, in our convention.

Peers disagree on whether a label of 1 prefers the first or the second of a pair, and their files do
not say: whoever imports has to (`label_one_means`). Ties are 0.5, or −1 beside 0 and 1.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32
from numpy.typing import ArrayLike

from cpl_bench.core.errors import UserError
from cpl_bench.core.sources import OneMeans


def answers_of(
    labels: ArrayLike, label_one_means: OneMeans, where: str
) -> Float32[np.ndarray, "c"]:
    """`prefers_second` of some labels: 1 the second is better, 0 the first, 0.5 a tie.

    Args:
        labels: (c,) or (c, 1): 0, 1, 0.5 or anything between; or 0, 1 and −1 for a tie.
        label_one_means: which of the pair a label of 1 prefers.
        where: what messages call them, usually the file.

    Raises:
        UserError: labels outside the convention, or −1 without a 0, which may mean a tie or the
            other one.
    """
    values = np.asarray(labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "fiub":
        raise UserError(
            f"{where}: expected one label a pair, got {values.dtype} of shape {values.shape}."
        )
    values = values.astype(np.float64)
    tied = values == -1
    if tied.any() and not (values == 0).any():
        raise UserError(
            f"{where}: labels of -1 without any 0 may mean ties, or the other one of the pair. "
            "Write them as 0, 1 and 0.5 first."
        )
    wrong = ~(tied | ((values >= 0) & (values <= 1)))
    if wrong.any() or (tied.any() and not np.isin(values, (-1, 0, 1)).all()):
        found = values[wrong][0] if wrong.any() else values[~np.isin(values, (-1, 0, 1))][0]
        raise UserError(
            f"{where}: labels must lie in [0, 1], or be 0, 1 and -1 for a tie; got {found:g}."
        )
    values[tied] = 0.5
    return (values if label_one_means == "second" else 1 - values).astype(np.float32)
