"""How a dataset card has trajectories cut into segments, scored and answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cpl_bench.core.counts import COMPARISONS, HORIZON, SEGMENTS, check_count
from cpl_bench.core.errors import UserError
from cpl_bench.core.names import check_line, check_name
from cpl_bench.core.pairs import Pairs


@dataclass(frozen=True)
class Segments:
    """How trajectories are cut and compared."""

    count: int
    """How many segments are drawn: from all episodes alike, uniformly over an episode's time."""
    length: int
    """Steps in a segment."""
    pairs: Pairs = "dense"
    """dense: any two segments of a batch are compared; sparse: segment 2i with segment 2i+1;
    ranked: segments iK to iK+K-1 with each other."""
    ranked_size: int = 0
    """K, the segments that are ranked together; for ranked pairs only."""
    comparisons: int = 1
    """c, the comparisons that each segment is in; for sparse pairs only. Round r = 0 … c-1 compares
    segment 2i with segment 2i+1+2r, counted round."""

    def __post_init__(self) -> None:
        check_count("segments.count", self.count, 2, SEGMENTS)
        check_count("segments.length", self.length, 1, HORIZON)

    @property
    def misranked(self) -> str:
        """What is wrong with `ranked_size` or `comparisons`; empty if nothing."""
        if self.pairs == "ranked" and not 2 <= self.ranked_size <= self.count:
            return (
                f"ranked_size must lie between 2 and the number of segments, {self.count}, for "
                f"ranked pairs; got {self.ranked_size}"
            )
        if self.pairs == "ranked" and self.count * (self.ranked_size - 1) > 2 * COMPARISONS:
            return (
                f"ranked_size, {self.ranked_size}, would list more than {COMPARISONS:,} pairs of "
                f"{self.count} segments"
            )
        if self.pairs != "ranked" and self.ranked_size != 0:
            return f"ranked_size is for ranked pairs only, not for {self.pairs} ones"
        if self.pairs != "sparse" and self.comparisons != 1:
            return f"comparisons is for sparse pairs only, not for {self.pairs} ones"
        if not 1 <= self.comparisons <= self.count // 2:
            return (
                f"comparisons must lie between 1 and half the number of segments, {self.count}; "
                f"got {self.comparisons}"
            )
        return ""


@dataclass(frozen=True)
class Labelling:
    """Who says which segment is better."""

    scorer: str = "regret"
    """A name in `cpl_bench.preferences.scorers.SCORERS`."""
    annotator: str = "oracle"
    """A name in `cpl_bench.preferences.annotators.ANNOTATORS`."""
    annotator_settings: dict[str, float] = field(default_factory=dict)
    """Numbers that the annotator asks for, such as `error_rate` for noisy."""
    cap_steps: int = 200
    """The expert's steps to success are capped here: the cost of a state where the task is lost."""
    discount: float = 1.0
    """γ of a myopic teacher: a step that lies t steps before a segment's end counts γ^t. Below 1
    only for scorers that score each step."""
    scorer_settings: dict[str, Any] = field(default_factory=dict)
    """What the scorer asks for beside, such as `steps` of `advantage`."""

    def __post_init__(self) -> None:
        for name in ("scorer", "annotator"):
            check_line(name, getattr(self, name))
        for name in self.annotator_settings:  # they are part of a file's name
            check_name("the name of an annotator's setting", name)
        check_count("cap_steps", self.cap_steps, 1, HORIZON)
        if not 0 < self.discount <= 1:
            raise UserError(f"A discount must lie in (0, 1]; got {self.discount}.")


LATER: list[tuple[str, str, Any]] = [
    ("behaviour", "checkpoints", ""),
    ("segments", "comparisons", 1),
    ("labelling", "discount", 1.0),
    ("labelling", "scorer_settings", {}),
]
"""Keys that cards have had since some were recorded, and what they were before."""
