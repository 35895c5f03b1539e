"""Which segments are compared with which, in a file and in a batch."""

from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from cpl_bench.core.bits import GOLDEN, mixed, signed

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


def pairs_in_rounds(
    segments: int, rounds: int
) -> tuple[Int64[np.ndarray, "c"], Int64[np.ndarray, "c"]]:
    """(first, second): each of an even number of segments once a round, no pair twice.

    Round r pairs 2i with 2i + 1 + 2r, counted round: pairs_in_rounds(4, 2) is (0 2 0 2, 1 3 3 1).
    Of an odd number the last is in none.
    """
    even = segments // 2 * 2
    first = np.arange(0, even, 2, dtype=np.int64)
    later = np.arange(rounds, dtype=np.int64)[:, None] * 2
    return np.tile(first, rounds), ((first + 1 + later) % max(even, 1)).ravel()


def pair_keys(seed: int, first: Any, second: Any) -> Any:
    """64 random bits a pair, the same whichever of the two comes first and whoever asks when.

    Two rounds of splitmix64 over (seed, the lower number, the higher one), on NumPy arrays and on
    torch tensors alike; int64 arithmetic wraps as unsigned arithmetic does.

    Args:
        seed: decides them all.
        first: int64 numbers of the first segments: the rows that they begin at.
        second: of the second ones, of the same shape.
    """
    apart = abs(first - second)
    low = (first + second - apart) // 2
    return mixed(mixed(low * GOLDEN + signed(seed)) + (low + apart) * GOLDEN)


def uniform(keys: Any) -> Any:
    """Numbers in [0, 1) from keys, multiples of 2⁻²⁴: the same in float32 and float64."""
    return ((keys >> 40) & 0xFFFFFF) * 2.0**-24
