"""The preference file: segments of recorded episodes, their scores, and who prefers which.

One `.safetensors` file. Steps lie flat, episode after episode, and a segment is a window, so a
million of them cost eight bytes each (and eight for the score):

    observations   ├── episode 0 ──┤├──── episode 1 ────┤├─ episode 2 ─┤    (N, o)
    episode_ends                   5                   12              17   exclusive, last = N
    segment_starts    1 ├──────┤        7 ├──────┤                          windows of k steps
    scores              0.3               0.7                               higher is better
    first, second       0                 1                                 a comparison by position
    prefers_second      1.0                                                 the second is better

Sparse data list their comparisons. Ranked data list all K(K − 1)/2 pairs of each question, whose K
segments are neighbours: question i is about segments iK … iK + K − 1, and fewer than K segments at
the end are in none. Dense data list none: any two segments are comparable, and the annotator named
in `info` answers from their scores.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_origin

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cpl_bench.errors import UserError
from cpl_bench.files import atomic_path
from cpl_bench.pairs import Pairs
from cpl_bench.verification import LAYOUT, OPTIONAL, verify

FORMAT_VERSION = 1

_METADATA_KEY = "cpl_bench"
_DTYPES = {"F32": np.float32, "F64": np.float64, "I64": np.int64, "U8": np.uint8}


@dataclass(frozen=True)
class PreferenceInfo:
    """Where a preference file comes from: everything that would make it again."""

    card: str
    """The dataset card's name; empty for imported data."""
    task: str
    """The task card's name."""
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
    """What the annotator was asked with: `ranked_size`, K, for ranked data."""
    seeds: dict[str, int] = field(default_factory=dict)
    """What each seed decided, and the seed."""
    versions: dict[str, str] = field(default_factory=dict)
    """Package and simulator versions."""
    command: str = ""
    """The command line that wrote the file."""

    @property
    def title(self) -> str:
        """What messages call the data."""
        return self.card or self.source

    @property
    def ranked_size(self) -> int:
        """K, the segments of a question in ranked data; 0 for other data."""
        return self.annotator_settings.get("ranked_size", 0) if self.pairs == "ranked" else 0


@dataclass(frozen=True, eq=False)
class Preferences:
    """N steps in E episodes, n segments among them, c comparisons among those."""

    observations: Float32[np.ndarray, "N o"]
    actions: Float32[np.ndarray, "N a"]
    episode_ends: Int64[np.ndarray, "E"]
    """The row after each episode's last, increasing; the last is N."""
    segment_starts: Int64[np.ndarray, "n"]
    scores: Float64[np.ndarray, "n"]
    """The scorer's opinion of each segment, higher is better."""
    first: Int64[np.ndarray, "c"]
    """Positions among the n segments; c = 0 for dense data."""
    second: Int64[np.ndarray, "c"]
    prefers_second: Float32[np.ndarray, "c"]
    """1: the second is better, 0: the first, 0.5: a tie, anything between: a soft label."""
    info: PreferenceInfo
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


def write_preferences(path: Path | str, preferences: Preferences) -> None:
    """Verify `preferences` and write them; equal preferences give equal bytes.

    Raises:
        UserError: they contradict themselves (see `verify`); nothing is written.
    """
    path = Path(path)
    verify(preferences, str(path))
    tensors = {
        name: np.ascontiguousarray(getattr(preferences, name))
        for name in LAYOUT
        if getattr(preferences, name) is not None
    }
    metadata = {"format_version": FORMAT_VERSION, **asdict(preferences.info)}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {_METADATA_KEY: json.dumps(metadata, sort_keys=True)})


def load_preferences(path: Path | str) -> Preferences:
    """Verify the file at `path` and map it into memory, read-only.

    Raises:
        UserError: no such file, or one that cannot be vouched for: not a whole safetensors file,
            another program's, another format version, or contradicting itself (see `verify`).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such preference file. `cpl-bench label DATASET` writes one.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as problem:
        raise UserError(
            f"{path}: expected a whole .safetensors file, got one that is damaged, truncated or of "
            f"another format ({problem}). Make it again with `cpl-bench label`."
        ) from None
    info = _parse_info(metadata, path)
    preferences = Preferences(info=info, **_map_tensors(path))
    try:
        verify(preferences, str(path))
    except UserError as problem:
        raise UserError(f"{problem} Make the file again with `cpl-bench label`.") from None
    return preferences


def success_rate(preferences: Preferences) -> float | None:
    """Share of the recorded episodes that succeeded at any step; None if the file doesn't say."""
    successes = preferences.episode_successes
    return None if successes is None else float(successes.mean())


def draw_segments(
    episode_ends: Int64[np.ndarray, "E"], length: int, count: int, rng: np.random.Generator
) -> Int64[np.ndarray, "n"]:
    """Draw `count` windows of `length` steps: every episode alike, within it uniform over time.

    Episodes that hold a window take turns, in random order. (Episodes end soon after success: were
    windows drawn uniformly over all steps, hardly any would show one. For episodes of one length
    the two are the same.) An episode repeats a window only when it has no other left. The result
    is in random order.

    Raises:
        UserError: no episode is as long as a segment.
    """
    if length < 1:
        raise UserError(f"A segment must have at least 1 step, got {length}.")
    begins = np.concatenate(([0], episode_ends[:-1]))
    longest = int((episode_ends - begins).max())
    if length > longest:
        raise UserError(
            f"A segment of {length} steps is longer than the longest episode, {longest} steps; "
            f"choose --segment-length ≤ {longest}."
        )
    windows = np.maximum(episode_ends - begins - length + 1, 0)  # (E,) starts that each offers
    able = rng.permutation(np.flatnonzero(windows))
    turns = np.bincount(np.resize(able, count), minlength=len(windows))  # (E,) draws of each
    drawn = [
        begins[episode] + _spread(int(windows[episode]), int(turns[episode]), rng)
        for episode in np.flatnonzero(turns)
    ]
    return rng.permutation(np.concatenate(drawn))


def _spread(limit: int, count: int, rng: np.random.Generator) -> Int64[np.ndarray, "n"]:
    """`count` numbers below `limit`, uniform, each as often as any other give or take one."""
    rounds = [rng.permutation(limit) for _ in range(-(-count // limit))]
    return np.concatenate(rounds)[:count]


# --- Read the file ---


def _parse_info(metadata: dict[str, str], path: Path) -> PreferenceInfo:
    if _METADATA_KEY not in metadata:
        raise UserError(
            f"{path}: expected a preference file of cpl_bench, got another program's .safetensors."
        )
    try:
        table = json.loads(metadata[_METADATA_KEY])
    except ValueError:
        table = None
    if not isinstance(table, dict):
        raise UserError(f"{path}: the metadata are no JSON object. Make it again.")
    version = table.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: expected format version {FORMAT_VERSION}, got {version}. Make it again with "
            "`cpl-bench label`, or read it with the cpl_bench that wrote it."
        )
    kinds = {entry.name: _kind(entry.type) for entry in fields(PreferenceInfo)}
    wrong = [name for name, kind in kinds.items() if type(table.get(name)) is not kind]
    unknown = [name for name in table if name not in kinds]
    if wrong or unknown:
        raise UserError(
            f"{path}: expected the metadata {', '.join(kinds)}. Missing or of a wrong type: "
            f"{', '.join(wrong) or 'none'}; unknown: {', '.join(unknown) or 'none'}. Make it again."
        )
    return PreferenceInfo(**table)


def _kind(annotation: Any) -> type:
    """The JSON type behind a field's annotation."""
    return {Literal: str, dict: dict}.get(get_origin(annotation), annotation)


def _map_tensors(path: Path) -> dict[str, np.ndarray]:
    """Views of the file, read when touched (the tensors that safe_open returns are copies)."""
    with path.open("rb") as file:
        header_length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_length))
    header.pop("__metadata__", None)
    required = [name for name in LAYOUT if name not in OPTIONAL]
    missing = [name for name in required if name not in header]
    unknown = [name for name in header if name not in LAYOUT]
    if missing or unknown:
        raise UserError(
            f"{path}: expected the tensors {', '.join(required)}, perhaps {', '.join(OPTIONAL)}. "
            f"Missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}. "
            "Make it again with `cpl-bench label`."
        )
    data = np.asarray(np.memmap(path, np.uint8, "r"))[8 + header_length :]
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            wanted = LAYOUT[name][1].__name__
            raise UserError(
                f"{path}: {name} must be {wanted}, got {entry['dtype']}. Make it again."
            )
        begin, end = entry["data_offsets"]
        tensors[name] = data[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors
