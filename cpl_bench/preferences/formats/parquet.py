"""Preferences as Parquet tables with a dataset card, in the form that Hugging Face's hub shows.

    FOLDER/README.md             what it is, and the tables' names, for `load_dataset`
           comparisons.parquet   a row a comparison: first, second, prefers_second, weight
           segments.parquet      a row a segment: episode (a row of episodes), offset, score
           episodes.parquet      a row an episode: observations (T, o), actions (T, a), rewards, …

Nothing is lost: what is read back is what was written, to the hash. Dense data have no table of
comparisons.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cpl_bench.core.errors import UserError, in_a_line
from cpl_bench.core.files import replace_folder, write_atomically
from cpl_bench.core.tables import from_json
from cpl_bench.core.toml import build
from cpl_bench.preferences.format import PreferenceInfo, Preferences, preferences_hash
from cpl_bench.preferences.verify import verify

KEY = b"cpl_bench"
TABLES = ("comparisons", "segments", "episodes")
FLAGS = ("successes", "terminations")
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

CARD = """\
---
pretty_name: "{title}"
task_categories:
- robotics
- reinforcement-learning
tags:
- preference-learning
- offline-rl
- cpl-bench
size_categories:
- {size}
configs:
{configs}---

# {title}

{count} of robot trajectories, {answered}.

- Task: {task}
- Source: {source}
- Written by cpl_bench: `cpl-bench import FOLDER --out FILE.safetensors` reads it back.

Three tables:

- `comparisons`: `first` and `second` are rows of `segments`; `prefers_second` is 1 where the second
  is better, 0 where the first is, 0.5 for a tie; `weight` 0 marks a skipped question.
- `segments`: {length} steps from `offset` on in the row `episode` of `episodes`; `score`, if there
  is one: higher is better.
- `episodes`: observations (T, {observations}), actions (T, {actions}) within [-1, 1], and of each
  step whatever else is known.

```python
from datasets import load_dataset

episodes = load_dataset("FOLDER", "episodes", split="train")
segments = load_dataset("FOLDER", "segments", split="train")


def observations(segment):
    row = segments[segment]
    return episodes[row["episode"]]["observations"][row["offset"] :][:{length}]
```

Say here under which licence the data may be used.
"""


def arrow() -> tuple[Any, Any]:
    """`pyarrow` and `pyarrow.parquet`.

    Raises:
        UserError: they are not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            "Parquet is written and read by pyarrow, which is not installed: pip install pyarrow"
        ) from None
    return pyarrow, parquet


def write_parquet(folder: Path, preferences: Preferences) -> None:
    """Write preferences as a folder of tables with a dataset card, whole or not at all.

    Raises:
        UserError: something lies at `folder`, or pyarrow isn't installed.
    """
    pa, parquet = arrow()
    if folder.exists():
        raise UserError(f"{folder} is there already. Name a folder that isn't.")
    info, ends = preferences.info, preferences.episode_ends
    starts = preferences.episode_starts
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    episodes = {
        name: pa.ListArray.from_arrays(offsets, _rows(pa, getattr(preferences, name)))
        for name in ("observations", "actions", "rewards", *FLAGS)
        if getattr(preferences, name) is not None
    }
    of = np.searchsorted(ends, preferences.segment_starts, side="right")
    segments = {"episode": of, "offset": preferences.segment_starts - starts[of]}
    if preferences.scores is not None:
        segments["score"] = preferences.scores
    tables = {"segments": segments, "episodes": episodes}
    if info.pairs != "dense":
        names = ("first", "second", "prefers_second", "weight")
        found = {name: getattr(preferences, name) for name in names}
        tables = {"comparisons": {k: v for k, v in found.items() if v is not None}, **tables}
    metadata = asdict(info) | {"preferences_hash": preferences_hash(preferences)}
    staging = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)  # what a kill left
    try:
        staging.mkdir(parents=True)
        for name, columns in tables.items():
            table = pa.table(columns)
            table = table.replace_schema_metadata({KEY: json.dumps(metadata, sort_keys=True)})
            parquet.write_table(table, staging / f"{name}.parquet", compression="zstd")
        write_atomically(staging / "README.md", _card(preferences, list(tables)))
        replace_folder(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _rows(pa: Any, values: np.ndarray) -> Any:
    """(N,) or (N, width) as an Arrow array of N."""
    if values.ndim == 1:
        return pa.array(values.astype(bool) if values.dtype == np.uint8 else values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _card(preferences: Preferences, tables: list[str]) -> str:
    info = preferences.info
    rows = len(preferences.first) or len(preferences.segment_starts)
    count = f"{rows:,} comparisons" if len(preferences.first) else f"{rows:,} segments"
    configs = "".join(
        f"- config_name: {name}\n" + ("  default: true\n" if name == tables[0] else "")
        + f"  data_files: {name}.parquet\n"
        for name in tables
    )  # fmt: skip
    return CARD.format(
        title=info.title.replace('"', "'"),
        size=next((name for limit, name in SIZES if rows < limit), "1M<n<10M"),
        configs=configs,
        count=count,
        answered=f"answered by {info.annotator}"
        + (f" from scores ({info.scorer})" if info.scorer else ""),
        task=info.task or "none named",
        length=info.segment_length,
        source=info.source,
        observations=preferences.observations.shape[1],
        actions=preferences.actions.shape[1],
    )


def read_parquet(folder: Path) -> Preferences:
    """The preferences in a folder that `write_parquet` wrote.

    Raises:
        UserError: no such folder, tables that are missing, damaged, altered or another program's,
            or no pyarrow.
    """
    _, parquet = arrow()
    try:
        found = {
            name: parquet.read_table(folder / f"{name}.parquet")
            for name in TABLES
            if (folder / f"{name}.parquet").is_file()
        }
        metadata = (found["episodes"].schema.metadata or {})[KEY]
        table = from_json(metadata.decode(), f"{folder}: its metadata")
        if not isinstance(table, dict):
            raise UserError(f"{folder}: its metadata are no table.")
        info = build(PreferenceInfo, table, f"{folder}: its metadata")
        preferences = _assembled(found, info)
    except UserError:
        raise
    except Exception as problem:  # of pyarrow's, or of tables that do not belong together
        raise UserError(
            f"{folder} cannot be read as tables of cpl_bench's ({type(problem).__name__}: "
            f"{in_a_line(str(problem))}). Expected "
            f"{', '.join(f'{name}.parquet' for name in TABLES)}."
        ) from None
    verify(preferences, str(folder))
    if preferences_hash(preferences) != info.preferences_hash:
        raise UserError(f"{folder} was altered after it was written: it has another SHA-256.")
    return preferences


def _assembled(found: dict[str, Any], info: PreferenceInfo) -> Preferences:
    episodes, segments = found["episodes"], found["segments"]
    ends = np.cumsum(episodes["rewards" if "rewards" in episodes.column_names else "observations"]
                     .combine_chunks().value_lengths().to_numpy()).astype(np.int64)  # fmt: skip
    starts = np.concatenate([[0], ends[:-1]])
    steps = {name: _flat(episodes[name]) for name in episodes.column_names}
    steps |= {name: steps[name].astype(np.uint8) for name in FLAGS if name in steps}
    columns = {
        name: found["comparisons"][name].to_numpy() for name in found["comparisons"].column_names
    } if "comparisons" in found else {
        "first": np.zeros(0, np.int64),
        "second": np.zeros(0, np.int64),
        "prefers_second": np.zeros(0, np.float32),
    }  # fmt: skip
    of, offsets = segments["episode"].to_numpy(), segments["offset"].to_numpy()
    scores = segments["score"].to_numpy() if "score" in segments.column_names else None
    return Preferences(
        episode_ends=ends,
        segment_starts=starts[of] + offsets,
        scores=scores,
        info=info,
        **steps,
        **columns,
    )


def _flat(column: Any) -> np.ndarray:
    """All episodes' steps end to end: (N,), or (N, width)."""
    values = column.combine_chunks().flatten()
    width = getattr(values.type, "list_size", 0)
    if not width:
        return values.to_numpy(zero_copy_only=False)
    return values.flatten().to_numpy().reshape(-1, width)
