"""A policy as plain arrays: what a learner hands over, a checkpoint holds and a worker acts by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from cpl_bench.core.errors import UserError

Kind = Literal["deterministic", "gaussian"]


@dataclass(frozen=True, eq=False)
class PolicyWeights:
    """A perceptron with ReLU layers and a tanh at its end, or s of them side by side.

    In a learner's hands and in a checkpoint every array has the members on its leading axis; a
    worker is given one member's, without that axis.
    """

    kind: Kind
    """deterministic: the output is the action; gaussian: its mean, and "std" the deviations."""
    arrays: dict[str, np.ndarray]
    """w0 (o, h), b0 (h,), w1 …; the last layer, and "std", have chunk_length × a numbers."""
    chunk_length: int = 1
    """Steps that one look at the simulator decides; they are executed one after the other."""
    replan: int = 0
    """So many of them are executed before the next look; 0: all."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind) or self.chunk_length < 1:
            raise UserError(
                f"A policy is {' or '.join(get_args(Kind))} with chunks of at least 1 step, not "
                f"{self.kind!r} with chunks of {self.chunk_length}."
            )
        if not 0 <= self.replan <= self.chunk_length:
            raise UserError(
                f"Of a chunk of {self.chunk_length} steps {self.replan} cannot be executed."
            )
        if self.kind == "gaussian" and "std" not in self.arrays:
            raise UserError(f"A gaussian policy has an array 'std'; got {', '.join(self.arrays)}.")

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers in an observation and in an action."""
        last = sum(name.startswith("w") for name in self.arrays) - 1
        outputs = self.arrays[f"b{last}"].shape[-1]
        return self.arrays["w0"].shape[-2], outputs // self.chunk_length

    @property
    def executed_steps(self) -> int:
        """Steps from one look to the next."""
        return self.replan or self.chunk_length

    def check_members(self) -> None:
        """Refuse arrays, with the members on their leading axis, that are no perceptron.

        Raises:
            UserError: a layer that is missing or doesn't fit the one before, or numbers that are
                not finite.
        """
        layers = sum(name.startswith("w") for name in self.arrays)
        names = {f"{kind}{i}" for i in range(layers) for kind in "wb"}
        if not layers or self.arrays.keys() - {"std"} != names:
            raise UserError(
                f"it needs w0, b0, w1 …, and has {', '.join(self.arrays) or 'nothing'}."
            )
        count = len(self.arrays["w0"]) if self.arrays["w0"].ndim else 0
        inputs = self.arrays["w0"].shape[1] if self.arrays["w0"].ndim == 3 else 0
        for i in range(layers):
            weights, biases = self.arrays[f"w{i}"], self.arrays[f"b{i}"]
            outputs = biases.shape[-1] if biases.ndim == 2 else 0
            if weights.shape != (count, inputs, outputs) or biases.shape != (count, outputs):
                raise UserError(
                    f"its layer {i} has shapes {weights.shape} and {biases.shape}, of {count} "
                    f"members with {inputs} inputs."
                )
            inputs = outputs
        std = self.arrays.get("std")
        if std is not None and (std.shape != (count, inputs) or (std < 0).any()):
            raise UserError(
                f"its std must be {inputs} deviations for each of {count} members, none negative; "
                f"its shape is {std.shape}."
            )
        if inputs % self.chunk_length:
            raise UserError(f"its {inputs} outputs are no {self.chunk_length} actions.")
        wrong = [name for name, array in self.arrays.items() if not np.isfinite(array).all()]
        if not count or not inputs or wrong:
            raise UserError(f"there are no members, or no finite numbers in {', '.join(wrong)}.")

    def members(self) -> list[PolicyWeights]:
        """One policy a member, without the leading axis."""
        count = len(next(iter(self.arrays.values())))
        return [
            replace(self, arrays={name: value[i] for name, value in self.arrays.items()})
            for i in range(count)
        ]
