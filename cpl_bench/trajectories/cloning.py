"""Behaviour cloning in arithmetic that comes out the same on every processor.

A clone decides every episode of a dataset, and training magnifies the last bit of a matrix product,
which depends on the processor: kernels add in different orders. So the sums are made exact. Both
factors are rounded to so few bits that float64 holds every partial sum, and then no order, no fused
multiplication and no number of threads makes a difference. All else is + − × ÷ and √, which IEEE
754 rounds alike everywhere; tanh is a continued fraction of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cpl_bench.core.policy import PolicyWeights
from cpl_bench.core.progress import progress_bar

HIDDEN = (256, 256)
BATCH_TRANSITIONS = 512
LEARNING_RATE, BETAS, EPSILON = 1e-3, (0.9, 0.999), 1e-8
SIGNIFICANT_BITS = 16
"""Kept of the finished weights."""
MANTISSA_BITS = 53
LARGEST, TERMS = 15.0, 24
"""tanh of anything beyond is that of LARGEST; so many terms of its fraction."""

Array = NDArray[np.float64]


def cloned(
    observations: np.ndarray, actions: np.ndarray, rng: np.random.Generator, stops: Sequence[int]
) -> Iterator[tuple[int, PolicyWeights]]:
    """Clone by Adam on the squared error, yielding the policy at each gradient step of `stops`.

    Args:
        observations: of every demonstrated step, (N, o).
        actions: of every step, (N, a).
        rng: decides the first weights and the batches.
        stops: ascending.
    """
    sizes = [observations.shape[1], *HIDDEN, actions.shape[1]]
    network = _Network(sizes, rng)
    observations, actions = observations.astype(np.float64), actions.astype(np.float64)
    wanted = set(stops)
    with progress_bar("clone", stops[-1]) as bar:
        for step in range(1, stops[-1] + 1):
            rows = rng.integers(0, len(observations), BATCH_TRANSITIONS)
            network.improve(observations[rows], actions[rows])
            bar.update()
            if step in wanted:
                yield step, network.policy()


class _Network:
    """ReLU layers and a tanh at the end, with Adam's moments (Kingma & Ba, arXiv 1412.6980)."""

    def __init__(self, sizes: Sequence[int], rng: np.random.Generator):
        self.layers = len(sizes) - 1
        self.values: dict[str, Array] = {}
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            limit = np.sqrt(3 / inputs)  # a variance of 1 / inputs
            self.values[f"w{i}"] = rng.uniform(-limit, limit, (inputs, outputs))
            self.values[f"b{i}"] = np.zeros((1, outputs))
        self.means = {name: np.zeros_like(value) for name, value in self.values.items()}
        self.squares = {name: np.zeros_like(value) for name, value in self.values.items()}
        self.decays = [1.0, 1.0]  # β₁ᵗ and β₂ᵗ

    def improve(self, observations: Array, actions: Array) -> None:
        """One step of Adam on a batch, (n, o) and (n, a)."""
        slow, slower = BETAS
        self.decays = [self.decays[0] * slow, self.decays[1] * slower]
        rate, spread = LEARNING_RATE / (1 - self.decays[0]), np.sqrt(1 - self.decays[1])
        for name, gradient in self._gradients(observations, actions).items():
            mean, square = self.means[name], self.squares[name]
            mean += (1 - slow) * (gradient - mean)
            square *= slower
            square += (1 - slower) * (gradient * gradient)
            self.values[name] -= rate * (mean / (np.sqrt(square) / spread + EPSILON))

    def policy(self) -> PolicyWeights:
        """What it has learned so far, float32."""
        arrays = {
            name: significant(value, SIGNIFICANT_BITS).astype(np.float32)
            for name, value in self.values.items()
        }
        flat = {name: each[0] if name.startswith("b") else each for name, each in arrays.items()}
        return PolicyWeights("deterministic", flat)

    def _gradients(self, observations: Array, actions: Array) -> dict[str, Array]:
        """Of the squared error, averaged over the batch."""
        inputs = [observations]
        for i in range(self.layers):
            x = exact_product(inputs[-1], self.values[f"w{i}"]) + self.values[f"b{i}"]
            inputs.append(np.maximum(x, 0.0) if i < self.layers - 1 else tanh(x))
        ones, out = np.ones((1, len(observations))), inputs.pop()
        slope = (2 / len(observations)) * (out - actions) * (1 - out * out)
        gradients = {}
        for i in reversed(range(self.layers)):
            gradients[f"w{i}"] = exact_product(inputs[i].T, slope)
            gradients[f"b{i}"] = exact_product(ones, slope)
            if i:
                slope = exact_product(slope, self.values[f"w{i}"].T) * (inputs[i] > 0)
        return gradients


def exact_product(a: Array, b: Array) -> Array:
    """a @ b, (n, k) and (k, m), of factors rounded so far that the sums of k products are exact.

    Each keeps the bits that let float64 hold k times the largest product: 21 of them for k = 512.
    """
    bits = (MANTISSA_BITS - a.shape[1].bit_length()) // 2
    return _kept(a, bits) @ _kept(b, bits)


def tanh(x: Array) -> Array:
    """Lambert's continued fraction x / (1 + x² / (3 + x² / (5 + …))), right to 1e-12."""
    x = np.clip(x, -LARGEST, LARGEST)
    square = x * x
    fraction = np.full_like(x, 2 * TERMS + 1)
    for odd in range(2 * TERMS - 1, 0, -2):
        fraction = odd + square / fraction
    return x / fraction


def significant(x: Array, bits: int) -> Array:
    """Each number rounded to so many significant bits."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)


def _kept(x: Array, bits: int) -> Array:
    """Multiples of the same power of two, of which the largest magnitude has at most 2^bits."""
    _, exponent = np.frexp(np.abs(x).max())
    unit = 2.0 ** (int(exponent) - bits)
    return np.rint(x * (1 / unit)) * unit  # both factors are powers of two
