"""splitmix64's numbers, as int64: sums and products of int64 wrap as unsigned ones do.

Written with operators alone, `mixed` works on NumPy arrays and on torch tensors;
`cpl_bench.learning.random_bits` mixes large tensors in place, with the same numbers.
"""

from typing import Any


def signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    value &= 0xFFFFFFFFFFFFFFFF
    return value - (1 << 64) if value >> 63 else value


GOLDEN = signed(0x9E3779B97F4A7C15)
ROUNDS = ((30, signed(0xBF58476D1CE4E5B9)), (27, signed(0x94D049BB133111EB)))
"""(shift, factor) of each round; then comes LAST_SHIFT alone."""
LAST_SHIFT = 31


def mixed(z: Any) -> Any:
    """The hash of 64 bits, element by element."""
    for shift, factor in ROUNDS:
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return z ^ ((z >> LAST_SHIFT) & ((1 << (64 - LAST_SHIFT)) - 1))
