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
    """deterministic: the output is the action; gaussian: its mean, and "std" (a,) the deviation."""
    arrays: dict[str, np.ndarray]
    """w0 (o, h), b0 (h,), w1 …; the last layer has chunk_length × a outputs."""
    chunk_length: int = 1
    """Steps that one look at the simulator decides; they are executed one after the other."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind) or self.chunk_length < 1:
            raise UserError(
                f"A policy is {' or '.join(get_args(Kind))} with chunks of at least 1 step, not "
                f"{self.kind!r} with chunks of {self.chunk_length}."
            )
        if self.kind == "gaussian" and "std" not in self.arrays:
            raise UserError(f"A gaussian policy has an array 'std'; got {', '.join(self.arrays)}.")

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers in an observation and in an action."""
        last = sum(name.startswith("w") for name in self.arrays) - 1
        outputs = self.arrays[f"b{last}"].shape[-1]
        return self.arrays["w0"].shape[-2], outputs // self.chunk_length

    def members(self) -> list[PolicyWeights]:
        """One policy a member, without the leading axis."""
        count = len(next(iter(self.arrays.values())))
        return [
            replace(self, arrays={name: value[i] for name, value in self.arrays.items()})
            for i in range(count)
        ]
