"""Other people's labels, in our convention.

Peers disagree on whether a label of 1 prefers the first or the second of a pair, and their files do
not say: whoever imports has to (`label_one_means`). Ties are 0.5; a −1 may be a tie beside 0 and 1,
or the other one of the pair, and then a 0 is the tie: that has to be said, too (`ties`).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32
from numpy.typing import ArrayLike

from cpl_bench.core.errors import UserError
from cpl_bench.core.sources import OneMeans, Ties


def answers_of(
    labels: ArrayLike, label_one_means: OneMeans, where: str, ties: Ties = "half"
) -> Float32[np.ndarray, "c"]:
    """`prefers_second` of some labels: 1 the second is better, 0 the first, 0.5 a tie.

    Args:
        labels: (c,) or (c, 1): 0, 1, 0.5 or anything between; or, as `ties` says, 0, 1 and −1.
        label_one_means: which of the pair a label of 1 prefers.
        where: what messages call them, usually the file.
        ties: what a tie is.

    Raises:
        UserError: labels outside the convention, or a −1 that nobody said is a tie.
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
    if tied.any() and ties != "minus-one":
        raise UserError(
            f"{where}: a label of -1 may mean a tie, or the other one of the pair. Say --ties "
            'minus-one (on a card, ties = "minus-one") if it is a tie; if 0 is, write the labels '
            "as 0, 1 and 0.5 first."
        )
    wrong = ~(tied | ((values >= 0) & (values <= 1)))
    if wrong.any() or (tied.any() and not np.isin(values, (-1, 0, 1)).all()):
        found = values[wrong][0] if wrong.any() else values[~np.isin(values, (-1, 0, 1))][0]
        raise UserError(
            f"{where}: labels must lie in [0, 1], or be 0, 1 and -1 for a tie; got {found:g}."
        )
    values[tied] = 0.5
    return (values if label_one_means == "second" else 1 - values).astype(np.float32)
