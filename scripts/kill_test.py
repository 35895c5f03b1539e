"""Kill -9 at random moments, go on, and compare: nothing may be lost and no byte may be other.

    python scripts/kill_test.py                # 200 kills, an hour or so
    python scripts/kill_test.py --kills 12     # does it run?

Each trial runs a command of its kind to the end, killed up to six times on the way at moments drawn
uniformly over what it takes alone; whoever goes on gives the same command (with --resume for a
training). Then every file must be there with the bytes that an undisturbed run has written, and
nothing else: no half-written file, no lock. The last line is JSON. Records say which commit they
were made with, so leave the checkout alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

CARD = """
task = "pointmass"
episodes = 60
minimum_steps = 12
stop_steps_after_success = 3
[behaviour]
levels = [0.3, 0.7]
score_band = [0.1, 0.9]
demonstrations = 5
clone_steps = 200
probe_episodes = 8
[segments]
count = 60
length = 12
"""
EXPERIMENT = """
datasets = ["tiny.toml"]
seeds = 2
final_episodes = 4
episodes = 4
evaluate_every = 20
preset = "laptop"

[settings]
policy.hidden = [16, 16]
clone.steps = 20
steps = 60
segments = 8

[[methods]]
name = "SFT"
algorithm = "sft"

[[methods]]
name = "CPL"
algorithm = "cpl"
"""
SMALL = ["--policy.hidden", "16", "16", "--steps", "100"]
CLONE = ["--clone.steps", "40", "--segments", "8"]
REWARD = ["--reward.steps", "20", "--reward.hidden", "16", "16"]
VALUE = ["--value.hidden", "16", "16"]
COLLECTION = ["--collection.transitions", "80", "--collection.minibatch", "20"]
COLLECTION += ["--collection.epochs", "2", "--collection.value-only", "1"]
METHODS = {
    "sft": [*SMALL, *CLONE],
    "cpl": [*SMALL, *CLONE],
    "dpo": [*SMALL, *CLONE],
    "rso": [*SMALL, *CLONE, *REWARD],
    "percent-bc": SMALL,
    "piql": [*SMALL, *REWARD, *VALUE, "--segments", "8"],
    "ipl": [*SMALL, *VALUE, "--segments", "8"],
    "ppo": [*SMALL, *CLONE, *REWARD, *VALUE, *COLLECTION],
}
TRAIN = ["train", "--data", "tiny.toml", "--seeds", "2", "--evaluate-every", "20"]
COMMANDS = {
    "collect": ["collect", "tiny.toml"],
    "label": ["label", "tiny.toml"],
    "sweep": ["sweep", "two"],
    **{name: [*TRAIN, "--episodes", "4", name, *rest] for name, rest in METHODS.items()},
}
MOST = 6
"""Kills of a run, after which it may end."""
NEEDS = {"collect": "nothing", "label": "collect"}
"""What is there before a command; the others need labels."""


def command(words: list[str], resume: bool) -> list[str]:
    """The command line, as whoever goes on gives it."""
    if resume and words[0] == "train":
        words = [words[0], "--resume", *words[1:]]
    return [sys.executable, "-m", "cpl_bench.cli.main", *words]


def begun(words: list[str], folder: Path, resume: bool = False) -> subprocess.Popen[bytes]:
    """A command under way in a folder, with its data kept there."""
    data = {**os.environ, "MINARI_DATASETS_PATH": str(folder / "data"), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("ab") as log:
        line = command(words, resume)
        return subprocess.Popen(line, cwd=folder, env=data, stderr=log, stdout=log)


def finished(words: list[str], folder: Path, resume: bool = False) -> float:
    """Run a command to its end; the seconds it took."""
    start = time.monotonic()
    if begun(words, folder, resume).wait():
        raise SystemExit(f"{words} failed in {folder}:\n{(folder / 'log').read_text()[-3000:]}")
    return time.monotonic() - start


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but logs, and what may differ: TensorBoard's, which are dated, and shared starts,
    which only a run that was never stopped leaves."""
    left_out = {"tensorboard", ".shared", "log"}
    found = {
        str(path.relative_to(folder)): path
        for path in folder.rglob("*")
        if path.is_file() and not left_out & set(path.relative_to(folder).parts)
    }
    return {name: path.read_bytes() for name, path in found.items()}


def differences(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """Names of files that are missing, too many, or other."""
    names = sorted({*found, *expected})
    return [name for name in names if found.get(name) != expected.get(name)]


def prepared(root: Path) -> dict[str, Path]:
    """Folders as they are before commands: with nothing, trajectories, labels."""
    nothing = root / "nothing"
    (nothing / "two").mkdir(parents=True)
    (nothing / "two" / "experiment.toml").write_text(EXPERIMENT)
    for folder in (nothing, nothing / "two"):
        (folder / "tiny.toml").write_text(CARD)
    stages = {"nothing": nothing}
    for before, verb in (("nothing", "collect"), ("collect", "label")):
        stages[verb] = shutil.copytree(stages[before], root / verb)
        finished(COMMANDS[verb], stages[verb])
    return stages


def trial(kind: str, stage: Path, place: Path, seconds: float, draw: random.Random) -> int:
    """Run a command to its end in a fresh copy, killed on the way; how often it was."""
    shutil.copytree(stage, place)
    kills = 0
    while True:
        process = begun(COMMANDS[kind], place, resume=kills > 0 and (place / "runs").exists())
        try:
            left = draw.uniform(0.02, 1) * seconds if kills < MOST else None
            if process.wait(timeout=left):
                raise SystemExit(f"{kind}: {(place / 'log').read_text()[-3000:]}")
            return kills
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1


def main() -> int:
    """Kill, compare, and say what came of it."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    asked = parser.parse_args()
    draw, killed, runs, wrong = random.Random(asked.seed), Counter(), Counter(), []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        stages, alone = prepared(root), {}
        while killed.total() < asked.kills:
            kind = asked.only[runs.total() % len(asked.only)]
            stage = stages[NEEDS.get(kind, "label")]
            if kind not in alone:  # the undisturbed run, where all the others will be made
                shutil.copytree(stage, root / "place")
                seconds = finished(COMMANDS[kind], root / "place")
                alone[kind] = seconds, contents(root / "place")
                shutil.rmtree(root / "place")
            seconds, expected = alone[kind]
            killed[kind] += trial(kind, stage, root / "place", seconds, draw)
            runs[kind] += 1
            if other := differences(contents(root / "place"), expected):
                wrong.append({kind: other})
            shutil.rmtree(root / "place")
            print(f"{kind:<12}{killed[kind]:>4} kills in {runs[kind]} runs", *other, flush=True)
    print(json.dumps({"kills": killed.total(), "by": killed, "runs": runs, "wrong": wrong}))
    return len(wrong) > 0


if __name__ == "__main__":
    sys.exit(main())
