"""The preference file: segments of recorded episodes, their scores, and who prefers which.

One `.safetensors` file. Steps lie flat, episode after episode, and a segment is a window, so a
million of them cost eight bytes each (and eight for the score):

    observations   ├── episode 0 ──┤├──── episode 1 ────┤├─ episode 2 ─┤    (N, o)
    episode_ends                   5                   12              17   exclusive, last = N
    segment_starts    1 ├──────┤        7 ├──────┤                          windows of k steps
    scores              0.3               0.7                               higher is better
    first, second       0                 1                                 a comparison by position
    prefers_second      1.0                                                 the second is better

Sparse data lists its comparisons. Dense data lists none: any two segments are comparable, and the
annotator named in `info` answers from their scores.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cpl_bench.annotators import ANNOTATORS
from cpl_bench.errors import UserError, unknown_name
from cpl_bench.files import atomic_path

FORMAT_VERSION = 1
Pairs = Literal["dense", "sparse"]

_METADATA_KEY = "cpl_bench"
_LAYOUT = {
    "observations": ("N o", np.float32),
    "actions": ("N a", np.float32),
    "rewards": ("N", np.float32),
    "episode_ends": ("E", np.int64),
    "segment_starts": ("n", np.int64),
    "scores": ("n", np.float64),
    "first": ("c", np.int64),
    "second": ("c", np.int64),
    "prefers_second": ("c", np.float32),
    "successes": ("N", np.uint8),
}
_OPTIONAL = ("successes",)
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
    """dense: any two segments are comparable; sparse: the listed comparisons only."""
    source: str
    """The trajectories' dataset, usually a Minari id."""
    source_hash: str
    """The hash of its content."""
    scorer: str
    annotator: str
    scorer_settings: dict[str, Any] = field(default_factory=dict)
    annotator_settings: dict[str, Any] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    """What each seed decided, and the seed."""
    versions: dict[str, str] = field(default_factory=dict)
    """Package and simulator versions."""
    command: str = ""
    """The command line that wrote the file."""


@dataclass(frozen=True, eq=False)
class Preferences:
    """N steps in E episodes, n segments among them, c comparisons among those."""

    observations: Float32[np.ndarray, "N o"]
    actions: Float32[np.ndarray, "N a"]
    rewards: Float32[np.ndarray, "N"]
    """The environment's reward of each step: for evaluation and baselines, not for preferences."""
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
    successes: UInt8[np.ndarray, "N"] | None = None
    """Optional: 1 on each step at which the task's success condition held."""

    def __repr__(self) -> str:
        info, steps = self.info, len(self.observations)
        comparisons = "every pair" if info.pairs == "dense" else f"{len(self.first):,} comparisons"
        return (
            f"Preferences({info.card or info.source}: {steps:,} steps, {len(self.episode_ends):,} "
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
        for name in _LAYOUT
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


def verify(preferences: Preferences, where: str = "preferences") -> None:
    """Check everything that can be checked without the source, in one pass over the data.

    Args:
        preferences: what to check.
        where: what the message calls them, usually the file.

    Raises:
        UserError: a wrong dtype or shape, nothing in it, NaN or infinity, episodes out of order, a
            window that leaves its episode, an index out of range, an answer outside [0, 1].
    """
    _verify_layout(preferences, where)
    info, steps = preferences.info, len(preferences.observations)
    ends, starts = preferences.episode_ends, preferences.segment_starts

    # --- Check episodes and windows ---
    if ends[0] < 1 or ends[-1] != steps or (np.diff(ends) < 1).any():
        raise UserError(
            f"{where}: episode_ends must increase from at least 1 to the number of steps, {steps}; "
            f"got {_shorten(ends)}. An episode's end is the row after its last step."
        )
    last = steps - info.segment_length
    outside = (starts < 0) | (starts > last)
    _refuse(outside, starts, where, "segment_starts", f"in [0, {last}]")
    crosses = starts + info.segment_length > ends[np.searchsorted(ends, starts, side="right")]
    wanted = f"windows of {info.segment_length} steps within one episode"
    _refuse(crosses, starts, where, "segment_starts", wanted)

    # --- Check comparisons and values ---
    for name in ("first", "second"):
        positions = getattr(preferences, name)
        wrong = (positions < 0) | (positions >= len(starts))
        _refuse(wrong, positions, where, name, f"positions in [0, {len(starts) - 1}]")
    answers = preferences.prefers_second
    _refuse(~((answers >= 0) & (answers <= 1)), answers, where, "prefers_second", "in [0, 1]")
    for name in ("observations", "actions", "rewards", "scores"):
        values = getattr(preferences, name)
        if not (np.isfinite(values.min()) and np.isfinite(values.max())):
            _refuse(~np.isfinite(values), values, where, name, "finite")
    if preferences.successes is not None:
        _refuse(preferences.successes > 1, preferences.successes, where, "successes", "0 or 1")


def success_rate(preferences: Preferences) -> float | None:
    """Share of the recorded episodes that succeeded at any step; None if the file doesn't say."""
    if preferences.successes is None:
        return None
    starts = np.concatenate([[0], preferences.episode_ends[:-1]])
    return float(np.maximum.reduceat(preferences.successes, starts).mean())


def draw_segments(
    episode_ends: Int64[np.ndarray, "E"], length: int, count: int, rng: np.random.Generator
) -> Int64[np.ndarray, "n"]:
    """Draw `count` windows of `length` steps, uniformly among all that lie within one episode.

    Without replacement while there are enough windows, with replacement otherwise; in random order.

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
    windows_before = np.cumsum(windows) - windows
    total = int(windows.sum())
    if count <= total:
        drawn = rng.choice(total, count, replace=False)
    else:
        drawn = rng.integers(total, size=count)
    episodes = np.searchsorted(np.cumsum(windows), drawn, side="right")
    return begins[episodes] + drawn - windows_before[episodes]


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
    required = [name for name in _LAYOUT if name not in _OPTIONAL]
    missing = [name for name in required if name not in header]
    unknown = [name for name in header if name not in _LAYOUT]
    if missing or unknown:
        raise UserError(
            f"{path}: expected the tensors {', '.join(required)}, perhaps {', '.join(_OPTIONAL)}. "
            f"Missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}. "
            "Make it again with `cpl-bench label`."
        )
    data = np.asarray(np.memmap(path, np.uint8, "r"))[8 + header_length :]
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            wanted = _LAYOUT[name][1].__name__
            raise UserError(
                f"{path}: {name} must be {wanted}, got {entry['dtype']}. Make it again."
            )
        begin, end = entry["data_offsets"]
        tensors[name] = data[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


# --- Refuse what is wrong ---


def _verify_layout(preferences: Preferences, where: str) -> None:
    """Dtypes, shapes that agree with each other, nothing empty, pairs as `info` says."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, (axes, dtype) in _LAYOUT.items():
        if name in _OPTIONAL and getattr(preferences, name) is None:
            continue
        values = getattr(preferences, name)
        if values.dtype != dtype or values.ndim != len(axes.split()):
            raise UserError(
                f"{where}: {name} must be {dtype.__name__} of shape ({axes.replace(' ', ', ')}), "
                f"got {values.dtype} of shape {values.shape}."
            )
        for axis, size in zip(axes.split(), values.shape, strict=True):
            expected, named_by = sizes.setdefault(axis, (size, name))
            if size != expected:
                raise UserError(
                    f"{where}: {name} must have {expected} entries along {axis}, as {named_by} "
                    f"has; got {size}."
                )
            if size == 0 and axis != "c":
                raise UserError(f"{where}: {name} is empty; there is nothing to learn from.")
    info, comparisons = preferences.info, len(preferences.first)
    if info.segment_length < 1:
        raise UserError(f"{where}: segment_length must be at least 1, got {info.segment_length}.")
    if info.pairs not in get_args(Pairs):
        raise UserError(f"{where}: pairs must be dense or sparse, got {info.pairs!r}.")
    if info.pairs == "sparse" and comparisons == 0:
        raise UserError(f"{where}: sparse data must list at least one comparison, got none.")
    if info.pairs == "dense" and comparisons > 0:
        raise UserError(
            f"{where}: dense data compare every pair and list none, got {comparisons} comparisons; "
            "say pairs = sparse to use only those."
        )
    if info.pairs == "dense" and len(preferences.segment_starts) < 2:
        raise UserError(f"{where}: comparing takes at least 2 segments, got 1.")
    if info.pairs == "dense" and info.annotator not in ANNOTATORS:
        problem = unknown_name("annotator", info.annotator, ANNOTATORS)
        raise UserError(f"{where}: dense data are answered by their annotator. {problem}")


def _refuse(wrong: np.ndarray, values: np.ndarray, where: str, name: str, wanted: str) -> None:
    """Raise if anything is `wrong`, naming the first place."""
    if wrong.any():
        place = np.unravel_index(int(wrong.argmax()), wrong.shape)
        index = ", ".join(map(str, place))
        raise UserError(
            f"{where}: {name} must be {wanted}; got {values[place]} at [{index}] "
            f"({int(wrong.sum()):,} of {wrong.size:,} are wrong)."
        )


def _shorten(values: np.ndarray) -> str:
    return np.array2string(values, threshold=6, edgeitems=3, separator=", ")
