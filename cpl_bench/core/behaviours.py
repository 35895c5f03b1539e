"""Behaviour policies: how a dataset card says who is to act in the data that are collected."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from cpl_bench.core.score import Score


@dataclass(frozen=True)
class Behaviour:
    """The behaviour policy: one clone of the expert, stopped at several levels of success; or the
    checkpoints of another training."""

    levels: tuple[float, ...]
    """Mean scores (with action noise) at which the clone is stopped, or to which the checkpoints
    chosen are the nearest; an episode draws one."""
    score_band: tuple[float, float]
    """The mean score that the finished dataset must have, lowest and highest."""
    action_noise: float = 0.3
    """Standard deviation of the Gaussian noise on every action of the data, then clipped."""
    demonstrations: int = 20
    """Expert episodes that the clone imitates."""
    demonstration_noise: float = 0.3
    """Standard deviation of the noise on the demonstrating expert's actions."""
    clone_steps: int = 4000
    """Gradient steps after which the search for the levels gives up."""
    probe_episodes: int = 40
    """Episodes that measure one checkpoint's success."""
    checkpoints: str = ""
    """A file beside the card, of policies that `scripts/train_behaviour.py` exported; nothing is
    demonstrated or cloned then."""

    def problems(self, scoring: Score) -> dict[str, bool]:
        """What cannot be on a task that is scored so, and whether it is."""
        least, most = (0, 1) if scoring.is_share else (-inf, inf)
        low, high = self.score_band
        return {
            "behaviour.demonstrations, clone_steps and probe_episodes must be at least 1": (
                min(self.demonstrations, self.clone_steps, self.probe_episodes) < 1
            ),
            "behaviour.levels must name at least one score": not self.levels,
            f"behaviour.levels must lie in [{least}, {most}]": any(
                not least <= x <= most for x in self.levels
            ),
            f"behaviour.score_band must be [low, high] within [{least}, {most}]": (
                not least <= low < high <= most
            ),
            "behaviour noise must lie in [0, 10]": not (
                0 <= self.action_noise <= 10 and 0 <= self.demonstration_noise <= 10
            ),
        }
