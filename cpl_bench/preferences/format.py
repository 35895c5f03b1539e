"""The preference file: segments of recorded episodes, their scores, and who prefers which.

One `.safetensors` file. Steps lie flat, episode after episode, and a segment is a window, so a
million of them cost eight bytes each (and eight for the score):

    observations   ├── episode 0 ──┤├──── episode 1 ────┤├─ episode 2 ─┤    (N, o)
    episode_ends                   5                   12              17   exclusive, last = N
    segment_starts    1 ├──────┤        7 ├──────┤                          windows of k steps
    scores              0.3               0.7                               higher is better
    first, second       0                 1                                 a comparison by position
    prefers_second      1.0                                                 the second is better
    weight              1.0                                                 0: a skipped question

Sparse data list their comparisons. Ranked data list all K(K − 1)/2 pairs of each question, whose K
segments are neighbours: question i is about segments iK … iK + K − 1, and fewer than K segments at
the end are in none. Dense data list none: any two segments are comparable, and the annotator named
in `info` answers from their scores. People give no scores: then there are none in the file.
"""

import hashlib
import json
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from cpl_bench.core.names import check_folder, check_line
from cpl_bench.core.pairs import Pairs
from cpl_bench.core.score import Score

FORMAT_VERSION = 3


@dataclass(frozen=True)
class PreferenceInfo:
    """Where a preference file comes from: everything that would make it again."""

    card: str
    """The dataset card's name; empty for imported data."""
    task: str
    """The task card's name or path; empty for data without a simulator."""
    segment_length: int
    """Steps in a segment."""
    pairs: Pairs
    """dense: any two segments are comparable; sparse, ranked: the listed comparisons only."""
    source: str
    """The trajectories' dataset, usually a Minari id."""
    source_hash: str
    """The hash of its content."""
    scorer: str
    annotator: str
    scorer_settings: dict[str, Any] = field(default_factory=dict)
    annotator_settings: dict[str, Any] = field(default_factory=dict)
    """What the annotator was asked with."""
    ranked_size: int = 0
    """K, the segments of a question in ranked data; 0 for other data."""
    seeds: dict[str, int] = field(default_factory=dict)
    """What each seed decided, and the seed."""
    versions: dict[str, str] = field(default_factory=dict)
    """Package and simulator versions."""
    command: str = ""
    """The command line that wrote the file."""
    preferences_hash: str = ""
    """SHA-256 of what is learned from, which the writer adds: the name of the data among labs."""

    def __post_init__(self) -> None:
        if self.card:  # run folders are called so
            check_folder("the data's name, card,", self.card)
        for key in ("task", "source", "source_hash", "scorer", "annotator", "preferences_hash"):
            check_line(key, getattr(self, key))

    @property
    def title(self) -> str:
        """What messages call the data."""
        return self.card or self.source or "the data"


@dataclass(frozen=True, eq=False)
class Preferences:
    """N steps in E episodes, n segments among them, c comparisons among those."""

    observations: Float32[np.ndarray, "N o"]
    actions: Float32[np.ndarray, "N a"]
    episode_ends: Int64[np.ndarray, "E"]
    """The row after each episode's last, increasing; the last is N."""
    segment_starts: Int64[np.ndarray, "n"]
    first: Int64[np.ndarray, "c"]
    """Positions among the n segments; c = 0 for dense data."""
    second: Int64[np.ndarray, "c"]
    prefers_second: Float32[np.ndarray, "c"]
    """1: the second is better, 0: the first, 0.5: a tie, anything between: a soft label."""
    info: PreferenceInfo
    scores: Float64[np.ndarray, "n"] | None = None
    """The scorer's opinion of each segment, higher is better; None where people answered."""
    weight: Float32[np.ndarray, "c"] | None = None
    """What each answer counts, 0 for a skipped question; None: all count 1."""
    terminations: UInt8[np.ndarray, "N"] | None = None
    """1 on each step that ended its task, an episode's last; None: only time ended episodes."""
    rewards: Float32[np.ndarray, "N"] | None = None
    """Optional: the environment's of each step; for baselines and comparison, not for labels."""
    successes: UInt8[np.ndarray, "N"] | None = None
    """Optional: 1 on each step at which the task's success condition held."""

    @property
    def episode_starts(self) -> Int64[np.ndarray, "E"]:
        """The row of each episode's first step."""
        return np.concatenate([[0], self.episode_ends[:-1]])

    @property
    def episode_successes(self) -> UInt8[np.ndarray, "E"] | None:
        """1 for each episode that succeeded at any step; None if the file doesn't say."""
        if self.successes is None:
            return None
        return np.maximum.reduceat(self.successes, self.episode_starts)

    def __repr__(self) -> str:
        info, steps = self.info, len(self.observations)
        comparisons = "every pair" if info.pairs == "dense" else f"{len(self.first):,} comparisons"
        return (
            f"Preferences({info.title}: {steps:,} steps, {len(self.episode_ends):,} "
            f"episodes, {len(self.segment_starts):,} segments of {info.segment_length} steps, "
            f"{comparisons}; observations {self.observations.shape}, actions {self.actions.shape}; "
            f"scorer {info.scorer}, annotator {info.annotator})"
        )


def preferences_hash(preferences: Preferences) -> str:
    """SHA-256 over every array and over what answers for those that are not listed."""
    info, seed = preferences.info, preferences.info.seeds.get("annotator", 0)
    cut = [info.segment_length, info.pairs, info.ranked_size]
    answered = [info.annotator, sorted(info.annotator_settings.items()), seed]
    digest = hashlib.sha256(json.dumps([cut, answered]).encode())
    for each in hashes_by_array(preferences).values():
        digest.update(each.encode())
    return digest.hexdigest()


def hashes_by_array(preferences: Preferences) -> dict[str, str]:
    """SHA-256 of each array that there is, its name, type and shape included."""
    hashes = {}
    for entry in fields(preferences):
        array = getattr(preferences, entry.name)
        if isinstance(array, np.ndarray):
            digest = hashlib.sha256(f"{entry.name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
            hashes[entry.name] = digest.hexdigest()
    return hashes


def behaviour_score(preferences: Preferences, scoring: Score) -> float | None:
    """What the recorded episodes achieved on average; None if the file doesn't say."""
    successes, rewards = preferences.episode_successes, preferences.rewards
    if scoring.is_success:
        return None if successes is None else float(successes.mean())
    if rewards is None:
        return None
    returns = np.add.reduceat(rewards, preferences.episode_starts, dtype=np.float64)
    return float(scoring.of(np.zeros(len(returns)), returns).mean())
