"""How policies act in a worker: arrays in, actions out, in numpy."""

from __future__ import annotations

import numpy as np

Weights = dict[str, np.ndarray]
"""A tanh-headed MLP: w0 (o, h), b0 (h,), w1 …, the last layer's output is the action; "std" (a,) if
actions are drawn."""


def mlp_action(weights: Weights, observations: np.ndarray) -> np.ndarray:
    """The deterministic action, (b, o) → (b, a): ReLU layers, tanh at the end."""
    layers = sum(name.startswith("w") for name in weights)
    x = observations
    for i in range(layers):
        x = x @ weights[f"w{i}"] + weights[f"b{i}"]
        x = np.maximum(x, 0.0) if i < layers - 1 else np.tanh(x)
    return x
