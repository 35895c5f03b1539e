"""Random numbers that depend on nothing but (seed, step, stream, position).

No generator carries state: every number is a hash of where it is used, so a member draws the same
ones alone or among eight, on any device, and after a resume. The hash is splitmix64's:

    z = base(seed, step, stream) + (position + 1) * GOLDEN      modulo 2^64
    z = (z ^ (z >> 30)) * FIRST
    z = (z ^ (z >> 27)) * SECOND
    z =  z ^ (z >> 31)                                          logical shifts

int64 tensors hold the 64 bits: sums and products wrap as unsigned ones do, and a mask makes their
arithmetic right shift a logical one. The numbers are those of `cpl_bench.core.bits`.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from cpl_bench.core.bits import GOLDEN, LAST_SHIFT, ROUNDS, signed

BATCH_STREAM = 0
"""Which segments a batch holds. Algorithms number their streams, one a dropout layer, from 1."""


def member_keys(seeds: Sequence[int], device: torch.device | str = "cpu") -> Int64[Tensor, "s"]:
    """One key a member: its hashed seed. Any integer is a seed, modulo 2^64."""
    return torch.tensor([_mix_integer(seed) for seed in seeds], dtype=torch.int64, device=device)


def bits(
    keys: Int64[Tensor, "s"], step: Int64[Tensor, ""], stream: int, count: int
) -> Int64[Tensor, "s count"]:
    """`count` times 64 random bits for each member.

    Args:
        keys: from `member_keys`.
        step: the training step, a scalar on the keys' device (a tensor, so that a captured CUDA
            graph sees it change).
        stream: what the numbers are for; different streams are independent.
        count: how many. The first ones do not depend on it.
    """
    base = _mix_(step * _STEP + (keys + _mix_integer(stream)))  # (s,)
    ramp = torch.arange(1, count + 1, device=keys.device).mul_(GOLDEN)  # (count,)
    return _mix_(base[:, None] + ramp)  # (s, count)


def uniform_indices(
    keys: Int64[Tensor, "s"], step: Int64[Tensor, ""], stream: int, count: int, limit: int
) -> Int64[Tensor, "s count"]:
    """`count` indices for each member, uniform in [0, limit), with replacement.

    The bias of the remainder is below limit / 2^63.
    """
    return bits(keys, step, stream, count).bitwise_and_(_LARGEST).remainder_(limit)


def random_bytes(
    keys: Int64[Tensor, "s"], step: Int64[Tensor, ""], stream: int, count: int
) -> UInt8[Tensor, "s count"]:
    """`count` random bytes for each member, eight from each hash."""
    return bits(keys, step, stream, -(-count // 8)).view(torch.uint8)[:, :count]


def uniform(
    keys: Int64[Tensor, "s"], step: Int64[Tensor, ""], stream: int, count: int
) -> Float32[Tensor, "s count"]:
    """`count` numbers for each member, uniform in [0, 1): multiples of 2⁻²⁴."""
    drawn = bits(keys, step, stream, count).bitwise_and_((1 << 24) - 1)
    return drawn.float().mul_(2.0**-24)


# --- Mix 64 bits ---


_LARGEST = (1 << 63) - 1
_STEP = signed(0xD1342543DE82EF95)


def _mix_(z: Tensor) -> Tensor:
    """Mix in place; one buffer of the same size for the shifted bits."""
    shifted = torch.empty_like(z)
    for shift, factor in ROUNDS:
        _xor_shifted_(z, shift, shifted)
        z.mul_(factor)
    return _xor_shifted_(z, LAST_SHIFT, shifted)


def _xor_shifted_(z: Tensor, shift: int, shifted: Tensor) -> Tensor:
    torch.bitwise_right_shift(z, shift, out=shifted)
    return z.bitwise_xor_(shifted.bitwise_and_((1 << (64 - shift)) - 1))


def _mix_integer(value: int) -> int:
    """The same hash of one Python integer: splitmix64's first output from that seed."""
    z = (value + GOLDEN) & 0xFFFFFFFFFFFFFFFF
    for shift, factor in ROUNDS:
        z = ((z ^ (z >> shift)) * factor) & 0xFFFFFFFFFFFFFFFF
    return signed(z ^ (z >> LAST_SHIFT))
