"""A policy as plain arrays: what a learner hands over, a checkpoint holds and a worker acts by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from cpl_bench.core.counts import HORIZON, check_count
from cpl_bench.core.errors import UserError, shortened, shown

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
        check_count("the steps of a policy's chunks", self.chunk_length, 1, HORIZON)
        check_count("the steps of a chunk that are executed", self.replan, 0, self.chunk_length)
        if self.kind not in get_args(Kind):
            raise UserError(f"A policy is {' or '.join(get_args(Kind))}, not {shown(self.kind)}.")
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
                f"it needs w0, b0, w1 …, and has {shortened(', '.join(self.arrays)) or 'nothing'}."
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
        if any(array.dtype != np.float32 for array in self.arrays.values()):
            raise UserError("its numbers are not float32.")
        wrong = [name for name, array in self.arrays.items() if not np.isfinite(array).all()]
        if not count or not inputs or wrong:
            raise UserError(f"there are no members, or no finite numbers in {', '.join(wrong)}.")

    def broken(self) -> list[int]:
        """Positions of the members some of whose numbers are not finite."""
        whole = [np.isfinite(a).reshape(len(a), -1).all(1) for a in self.arrays.values()]
        return np.flatnonzero(~np.logical_and.reduce(whole)).tolist()

    def stilled(self) -> PolicyWeights:
        """The same with 0 for all of a broken member's numbers: it stands still."""
        broken = self.broken()
        if not broken:
            return self
        arrays = {name: np.array(array) for name, array in self.arrays.items()}
        for array in arrays.values():
            array[broken] = 0
        return replace(self, arrays=arrays)

    def members(self) -> list[PolicyWeights]:
        """One policy a member, without the leading axis."""
        count = len(next(iter(self.arrays.values())))
        return [
            replace(self, arrays={name: value[i] for name, value in self.arrays.items()})
            for i in range(count)
        ]
