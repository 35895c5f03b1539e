"""What makes an episode come out alike, bit for bit, on every kind of processor.

The last bits of a matrix product, of a tanh, of a norm or a sine depend on the processor: libraries
choose their code by it. Two things keep them out of an episode. What passes between policy and
simulator, and what is kept, is computed in float64 and rounded to a grid that is millions of times
coarser than those bits. Physics cannot be rounded without changing it, and contacts magnify a last
bit to millimetres within a second; so workers run with PLAIN_MATHEMATICS.
"""

import hashlib
import math

import numpy as np

ACTION, OBSERVATION, REWARD = 2.0**14, 2.0**24, 2.0**20
"""Grid points between numbers that differ by 1."""

PLAIN_MATHEMATICS = "glibc.cpu.hwcaps=-FMA,-FMA4,-FMA_Usable,-FMA4_Usable"
"""A value of GLIBC_TUNABLES: sines, powers and the like as processors without fused multiplication
compute them (before glibc 2.33 the features had the longer names)."""


def executed(action: np.ndarray) -> np.ndarray:
    """Actions as simulators are given them: float32 multiples of 2⁻¹⁴."""
    return _on_grid(action, ACTION).astype(np.float32)


def seen(observation: np.ndarray) -> np.ndarray:
    """Observations of our suites as policies are given them: float32 multiples of 2⁻²⁴."""
    return _on_grid(observation, OBSERVATION).astype(np.float32)


def paid(reward: float) -> float:
    """Rewards of our suites: multiples of 2⁻²⁰."""
    return round(reward * REWARD) / REWARD if math.isfinite(reward) else reward


def mathematics() -> str:
    """Eight letters that tell one C library's mathematics, as this process has it, from another's.

    Of the functions that MuJoCo is linked to, at arguments that cover their usual range.
    """
    digest = hashlib.sha256()
    for i in range(1, 2001):
        x = math.sqrt(i) * 0.07  # exact steps up to 3.1, none of them round
        angle = math.atan2(x - 1.5, x * x - 2)
        inside = x / 3.2
        values = (math.sin(x), math.cos(x), math.tan(x), angle, math.acos(inside))
        more = (math.asin(inside), math.exp(-x), math.log(x), math.pow(x, 0.37))
        digest.update(np.array(values + more).tobytes())
    return digest.hexdigest()[:8]


def _on_grid(x: np.ndarray | float, points: float) -> np.ndarray:
    return np.rint(np.multiply(x, points)) / points + 0.0  # no negative zero: a last bit decides it
