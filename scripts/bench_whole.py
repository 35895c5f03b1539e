"""How long the commands take that a researcher waits for, from an empty folder, on this machine.

    python scripts/bench_whole.py                         # ten minutes, on an idle machine
    python scripts/bench_whole.py --dataset fetch-reach-small --skip large   # does it run?

Run by hand. `collect` and `label` of a small dataset; then SFT, CPL and CPL(λ) by the laptop
preset, four seeds, evaluations and the cloning that the three share included; how much longer a
worker's first episode takes than its second, on the point mass and with Meta-World to import; and
how long it takes from the name of a preference file of a gigabyte to its first batch, in a process
that has imported everything: when the file is read through to vouch for it, and again in the same
process, when it no longer is. Seconds of wall time. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

METHODS = {
    "sft": ("sft",),
    "cpl": ("--note", "one", "cpl", "--lam", "1.0"),
    "cpl_lambda": ("cpl",),
}
WORKER = """
import sys, time
from cpl_bench.core.cards import load_task
from cpl_bench.tasks.episodes import EXPERT, EpisodeRules
from cpl_bench.tasks.pool import RolloutPool
task, rules = load_task(sys.argv[1]), EpisodeRules(stop_steps_after_success=0)
def took():
    begin = time.perf_counter()
    pool.episodes(task, [0], [EXPERT], [], rules)
    return time.perf_counter() - begin
with RolloutPool(1) as pool:
    first = took()
    print(first - took())
"""
LARGE = """
import sys, time
import numpy as np
import torch
from cpl_bench.preferences.file import load_preferences
from cpl_bench.runs.batches import PreferenceSampler
step = torch.tensor(1)
for _ in range(2):
    begin = time.perf_counter()
    PreferenceSampler(load_preferences(sys.argv[1]), [0], 96).draw(step)
    print(time.perf_counter() - begin)
"""
EPISODES, STEPS, OBSERVATION, ACTION = 5_900, 1_000, 39, 4  # a gigabyte in float32


def main() -> None:
    """Time, print, and print JSON."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--dataset", default="drawer-open-small")
    parser.add_argument("--skip", nargs="+", choices=["data", "train", "worker", "large"])
    asked = parser.parse_args()
    skipped = asked.skip or ()
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        environment = {**os.environ, "MINARI_DATASETS_PATH": str(root / "data")}

        def verb(name: str, *words: str) -> None:
            command = [sys.executable, "-m", "cpl_bench.cli.main", *words]
            seconds[name] = _timed(lambda: subprocess.run(command, **quietly, check=True))
            print(f"{name}: {seconds[name]:.1f} s", flush=True)

        with (root / "log").open("w") as log:
            quietly = {"cwd": root, "env": environment, "stdout": log, "stderr": log}
            if "data" not in skipped:
                verb("collect", "collect", asked.dataset)
                verb("label", "label", asked.dataset)
            if "train" not in skipped:
                for name, words in METHODS.items():
                    verb(name, "train", "--data", asked.dataset, "--seeds", "4", *words)
                seconds["train"] = sum(seconds[name] for name in METHODS)
        if "worker" not in skipped:
            for task in ("pointmass", "drawer-open"):
                starts = [_printed(WORKER, task)[0] for _ in range(5)]
                seconds[f"worker_{task}"] = statistics.median(starts)
        if "large" not in skipped:
            path = _large(root / "large.safetensors")
            first, again = zip(*(_printed(LARGE, str(path)) for _ in range(3)), strict=True)
            seconds["first_batch"] = statistics.median(first)
            seconds["first_batch_again"] = statistics.median(again)
    print(json.dumps({name: round(value, 2) for name, value in seconds.items()}))


def _timed(do: Callable[[], object]) -> float:
    begin = time.perf_counter()
    do()
    return time.perf_counter() - begin


def _printed(code: str, *arguments: str) -> list[float]:
    """The numbers that a process of its own prints."""
    command = [sys.executable, "-c", code, *arguments]
    return [float(each) for each in subprocess.check_output(command, text=True).split()]


def _large(path: Path) -> Path:
    """A preference file of a gigabyte."""
    import numpy as np

    from cpl_bench.preferences.file import write_preferences
    from cpl_bench.preferences.format import PreferenceInfo, Preferences

    draw = np.random.default_rng(0)
    ends = np.arange(1, EPISODES + 1) * STEPS
    steps, segments = EPISODES * STEPS, 20_000
    starts = draw.integers(0, EPISODES, segments) * STEPS + draw.integers(0, STEPS - 64, segments)
    none = np.zeros(0, np.int64)
    info = PreferenceInfo("large", "", 64, "dense", "", "", "regret", "oracle")
    made = Preferences(
        observations=draw.standard_normal((steps, OBSERVATION), np.float32),
        actions=draw.uniform(-1, 1, (steps, ACTION)).astype(np.float32),
        episode_ends=ends,
        segment_starts=starts,
        scores=draw.normal(size=segments),
        first=none,
        second=none,
        prefers_second=np.zeros(0, np.float32),
        info=info,
    )
    write_preferences(path, made)
    settled = time.time() - 60  # else the same process reads it through again
    os.utime(path, (settled, settled))
    return path


if __name__ == "__main__":
    main()
