"""How fast this CPU trains and rolls out, as multiples of the plain way of doing it.

    python scripts/bench_cpu.py                 # some four minutes, on an idle machine
    python scripts/bench_cpu.py --seconds 0.2   # does it run?

Run by hand. Plain is a loop as one writes it first (`plain_loops.py`), and one simulator at a time,
asked by a torch module at every step. Contenders take turns, so that a machine that slows down
slows all of them; a figure is the median over rounds.

`cpl_* piql_* evaluation` are multiples of the plain loop's rate (more is faster), on one thread;
`floor_*` is the time of a CPL step's matrix products at the rate measured here, as a share of the
step; `two_members_*` is two members' time as a multiple of one's; `under_load` is what two threads
beside a busy process keep of their rate alone. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from unittest.mock import patch

from cpl_bench.cli.main import SPINS

os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # as on the command line, before torch reads it

import torch
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from plain_loops import (
    ACTION,
    CPL,
    CPU,
    HIDDEN,
    LENGTH,
    OBSERVATION,
    PIQL,
    SEGMENTS,
    Take,
    perceptron,
    plain_cpl,
    plain_piql,
    preferences,
)
from torch import nn

from cpl_bench.core.cards import load_task
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.learning.config import MethodConfig
from cpl_bench.learning.methods import preset_of
from cpl_bench.learning.precision import Precision
from cpl_bench.preferences.format import Preferences
from cpl_bench.runs.memory import keep_freed_memory
from cpl_bench.runs.prepare import prepare
from cpl_bench.tasks import metaworld
from cpl_bench.tasks.episodes import EpisodeRules
from cpl_bench.tasks.pool import RolloutPool

TASK, EPISODES = "drawer-open", 20


@dataclass
class Contender:
    """Something that takes steps, and how long one takes, a number a round."""

    take: Take
    threads: int = 1
    taken: int = 0
    seconds: list[float] = field(default_factory=list)

    def race(self, seconds: float) -> None:
        """Take a round's turn: at least two steps."""
        torch.set_num_threads(self.threads)
        self.take(self.taken)  # warm up
        start, first = time.perf_counter(), self.taken + 1
        while (now := time.perf_counter() - start) < seconds or self.taken < first + 1:
            self.taken += 1
            self.take(self.taken)
        self.seconds.append(now / (self.taken - first + 1))

    @property
    def step(self) -> float:
        """Seconds, the median over rounds."""
        return statistics.median(self.seconds)


def race(contenders: dict[str, Contender], seconds: float, rounds: int) -> None:
    """Let the contenders take turns, in another order each round."""
    names = list(contenders)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            contenders[name].race(seconds)
    for name, contender in contenders.items():
        print(f"  {name:<28}{contender.step * 1e3:9.1f} ms", flush=True)


# --- Training ---


def ours(
    data: Preferences,
    name: str,
    config: MethodConfig,
    members: int = 1,
    precision: Precision = "fp32",
    threads: int = 1,
) -> Contender:
    """The last phase of a method of ours."""
    trainee = prepare(name, config, data, range(members), CPU, None, None, "", precision)
    take = trainee.training[-1].take
    return Contender(lambda step: take(torch.tensor(step)), threads)


def products(dtype: torch.dtype) -> Take:
    """A CPL step's matrix products and nothing else."""
    rows = SEGMENTS * LENGTH
    sizes = [OBSERVATION, HIDDEN, HIDDEN, ACTION]
    layers = [
        tuple(torch.randn(shape).to(dtype) for shape in ((rows, i), (i, j), (rows, j)))
        for i, j in pairwise(sizes)
    ]
    buffers = [
        (torch.empty_like(g), torch.empty_like(w), torch.empty_like(x)) for x, w, g in layers
    ]

    def take(step: int) -> None:
        for number, ((x, w, g), (y, dw, dx)) in enumerate(zip(layers, buffers, strict=True)):
            torch.mm(x, w, out=y)
            torch.mm(x.T, g, out=dw)
            if number:  # nobody asks for the gradient of observations
                torch.mm(g, w.T, out=dx)

    return take


# --- Rollouts ---


def plain_evaluation() -> Take:
    """One of Meta-World's own class, asked by a torch module at every step; an episode a step."""
    card = load_task(TASK)
    with patch.object(metaworld, "quick", ALL_V3_ENVIRONMENTS.__getitem__):
        task = metaworld.MetaWorldTask(card.source_id, card.horizon_steps)
    policy = nn.Sequential(perceptron(OBSERVATION, ACTION), nn.Tanh())

    def take(step: int) -> None:
        observation, _ = task.reset(seed=step)
        over = False
        while not over:
            with torch.no_grad():
                action = policy(torch.from_numpy(observation)[None])[0].numpy()
            observation, _, ended, cut, _ = task.step(action)
            over = ended or cut

    return take


def our_evaluation(pool: RolloutPool) -> Take:
    """The pool's way, by one worker; EPISODES episodes a step."""
    policy = perceptron(OBSERVATION, ACTION)
    layers = [layer for layer in policy if isinstance(layer, nn.Linear)]
    arrays = {f"w{i}": layer.weight.detach().numpy().T for i, layer in enumerate(layers)}
    arrays |= {f"b{i}": layer.bias.detach().numpy() for i, layer in enumerate(layers)}
    weights, rules = PolicyWeights("deterministic", arrays), EpisodeRules(keep_steps=False)

    def take(step: int) -> None:
        seeds = range(step * EPISODES, (step + 1) * EPISODES)
        pool.episodes(load_task(TASK), seeds, [0] * EPISODES, [weights], rules)

    return take


@contextmanager
def busy() -> Iterator[None]:
    """A process that wants a core."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Race, print, and print JSON."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="a contender's turn")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    keep_freed_memory()
    data = preferences()

    print("CPL, paper size, one thread but for the last")
    training = {
        "plain": Contender(plain_cpl(data)),
        "ours, fp32": ours(data, "cpl", CPL),
        "ours, bf16": ours(data, "cpl", CPL, precision="bf16"),
        "products alone, fp32": Contender(products(torch.float32)),
        "products alone, bf16": Contender(products(torch.bfloat16)),
        "two members": ours(data, "cpl", CPL, members=2),
        "two members, two threads": ours(data, "cpl", CPL, members=2, threads=2),
    }
    race(training, asked.seconds, asked.rounds)
    print("P-IQL, paper size, one thread")
    learning = {
        "plain": Contender(plain_piql(data)),
        "ours, fp32": ours(data, "piql", PIQL),
        "ours, bf16": ours(data, "piql", PIQL, precision="bf16"),
    }
    race(learning, asked.seconds, asked.rounds)
    print(f"Evaluation on {TASK}: plain an episode, ours {EPISODES} of them by one worker")
    with RolloutPool(1) as pool:
        rolling = {
            "plain": Contender(plain_evaluation()),
            "ours": Contender(our_evaluation(pool)),
        }
        race(rolling, asked.seconds, asked.rounds)
    print("CPL, laptop preset, four members on two threads")
    laptop = preset_of("cpl", "laptop")
    alone = {"alone": ours(data, "cpl", laptop, members=4, threads=2)}
    race(alone, asked.seconds, asked.rounds)
    with busy():
        beside = {"beside a busy process": ours(data, "cpl", laptop, members=4, threads=2)}
        race(beside, asked.seconds, asked.rounds)

    step = {name: contender.step for name, contender in training.items()}
    figures = {
        "cpl_fp32": step["plain"] / step["ours, fp32"],
        "cpl_bf16": step["plain"] / step["ours, bf16"],
        "piql_fp32": learning["plain"].step / learning["ours, fp32"].step,
        "piql_bf16": learning["plain"].step / learning["ours, bf16"].step,
        "evaluation": EPISODES * rolling["plain"].step / rolling["ours"].step,
        "floor_fp32": step["products alone, fp32"] / step["ours, fp32"],
        "floor_bf16": step["products alone, bf16"] / step["ours, bf16"],
        "two_members_one_thread": step["two members"] / step["ours, fp32"],
        "two_members_two_threads": step["two members, two threads"] / step["ours, fp32"],
        "under_load": alone["alone"].step / beside["beside a busy process"].step,
    }
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
