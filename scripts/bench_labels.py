"""A million segments: how long scoring takes, how long labelling, and in how much memory.

    python scripts/bench_labels.py
    python scripts/bench_labels.py --episodes 2500 --steps 250 --segments 1000000

The episodes are random numbers in Meta-World's shapes, simulator states included, in a dataset as
`collect` writes it. Scoring is timed after the trajectories are read; labelling is a process of its
own, from reading to the written file, whose largest memory the system tells. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CARD = """
task = "pointmass.toml"
episodes = {episodes}
minimum_steps = {length}
[behaviour]
levels = [0.5]
score_band = [0.0, 1.0]
[segments]
count = {segments}
length = {length}
pairs = "{pairs}"
{more}
[labelling]
scorer = "{scorer}"
"""
TASK = """
suite = "pointmass"
source_id = "PointMass-v0"
horizon_steps = {steps}
"""
LABEL = """
import json, resource, sys, time
from cpl_bench.core.dataset_cards import load_dataset_card
from cpl_bench.preferences.label import label
from cpl_bench.tasks.pool import RolloutPool

card, begun = load_dataset_card(sys.argv[1]), time.perf_counter()
with RolloutPool(1) as pool:
    path = label(card, pool)
largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([time.perf_counter() - begun, largest, path.stat().st_size / 2**20]))
"""
KINDS = {"dense": "", "sparse": "comparisons = 2", "ranked": "ranked_size = 4"}


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=2500)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--segments", type=int, default=1_000_000)
    parser.add_argument("--length", type=int, default=64)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["MINARI_DATASETS_PATH"] = place
        measured = measure(Path(place), asked)
    print(json.dumps(measured))


def measure(place: Path, asked: argparse.Namespace) -> dict[str, float]:
    """Seconds and MiB by what they are of."""
    from cpl_bench.core.dataset_cards import Labelling
    from cpl_bench.core.seeds import generator
    from cpl_bench.preferences.scorers import partial_return
    from cpl_bench.preferences.segments import draw_segments, segments_of
    from cpl_bench.trajectories.formats.minari import read_trajectories

    (place / "pointmass.toml").write_text(TASK.format(steps=asked.steps))
    write_card(place, asked, "dense", "partial_return")
    write_episodes(place, asked)
    source = read_trajectories("cpl_bench/many-v0")
    begun = time.perf_counter()
    starts = draw_segments(
        source.episode_ends, asked.length, asked.segments, generator("segments", 0)
    )
    found = {"draw_seconds": time.perf_counter() - begun}
    for name, discount in (("score", 1.0), ("score_myopic", 0.9)):
        begun = time.perf_counter()
        segments = segments_of(source, starts, asked.length)
        scores = partial_return(segments, None, Labelling(discount=discount), None)
        found[f"{name}_seconds"] = time.perf_counter() - begun
        assert scores.shape == (asked.segments,)
    del source
    for pairs in KINDS:
        write_card(place, asked, pairs, "partial_return")
        done = subprocess.run(
            [sys.executable, "-c", LABEL, str(place / "many.toml")],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds, largest, size = json.loads(done.stdout.splitlines()[-1])
        found |= {f"label_{pairs}_seconds": seconds, f"label_{pairs}_MiB": largest}
        found[f"file_{pairs}_MiB"] = size
    for name, value in found.items():
        print(f"{name:<24}{value:10.2f}")
    return {name: round(value, 3) for name, value in found.items()}


def write_card(place: Path, asked: argparse.Namespace, pairs: str, scorer: str) -> None:
    """The card whose episodes these are."""
    numbers = {name: getattr(asked, name) for name in ("episodes", "segments", "length")}
    text = CARD.format(**numbers, pairs=pairs, more=KINDS[pairs], scorer=scorer)
    (place / "many.toml").write_text(text)


def write_episodes(place: Path, asked: argparse.Namespace) -> None:
    """A dataset as `collect` writes it."""
    from cpl_bench.core.cards import load_task
    from cpl_bench.tasks.episodes import Trajectory
    from cpl_bench.trajectories.dataset import content_hash
    from cpl_bench.trajectories.formats.minari import write_trajectories

    rng = np.random.default_rng(0)
    trajectories = [
        Trajectory(
            seed=number,
            policy=0,
            observations=rng.normal(size=(asked.steps + 1, 35)).astype(np.float32),
            actions=rng.uniform(-1, 1, (asked.steps, 4)).astype(np.float32),
            rewards=rng.normal(size=asked.steps),
            successes=np.zeros(asked.steps, bool),
            states=rng.normal(size=(asked.steps + 1, 90)),
        )
        for number in range(asked.episodes)
    ]
    record = {"content_hash": content_hash(trajectories), "levels": []}
    task = load_task(str(place / "pointmass.toml"))
    write_trajectories("cpl_bench/many-v0", task, trajectories, record)


if __name__ == "__main__":
    main()
